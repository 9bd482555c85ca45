"""A first recipe for unknown pictures: sizes, augmentation and network that a laptop can train; lines of a config with their reasons."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from pipeline.data.pictures import read_idx
from pipeline.data.survey.files import Folder

SMALL = 32  # pixels: below, pretrained networks see nothing that they know
SIDED = re.compile(r"(^|[^a-z])(left|right)([^a-z]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Look:
    """What a few pictures look like."""

    shapes: tuple[tuple[int, int], ...]
    """Height and width, pixels."""
    grey: bool

    @property
    def side(self) -> int:
        """Median of the shorter sides, pixels."""
        return int(np.median([min(shape) for shape in self.shapes])) if self.shapes else 224

    @property
    def ratios(self) -> tuple[float, float, float]:
        """Width over height: the tenth percentile, the median and the ninetieth."""
        values = [width / height for height, width in self.shapes] or [1.0]
        low, middle, high = np.quantile(values, [0.1, 0.5, 0.9])
        return float(low), float(middle), float(high)

    def __str__(self) -> str:
        distinct = sorted(set(self.shapes))
        if not distinct:
            return "no picture could be opened"
        colour = "grey" if self.grey else "colour"
        (low, wide), (high, far) = distinct[0], distinct[-1]
        one = f"all {low} x {wide} px (height x width)"
        many = f"{low} x {wide} to {high} x {far} px (height x width), median shorter side {self.side}"
        return f"{one if len(distinct) == 1 else many}, {colour}, from {len(self.shapes)} pictures"


def look_at_pictures(folder: Folder, paths: Sequence[str], most: int = 50) -> Look:
    """Opens the headers of up to `most` pictures, evenly spread."""
    shapes, grey = [], []
    for path in paths[:: max(1, len(paths) // most)][:most]:
        try:
            with Image.open(folder.root / path) as image:
                shapes.append((image.height, image.width))
                grey.append(image.mode in ("1", "L", "LA", "I", "I;16", "F"))
        except (OSError, ValueError, Image.DecompressionBombError):  # the index stage lists what cannot be read
            continue
    return Look(tuple(shapes), bool(grey) and all(grey))


def look_at_idx(path: Path) -> Look:
    """The one shape of an idx file's pictures."""
    shape = read_idx(path).shape
    return Look(((shape[1], shape[2]),), len(shape) == 3)


def recipe(seen: Look, num_rows: int, labels: Sequence[str], has_classes: bool, smooth: bool, skip: bool) -> list[str]:
    """YAML lines of images, augment, model, optimizer, loss, train and predict.

    labels: the classes; smooth: labels are asked for, not probabilities; skip: some pictures are missing.
    """
    characters = bool(labels) and all(len(label) == 1 or label.isdigit() for label in labels)
    flip = not (seen.grey and seen.side <= SMALL and characters) and not any(SIDED.search(label) for label in labels)
    lines = _small(seen, flip, num_rows) if seen.side <= SMALL else _usual(seen, flip, num_rows, has_classes)
    lines += [f"loss: {{smoothing: {0.05 if seen.side <= SMALL else 0.1}}}"] if has_classes and smooth else []
    if skip:
        at = next(number for number, line in enumerate(lines) if line.startswith("images:"))
        lines.insert(at + 1, "  corrupt: skip # some train rows have no picture")
    if flip:
        lines += ["predict: {tta: horizontal}"]
    return lines


def _flip_lines(flip: bool) -> list[str]:
    if flip:
        return ["    - {name: HorizontalFlip, p: 0.5} # mirrored pictures keep their label; add VerticalFlip if up and down mean nothing, too"]
    return ["    # no flips: a mirrored digit, character or side is another class"]


def _small(seen: Look, flip: bool, num_rows: int) -> list[str]:
    size = 32 if seen.grey else 64
    backbone = "test_resnet" if seen.grey else "resnet18"
    return [
        "images: # small pictures are enlarged",
        f"  cache_size: {max(8, seen.side)}",
        f"  size: {size}",
        f"  fit: {'stretch' if _is_uniform(seen) else 'pad'}",
        "  mean: [0.5, 0.5, 0.5]",
        "  std: [0.5, 0.5, 0.5]",
        "augment:",
        "  train:",
        f"    - {{name: Resize, height: {size}, width: {size}, interpolation: 2}} # 2: cubic",
        *_flip_lines(flip),
        "    - {name: Affine, translate_percent: [-0.08, 0.08], rotate: [-10, 10], scale: [0.9, 1.1], p: 1.0}",
        f"model: {{backbone: {backbone}, weights: null}} # random weights: no download; weights: hub and size: 96 may be better on a GPU",
        "optimizer: {learning_rate: 3e-3}",
        f"train: {{epochs: {_epochs(num_rows, 20)}, batch_size: 64}}",
    ]


def _usual(seen: Look, flip: bool, num_rows: int, has_classes: bool) -> list[str]:
    side = min(224, max(64, round(seen.side / 32) * 32))
    low, middle, high = seen.ratios
    height, width = side, side
    if _is_uniform(seen) and not 0.87 < middle < 1.15 and 0.5 <= middle <= 2:
        height, width = (side, round(side * middle / 32) * 32) if middle > 1 else (round(side / middle / 32) * 32, side)
        fit, why = "crop", "all pictures have this shape, so little is cut off"
    elif max(high, 1 / low) > 2 or high / low > 2:
        fit, why = "pad", "some pictures are long, so nothing is cut off"
    else:
        fit, why = "crop", "the largest centre crop; pad keeps the edges, stretch changes the shape"
    crop = f"{{name: RandomResizedCrop, size: [{height}, {width}], scale: [{0.6 if has_classes else 0.8}, 1.0], ratio: {_crop_ratio(width / height)}}}"
    first = [f"    - {crop}"] if fit == "crop" else ["    - {name: Affine, scale: [0.8, 1.2], translate_percent: [-0.05, 0.05], rotate: [-15, 15], p: 1.0}"]
    shown = str(height) if height == width else f"[{height}, {width}]"
    return [
        "images:",
        f"  cache_size: {min(seen.side, max(side, round(side * 8 / 7)))} # shorter side in the cache; larger than size, so that crops lose no detail",
        f"  size: {shown} # pictures: {seen}",
        f"  fit: {fit} # {why}",
        "augment:",
        "  train:",
        *first,
        *_flip_lines(flip),
        "# small enough for a laptop; on a GPU convnext_tiny or tf_efficientnetv2_s at 384 px. hub downloads the weights;",
        "# without a network write weights: PATH/mobilenetv2_100.pth (timm's file), or null for random ones",
        "model: {backbone: mobilenetv2_100, weights: hub, arguments: {drop_rate: 0.2}}",
        "optimizer: {learning_rate: 4e-3, layer_decay: 0.75}",
        f"train: {{epochs: {_epochs(num_rows, 12)}, batch_size: 32}}",
    ]


def _is_uniform(seen: Look) -> bool:
    low, _, high = seen.ratios
    return high / low < 1.05


def _crop_ratio(ratio: float) -> str:
    return f"[{0.75 * ratio:.2f}, {1.33 * ratio:.2f}]"


def _epochs(num_rows: int, most: int) -> int:
    """Fewer passes over more rows."""
    if num_rows < 600:
        return most * 2
    return most if num_rows < 5_000 else max(3, most * 2 // 3) if num_rows < 30_000 else max(3, most // 3)
