"""albumentations from the config, each sample with a random stream of its own.

The only module that touches albumentations. Its `set_random_seed` gives every transform of a
Compose the same seed, so that two flips with p=0.5 would always fall together; here one fresh pair
of generators is shared by all transforms of a sample, as in an unseeded Compose.
"""

import os
import random
import warnings
from collections.abc import Iterable, Sequence

import numpy as np

from pipeline.config import Component
from pipeline.data.images import Pixels
from pipeline.errors import UserError, did_you_mean

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
import albumentations as A  # noqa: N812  (its update check runs at import)


class Transforms:
    """The augmentations of one config, in order."""

    def __init__(self, components: Sequence[Component]) -> None:
        """Builds them; UserError for an unknown class, argument or value."""
        self._compose = A.Compose([_build(component, f"augment.train[{i}]") for i, component in enumerate(components)])

    def check(self, shapes: Iterable[tuple[int, int]]) -> None:
        """Sends noise of each [height, width] through all of them: what fails, fails before training starts."""
        for shape in shapes:
            self._try(np.random.default_rng(0).integers(256, size=(*shape, 3), dtype=np.uint8))

    def _try(self, pixels: Pixels) -> None:
        try:
            result = self(pixels, np.random.SeedSequence(0))
        except Exception as error:  # whatever a transform raises, its place in the config is what helps
            raise UserError(
                f"augment.train: cannot be applied to a picture of {pixels.shape[0]}x{pixels.shape[1]}, which the cache holds: {' '.join(str(error).split())}"
            ) from None
        if result.dtype != np.uint8 or result.ndim != 3 or result.shape[2] != 3:
            raise UserError("augment.train: must end in 8-bit RGB; remove Normalize and ToTensorV2, which the program does on the device")

    def __call__(self, pixels: Pixels, seed: np.random.SeedSequence) -> Pixels:
        """The augmented picture, RGB uint8; the same picture and seed give the same result anywhere."""
        generator = np.random.default_rng(seed)
        self._compose.set_random_state(generator, random.Random(int(generator.integers(2**63))))
        result: Pixels = self._compose(image=np.ascontiguousarray(pixels))["image"]
        return result


def _build(component: Component, where: str) -> A.BasicTransform | A.BaseCompose:
    """One albumentations object; UserError for an unknown class, argument or value."""
    kind = getattr(A, component.name, None)
    if not (isinstance(kind, type) and issubclass(kind, A.BasicTransform | A.BaseCompose)):
        raise UserError(f'{where}: albumentations has no "{component.name}"{did_you_mean(component.name, dir(A))}')
    arguments = component.arguments
    if issubclass(kind, A.BaseCompose):
        children = arguments.get("transforms")
        if not (isinstance(children, list) and all(isinstance(child, dict) and isinstance(child.get("name"), str) for child in children)):
            raise UserError(f"{where}: {component.name}: write transforms: [{{name: ..., ...}}, ...], but got {children!r}")
        arguments["transforms"] = [_build(Component(**child), f"{where}.transforms[{i}]") for i, child in enumerate(children)]
    else:
        arguments["strict"] = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return kind(**arguments)
    except (ValueError, TypeError, UserWarning) as error:
        raise UserError(f"{where}: {component.name}: {' '.join(str(error).split())}") from None
