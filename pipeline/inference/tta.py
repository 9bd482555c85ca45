"""Test-time augmentation: views of a normalised batch [B, C, H, W], made on the device, and how what they say is merged."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.config import CLASS_TASKS, TRANSPOSING, Images, Task

if TYPE_CHECKING:
    import torch

View = Callable[["torch.Tensor"], "torch.Tensor"]
Merge = Literal["probabilities", "logits", "ranks"]
Floats = npt.NDArray[np.float64]

CROP = 7 / 8  # of each side
ZOOM = 4 / 5  # of each side
BRIGHTER, DARKER, CONTRAST = 1.15, 0.85, 1.2


class Colours:
    """Between a normalised batch and its pixels on a scale of 0 to 1; in single precision."""

    def __init__(self, images: Images, device: "torch.device") -> None:
        import torch

        self._mean = torch.tensor(images.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(images.std, device=device).view(1, 3, 1, 1)

    def changed(self, images: "torch.Tensor", change: View) -> "torch.Tensor":
        """The batch after `change` of its pixels, which are clipped to 0..1."""
        pixels = change(images.float() * self._std + self._mean).clamp(0, 1)
        return ((pixels - self._mean) / self._std).to(images.dtype)


def _resized(images: "torch.Tensor", shape: Sequence[int]) -> "torch.Tensor":
    from torch.nn.functional import interpolate

    return interpolate(images, size=tuple(shape), mode="bilinear", align_corners=False)


def _shares(images: "torch.Tensor", share: float) -> tuple[int, int]:
    height, width = images.shape[2:]
    return max(1, round(height * share)), max(1, round(width * share))


def _cropped(images: "torch.Tensor", _: Colours, share: float, down: float, right: float) -> "torch.Tensor":
    """A part of each side, resized back; down and right: where it lies, 0 at the top and left, 1 at the bottom and right."""
    (height, width), (inner, inner_width) = images.shape[2:], _shares(images, share)
    top, left = int((height - inner) * down), int((width - inner_width) * right)
    return _resized(images[:, :, top : top + inner, left : left + inner_width], (height, width))


def _zoomed_out(images: "torch.Tensor", _: Colours) -> "torch.Tensor":
    from torch.nn.functional import pad

    (height, width), (inner, inner_width) = images.shape[2:], _shares(images, ZOOM)
    top, left = (height - inner) // 2, (width - inner_width) // 2
    border = (left, width - inner_width - left, top, height - inner - top)
    return pad(_resized(images, (inner, inner_width)), border, mode="reflect")


def _contrasted(pixels: "torch.Tensor") -> "torch.Tensor":
    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    return (pixels - mean) * CONTRAST + mean


VIEWS: "dict[str, Callable[[torch.Tensor, Colours], torch.Tensor]]" = {
    "identity": lambda images, _: images,
    "horizontal_flip": lambda images, _: images.flip(3),
    "vertical_flip": lambda images, _: images.flip(2),
    "rotate_180": lambda images, _: images.flip(2, 3),
    "rotate_90": lambda images, _: images.rot90(1, (2, 3)),
    "rotate_270": lambda images, _: images.rot90(3, (2, 3)),
    "transpose": lambda images, _: images.transpose(2, 3),
    "anti_transpose": lambda images, _: images.rot90(1, (2, 3)).flip(3),
    "crop_centre": functools.partial(_cropped, share=CROP, down=0.5, right=0.5),
    "crop_top_left": functools.partial(_cropped, share=CROP, down=0, right=0),
    "crop_top_right": functools.partial(_cropped, share=CROP, down=0, right=1),
    "crop_bottom_left": functools.partial(_cropped, share=CROP, down=1, right=0),
    "crop_bottom_right": functools.partial(_cropped, share=CROP, down=1, right=1),
    "zoom_in": functools.partial(_cropped, share=ZOOM, down=0.5, right=0.5),
    "zoom_out": _zoomed_out,
    "brighter": lambda images, colours: colours.changed(images, lambda pixels: pixels * BRIGHTER),
    "darker": lambda images, colours: colours.changed(images, lambda pixels: pixels * DARKER),
    "more_contrast": lambda images, colours: colours.changed(images, _contrasted),
}
"""Every view, in the one order in which they are made, merged and listed."""

PRESETS: dict[str, tuple[str, ...]] = {
    "none": ("identity",),
    "horizontal": ("identity", "horizontal_flip"),
    "flips": ("identity", "horizontal_flip", "vertical_flip", "rotate_180"),
    "dihedral": ("identity", "horizontal_flip", "vertical_flip", "rotate_180", *TRANSPOSING),
    "crops": ("crop_centre", "crop_top_left", "crop_top_right", "crop_bottom_left", "crop_bottom_right"),
    "zooms": ("identity", "zoom_in", "zoom_out"),
    "colour": ("identity", "brighter", "darker", "more_contrast"),
}
"""Five crops are the four corners and the centre, without the whole picture, as Krizhevsky et al. (2012) have them."""


def view_names(tta: str | Iterable[str]) -> tuple[str, ...]:
    """The views of a preset or a list, each once, in the order of VIEWS, so that the order written changes nothing."""
    assert tta != "auto", "its views are chosen out of fold, from `candidates`"
    names = set(PRESETS[tta] if isinstance(tta, str) else tta)
    return tuple(name for name in VIEWS if name in names)


def candidates(views: Iterable[str] | None, shape: tuple[int, int]) -> tuple[str, ...]:
    """What auto chooses from: `views`, or every one, that fit an input of this height and width, and identity."""
    fitting = set(VIEWS if views is None else views) - (set() if shape[0] == shape[1] else set(TRANSPOSING))
    return view_names(fitting | {"identity"})


def build_views(names: str | Iterable[str], images: Images, device: "torch.device") -> dict[str, View]:
    """Named views as functions of a normalised batch, in the order of VIEWS; dtype, shape and memory format stay, the batch is not changed."""
    colours = Colours(images, device)
    return {name: functools.partial(_see, VIEWS[name], colours) for name in view_names(names)}


def _see(view: "Callable[[torch.Tensor, Colours], torch.Tensor]", colours: Colours, images: "torch.Tensor") -> "torch.Tensor":
    import torch

    channels_last = images.is_contiguous(memory_format=torch.channels_last)
    return view(images, colours).contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def merge_views(values: npt.NDArray[np.float32], merge: Merge, task: Task, fold: npt.NDArray[np.int16] | None = None) -> npt.NDArray[np.float32]:
    """One prediction of each row [rows, outputs] from those of its views [views, rows, outputs], summed in their order.

    values: logits where `merge` is logits, else probabilities or numbers, as `predict_views` keeps them. The result is probabilities,
    numbers, or ranks. fold: of each row, for ranks, which are among the rows of a fold; None: among all.
    """
    total = np.zeros(values.shape[1:])
    for view in values:
        total += summand(view, merge, fold)
    return merged(total / len(values), merge, task, ranked_among(values.shape[1], fold))


def summand(values: npt.NDArray[np.float32], merge: Merge, fold: npt.NDArray[np.int16] | None = None) -> npt.NDArray[np.float32]:
    """What of one view's [rows, outputs] is averaged: its values, or their ranks from 1 by column, of which equal ones share the mean."""
    if merge != "ranks":
        return values
    from scipy.stats import rankdata

    ranks = np.empty_like(values)
    for rows in [slice(None)] if fold is None else [fold == number for number in np.unique(fold)]:
        ranks[rows] = rankdata(values[rows], axis=0)
    return ranks


def ranked_among(rows: int, fold: npt.NDArray[np.int16] | None) -> Floats:
    """How many rows each row is ranked among [rows]."""
    if fold is None:
        return np.full(rows, float(rows))
    _, of, counts = np.unique(fold, return_inverse=True, return_counts=True)
    return np.asarray(counts[of], dtype=np.float64)


def merged(mean: Floats, merge: Merge, task: Task, among: Floats) -> npt.NDArray[np.float32]:
    """Predictions from the mean of summands [rows, outputs]; ranks become (rank - 0.5) / among, of each column alone."""
    values: npt.NDArray[Any] = mean
    if merge == "logits":
        from scipy.special import expit, softmax

        values = softmax(mean, axis=1) if task in CLASS_TASKS else expit(mean)
    elif merge == "ranks":
        values = (mean - 0.5) / among[:, None]
    return values.astype(np.float32)
