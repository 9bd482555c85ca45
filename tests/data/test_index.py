"""Every picture is decoded once and checked; what cannot be read is listed, refused or left out."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.config import Competition, Images
from pipeline.data.duplicates.hashing import pixel_digest
from pipeline.data.images import read
from pipeline.data.index import check_images, usable
from pipeline.data.pictures import Pictures
from pipeline.data.tables import Tables, read_table
from pipeline.errors import UserError
from pipeline.files import DigestMemory


def competition(root: Path, **settings: Any) -> Competition:
    given = {"name": "toy", "root": root, "id": "id", "target": "label", "image_path": "images/{id}.png", "metric": "accuracy"}
    return Competition.model_validate(given | settings)


@pytest.fixture
def few_digits(digits: Path, tmp_path: Path) -> Path:
    """The digits with 60 train and 40 test rows, to damage."""
    root = tmp_path / "digits"
    (root / "images").mkdir(parents=True)
    for table, rows in (("train.csv", 60), ("test.csv", 40), ("sample_submission.csv", 40)):
        few = read_table(digits / table).head(rows)
        few.to_csv(root / table, index=False)
        for name in few["id"]:
            shutil.copy(digits / "images" / f"{name}.png", root / "images")
    return root


def checked(root: Path, **settings: Any) -> pd.DataFrame:
    images = Images.model_validate(settings.pop("images", {}))
    pictures = Pictures(competition(root, **settings), images)
    rows = Tables.read(competition(root, **settings)).rows
    digests = pictures.digests(rows["path"].tolist(), DigestMemory(root.parent / "digests.parquet"), 1)
    return check_images(rows, pictures, digests)


def spoil(root: Path, damage: Callable[[Path], object], table: str = "train.csv") -> str:
    """Damages the picture of a table's tenth row; returns its id."""
    name = str(read_table(root / table)["id"][9])
    damage(root / "images" / f"{name}.png")
    return name


def test_the_index_of_good_pictures_has_sizes_digests_and_no_problem(few_digits: Path) -> None:
    index = checked(few_digits)
    assert list(index.columns) == ["split", "id", "path", "target", "digest", "height", "width", "problem", "pixels", "hash"]
    assert len(index) == 100
    assert (index["problem"] == "").all()
    assert (index[["height", "width"]] == 8).all(axis=None)
    assert index["digest"].str.fullmatch("[0-9a-f]{64}").all()
    assert index["pixels"].str.fullmatch("[0-9a-f]{32}").all()
    assert index["hash"].dtype == np.uint64
    assert usable(index, "fail").equals(index)


def test_pixels_and_hash_are_of_the_decoded_picture_whatever_its_file(few_digits: Path) -> None:
    first, second = read_table(few_digits / "train.csv")["id"][:2]
    Image.open(few_digits / "images" / f"{first}.png").save(few_digits / "images" / f"{second}.png", compress_level=0)
    index = checked(few_digits)
    assert index["digest"][0] != index["digest"][1]
    assert index["pixels"][0] == index["pixels"][1] == pixel_digest(read(few_digits / "images" / f"{first}.png"))
    assert index["hash"][0] == index["hash"][1]
    assert index["pixels"].nunique() == 99


def test_height_and_width_are_those_after_the_preprocessing(few_digits: Path) -> None:
    name = str(read_table(few_digits / "train.csv")["id"][0])
    framed = np.zeros((40, 60, 3), dtype=np.uint8)
    framed[5:25, 10:40] = 200
    Image.fromarray(framed).save(few_digits / "images" / f"{name}.png")
    assert checked(few_digits).loc[0, ["height", "width"]].tolist() == [40, 60]
    assert checked(few_digits, images={"preprocess": ["crop_black_border"]}).loc[0, ["height", "width"]].tolist() == [20, 30]


def link_outside(path: Path) -> None:
    outside = path.parents[2] / "outside.png"
    shutil.move(path, outside)
    path.symlink_to(outside)


def link_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b""), "zero bytes"),
        (lambda path: path.write_text("not found"), "not an image"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), ""),
        (link_outside, "outside the competition's folder"),
        (link_to_itself, ""),
        (make_folder, "cannot be read"),
    ],
    ids=["missing", "zero bytes", "text", "truncated", "link outside", "link to itself", "folder"],
)
def test_a_bad_picture_is_listed_with_its_problem_and_the_others_are_not(few_digits: Path, damage: Callable[[Path], object], problem: str) -> None:
    name = spoil(few_digits, damage)
    index = checked(few_digits)
    bad = index[index["problem"] != ""]
    assert bad["id"].tolist() == [name]
    assert problem in bad["problem"].iloc[0]
    assert bad[["height", "width"]].to_numpy().tolist() == [[0, 0]]
    assert bad[["pixels", "hash"]].to_numpy().tolist() == [["", 0]]


def test_a_link_inside_the_folder_is_a_picture_like_any_other(few_digits: Path) -> None:
    def link_inside(path: Path) -> None:
        shutil.move(path, few_digits / "elsewhere.png")
        path.symlink_to(few_digits / "elsewhere.png")

    spoil(few_digits, link_inside)
    assert (checked(few_digits)["problem"] == "").all()


def test_pictures_of_a_further_table_lie_in_its_own_folder_and_nowhere_else(few_digits: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "images").mkdir(parents=True)
    name = str(read_table(few_digits / "train.csv")["id"][0])
    shutil.copy(few_digits / "images" / f"{name}.png", other / "images" / "mine.png")
    (other / "more.csv").write_text("id,label\nmine,3\n")
    extra = {"extra_train": [{"table": "more.csv", "root": other}]}
    index = checked(few_digits, **extra)
    (row,) = index[index["split"] == "extra"].to_dict("records")
    assert (row["id"], row["target"], row["problem"], row["pixels"]) == ("extra0/mine", "3", "", index["pixels"][0])
    (other / "images" / "mine.png").unlink()
    (other / "images" / "mine.png").symlink_to(shutil.copy(few_digits / "images" / f"{name}.png", tmp_path / "elsewhere.png"))
    assert "outside" in checked(few_digits, **extra).set_index("split").loc["extra", "problem"]


def test_a_device_without_an_end_is_no_picture_and_does_not_stop_the_run(few_digits: Path) -> None:
    name = str(read_table(few_digits / "train.csv")["id"][0])
    (few_digits / "images" / f"{name}.png").unlink()
    os.mkfifo(few_digits / "images" / f"{name}.png")
    problems = checked(few_digits).set_index("id")["problem"]
    assert problems[name] == "cannot be read: not a file"
    assert (problems.drop(name) == "").all()


def test_a_link_outside_has_no_digest_so_that_putting_the_file_there_is_noticed(few_digits: Path, tmp_path: Path) -> None:
    name = str(read_table(few_digits / "train.csv")["id"][0])
    path = few_digits / "images" / f"{name}.png"
    outside = shutil.copy(path, tmp_path / "outside.png")
    path.unlink()
    path.symlink_to(outside)
    assert checked(few_digits).set_index("id")["digest"][name] == ""
    path.unlink()
    shutil.copy(outside, path)
    assert checked(few_digits).set_index("id")["digest"][name] != ""


def test_a_further_table_is_found_where_the_competition_is_a_link(few_digits: Path, tmp_path: Path) -> None:
    other = tmp_path / "input" / "other"
    (other / "images").mkdir(parents=True)
    name = str(read_table(few_digits / "train.csv")["id"][0])
    shutil.copy(few_digits / "images" / f"{name}.png", other / "images" / "mine.png")
    (other / "more.csv").write_text("id,label\nmine,3\n")
    (tmp_path / "disk").mkdir()
    shutil.move(few_digits, tmp_path / "disk" / "digits")
    link = tmp_path / "input" / "digits"
    link.symlink_to(tmp_path / "disk" / "digits")
    index = checked(link, extra_train=[{"table": "more.csv", "root": other}])
    assert index["problem"].tolist() == [""] * 101


def test_fail_refuses_any_bad_picture_with_an_example(few_digits: Path) -> None:
    name = spoil(few_digits, Path.unlink, "test.csv")
    with pytest.raises(UserError) as caught:
        usable(checked(few_digits), "fail")
    assert f'1 pictures cannot be read, e.g. images/{name}.png (id "{name}"): no such file' in str(caught.value)


def test_skip_leaves_bad_train_rows_out_and_keeps_bad_test_rows(few_digits: Path) -> None:
    train, test = spoil(few_digits, Path.unlink), spoil(few_digits, Path.unlink, "test.csv")
    index = checked(few_digits)
    rows = usable(index, "skip")
    assert set(index["id"]) - set(rows["id"]) == {train}
    assert rows.loc[rows["problem"] != "", ["split", "id"]].to_numpy().tolist() == [["test", test]]
    assert rows.index.tolist() == list(range(99))


def test_a_changed_picture_changes_its_digest_and_no_other(few_digits: Path) -> None:
    before = checked(few_digits)
    other = few_digits / "images" / f"{before['id'][0]}.png"
    name = spoil(few_digits, lambda path: path.write_bytes(other.read_bytes() + b"\n"))
    after = checked(few_digits)
    assert after.loc[after["digest"] != before["digest"], "id"].tolist() == [name]


def test_without_one_readable_train_picture_there_is_nothing_to_learn_from(few_digits: Path) -> None:
    for name in read_table(few_digits / "train.csv")["id"]:
        (few_digits / "images" / f"{name}.png").unlink()
    with pytest.raises(UserError, match=r"no training picture can be read, e\.g\. .*no such file; check competition\.image_path"):
        usable(checked(few_digits), "skip")


def test_every_kind_of_picture_that_a_competition_may_hold_is_indexed_or_named(few_digits: Path) -> None:
    """One row each; the pixels themselves are compared in test_images.py."""
    grey = Image.open(few_digits / "images" / f"{read_table(few_digits / 'train.csv')['id'][0]}.png").resize((16, 12))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [grey.convert("P").transpose(Image.Transpose.ROTATE_180)]}
    whole: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "wrong ending": (grey, "JPEG", {}),
        "16 bit": (Image.fromarray(np.asarray(grey).astype(np.uint16) << 8), "PNG", {}),
        "CMYK": (grey.convert("CMYK"), "JPEG", {}),
        "alpha": (grey.convert("RGBA"), "PNG", {}),
        "palette": (grey.convert("P"), "PNG", {}),
        "animated": (grey.convert("P"), "GIF", frames),
        "turned": (grey, "JPEG", {"exif": exif}),
        "one pixel": (grey.resize((1, 1)), "PNG", {}),
    }
    ids = read_table(few_digits / "train.csv")["id"].tolist()
    for name, (image, form, options) in zip(ids, whole.values(), strict=False):
        image.save(few_digits / "images" / f"{name}.png", form, **options)
    bad = dict(zip(ids[20:], (b"", b"label,0\n", (few_digits / "images" / f"{ids[1]}.png").read_bytes()[:90]), strict=False))
    for name, data in bad.items():
        (few_digits / "images" / f"{name}.png").write_bytes(data)
    index = checked(few_digits).set_index("id")
    assert set(index.index[index["problem"] != ""]) == set(bad)
    shapes = dict(zip(whole, index.loc[ids[: len(whole)], ["height", "width"]].to_numpy().tolist(), strict=True))
    assert shapes == {name: [12, 16] for name in whole} | {"turned": [16, 12], "one pixel": [1, 1]}
