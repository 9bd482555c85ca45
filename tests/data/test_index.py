"""Tables as text, ids that name one row and stay inside the folder, and every picture checked once."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config import Competition
from pipeline.data.index import Tables, check_images, is_inside, read_table, require_same_ids, usable
from pipeline.errors import UserError
from pipeline.files import DigestMemory


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
    assert tables.sample == toy / "sample_submission.csv"


def test_ids_that_differ_only_in_leading_zeros_are_two_rows(toy: Path) -> None:
    (toy / "train.csv").write_text("id,label\n7,a\n07,b\n007,a\n7.0,b\n")
    assert Tables.read(competition(toy)).rows["id"].tolist() == ["7", "07", "007", "7.0", "1"]


def test_an_id_that_is_there_twice_is_refused_with_its_row(toy: Path) -> None:
    (toy / "train.csv").write_text("id,label\n1,cat\n2,dog\n1,dog\n")
    assert refusal(toy) == f'{toy / "train.csv"}, row 4: id "1" is there twice; an id names one row'


def test_an_id_that_is_there_twice_in_the_test_table_is_refused(toy: Path) -> None:
    (toy / "test.csv").write_text("id\n1\n1\n")
    assert 'test.csv, row 3: id "1" is there twice' in refusal(toy)


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


@pytest.mark.parametrize("image_path", ["images/{id", "images/id}.png", "images/{id:d}.png", "images/{id!x}.png", "images/{}.png", "images/{id.path}.png"])
def test_an_image_path_that_cannot_be_filled_in_is_refused(toy: Path, image_path: str) -> None:
    assert "image_path" in refusal(toy, image_path=image_path)


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
    require_same_ids(Tables.read(competition(toy)), pd.DataFrame({"id": ["3", "1", "2"], "label": ""}))


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
    with pytest.raises(UserError) as caught:
        require_same_ids(Tables.read(competition(toy)), pd.DataFrame({"id": ids, "label": ""}))
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


# ---------------------------------------------------------------- pictures


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


def checked(root: Path) -> pd.DataFrame:
    rows = Tables.read(competition(root)).rows
    paths = [root / path for path in rows["path"]]
    return check_images(rows, root, DigestMemory(root.parent / "digests.parquet").digests(paths))


def spoil(root: Path, damage: Callable[[Path], object], table: str = "train.csv") -> str:
    """Damages the picture of a table's tenth row; returns its id."""
    name = str(read_table(root / table)["id"][9])
    damage(root / "images" / f"{name}.png")
    return name


def test_the_index_of_good_pictures_has_sizes_digests_and_no_problem(few_digits: Path) -> None:
    index = checked(few_digits)
    assert list(index.columns) == ["split", "id", "path", "target", "digest", "height", "width", "problem"]
    assert len(index) == 100
    assert (index["problem"] == "").all()
    assert (index[["height", "width"]] == 8).all(axis=None)
    assert index["digest"].str.fullmatch("[0-9a-f]{64}").all()
    assert usable(index, "fail").equals(index)


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


def test_a_link_inside_the_folder_is_a_picture_like_any_other(few_digits: Path) -> None:
    def link_inside(path: Path) -> None:
        shutil.move(path, few_digits / "elsewhere.png")
        path.symlink_to(few_digits / "elsewhere.png")

    spoil(few_digits, link_inside)
    assert (checked(few_digits)["problem"] == "").all()


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
