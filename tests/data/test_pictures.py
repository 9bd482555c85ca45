"""A picture is the same wherever it lies: a file, a row of a CSV, an idx file; what is done to it before all else."""

import gzip
import pickle
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.config import Competition, Images
from pipeline.data.images import CorruptImage, Pixels, read
from pipeline.data.index import check_images
from pipeline.data.pictures import PREPROCESS, Pictures, crop_black_border, is_idx, is_pixel, read_idx, subtract_local_average
from pipeline.data.tables import Tables, read_table
from pipeline.errors import UserError
from pipeline.files import DigestMemory

ROWS = 30


def pictures_of(root: Path, images: dict[str, Any] | None = None, **settings: Any) -> Pictures:
    given = {"name": "toy", "root": root, "id": None, "target": "label", "metric": "accuracy", "train_table": "train.csv", "test_table": "test.csv"}
    return Pictures(Competition.model_validate(given | settings), Images.model_validate(images or {}))


@pytest.fixture(scope="module")
def grey(digits: Path) -> np.ndarray:
    """The first digits of the train table, [rows, 8, 8]."""
    names = read_table(digits / "train.csv")["id"].head(ROWS)
    return np.stack([read(digits / "images" / f"{name}.png")[..., 0] for name in names])


def write_columns(path: Path, array: np.ndarray, first: int = 0, **more: Any) -> None:
    flat = array.reshape(len(array), -1)
    columns = {f"pixel{first + number}": flat[:, number] for number in range(flat.shape[1])}
    pd.DataFrame({"label": np.arange(len(array)) % 10, **columns, **more}).to_csv(path, index=False)


def write_idx(path: Path, array: np.ndarray) -> None:
    data = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def as_columns(root: Path, grey: np.ndarray) -> tuple[Pictures, str]:
    write_columns(root / "train.csv", grey)
    return pictures_of(root, pixel_columns="pixel"), "train.csv"


def as_columns_from_one(root: Path, grey: np.ndarray) -> tuple[Pictures, str]:
    write_columns(root / "train.csv", grey, first=1, pixels=["no pixel"] * len(grey))
    return pictures_of(root, pixel_columns="pixel", pixel_shape=[8, 8]), "train.csv"


def as_table_of_another_name(root: Path, grey: np.ndarray) -> tuple[Pictures, str]:
    write_columns(root / "Train.TXT", grey)
    return pictures_of(root, pixel_columns="pixel", train_table="Train.TXT"), "Train.TXT"


def as_shares(root: Path, grey: np.ndarray) -> tuple[Pictures, str]:
    write_columns(root / "train.csv", grey / 255)
    return pictures_of(root, pixel_columns="pixel"), "train.csv"


def as_idx(root: Path, grey: np.ndarray) -> tuple[Pictures, str]:
    write_idx(root / "train-images-idx3-ubyte.gz", grey)
    return pictures_of(root, train_table="train-images-idx3-ubyte.gz"), "train-images-idx3-ubyte.gz"


def as_plain_idx(root: Path, grey: np.ndarray) -> tuple[Pictures, str]:
    write_idx(root / "train-images.idx3-ubyte", grey)
    return pictures_of(root, train_table="train-images.idx3-ubyte"), "train-images.idx3-ubyte"


Layout = Callable[[Path, np.ndarray], tuple[Pictures, str]]
LAYOUTS: list[Layout] = [as_columns, as_columns_from_one, as_table_of_another_name, as_shares, as_idx, as_plain_idx]


@pytest.mark.parametrize("layout", LAYOUTS)
class TestTables:
    def test_the_pixels_are_those_of_the_png_file(self, layout: Layout, tmp_path: Path, grey: np.ndarray) -> None:
        pictures, table = layout(tmp_path, grey)
        for row in (0, 7, ROWS - 1):
            Image.fromarray(grey[row]).save(tmp_path / "one.png")
            found = pictures.read(f"{table}#{row}")
            assert found.dtype == np.uint8
            np.testing.assert_array_equal(found, read(tmp_path / "one.png"))

    def test_pickling_sends_no_pixels(self, layout: Layout, tmp_path: Path, grey: np.ndarray) -> None:
        pictures, table = layout(tmp_path, np.repeat(grey, 20, axis=0))
        before = pickle.dumps(pictures)
        expected = pictures.read(f"{table}#3")
        data = pickle.dumps(pictures)
        assert len(data) == len(before) < 3000 < grey.nbytes * 20
        np.testing.assert_array_equal(pickle.loads(data).read(f"{table}#3"), expected)

    def test_a_row_that_is_not_there_is_a_corrupt_picture(self, layout: Layout, tmp_path: Path, grey: np.ndarray) -> None:
        pictures, table = layout(tmp_path, grey)
        with pytest.raises(CorruptImage, match="no such row"):
            pictures.read(f"{table}#{ROWS}")

    def test_a_row_has_the_digest_of_its_file_and_a_number_of_its_own(self, layout: Layout, tmp_path: Path, grey: np.ndarray) -> None:
        pictures, table = layout(tmp_path, grey)
        memory = DigestMemory(tmp_path / "digests.parquet")
        first = pictures.digests([f"{table}#{row}" for row in range(ROWS)], memory, 1)
        assert len(set(first)) == ROWS
        layout(tmp_path, grey[::-1])
        assert not set(first) & set(layout(tmp_path, grey[::-1])[0].digests([f"{table}#0"], DigestMemory(tmp_path / "new.parquet"), 1))

    def test_threads_read_the_table_once_and_the_same(self, layout: Layout, tmp_path: Path, grey: np.ndarray) -> None:
        pictures, table = layout(tmp_path, grey)
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(pictures.read, [f"{table}#{row}" for row in range(ROWS)]))
        np.testing.assert_array_equal(np.stack(found)[..., 1], grey)


def test_another_shape_of_the_same_cells_is_another_digest(tmp_path: Path, grey: np.ndarray) -> None:
    """Else neither the index nor the cache would be made again."""
    write_columns(tmp_path / "train.csv", grey)
    memory = DigestMemory(tmp_path / "digests.parquet")
    shapes: list[Any] = [None, [4, 16], [16, 4]]
    digests = [pictures_of(tmp_path, pixel_columns="pixel", pixel_shape=shape).digests(["train.csv#0"], memory, 1)[0] for shape in shapes]
    assert len(set(digests)) == 3


def test_missing_files_have_no_digest_and_files_have_theirs(digits: Path, tmp_path: Path) -> None:
    pictures = pictures_of(digits, image_path="images/{id}.png", id="id")
    memory = DigestMemory(tmp_path / "digests.parquet")
    there, gone = pictures.digests(["images/0000.png", "images/gone.png"], memory, 1)
    assert there == memory.digests([digits / "images" / "0000.png"])[0]
    assert gone is None


def test_colour_pixel_columns_are_height_width_and_channels(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    write_columns(tmp_path / "train.csv", colour)
    pictures = pictures_of(tmp_path, pixel_columns="pixel", pixel_shape=[4, 5, 3])
    np.testing.assert_array_equal(pictures.read("train.csv#2"), colour[2])


def test_a_file_whose_name_has_a_number_sign_is_a_file(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (1, 2, 3)).save(tmp_path / "a#1.png")
    (tmp_path / "a#1.png").rename(tmp_path / "a#1")
    assert pictures_of(tmp_path, id="id", image_path="{id}").read("a#1").shape == (2, 3, 3)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("0,1,2,256", "outside 0 to 255"),
        ("0,-1,2,3", "outside 0 to 255"),
        ("0,nan,2,3", "outside 0 to 255"),
        ("0,,2,3", "outside 0 to 255"),
        ("0,inf,2,3", "outside 0 to 255"),
        ("0,black,2,3", "not all numbers"),
    ],
)
def test_cells_that_are_no_pixels_are_refused(tmp_path: Path, cells: str, message: str) -> None:
    (tmp_path / "train.csv").write_text(f"label,pixel0,pixel1,pixel2,pixel3\n1,0,0,0,0\n2,{cells}\n")
    with pytest.raises(UserError) as caught:
        pictures_of(tmp_path, pixel_columns="pixel").read("train.csv#0")
    assert str(caught.value).startswith(f"{tmp_path / 'train.csv'}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("prefix", "shape", "message"),
    [
        ("pixel", None, "no picture of (1, 1); write competition.pixel_shape"),
        ("pixel", [2, 2], "3 columns"),
        ("pixl", None, 'no column is named "pixl" and a number'),
    ],
)
def test_columns_that_make_no_picture_are_refused(tmp_path: Path, prefix: str, shape: Any, message: str) -> None:
    (tmp_path / "train.csv").write_text("label,pixel0,pixel1,pixel2\n1,0,0,0\n")
    with pytest.raises(UserError) as caught:
        pictures_of(tmp_path, pixel_columns=prefix, pixel_shape=shape).read("train.csv#0")
    assert message in str(caught.value)


@pytest.mark.parametrize("name", ["pixel0", " pixel12 ", "pixel007"])
def test_a_pixel_column_is_the_prefix_and_a_number(name: str) -> None:
    assert is_pixel(name, "pixel")


@pytest.mark.parametrize("name", ["pixel", "pixels", "my pixel1", "pixel1x", "pixel-1", "1", ""])
def test_other_columns_that_begin_alike_are_no_pixels(name: str) -> None:
    assert not is_pixel(name, "pixel")


def test_an_idx_file_is_known_by_its_name(tmp_path: Path) -> None:
    assert all(is_idx(name) for name in ("train-images-idx3-ubyte.gz", "t10k-images.idx3-ubyte", "a/b-idx4-ubyte"))
    assert not any(is_idx(name) for name in ("train-labels-idx1-ubyte.gz", "train.csv", "idx3-ubyte.csv"))
    array = np.arange(24).reshape(2, 3, 4)
    write_idx(tmp_path / "a-idx3-ubyte.gz", array)
    np.testing.assert_array_equal(read_idx(tmp_path / "a-idx3-ubyte.gz"), array)


def test_a_competition_in_tables_passes_the_checks_of_the_index(tmp_path: Path, grey: np.ndarray) -> None:
    write_columns(tmp_path / "train.csv", grey)
    write_columns(tmp_path / "test.csv", grey[:3])
    pictures = pictures_of(tmp_path, pixel_columns="pixel")
    own = Competition.model_validate(
        {"name": "toy", "root": tmp_path, "id": None, "target": "label", "metric": "accuracy", "sample_submission": None, "pixel_columns": "pixel"}
    )
    rows = Tables.read(own).rows
    digests = pictures.digests(rows["path"].tolist(), DigestMemory(tmp_path / "digests.parquet"), 1)
    index = check_images(rows, pictures, digests)
    assert (index["problem"] == "").all()
    assert (index[["height", "width"]] == 8).all(axis=None)
    assert index["digest"].is_unique
    assert index["pixels"].tolist()[:3] == index["pixels"].tolist()[-3:], "the test rows are copies of train rows"


# ---------------------------------------------------------------- before anything else looks at a picture


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(30, 256, (height, width, 3), dtype=np.uint8)


@settings(max_examples=60, deadline=None)
@given(st.tuples(st.integers(8, 40), st.integers(8, 40)), st.tuples(*[st.integers(0, 30)] * 4), st.integers(0, 10))
def test_a_dark_frame_is_cut_off_exactly(shape: tuple[int, int], frame: tuple[int, int, int, int], dark: int) -> None:
    top, bottom, left, right = frame
    inner = noise(*shape)
    framed = np.full((shape[0] + top + bottom, shape[1] + left + right, 3), dark, dtype=np.uint8)
    framed[top : top + shape[0], left : left + shape[1]] = inner
    np.testing.assert_array_equal(crop_black_border(framed), inner)


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (200, 100)])
@pytest.mark.parametrize("value", [0, 10])
def test_a_picture_that_is_dark_all_over_stays_as_it_is(shape: tuple[int, int], value: int) -> None:
    pixels = np.full((*shape, 3), value, dtype=np.uint8)
    np.testing.assert_array_equal(crop_black_border(pixels), pixels)


def test_a_speck_in_the_dark_is_no_picture() -> None:
    pixels = np.zeros((100, 100, 3), dtype=np.uint8)
    pixels[50:53, 50:53] = 255
    assert crop_black_border(pixels).shape == (100, 100, 3)


def test_dark_parts_inside_the_picture_stay() -> None:
    pixels = noise(60, 60)
    pixels[20:40, 20:40] = 0
    pixels[0, :30] = 0
    np.testing.assert_array_equal(crop_black_border(pixels), pixels)


def test_the_frame_of_a_round_retina_is_cut_to_the_circle() -> None:
    rows, columns = np.indices((120, 200))
    inside = (rows - 60) ** 2 + (columns - 90) ** 2 < 50**2
    pixels = np.where(inside[..., None], noise(120, 200), 3).astype(np.uint8)
    height, width = crop_black_border(pixels).shape[:2]
    assert 95 <= height <= 99
    assert 95 <= width <= 99


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.tuples(*[st.integers(0, 255)] * 3))
def test_a_plain_colour_minus_its_local_average_is_the_middle_grey(height: int, width: int, colour: tuple[int, int, int]) -> None:
    pixels = np.full((height, width, 3), colour, dtype=np.uint8)
    np.testing.assert_array_equal(subtract_local_average(pixels), np.full((height, width, 3), 128, dtype=np.uint8))


def test_details_stay_and_slow_changes_of_light_go() -> None:
    light = np.repeat(np.linspace(60, 200, 480).round().astype(np.uint8)[None, :, None], 480, axis=0).repeat(3, axis=2)
    flat = subtract_local_average(light).astype(int)
    assert abs(flat[40:-40, 40:-40] - 128).max() <= 12
    light[240, 240] = 255
    assert subtract_local_average(light)[240, 240].min() > 200


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(sorted(PREPROCESS)))
def test_every_step_gives_pixels_of_three_channels_and_leaves_its_input(height: int, width: int, name: str) -> None:
    pixels = noise(height, width)
    before = pixels.copy()
    pixels.setflags(write=False)
    found = PREPROCESS[name](pixels)
    assert found.dtype == np.uint8
    assert found.shape == (height, width, 3)
    np.testing.assert_array_equal(pixels, before)


def test_the_steps_are_done_in_the_order_that_is_written(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[5:35, 10:50] = noise(30, 40)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    steps = ["crop_black_border", "subtract_local_average"]
    found = [pictures_of(tmp_path, {"preprocess": order}, id="id", image_path="{id}.png").read("a.png") for order in (steps, steps[::-1], [])]
    np.testing.assert_array_equal(found[0], subtract_local_average(np.ascontiguousarray(crop_black_border(pixels))))
    np.testing.assert_array_equal(found[1], crop_black_border(subtract_local_average(pixels)))
    np.testing.assert_array_equal(found[2], pixels)
