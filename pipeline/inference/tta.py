"""Test-time augmentation: views of a batch [B, C, H, W], exact rearrangements of pixels, done on the device."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    View = Callable[[torch.Tensor], torch.Tensor]

VIEWS: "dict[str, View]" = {
    "identity": lambda images: images,
    "horizontal_flip": lambda images: images.flip(3),
    "vertical_flip": lambda images: images.flip(2),
    "rotate_180": lambda images: images.flip(2, 3),
    "rotate_90": lambda images: images.rot90(1, (2, 3)),
    "rotate_270": lambda images: images.rot90(3, (2, 3)),
    "transpose": lambda images: images.transpose(2, 3),
    "anti_transpose": lambda images: images.rot90(1, (2, 3)).flip(3),
}

PRESETS: dict[str, tuple[str, ...]] = {
    "none": ("identity",),
    "horizontal": ("identity", "horizontal_flip"),
    "flips": ("identity", "horizontal_flip", "vertical_flip", "rotate_180"),
    "dihedral": tuple(VIEWS),
}


def view_names(tta: str | Sequence[str]) -> tuple[str, ...]:
    """The views of a preset or a list, in one canonical order, so that the order written changes nothing."""
    names = PRESETS[tta] if isinstance(tta, str) else tuple(tta)
    return tuple(name for name in VIEWS if name in names)


def views(names: Sequence[str]) -> "list[View]":
    """The functions of named views."""
    return [VIEWS[name] for name in names]
