"""The second, stricter look at two pictures whose perceptual hashes are near: are these the same pixels, edited?

Both become small grey thumbnails; one is laid onto the other by scale and shift alone, then their detail (what lies between
a fine and a coarse blur) must agree in every part. Scale and shift are what cropping, resizing and a border do; a second
photograph of the same thing also turns, bends or is lit from elsewhere, and a second leaf has another outline.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.data.duplicates.hashing import VIEWS
from pipeline.data.duplicates.search import Candidates
from pipeline.data.images import Pixels
from pipeline.runtime import cores, ordered_map

Grey = npt.NDArray[np.float32]
Thumbnail = npt.NDArray[np.uint8]  # [96, 96]

ALIKE = 0.92
"""Similarity from which two pictures are the same one (docs/duplicates.md)."""

_SIDE = 96
_MARGIN = 8  # of each side is not compared: a crop or a border of up to 5 % lies within it
_FRAME = 5  # of each side is not even blurred: a border would shine inwards
_PARTS = 5  # along each side
_NOISE = 3.0  # grey levels of detail (root mean square) that JPEG makes or loses
_COARSELY_ALIKE = 0.95  # correlation once aligned; edited pictures reach 0.998, other exposures of a scene less
_LEAST_DETAIL = 3.0  # grey levels; below, what is left to compare is noise
_LEAST_PARTS = 4  # of 25 that have to show detail
_SCALE = 0.15  # logarithm: a crop or a border of 5 % of each side is 0.11
_SKEW = 0.08  # by which the two scales may differ: a crop of 5 % of one side alone
_SHIFT = 0.08  # of the middle, as a share of the side
_GAINS = (0.4, 2.5)

_PAIRS_AT_ONCE = 4096
_MOST_THUMBNAILS = 30_000  # kept, 9 KB each

_AXIS = (np.arange(_SIDE, dtype=np.float32) - (_SIDE - 1) / 2) / _SIDE
_INNER = slice(_MARGIN, _SIDE - _MARGIN)


@dataclass(frozen=True)
class _Placement:
    """Where the middle and the sides of one thumbnail lie in the other: x' = scale * x + shift, from the middle, side 1."""

    across: float = 1.0
    down: float = 1.0
    shift_across: float = 0.0
    shift_down: float = 0.0

    def applied_to(self, image: Grey) -> Grey:
        middle = (_SIDE - 1) / 2
        matrix = np.array([
            [self.across, 0, middle * (1 - self.across) + self.shift_across * _SIDE],
            [0, self.down, middle * (1 - self.down) + self.shift_down * _SIDE],
        ])  # fmt: skip
        return _floats(cv2.warpAffine(image, matrix, (_SIDE, _SIDE), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REPLICATE))

    def moved(self, step: npt.NDArray[np.float32]) -> "_Placement":
        across, down, right, below = (float(value) for value in step)
        return _Placement(self.across * (1 + across), self.down * (1 + down), self.shift_across + self.across * right, self.shift_down + self.down * below)

    def is_plausible(self, slack: float = 1.0) -> bool:
        """Whether cropping, bordering and resizing can have done it; with slack on the way there."""
        sizes = abs(np.log(self.across)), abs(np.log(self.down)) if min(self.across, self.down) > 0 else np.inf
        shifts = abs(self.shift_across), abs(self.shift_down)
        return bool(max(sizes) <= _SCALE * slack and max(shifts) <= _SHIFT * slack and abs(self.across - self.down) <= _SKEW * slack)


def thumbnail(pixels: Pixels) -> Thumbnail:
    """Grey [96, 96] of a picture [height, width, 3], its aspect ratio let go."""
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    return cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)


def has_detail(picture: Thumbnail) -> bool:
    """Whether there is enough in a picture to tell it from another; a flat sky has not."""
    squares = _by_part(_detail(picture.astype(np.float32)) ** 2)
    return bool(squares.mean() >= _LEAST_DETAIL**2 and (squares >= _NOISE**2).sum() >= _LEAST_PARTS)


def verified(candidates: Candidates, paths: list[str], read: Callable[[str], Pixels]) -> npt.NDArray[np.bool_]:
    """Which candidate pairs [N] are the same picture; each picture is read once, or again where more than 30,000 take part.

    A picture without detail is the same as none, so that a crowd of blank ones costs no comparison.
    """
    order = np.lexsort((candidates.right, candidates.left))
    same = np.zeros(len(order), dtype=bool)
    known: dict[int, Thumbnail | None] = {}
    for begin in range(0, len(order), _PAIRS_AT_ONCE):
        part = order[begin : begin + _PAIRS_AT_ONCE]
        left, right, views = (column[part].tolist() for column in (candidates.left, candidates.right, candidates.view))
        needed = set(left) | set(right)
        if len(known) + len(needed) > _MOST_THUMBNAILS:
            known = {place: known[place] for place in needed & known.keys()}
        missing = sorted(needed - known.keys())
        known.update(zip(missing, _thumbnails([paths[place] for place in missing], read), strict=True))
        asked = [(known[one], known[two], view) for one, two, view in zip(left, right, views, strict=True)]
        same[part] = list(ordered_map(_asked_alike, asked, cores()))
    return same


def _thumbnails(paths: Iterable[str], read: Callable[[str], Pixels]) -> Iterable[Thumbnail | None]:
    def load(path: str) -> Thumbnail | None:
        picture = thumbnail(read(path))
        return picture if has_detail(picture) else None

    return ordered_map(load, paths, cores())


def _asked_alike(asked: tuple[Thumbnail | None, Thumbnail | None, int]) -> bool:
    left, right, view = asked
    return left is not None and right is not None and are_alike(left, seen_as(right, VIEWS[view]))


def seen_as(image: npt.NDArray[np.uint8], view: str) -> npt.NDArray[np.uint8]:
    """One of the eight views of an image [height, width, ...], by its name in `hashing.VIEWS`."""
    mirrored = {"horizontal_flip": 0, "transpose": 1, "vertical_flip": 2, "anti_transpose": 3}
    if view in mirrored:
        image = image[:, ::-1]
    turns = mirrored.get(view, {"identity": 0, "rotate_90": 1, "rotate_180": 2, "rotate_270": 3}.get(view, 0))
    return np.ascontiguousarray(np.rot90(image, turns))


def same_picture(left: Pixels, right: Pixels) -> bool:
    """Whether one [height, width, 3] is the other resized, recompressed, cropped or bordered (to 5 %), or brightened."""
    one, two = thumbnail(left), thumbnail(right)
    return has_detail(one) and has_detail(two) and are_alike(one, two)


def are_alike(left: Thumbnail, right: Thumbnail) -> bool:
    """Whether `similarity` reaches ALIKE, in half the time where it does not."""
    one, two = left.astype(np.float32), right.astype(np.float32)
    return _one_way(one, two) >= ALIKE and _one_way(two, one) >= ALIKE


def similarity(left: Thumbnail, right: Thumbnail) -> float:
    """Agreement of two thumbnails where they agree least, 1 for the same picture, 0 for none; symmetric."""
    one, two = left.astype(np.float32), right.astype(np.float32)
    return min(_one_way(one, two), _one_way(two, one))


def _one_way(fixed: Grey, moving: Grey) -> float:
    place = _aligned(fixed, moving)
    if place is None or not place.is_plausible():
        return 0.0
    one, two = _detail(fixed), _detail(place.applied_to(moving))
    product, square, other = float((one * two).mean()), float((one * one).mean()), float((two * two).mean())
    gain = product / max(other, 1e-6)
    if not _GAINS[0] <= gain <= _GAINS[1]:
        return 0.0
    two = two * np.float32(gain)
    agreement = (2 * _by_part(one * two) + _NOISE**2) / (_by_part(one * one) + _by_part(two * two) + _NOISE**2)
    return max(0.0, min(float(agreement.min()), product / float(np.sqrt(square * other))))


def _aligned(fixed: Grey, moving: Grey) -> _Placement | None:
    """Scales and shift that lay `moving` onto `fixed`, or None where the two stay too far apart.

    Gauss-Newton on blurred thumbnails, coarse to fine, with gain and offset, after Lucas and Kanade (1981) as ordered by Baker
    and Matthews (2004), with the gradients of the fixed picture.
    """
    place = _Placement()
    axis = _AXIS[_INNER]
    for blur in (3.0, 1.2):
        goal = _blurred(_without_frame(fixed), blur)
        across, down = (cv2.Sobel(goal, cv2.CV_32F, order, 1 - order, scale=_SIDE / 8)[_INNER, _INNER] for order in (1, 0))
        moves = np.stack([across * axis[None, :], down * axis[:, None], across, down, np.ones_like(down)]).reshape(5, -1)
        wanted = goal[_INNER, _INNER].reshape(-1)
        for _ in range(8):
            seen = _blurred(_without_frame(place.applied_to(moving)), blur)[_INNER, _INNER].reshape(-1)
            columns = np.concatenate([moves, seen[None]])
            square = columns @ columns.T
            step = np.linalg.solve(square + np.diag(1e-6 * square.diagonal() + 1e-9), columns @ wanted)[:4]
            place = place.moved(step)
            if np.abs(step).max() < 2e-4 or not place.is_plausible(1.5):
                break
        if float(np.corrcoef(seen, wanted)[0, 1]) < _COARSELY_ALIKE:
            return None
    return place


def _without_frame(image: Grey) -> Grey:
    """Its outermost pixels replaced by those within, so that no blur carries a border inwards."""
    inner = slice(_FRAME, _SIDE - _FRAME)
    return _floats(cv2.copyMakeBorder(image[inner, inner], _FRAME, _FRAME, _FRAME, _FRAME, cv2.BORDER_REPLICATE))


def _detail(image: Grey) -> Grey:
    """What lies between a blur of 0.8 and one of 4 pixels, without the margin."""
    inner = _without_frame(image)
    return (_blurred(inner, 0.8) - _blurred(inner, 4.0))[_INNER, _INNER]


def _blurred(image: Grey, sigma: float) -> Grey:
    return _floats(cv2.GaussianBlur(image, (0, 0), sigma))


def _floats(image: npt.NDArray[np.generic]) -> Grey:
    return image.astype(np.float32, copy=False)


def _by_part(values: Grey) -> Grey:
    size = values.shape[0] // _PARTS
    return _floats(values.reshape(_PARTS, size, _PARTS, size).mean(axis=(1, 3)))
