"""Pixel digests tell pixels apart and nothing else; perceptual hashes hardly change under edits, and turn with the picture."""

import io
import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.duplicates.hashing import VIEWS, dihedral, perceptual_hash, pixel_digest
from pipeline.data.duplicates.verify import seen_as
from pipeline.data.images import Pixels, decode, read


def photographs(root: Path, count: int) -> list[Pixels]:
    return [read(path) for path in sorted((root / "images").iterdir())[:count]]


def bits_apart(left: int, right: int) -> int:
    return (left ^ right).bit_count()


def test_another_file_format_has_the_same_digest(digits: Path) -> None:
    for path in sorted((digits / "images").iterdir())[:20]:
        pixels, buffer = read(path), io.BytesIO()
        Image.fromarray(pixels).save(buffer, "BMP")
        assert pixel_digest(decode(buffer.getvalue())) == pixel_digest(pixels)


def test_digests_tell_all_digits_apart_that_differ(digits: Path) -> None:
    pictures = [read(path) for path in sorted((digits / "images").iterdir())]
    assert len({pixel_digest(pixels) for pixels in pictures}) == len({pixels.tobytes() for pixels in pictures})


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 10**9), st.integers(1, 255))
def test_any_single_changed_value_changes_the_digest(height: int, width: int, place: int, change: int) -> None:
    pixels = np.full((height, width, 3), 7, dtype=np.uint8)
    other = pixels.copy()
    other.reshape(-1)[place % other.size] ^= change
    assert pixel_digest(pixels) != pixel_digest(other)


def test_changes_beyond_the_first_block_and_in_the_tail_count() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (500, 701, 3), dtype=np.uint8)
    seen = {pixel_digest(pixels)}
    for place in (600_000, pixels.size - 1, 65536 * 8 - 1, 65536 * 8):
        other = pixels.copy()
        other.reshape(-1)[place] ^= 128
        seen.add(pixel_digest(other))
    assert len(seen) == 5


def test_changes_in_the_last_bytes_of_three_words_do_not_cancel() -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    seen = set()
    for values in itertools.product(range(24), repeat=3):
        pixels.reshape(-1)[[7, 15, 23]] = values
        seen.add(pixel_digest(pixels))
    assert len(seen) == 24**3


def test_two_swapped_blocks_and_another_shape_have_another_digest() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    swapped = pixels.reshape(6, -1)[[1, 0, 2, 3, 4, 5]].reshape(pixels.shape)
    assert len({pixel_digest(pixels), pixel_digest(swapped), pixel_digest(pixels.reshape(512, 2048, 3))}) == 3


def test_a_digest_does_not_depend_on_the_memory_layout() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
    assert pixel_digest(pixels[:, ::-1]) == pixel_digest(pixels[:, ::-1].copy())


def test_all_plain_pictures_share_one_hash_that_fits_uint64() -> None:
    plain = [np.full((height, 90, 3), grey, dtype=np.uint8) for height, grey in ((64, 0), (200, 127), (400, 255))]
    assert {perceptual_hash(pixels) for pixels in plain} == {0}


def test_the_hash_of_a_photograph_survives_edits(trash: Path) -> None:
    apart: dict[str, list[int]] = {"jpeg": [], "half": [], "brighter": [], "cropped": [], "other": []}
    pictures = photographs(trash, 60)
    for pixels, other in zip(pictures, pictures[1:] + pictures[:1], strict=True):
        own = perceptual_hash(pixels)
        coded = cv2.imdecode(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 50])[1], cv2.IMREAD_COLOR)
        apart["jpeg"].append(bits_apart(own, perceptual_hash(coded)))
        apart["half"].append(bits_apart(own, perceptual_hash(cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA))))
        apart["brighter"].append(bits_apart(own, perceptual_hash(np.clip(pixels * 1.1, 0, 255).astype(np.uint8))))
        apart["cropped"].append(bits_apart(own, perceptual_hash(pixels[6:-6, 8:-8])))
        apart["other"].append(bits_apart(own, perceptual_hash(other)))
    assert max(apart["jpeg"] + apart["half"] + apart["brighter"]) <= 6
    assert np.mean(np.array(apart["cropped"]) <= 8) >= 0.9
    assert np.median(apart["other"]) > 20


@pytest.mark.parametrize("view", VIEWS)
def test_the_hash_of_a_view_follows_from_the_hash(view: str) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    pixels = cv2.resize(noise, (180, 240), interpolation=cv2.INTER_CUBIC)
    turned = dihedral(np.array([perceptual_hash(pixels)], dtype=np.uint64))[VIEWS.index(view), 0]
    assert bits_apart(int(turned), perceptual_hash(seen_as(pixels, view))) <= 2


def test_views_of_a_real_photograph_follow_from_its_hash(trash: Path) -> None:
    pictures = photographs(trash, 30)
    views = dihedral(np.array([perceptual_hash(pixels) for pixels in pictures], dtype=np.uint64))
    for number, view in enumerate(VIEWS):
        apart = [bits_apart(int(views[number, place]), perceptual_hash(seen_as(pixels, view))) for place, pixels in enumerate(pictures)]
        assert max(apart) <= 4, view


def test_the_views_form_a_group() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, 50, dtype=np.uint64)
    views = dihedral(hashes)
    turn, back, flip = (VIEWS.index(name) for name in ("rotate_90", "rotate_270", "horizontal_flip"))
    np.testing.assert_array_equal(dihedral(views[turn])[back], hashes)
    np.testing.assert_array_equal(dihedral(views[turn])[turn], views[VIEWS.index("rotate_180")])
    np.testing.assert_array_equal(dihedral(views[flip])[flip], hashes)
