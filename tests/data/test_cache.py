"""The cache gives the pixels of the files, in every mode, to every process."""

import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.config import Cache, Competition, Images
from pipeline.data import cache as module
from pipeline.data.cache import ImageCache, build_cache, choose_mode, content_digest, needed_bytes
from pipeline.data.images import Pixels, fit_to, read, shrink
from pipeline.data.pictures import Pictures, crop_black_border
from pipeline.errors import UserError
from pipeline.files import digest_file

SIZE = 24
SHAPES = {"a": (40, 60), "b": (60, 40), "007": (24, 24), "7": (10, 90), "tiny": (1, 1)}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Smooth pictures of several shapes."""
    root = tmp_path / "competition"
    root.mkdir()
    for number, (name, (height, width)) in enumerate(SHAPES.items()):
        rows, columns = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
        pixels = np.stack([rows, columns, np.full((height, width), 40 * number)], axis=2).round().astype(np.uint8)
        Image.fromarray(pixels).save(root / f"{name}.png")
    return root


@pytest.fixture
def rows(root: Path) -> pd.DataFrame:
    """Four train rows, and one of their pictures as a test row too."""
    names = [*SHAPES, "a"]
    return pd.DataFrame(
        {
            "split": ["train"] * len(SHAPES) + ["test"],
            "id": names,
            "path": [f"{name}.png" for name in names],
            "digest": [digest_file(root / f"{name}.png") for name in names],
            "height": [SHAPES[name][0] for name in names],
            "width": [SHAPES[name][1] for name in names],
        }
    )


def pictures_of(root: Path, **images: Any) -> Pictures:
    given = {"name": "toy", "root": root, "id": "id", "target": "label", "image_path": "{id}.png", "metric": "accuracy"}
    return Pictures(Competition.model_validate(given), Images.model_validate(images))


def built(rows: pd.DataFrame, root: Path, folder: Path, mode: str, quality: int = 95) -> ImageCache:
    pictures = pictures_of(root)
    build_cache(rows, pictures, folder / mode, mode, SIZE, quality)
    return ImageCache(folder / mode, pictures)


def all_pixels(cache: ImageCache, rows: pd.DataFrame) -> list[Pixels]:
    return [cache.read(split, name) for split, name in zip(rows["split"], rows["id"], strict=True)]


# ---------------------------------------------------------------- pixels


@pytest.mark.parametrize("mode", ["raw", "none"])
def test_raw_and_none_give_exactly_the_shrunken_pictures(rows: pd.DataFrame, root: Path, tmp_path: Path, mode: str) -> None:
    pixels = all_pixels(built(rows, root, tmp_path, mode), rows)
    for got, path in zip(pixels, rows["path"], strict=True):
        np.testing.assert_array_equal(got, shrink(read(root / path), SIZE))
        assert got.dtype == np.uint8


def test_jpeg_gives_nearly_the_same_pixels_in_the_same_shape(rows: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    exact, close = (all_pixels(built(rows, root, tmp_path, mode), rows) for mode in ("raw", "jpeg"))
    for got, expected in zip(close, exact, strict=True):
        assert got.shape == expected.shape
        assert np.abs(got.astype(int) - expected).mean() < 3


def test_a_lower_quality_makes_a_smaller_cache(rows: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    sizes = []
    for quality in (95, 20):
        built(rows, root, tmp_path / str(quality), "jpeg", quality)
        sizes.append((tmp_path / str(quality) / "jpeg" / "train.bin").stat().st_size)
    assert sizes[1] < sizes[0]


def test_pixels_do_not_depend_on_the_order_of_the_rows(rows: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    one = built(rows, root, tmp_path / "one", "raw")
    other = built(rows[::-1], root, tmp_path / "other", "raw")
    for got, expected in zip(all_pixels(other, rows), all_pixels(one, rows), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_an_id_in_both_splits_is_two_pictures(rows: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    rows.loc[rows["split"] == "test", "path"] = "b.png"
    cache = built(rows, root, tmp_path, "raw")
    assert cache.read("train", "a").shape == (24, 36, 3)
    assert cache.read("test", "a").shape == (36, 24, 3)


def test_mapped_pixels_cannot_be_written_but_can_be_cropped_and_resized(rows: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    pixels = built(rows, root, tmp_path, "raw").read("train", "a")
    with pytest.raises(ValueError, match="read-only"):
        pixels[0, 0, 0] = 1
    assert fit_to(pixels, (7, 5), "crop").shape == (7, 5, 3)


def test_the_digits_are_cached_as_they_are(digits: Path, tmp_path: Path) -> None:
    rows = pd.DataFrame({"split": "train", "id": ["0000", "0001"], "path": ["images/0000.png", "images/0001.png"]})
    cache = built(rows, digits, tmp_path, "raw")
    np.testing.assert_array_equal(cache.read("train", "0001"), read(digits / "images" / "0001.png"))


def test_a_picture_that_broke_since_it_was_checked_stops_the_build(rows: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    (root / "b.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"b\.png: zero bytes, although it could be read before"):
        built(rows, root, tmp_path, "raw")
    assert not (tmp_path / "raw" / "index.json").exists()
    assert not list((tmp_path / "raw").glob(".*"))


def test_an_id_that_is_not_cached_is_a_key_error(rows: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        built(rows, root, tmp_path, "raw").read("train", "00a")


@pytest.mark.parametrize("mode", ["raw", "none"])
def test_what_is_done_before_the_cache_is_in_every_mode(rows: pd.DataFrame, root: Path, tmp_path: Path, mode: str) -> None:
    framed = np.zeros((60, 80, 3), dtype=np.uint8)
    framed[10:50, 20:70] = read(root / "a.png")[:, :50] | 64
    Image.fromarray(framed).save(root / "a.png")
    pictures = pictures_of(root, preprocess=["crop_black_border"])
    build_cache(rows, pictures, tmp_path / mode, mode, SIZE, 95)
    found = ImageCache(tmp_path / mode, pictures).read("train", "a")
    assert found.shape == (24, 30, 3)
    np.testing.assert_array_equal(found, shrink(np.ascontiguousarray(crop_black_border(framed)), SIZE))


# ---------------------------------------------------------------- other processes


@pytest.mark.parametrize("mode", ["raw", "jpeg", "none"])
def test_a_pickled_cache_is_small_and_reads_the_same(rows: pd.DataFrame, root: Path, tmp_path: Path, mode: str) -> None:
    cache = built(rows, root, tmp_path, mode)
    expected = all_pixels(cache, rows)
    data = pickle.dumps(cache)
    assert len(data) < 2000
    for got, pixels in zip(all_pixels(pickle.loads(data), rows), expected, strict=True):
        np.testing.assert_array_equal(got, pixels)


def test_a_forked_process_reads_the_same_pixels(rows: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    cache = built(rows, root, tmp_path, "raw")
    expected = cache.read("train", "a").copy()
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        np.testing.assert_array_equal(pool.submit(cache.read, "train", "a").result(), expected)


# ---------------------------------------------------------------- room


def test_the_room_that_raw_needs_is_the_room_that_it_takes(rows: pd.DataFrame, root: Path, tmp_path: Path) -> None:
    built(rows, root, tmp_path, "raw")
    assert needed_bytes(rows, SIZE)["raw"] == sum(path.stat().st_size for path in (tmp_path / "raw").glob("*.bin"))


@pytest.mark.parametrize(("free", "mode"), [(10**9, "raw"), (13_000, "raw"), (12_500, "jpeg"), (6_500, "jpeg"), (6_400, "none"), (0, "none")])
def test_auto_takes_the_first_mode_that_fits(rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, mode: str) -> None:
    needed = needed_bytes(rows, SIZE)
    assert (needed["raw"], needed["jpeg"], needed["none"]) == (12_207, 6_103, 0)
    monkeypatch.setattr(module, "free_space", lambda folder: free)
    assert choose_mode(Cache(mode="auto"), rows, SIZE, tmp_path) == mode


@pytest.mark.parametrize("mode", ["raw", "jpeg"])
def test_a_mode_that_was_asked_for_and_does_not_fit_is_refused(rows: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setattr(module, "free_space", lambda folder: 1000)
    with pytest.raises(UserError, match=rf"a {mode} cache needs .* GB.*cache\.mode=auto"):
        choose_mode(Cache(mode=mode), rows, SIZE, tmp_path)
    assert choose_mode(Cache(mode="none"), rows, SIZE, tmp_path) == "none"


def test_a_mode_that_was_asked_for_and_fits_is_taken(rows: pd.DataFrame, tmp_path: Path) -> None:
    for mode in ("raw", "jpeg", "none"):
        assert choose_mode(Cache(mode=mode), rows, SIZE, tmp_path / "not" / "there") == mode


# ---------------------------------------------------------------- digests


def test_modes_with_equal_pixels_have_equal_digests_and_others_do_not(rows: pd.DataFrame) -> None:
    raw = content_digest(rows, "train", "raw", SIZE, 95)
    assert content_digest(rows, "train", "none", SIZE, 95) == raw
    assert content_digest(rows, "train", "none", SIZE, 20) == raw
    jpeg = {content_digest(rows, "train", "jpeg", SIZE, quality) for quality in (20, 95)}
    others = {content_digest(rows, "train", "raw", SIZE + 1, 95), content_digest(rows, "test", "raw", SIZE, 95)}
    others |= {content_digest(rows, "train", "raw", SIZE, 95, [step]) for step in ("crop_black_border", "subtract_local_average")}
    assert len({raw} | jpeg | others) == 7


def test_a_digest_follows_the_files_and_ids_of_its_split_alone(rows: pd.DataFrame) -> None:
    before = content_digest(rows, "train", "raw", SIZE, 95)
    changed = rows.copy()
    changed.loc[changed["split"] == "test", "digest"] = "other"
    assert content_digest(changed, "train", "raw", SIZE, 95) == before
    changed.loc[0, "digest"] = "other"
    assert content_digest(changed, "train", "raw", SIZE, 95) != before
    assert content_digest(rows.assign(path="moved/elsewhere.png"), "train", "raw", SIZE, 95) == before
