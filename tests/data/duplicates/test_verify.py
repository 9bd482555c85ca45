"""The second look accepts edits of a picture and refuses plain pictures, other pictures and other leaves."""

import itertools
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.data.duplicates.hashing import VIEWS, perceptual_hash
from pipeline.data.duplicates.search import Candidates, candidates
from pipeline.data.duplicates.verify import ALIKE, has_detail, same_picture, seen_as, similarity, thumbnail, verified
from pipeline.data.images import Pixels, read


def as_jpeg(pixels: Pixels, quality: int) -> Pixels:
    return np.asarray(cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], cv2.IMREAD_COLOR), dtype=np.uint8)


def cropped(pixels: Pixels, top: float, right: float, bottom: float, left: float) -> Pixels:
    height, width = pixels.shape[:2]
    return pixels[round(top * height) : height - round(bottom * height), round(left * width) : width - round(right * width)]


def framed(pixels: Pixels, grey: int) -> Pixels:
    width = round(0.04 * min(pixels.shape[:2]))
    return np.pad(pixels, ((width, width), (width, width), (0, 0)), constant_values=grey)


EDITS: dict[str, Callable[[Pixels], Pixels]] = {
    "jpeg": lambda pixels: as_jpeg(pixels, 50),
    "half": lambda pixels: np.asarray(cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), dtype=np.uint8),
    "crop": lambda pixels: as_jpeg(cropped(pixels, 0.03, 0.03, 0.03, 0.03), 90),
    "one corner": lambda pixels: cropped(pixels, 0.03, 0.0, 0.0, 0.03),
    "one side": lambda pixels: cropped(pixels, 0.0, 0.05, 0.0, 0.0),
    "brighter": lambda pixels: np.clip(pixels * 1.1, 0, 255).astype(np.uint8),
    "less contrast": lambda pixels: (pixels * 0.8 + 20).astype(np.uint8),
    "black border": lambda pixels: as_jpeg(framed(pixels, 0), 90),
    "white border": lambda pixels: as_jpeg(framed(pixels, 255), 90),
}


def pictures(root: Path, count: int) -> list[Pixels]:
    return [read(path) for path in sorted((root / "images").iterdir())[:: max(1, 1500 // count)][:count]]


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_photograph_is_the_same(trash: Path, edit: str) -> None:
    originals = [pixels for pixels in pictures(trash, 50) if has_detail(thumbnail(pixels))]
    same = [same_picture(pixels, EDITS[edit](pixels)) for pixels in originals]
    assert len(same) >= 45
    assert np.mean(same) >= 0.97


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_silhouette_is_the_same(leaf99: Path, edit: str) -> None:
    assert np.mean([same_picture(pixels, EDITS[edit](pixels)) for pixels in pictures(leaf99, 30)]) >= 0.96


@pytest.mark.slow
def test_no_two_leaves_are_the_same_however_near_their_hashes(leaf99: Path) -> None:
    thumbnails = {path: read(path) for path in sorted((leaf99 / "images").iterdir())[:500]}
    hashes = np.array([perceptual_hash(pixels) for pixels in thumbnails.values()], dtype=np.uint64)
    found = candidates(hashes, 8, mirrored=False)
    assert len(found.left) > 300
    assert not verified(found, [str(path) for path in thumbnails], lambda path: thumbnails[Path(path)]).any()


def test_different_photographs_are_not_the_same(trash: Path) -> None:
    some = pictures(trash, 60)
    assert not any(same_picture(left, right) for left, right in itertools.pairwise(some))


def test_a_moved_part_is_seen(trash: Path) -> None:
    changed = 0
    for pixels in pictures(trash, 40):
        other = pixels.copy()
        other[70:120, 90:150] = pixels[70:120, 90:150][::-1, ::-1]
        if similarity(thumbnail(pixels[70:120, 90:150]), thumbnail(other[70:120, 90:150])) < 0.5:
            changed += same_picture(pixels, other)
    assert changed <= 2


@pytest.mark.parametrize("grey", [0, 130, 255])
def test_a_plain_picture_is_the_same_as_none(grey: int) -> None:
    plain = np.full((200, 300, 3), grey, dtype=np.uint8)
    noisy = np.clip(plain + np.random.default_rng(0).normal(0, 3, plain.shape), 0, 255).astype(np.uint8)
    sky = np.repeat(np.linspace(90, 190, 200).round().astype(np.uint8)[:, None, None], 300, axis=1).repeat(3, axis=2)
    for left in (plain, noisy, sky):
        for right in (plain, noisy, sky):
            assert not same_picture(left, right)


def test_a_single_line_is_not_enough_to_tell() -> None:
    picture = np.full((96, 96), 200, dtype=np.uint8)
    picture[48, 12:84] -= 45
    assert not has_detail(picture)
    picture[20:76:14, 12:84] = 100
    assert has_detail(picture)


def test_similarity_is_symmetric_and_one_for_the_same(trash: Path) -> None:
    some = [thumbnail(pixels) for pixels in pictures(trash, 10)]
    for left, right in zip(some, [*some[1:], some[0]], strict=True):
        assert similarity(left, right) == similarity(right, left)
        assert not has_detail(left) or similarity(left, left) == pytest.approx(1.0, abs=1e-4)


def test_a_turned_copy_is_the_same_in_its_view_alone(trash: Path) -> None:
    pixels = next(pixels for pixels in pictures(trash, 10) if has_detail(thumbnail(pixels)))
    for number, view in enumerate(VIEWS):
        shown = {"left": seen_as(pixels, view), "right": pixels}
        one, two, zero = np.array([0]), np.array([1]), np.array([0])
        assert verified(Candidates(one, two, zero, np.array([number])), ["left", "right"], shown.__getitem__).all()
        assert not verified(Candidates(one, two, zero, np.array([(number + 1) % 8])), ["left", "right"], shown.__getitem__).any()


def test_each_candidate_picture_is_read_once(trash: Path) -> None:
    some, reads = pictures(trash, 12), []

    def load(path: str) -> Pixels:
        reads.append(path)
        return some[int(path)]

    left, right = np.triu_indices(10, 1)
    verified(Candidates(left, right, np.zeros(45, int), np.zeros(45, int)), [str(place) for place in range(12)], load)
    assert sorted(reads, key=int) == [str(place) for place in range(10)]


def test_the_threshold_lies_between_edits_and_leaves() -> None:
    assert 0.9 <= ALIKE < 0.95
