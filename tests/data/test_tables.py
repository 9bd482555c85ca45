"""Tables as text in every layout; ids that name one row and stay inside the folder; one line for every mistake."""

import gzip
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import Competition
from pipeline.data.paths import files_like, is_inside, resolve
from pipeline.data.tables import Tables, read_solution, read_table, require_same_ids
from pipeline.errors import UserError


def competition(root: Path, **settings: Any) -> Competition:
    given = {"name": "toy", "root": root, "id": "id", "target": "label", "image_path": "images/{id}.png", "metric": "accuracy"}
    return Competition.model_validate(given | settings)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """Two train rows and one test row, no pictures."""
    root = tmp_path / "toy"
    root.mkdir()
    (root / "train.csv").write_text("id,label\n007,cat\n7,dog\n")
    (root / "test.csv").write_text("id\n1\n")
    (root / "sample_submission.csv").write_text("id,label\n1,cat\n")
    return root


def refusal(root: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        Tables.read(competition(root, **settings))
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- one table


@pytest.mark.parametrize(
    "data",
    [
        b"id,label\n007,cat\n1e3,dog\n",
        b"\xef\xbb\xbfid,label\n007,cat\n1e3,dog\n",
        b"id,label\r\n007,cat\r\n1e3,dog\r\n",
        b'"id","label"\n"007","cat"\n"1e3","dog"\n',
        b"id, label \n007,cat\n1e3,dog",
        b"\xef\xbb\xbf" + b'"id",label\r\n007,cat\r\n\r\n1e3,dog\r\n',
    ],
    ids=["plain", "byte order mark", "CRLF", "quoted", "spaces in the header", "all of it"],
)
def test_a_table_is_the_same_text_however_it_is_written(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "table.csv").write_bytes(data)
    table = read_table(tmp_path / "table.csv")
    assert table.to_dict("list") == {"id": ["007", "1e3"], "label": ["cat", "dog"]}
    assert table.index.tolist() == [0, 1]


@pytest.mark.parametrize("cell", ["007", "1.0", "1e3", "NA", "nan", "None", "null", "true", "-", " 7", "2020-01-01", "ä", "0x1F", "inf"])
def test_a_cell_is_never_taken_for_anything_but_text(tmp_path: Path, cell: str) -> None:
    (tmp_path / "table.csv").write_text(f"id,label\n{cell},{cell}\n", encoding="utf-8")
    assert read_table(tmp_path / "table.csv").to_numpy().tolist() == [[cell, cell]]


def test_quoted_commas_quotes_and_line_ends_are_part_of_the_cell(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text('id,label\n1,"cat, the ""big"" one"\n2,"two\nlines"\n')
    assert read_table(tmp_path / "table.csv")["label"].tolist() == ['cat, the "big" one', "two\nlines"]


def test_an_empty_cell_is_the_empty_text(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id,label\n1,\n2\n")
    assert read_table(tmp_path / "table.csv")["label"].tolist() == ["", ""]


@pytest.mark.parametrize("text", ["id,label\n1,cat,x\n2,dog,y\n", "id,label\n1,cat,\n2,dog,\n", "id,label\n1,cat\n2,dog,y\n"])
def test_rows_with_more_cells_than_columns_never_shift_the_columns(tmp_path: Path, text: str) -> None:
    (tmp_path / "table.csv").write_text(text)
    try:
        table = read_table(tmp_path / "table.csv")
    except UserError:
        return
    assert table["id"].tolist() == ["1", "2"]
    assert table["label"].tolist() == ["cat", "dog"]


def test_a_comma_too_many_is_refused_with_its_line_and_not_cut_off(tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text("id,label\n1,cat\n2,big, dog\n")
    with pytest.raises(UserError, match="line 3"):
        read_table(tmp_path / "table.csv")


@pytest.mark.parametrize("header", ["id, id,label", "id,label,label"])
def test_a_column_that_is_there_twice_is_refused(toy: Path, header: str) -> None:
    (toy / "train.csv").write_text(f"{header}\n1,2,3\n4,5,6\n")
    assert "train.csv" in refusal(toy)


@pytest.mark.parametrize("data", [b"", b"\n\n", b"id,label\n\xff\xfe,cat\n", b'id,label\n"1,cat\n'], ids=["empty", "blank", "not UTF-8", "open quote"])
def test_what_is_no_table_is_refused_with_its_path(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: not a readable CSV: ")
    assert "\n" not in str(caught.value)


def test_a_missing_table_and_a_folder_are_refused_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.csv: no such table"):
        read_table(tmp_path / "gone.csv")
    with pytest.raises(UserError, match="not a readable CSV"):
        read_table(tmp_path)


# ---------------------------------------------------------------- the tables of a competition


def test_rows_name_their_split_id_path_and_target(toy: Path) -> None:
    tables = Tables.read(competition(toy))
    assert tables.rows.to_numpy().tolist() == [
        ["train", "007", "images/007.png", "cat"],
        ["train", "7", "images/7.png", "dog"],
        ["test", "1", "images/1.png", ""],
    ]
    assert list(tables.rows.columns) == ["split", "id", "path", "target"]
    assert tables.sample_path == toy / "sample_submission.csv"
    assert tables.sample is not None
    assert tables.sample.to_dict("list") == {"id": ["1"], "label": ["cat"]}


def test_ids_that_differ_only_in_leading_zeros_are_two_rows(toy: Path) -> None:
    (toy / "train.csv").write_text("id,label\n7,a\n07,b\n007,a\n7.0,b\n")
    assert Tables.read(competition(toy)).rows["id"].tolist() == ["7", "07", "007", "7.0", "1"]


def test_an_id_that_is_there_twice_is_refused_with_its_row(toy: Path) -> None:
    (toy / "train.csv").write_text("id,label\n1,cat\n2,dog\n1,dog\n")
    assert refusal(toy).startswith(f'{toy / "train.csv"}, row 4: the id is there twice; an id names one row ("1")')


def test_an_id_that_is_there_twice_in_the_test_table_is_refused(toy: Path) -> None:
    (toy / "test.csv").write_text("id\n1\n1\n")
    assert 'test.csv, row 3: the id is there twice; an id names one row ("1")' in refusal(toy)


def test_the_same_id_may_be_a_train_and_a_test_row(toy: Path) -> None:
    (toy / "test.csv").write_text("id\n7\n")
    assert Tables.read(competition(toy, image_path="{split}/{id}.png")).rows["path"].tolist() == ["train/007.png", "train/7.png", "test/7.png"]


@pytest.mark.parametrize("label", ["", " ", '""', "\t"])
def test_an_empty_label_is_refused_with_its_row(toy: Path, label: str) -> None:
    (toy / "train.csv").write_text(f"id,label\n1,cat\n2,{label}\n")
    assert f'{toy / "train.csv"}, row 3: "label" is empty' in refusal(toy)


def test_a_row_without_its_label_is_refused_with_its_row(toy: Path) -> None:
    (toy / "train.csv").write_text("id,label\n1,cat\n2\n3,dog\n")
    assert 'row 3: "label" is empty' in refusal(toy)


@pytest.mark.parametrize("table", ["train.csv", "test.csv"])
def test_an_empty_id_is_refused_with_its_row(toy: Path, table: str) -> None:
    (toy / table).write_text("id,label\n1,cat\n,dog\n")
    assert f'{table}, row 3: "id" is empty' in refusal(toy)


@pytest.mark.parametrize("table", ["train.csv", "test.csv"])
def test_a_table_without_rows_is_refused(toy: Path, table: str) -> None:
    (toy / table).write_text("id,label\n")
    assert f"{table}: has no rows" in refusal(toy)


@pytest.mark.parametrize(
    ("settings", "table", "column", "have"),
    [
        ({"id": "image"}, "train.csv", "image", "id, label"),
        ({"target": "breed"}, "train.csv", "breed", "id, label"),
        ({"image_path": "{folder}/{id}.png"}, "train.csv", "folder", "id, label"),
        ({"image_path": "{label}/{id}.png"}, "test.csv", "label", "id"),
    ],
)
def test_a_missing_column_is_refused_with_those_that_are_there(toy: Path, settings: dict[str, str], table: str, column: str, have: str) -> None:
    message = refusal(toy, **settings)
    assert f'{table}: there is no column "{column}"' in message
    assert message.endswith(f"its columns are {have}")


def test_of_many_columns_the_first_twelve_are_named(toy: Path) -> None:
    (toy / "train.csv").write_text(",".join(f"column{number}" for number in range(500)) + "\n" + "x," * 499 + "x\n")
    assert refusal(toy).endswith("column10, column11, ...")


@pytest.mark.parametrize(
    "image_path",
    [
        "images/{id",
        "images/id}.png",
        "images/{id:d}.png",
        "images/{id!x}.png",
        "images/{}.png",
        "images/{id.path}.png",
        "{id.__class__}",
        "{id[x]}",
        "{id[-1]}",
        "{id:{width}}",
        "{id!r:d}",
    ],
)
def test_an_image_path_that_cannot_be_filled_in_is_refused(toy: Path, image_path: str) -> None:
    assert refusal(toy, image_path=image_path).startswith(f"competition.image_path: {image_path}: ")


def test_an_image_path_may_use_any_column_and_a_width(toy: Path) -> None:
    (toy / "train.csv").write_text("id,label,folder\n7,cat,a\n8,dog,b/c\n")
    (toy / "test.csv").write_text("id,folder\n9,d\n")
    paths = Tables.read(competition(toy, image_path="{split}/{folder}/{id:0>4}.png")).rows["path"]
    assert paths.tolist() == ["train/a/0007.png", "train/b/c/0008.png", "test/d/0009.png"]


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "gone")


# ---------------------------------------------------------------- the test rows and the sample


def test_without_a_test_table_the_ids_come_from_the_sample(toy: Path) -> None:
    (toy / "test.csv").unlink()
    (toy / "sample_submission.csv").write_text("image,label\n005,cat\n5,cat\n")
    rows = Tables.read(competition(toy, test_table=None)).rows
    assert rows.loc[rows["split"] == "test", ["id", "path", "target"]].to_numpy().tolist() == [["005", "images/005.png", ""], ["5", "images/5.png", ""]]


def test_a_sample_of_exactly_the_test_rows_passes_in_any_order(toy: Path) -> None:
    (toy / "test.csv").write_text("id\n1\n2\n3\n")
    (toy / "sample_submission.csv").write_text("id,label\n3,cat\n1,cat\n2,cat\n")
    require_same_ids(Tables.read(competition(toy)))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["1"], '"2" is in the test table but not asked for'),
        (["1", "2", "3"], '"3" is asked for but in no row of the test table'),
        (["1", "2", "2"], 'id "2" is there twice'),
        (["1", "02"], '2 ids differ, e.g. "02"'),
    ],
    ids=["fewer", "more", "doubled", "leading zero"],
)
def test_a_sample_of_other_rows_is_refused(toy: Path, ids: list[str], message: str) -> None:
    (toy / "test.csv").write_text("id\n1\n2\n")
    (toy / "sample_submission.csv").write_text("".join(f"{name}\n" for name in ["id,label", *(f"{name},cat" for name in ids)]))
    with pytest.raises(UserError) as caught:
        require_same_ids(Tables.read(competition(toy)))
    assert message in str(caught.value)


# ---------------------------------------------------------------- inside the folder


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/../../x", "..", "images/../../../x"])
def test_an_id_that_leads_out_of_the_folder_is_refused_with_its_row(toy: Path, name: str) -> None:
    (toy / "test.csv").write_text(f"id\n1\n{name}\n")
    message = refusal(toy, image_path="{id}")
    assert "test.csv, row 3" in message
    assert f'id "{name}" would be outside' in message
    (toy / "train.csv").write_text(f"id,label\n{name},cat\n2,dog\n")
    assert "train.csv, row 2" in refusal(toy, image_path="images/{id}/x.png")


def test_an_absolute_path_is_refused(toy: Path) -> None:
    (toy / "train.csv").write_text("id,label\n/etc/passwd,cat\n2,dog\n")
    assert "train.csv, row 2" in refusal(toy, image_path="{id}")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["..", ".", "a", "b", "", "...", "~", "a..b"]), max_size=6).map("/".join))
def test_a_path_that_passes_stays_below_its_folder(tmp_path: Path, relative: str) -> None:
    if is_inside(relative):
        inside = Path(os.path.normpath(tmp_path / relative))
        assert inside.is_relative_to(tmp_path)
        assert inside != tmp_path


@pytest.mark.parametrize("relative", ["a.png", "a/b.png", "a..b.png", "..a", "~/a", "ä ö.png"])
def test_an_ordinary_path_passes(relative: str) -> None:
    assert is_inside(relative)


@pytest.mark.parametrize("relative", ["", ".", "..", "/a", "a\0.png", "../a"])
def test_a_path_to_nothing_or_elsewhere_does_not_pass(relative: str) -> None:
    assert not is_inside(relative)


# ---------------------------------------------------------------- file names


def touch(root: Path, *names: str) -> None:
    """Files that are there; no table opens a picture."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def rows_of(root: Path, split: str, *columns: str, **settings: Any) -> list[list[str]]:
    rows = Tables.read(competition(root, **settings)).rows
    found: list[list[str]] = rows.loc[rows["split"] == split, list(columns)].to_numpy().tolist()
    return found


def test_a_folder_per_class_is_a_table(toy: Path) -> None:
    touch(toy, "train/cat/1.jpg", "train/cat/2.jpg", "train/big dog/1.jpg", "train/ä/7.png", "train/readme.txt", "test/b.jpg", "test/a.jpg")
    settings = {"train_table": "train/{label}/{file}", "test_table": "test/{file}", "id": "file", "sample_submission": None, "image_path": None}
    with pytest.raises(UserError, match=r"row 3: the id is there twice.*1\.jpg"):
        Tables.read(competition(toy, **settings))
    settings["id"] = "path"
    assert rows_of(toy, "train", "id", "path", "target", **settings) == [
        ["train/big dog/1.jpg", "train/big dog/1.jpg", "big dog"],
        ["train/cat/1.jpg", "train/cat/1.jpg", "cat"],
        ["train/cat/2.jpg", "train/cat/2.jpg", "cat"],
        ["train/ä/7.png", "train/ä/7.png", "ä"],
    ]
    assert rows_of(toy, "test", "id", "path", **settings) == [["test/a.jpg", "test/a.jpg"], ["test/b.jpg", "test/b.jpg"]]


def test_a_label_in_the_file_name_is_a_column(toy: Path) -> None:
    touch(toy, "train/cat.0.jpg", "train/cat.10.jpg", "train/dog.0.jpg", "test/1.jpg", "test/2.jpg")
    settings = {"train_table": "train/{label}.{number}.jpg", "test_table": "test/{id}.jpg", "sample_submission": None, "image_path": None}
    assert rows_of(toy, "train", "id", "path", "target", "table.number", **settings) == [
        ["train/cat.0.jpg", "train/cat.0.jpg", "cat", "0"],
        ["train/cat.10.jpg", "train/cat.10.jpg", "cat", "10"],
        ["train/dog.0.jpg", "train/dog.0.jpg", "dog", "0"],
    ]
    assert rows_of(toy, "test", "id", "path", **settings) == [["1", "test/1.jpg"], ["2", "test/2.jpg"]]


def test_a_pattern_finds_files_in_any_folders_and_with_any_ending(tmp_path: Path) -> None:
    touch(tmp_path, "a/x/1.jpg", "a/2.png", "a/x/y/3.tif", "b/4.jpg", "a/x/.hidden.jpg", "a/x/Thumbs.db", "a/__MACOSX/5.jpg", "a/.git/6.jpg")
    assert files_like(tmp_path, "a/**/{id}.*")["id"].tolist() == ["2", "1", "3"]
    assert files_like(tmp_path, "**/{id}.jpg")["path"].tolist() == ["a/x/1.jpg", "b/4.jpg"]
    assert files_like(tmp_path, "{folder}/{id}.*")["path"].tolist() == ["a/2.png", "b/4.jpg"]


def test_a_column_takes_as_much_as_it_can_and_digits_alone_where_it_says_so(tmp_path: Path) -> None:
    touch(tmp_path, "images/american_bulldog_12.jpg", "images/Abyssinian_1.jpg", "0001_great_dane.jpg", "0002_pug.jpg")
    assert files_like(tmp_path, "images/{breed}_{number}.jpg")[["breed", "number"]].to_numpy().tolist() == [["Abyssinian", "1"], ["american_bulldog", "12"]]
    assert files_like(tmp_path, "{number:d}_{breed}.jpg")[["number", "breed"]].to_numpy().tolist() == [["0001", "great_dane"], ["0002", "pug"]]
    with pytest.raises(UserError, match="no file has such a name"):
        files_like(tmp_path, "images/{breed:d}.jpg")


def test_where_a_pattern_names_no_ending_what_is_no_picture_is_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "cat/1.jpg", "cat/2.JPEG", "cat/labels.csv", "cat/readme.txt", "dog/3")
    assert files_like(tmp_path, "{label}/{file}")["path"].tolist() == ["cat/1.jpg", "cat/2.JPEG", "dog/3"]
    assert files_like(tmp_path, "{label}/{file}.txt")["path"].tolist() == ["cat/readme.txt"]


def test_a_column_that_stands_twice_in_a_pattern_is_one_text(tmp_path: Path) -> None:
    touch(tmp_path, "p1/p1_1.jpg", "p1/p2_1.jpg", "p2/p2_9.jpg")
    assert files_like(tmp_path, "{patient}/{patient}_{number}.jpg").to_numpy().tolist() == [["p1", "1", "p1/p1_1.jpg"], ["p2", "9", "p2/p2_9.jpg"]]


@pytest.mark.parametrize("name", ["a+b(1).jpg", "x[0].jpg", "50%.jpg", "a b.jpg", "ä.jpg", "$HOME.jpg"])
def test_a_pattern_takes_odd_names_for_what_they_are(tmp_path: Path, name: str) -> None:
    touch(tmp_path, f"train/{name}")
    assert files_like(tmp_path, "train/{id}.jpg")["id"].tolist() == [name.removesuffix(".jpg")]


def test_the_same_files_make_the_same_table_on_every_file_system(tmp_path: Path) -> None:
    names = [f"{folder}/{number}.jpg" for folder in "ba" for number in (10, 9, 1)]
    touch(tmp_path, *names)
    assert files_like(tmp_path, "{folder}/{id}.jpg")["path"].tolist() == sorted(names)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("train/{label}/{id}.jpg", "no file has such a name"),
        ("nowhere/{id}.jpg", "no file has such a name"),
        ("{path}/x.png", "the column path is every file's own"),
        ("{id.__class__}/x.png", "is no column"),
        ("{}/x.png", "is no column"),
        ("{id/x.png", "write columns in braces"),
        ("{id[0]}/x.png", "letters, digits and _"),
        ("{the id}/x.png", "letters, digits and _"),
    ],
)
def test_a_pattern_that_fits_no_file_or_is_none_is_refused(toy: Path, pattern: str, message: str) -> None:
    touch(toy, "train/cat.jpg")
    assert message in refusal(toy, train_table=pattern)


# ---------------------------------------------------------------- where a row's picture is


def test_ids_without_their_ending_find_their_files(toy: Path) -> None:
    touch(toy, "images/007.jpg", "images/7.JPEG", "images/1.png", "images/1.txt")
    assert [path for _, path in rows_of(toy, "train", "id", "path", image_path="images/{id}.*")] == ["images/007.jpg", "images/7.JPEG"]
    assert rows_of(toy, "test", "path", image_path="images/{id}.*") == [["images/1.png"]]


def test_an_id_with_its_ending_and_one_with_dots_are_found_too(toy: Path) -> None:
    touch(toy, "images/a.b.jpg", "images/a.jpg", "images/c.png")
    (toy / "train.csv").write_text("id,label\na.b,cat\na,dog\nc.png,dog\n")
    assert rows_of(toy, "train", "path", image_path="images/{id}.*") == [["images/a.b.jpg"], ["images/a.jpg"], ["images/c.png"]]


def test_a_file_of_an_id_that_has_none_is_named_as_it_was_asked_for(toy: Path) -> None:
    touch(toy, "images/7.jpg")
    assert rows_of(toy, "train", "path", image_path="images/{id}.*") == [["images/007.*"], ["images/7.jpg"]]


def test_one_id_with_two_files_is_refused_with_both(toy: Path) -> None:
    touch(toy, "images/7.jpg", "images/7.png", "images/007.jpg")
    message = refusal(toy, image_path="images/{id}.*")
    assert "images/7.jpg or images/7.png" in message


def test_characters_of_an_id_may_be_folders(toy: Path) -> None:
    (toy / "train.csv").write_text("id,label\nabcdef,cat\n0a1b2c,dog\n")
    (toy / "test.csv").write_text("id\nzzz\n")
    path = "{split}/{id[0]}/{id[1]}/{id[2]}/{id}.jpg"
    assert rows_of(toy, "train", "path", image_path=path) == [["train/a/b/c/abcdef.jpg"], ["train/0/a/1/0a1b2c.jpg"]]
    assert "shorter than the character" in refusal(toy, image_path="{id[4]}/{id}.jpg")


def test_pictures_in_any_folders_are_found_by_their_names(toy: Path) -> None:
    touch(toy, "train/a/b/007.png", "train/7.png", "test/x/1.png", "other/7.png")
    assert rows_of(toy, "train", "path", image_path="{split}/**/{id}.png") == [["train/a/b/007.png"], ["train/7.png"]]
    assert rows_of(toy, "test", "path", image_path="{split}/**/{id}.*") == [["test/x/1.png"]]
    touch(toy, "train/c/7.png")
    assert "train/7.png or train/c/7.png" in refusal(toy, image_path="{split}/**/{id}.png")


def test_a_folder_between_any_folders_and_the_file_must_fit(tmp_path: Path) -> None:
    touch(tmp_path, "a/left/1.png", "a/right/1.png", "a/bright/2.png")
    assert resolve(tmp_path, "a/**/right/{id}.png", ["a/**/right/1.png", "a/**/right/2.png"]) == ["a/right/1.png", "a/**/right/2.png"]


@pytest.mark.parametrize("path", ["images/*/{id}.png", "im*ges/{id}.png", "**/*/{id}.*"])
def test_a_star_anywhere_else_is_refused(toy: Path, path: str) -> None:
    assert "a * stands for the ending" in refusal(toy, image_path=path)


def test_a_competition_whose_rows_say_nothing_of_pictures_is_refused(toy: Path) -> None:
    assert refusal(toy, image_path=None).startswith("competition.image_path: write where a row's picture is")
    touch(toy, "train/cat/1.jpg")
    pattern = {"train_table": "train/{label}/{id}.jpg", "image_path": None, "test_table": None}
    assert "write where the picture of a test id is" in refusal(toy, **pattern)


# ---------------------------------------------------------------- pictures in the tables


def test_pixel_columns_are_never_held_as_text(toy: Path) -> None:
    header = "label," + ",".join(f"pixel{number}" for number in range(784)) + ",pixels"
    (toy / "train.csv").write_text("\n".join([header, *(f"{row % 3}," + "0," * 784 + "x" for row in range(50))]))
    assert list(read_table(toy / "train.csv", "pixel").columns) == ["label", "pixels"]
    (toy / "test.csv").write_text(header.partition(",")[2] + "\n" + "0," * 784 + "y\n")
    (toy / "sample_submission.csv").write_text("ImageId,Label\n1,0\n")
    tables = Tables.read(competition(toy, id=None, pixel_columns="pixel", image_path=None))
    assert list(tables.rows.columns) == ["split", "id", "path", "target", "table.pixels"]
    assert tables.rows["path"].tolist() == [f"train.csv#{row}" for row in range(50)] + ["test.csv#0"]


def test_a_table_of_pixels_alone_still_has_its_rows(tmp_path: Path) -> None:
    (tmp_path / "test.csv").write_text("pixel0,pixel1\n1,2\n3,4\n5,6\n")
    table = read_table(tmp_path / "test.csv", "pixel")
    assert (len(table), list(table.columns)) == (3, [])


@pytest.mark.parametrize(("sample", "first"), [("ImageId,Label\n1,0\n2,0\n", 1), ("id,label\n0,0\n1,0\n", 0), (None, 1)])
def test_rows_without_an_id_are_numbered_as_in_the_sample(toy: Path, sample: str | None, first: int) -> None:
    (toy / "train.csv").write_text("label,pixel0,pixel1,pixel2,pixel3\n" + "7,0,0,0,0\n" * 3)
    (toy / "test.csv").write_text("pixel0,pixel1,pixel2,pixel3\n" + "0,0,0,0\n" * 2)
    (toy / "sample_submission.csv").write_text(sample or "")
    settings: dict[str, Any] = {"id": None, "pixel_columns": "pixel", "image_path": None}
    settings |= {"sample_submission": None} if sample is None else {}
    tables = Tables.read(competition(toy, **settings))
    assert tables.rows["id"].tolist() == [str(first + row) for row in range(3)] + [str(first + row) for row in range(2)]
    require_same_ids(tables)


def idx(path: Path, array: np.ndarray) -> None:
    """MNIST's format, gzipped."""
    path.write_bytes(gzip.compress(struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()))


def mnist(root: Path, separator: str = "-") -> dict[str, Any]:
    """Five train and three test pictures in four idx files."""
    for split, count in (("train", 5), ("t10k", 3)):
        idx(root / f"{split}-images{separator}idx3-ubyte.gz", np.arange(count * 4).reshape(count, 2, 2))
        idx(root / f"{split}-labels{separator}idx1-ubyte.gz", np.arange(count) % 3)
    names = {"train_table": f"train-images{separator}idx3-ubyte.gz", "test_table": f"t10k-images{separator}idx3-ubyte.gz"}
    return {**names, "id": None, "image_path": None, "sample_submission": None}


@pytest.mark.parametrize("separator", ["-", "."])
def test_idx_files_have_their_labels_beside_them_and_a_test_row_has_none(tmp_path: Path, separator: str) -> None:
    settings = mnist(tmp_path, separator)
    train = rows_of(tmp_path, "train", "id", "path", "target", **settings)
    assert train == [[str(row + 1), f"{settings['train_table']}#{row}", str(row % 3)] for row in range(5)]
    rows = Tables.read(competition(tmp_path, **settings)).rows
    assert list(rows.columns) == ["split", "id", "path", "target"], "the labels of the test rows are nowhere"
    assert rows.loc[rows["split"] == "test", "target"].tolist() == ["", "", ""]


def test_idx_files_that_do_not_fit_or_are_cut_are_refused(tmp_path: Path) -> None:
    settings = mnist(tmp_path)
    path = tmp_path / settings["train_table"]
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    idx(labels, np.zeros(4))
    assert "holds 5 pictures, but the labels beside it are 4" in refusal(tmp_path, **settings)
    labels.unlink()
    assert 'there is no column "label"' in refusal(tmp_path, **settings)
    whole = path.read_bytes()
    for damaged in (
        b"",
        b"not gzip",
        whole[:-12],
        whole[:10] + b"\xff" * 40,
        whole[:20] + bytes([whole[20] ^ 255]) + whole[21:],
        gzip.compress(gzip.decompress(whole)[:-1]),
    ):
        path.write_bytes(damaged)
        assert refusal(tmp_path, **settings).startswith(f"{path}: not a ")
    path.unlink()
    assert refusal(tmp_path, **settings).startswith(f"{path}: no such file")


# ---------------------------------------------------------------- targets


def train(root: Path, *lines: str) -> None:
    (root / "train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def targets(root: Path, **settings: Any) -> list[str]:
    return [target for (target,) in rows_of(root, "train", "target", **settings)]


SCAB = {"target": ["healthy", "rust", "scab"]}


def test_one_hot_columns_are_one_label(toy: Path) -> None:
    train(toy, "id,healthy,rust,scab", "1,1,0,0", "2,0,0,1", "3,0.0,1.0,0")
    assert targets(toy, **SCAB) == ["healthy", "scab", "rust"]
    assert list(Tables.read(competition(toy, **SCAB)).rows.columns) == ["split", "id", "path", "target"]


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ("0,0,0", "not exactly one of healthy, rust, scab is 1"),
        ("1,0,1", "not exactly one of healthy, rust, scab is 1"),
        ("2,0,0", "neither 0 nor 1"),
        (",1,0", "neither 0 nor 1"),
        ("nan,1,0", "neither 0 nor 1"),
        ("yes,0,0", "neither 0 nor 1"),
        ("0.5,0.5,0", "neither 0 nor 1"),
    ],
)
def test_one_hot_rows_that_name_no_single_label_are_refused_with_their_row(toy: Path, cells: str, message: str) -> None:
    train(toy, "id,healthy,rust,scab", "1,1,0,0", f"2,{cells}")
    found = refusal(toy, **SCAB)
    assert found.startswith(f"{toy / 'train.csv'}, row 3: ")
    assert message in found


def test_columns_of_several_labels_may_be_all_or_none(toy: Path) -> None:
    train(toy, "id,healthy,rust,scab", "1,0,1,1", "2,0,0,0", "3,1,1,1")
    settings = {**SCAB, "task": "multilabel", "metric": "macro_f1"}
    assert targets(toy, **settings) == ["rust|scab", "", "healthy|rust|scab"]


@pytest.mark.parametrize(("separator", "quote"), [(" ", ""), (",", '"'), (", ", '"'), (";", ""), ("|", "")])
def test_several_labels_in_a_cell_are_a_sorted_set(toy: Path, separator: str, quote: str) -> None:
    cells = [["scab", "rust"], ["rust"], [], ["rust", "ä", "rust"]]
    train(toy, "id,label", *(f"{row},{quote}{separator.join(labels)}{quote}" for row, labels in enumerate(cells)))
    settings = {"task": "multilabel", "metric": "macro_f1", "label_separator": separator}
    assert targets(toy, **settings) == ["rust|scab", "rust", "", "rust|ä"]


def test_spaces_around_labels_are_none_of_their_text(toy: Path) -> None:
    train(toy, "id,label", "1, cat ", "2,dog\t")
    assert targets(toy) == ["cat", "dog"]
    train(toy, "id,label", '1," scab  rust "', "2,rust")
    assert targets(toy, task="multilabel", metric="macro_f1") == ["rust|scab", "rust"]


def test_a_bar_in_a_label_and_a_nan_among_several_are_refused(toy: Path) -> None:
    train(toy, "id,label", "1,rust", "2,a|b")
    assert 'row 3: a label has "|" ("a|b")' in refusal(toy, task="multilabel", metric="macro_f1")
    train(toy, "id,label", "1,rust", "2,NaN")
    assert 'row 3: "label" is nan' in refusal(toy, task="multilabel", metric="macro_f1")
    train(toy, "id,a|b,c", "1,1,0", "2,0,1")
    assert 'a target column has "|"' in refusal(toy, target=["a|b", "c"])


@pytest.mark.parametrize("label", ["", " ", "nan", "NaN", "NAN"])
@pytest.mark.parametrize("task", ["multiclass", "binary", "ordinal", "regression"])
def test_no_label_is_refused_with_its_row_in_every_task_of_one(toy: Path, task: str, label: str) -> None:
    train(toy, "id,label", "1,1", "2,0", f"3,{label}")
    metric = {"regression": "rmse", "ordinal": "quadratic_kappa"}.get(task, "accuracy")
    assert refusal(toy, task=task, metric=metric).startswith(f'{toy / "train.csv"}, row 4: "label" is empty')


@pytest.mark.parametrize("number", ["1.5", "-3", "1e-3", "0", "+7", "007", " 2 "])
def test_a_number_is_a_target_of_a_regression(toy: Path, number: str) -> None:
    train(toy, "id,label", "1,1", f"2,{number}")
    assert [float(text) for text in targets(toy, task="regression", metric="rmse")] == [1.0, float(number)]


@pytest.mark.parametrize("text", ["seven", "1,5", "inf", "-inf", "1.5.2", "1e999", "0x1F", "1_000", "True", "1 2", "-"])
def test_what_is_no_finite_number_is_no_target_of_a_regression(toy: Path, text: str) -> None:
    train(toy, "id,label", "1,1", f'2,"{text}"')
    assert f'row 3: "label" is no number ("{text}")' in refusal(toy, task="regression", metric="rmse")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(st.text(st.characters(codec="utf-8", exclude_characters='\r\n\0"'), max_size=6))
def test_any_text_that_passes_as_a_number_is_one(toy: Path, text: str) -> None:
    train(toy, "id,label", "1,1", f'2,"{text}"')
    try:
        found = targets(toy, task="regression", metric="rmse")
    except UserError:
        return
    assert np.isfinite(float(found[1]))


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", "=1+1", "a, b", 'the "big" one', "ä ö", "007", "1e3", "None", "null", "None of these", "{id}"])
def test_a_label_is_text_whatever_it_says(toy: Path, label: str) -> None:
    quoted = label.replace('"', '""')
    train(toy, "id,label", "1,cat", f'2,"{quoted}"')
    assert targets(toy) == ["cat", label]


def test_a_label_that_is_there_once_is_a_label(toy: Path) -> None:
    train(toy, "id,label", "1,cat", "2,cat", "3,dog")
    assert targets(toy) == ["cat", "cat", "dog"]


# ---------------------------------------------------------------- further columns and tables


def test_further_columns_are_carried_and_those_that_are_targets_or_ids_are_not(toy: Path) -> None:
    (toy / "train.csv").write_text("id,age,label,path,sex\n1,50,cat,x,m\n2,,dog,y,f\n")
    (toy / "test.csv").write_text("sex,id,site\nf,1,s\n")
    rows = Tables.read(competition(toy)).rows
    assert list(rows.columns) == ["split", "id", "path", "target", "table.age", "table.sex", "table.site"]
    assert rows[["table.age", "table.sex", "table.site"]].to_numpy().tolist() == [["50", "m", ""], ["", "f", ""], ["", "f", "s"]]


def test_a_test_table_with_answers_gives_none_away(toy: Path) -> None:
    (toy / "test.csv").write_text("id,label\n1,dog\n")
    rows = Tables.read(competition(toy)).rows
    assert list(rows.columns) == ["split", "id", "path", "target"]
    assert rows.loc[2, "target"] == ""


@pytest.fixture
def more(tmp_path: Path) -> Path:
    """A further competition's folder: other columns, other names."""
    root = tmp_path / "more"
    root.mkdir()
    (root / "labels.csv").write_text("image,breed,year\n7,cat,2015\nx/8,dog,2016\n")
    return root


def extra(root: Path, more: Path, **keys: Any) -> Sequence[Sequence[str]]:
    table = {"table": "labels.csv", "root": more, "id": "image", "target": "breed", "image_path": "pictures/{image}.jpg"}
    return rows_of(root, "extra", "id", "path", "target", extra_train=[table | keys])


def test_further_rows_have_their_own_root_columns_and_ids(toy: Path, more: Path) -> None:
    assert extra(toy, more) == [["extra0/7", "../more/pictures/7.jpg", "cat"], ["extra0/x/8", "../more/pictures/x/8.jpg", "dog"]]
    rows = Tables.read(competition(toy, extra_train=[{"table": "labels.csv", "root": more, "id": "image", "target": "breed", "image_path": "{image}"}])).rows
    assert rows["split"].tolist() == ["train", "train", "extra", "extra", "test"]
    assert rows["id"].is_unique
    assert rows.loc[rows["split"] == "extra", "table.year"].tolist() == ["2015", "2016"]


def test_further_tables_are_told_apart_and_may_lie_in_the_competitions_folder(toy: Path) -> None:
    (toy / "old.csv").write_text("id,label\n7,cat\n")
    touch(toy, "older/dog/7.jpg")
    found = rows_of(toy, "extra", "id", "path", "target", extra_train=[{"table": "old.csv"}, {"table": "older/{label}/{file}.jpg"}])
    assert found == [["extra0/7", "images/7.png", "cat"], ["extra1/older/dog/7.jpg", "older/dog/7.jpg", "dog"]]


def test_split_is_extra_in_the_path_of_a_further_row(toy: Path, more: Path) -> None:
    assert extra(toy, more, image_path="{split}/{image}.jpg")[0][1] == "../more/extra/7.jpg"


def test_mistakes_in_a_further_table_are_refused_with_its_path(toy: Path, more: Path) -> None:
    def message(text: str) -> str:
        (more / "labels.csv").write_text(text)
        with pytest.raises(UserError) as caught:
            extra(toy, more)
        return str(caught.value)

    path = more / "labels.csv"
    assert message("image,breed\n7,cat\n7,dog\n").startswith(f"{path}, row 3: the id is there twice")
    assert message("image,breed\n7,cat\n8,\n").startswith(f'{path}, row 3: "breed" is empty')
    assert message("image,label\n7,cat\n").startswith(f'{path}: there is no column "breed"')
    assert "would be outside" in message("image,breed\n../../etc/passwd,cat\n")
    path.unlink()
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: no such table"):
        extra(toy, more)


# ---------------------------------------------------------------- the sample and the solution


def test_without_a_sample_the_test_rows_are_those_of_the_test_table(toy: Path) -> None:
    (toy / "sample_submission.csv").unlink()
    tables = Tables.read(competition(toy, sample_submission=None))
    assert tables.sample is None
    assert tables.rows.loc[tables.rows["split"] == "test", "id"].tolist() == ["1"]
    require_same_ids(tables)


def test_without_a_test_table_and_a_sample_there_are_train_rows_alone(toy: Path) -> None:
    tables = Tables.read(competition(toy, test_table=None, sample_submission=None))
    assert list(tables.rows.columns) == ["split", "id", "path", "target"]
    assert tables.rows["split"].tolist() == ["train", "train"]
    require_same_ids(tables)


def test_a_sample_of_one_column_is_refused(toy: Path) -> None:
    (toy / "sample_submission.csv").write_text("id\n1\n")
    assert "needs an id column and one to predict" in refusal(toy)


def test_a_solution_answers_the_rows_that_the_sample_asks_for_in_its_order(toy: Path) -> None:
    (toy / "solution.csv").write_text("label,id\ndog,2\ncat,1\ncat,3\n")
    own = competition(toy, solution="solution.csv")
    assert list(read_solution(own, ["1", "2"]).items()) == [("1", "cat"), ("2", "dog")]
    with pytest.raises(UserError, match=r'solution\.csv: 1 ids of the sample are missing, e\.g\. "01"'):
        read_solution(own, ["01", "2"])


def test_a_solution_is_read_in_the_form_of_the_train_table(toy: Path) -> None:
    (toy / "solution.csv").write_text("id,healthy,rust,scab\n1,0,1,0\n2,1,0,0\n")
    assert read_solution(competition(toy, solution="solution.csv", **SCAB), ["1", "2"]) == {"1": "rust", "2": "healthy"}
    (toy / "solution.csv").write_text("id,label\n1,scab rust\n2,\n")
    own = competition(toy, solution="solution.csv", task="multilabel", metric="macro_f1")
    assert read_solution(own, ["2", "1"]) == {"2": "", "1": "rust|scab"}


def test_names_of_any_script_and_with_spaces_are_ids_and_paths(toy: Path) -> None:
    names = ["ä ö", "日本 1", "a,b", "a'b", "%20", "🐈"]
    (toy / "train.csv").write_text("id,label\n" + "".join(f'"{name}",cat\n' for name in names), encoding="utf-8")
    assert rows_of(toy, "train", "id", "path") == [[name, f"images/{name}.png"] for name in names]
