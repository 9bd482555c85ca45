"""The bundled digits: a whole competition, always the same, all of it or none."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from pipeline.config import Config
from pipeline.data import digits as module
from pipeline.data.digits import write_digits
from pipeline.data.index import check_images
from pipeline.data.pictures import Pictures
from pipeline.data.tables import Tables, read_table


def test_the_digits_have_the_shape_of_a_competition(digits: Path) -> None:
    assert sorted(os.listdir(digits)) == ["images", "sample_submission.csv", "solution.csv", "test.csv", "train.csv"]
    assert {path.name: list(read_table(path).columns) for path in digits.glob("*.csv")} == {
        "train.csv": ["id", "label"],
        "test.csv": ["id"],
        "sample_submission.csv": ["id", "label"],
        "solution.csv": ["id", "label"],
    }


def test_every_digit_is_in_the_train_or_the_test_table(digits: Path) -> None:
    train, test = read_table(digits / "train.csv"), read_table(digits / "test.csv")
    assert (len(train), len(test)) == (1438, 359)
    assert sorted([*train["id"], *test["id"]]) == [f"{number:04d}" for number in range(1797)]
    assert set(train["label"]) == set("0123456789")


def test_the_sample_asks_for_the_rows_that_the_solution_answers(digits: Path) -> None:
    test, sample, solution = (read_table(digits / f"{name}.csv") for name in ("test", "sample_submission", "solution"))
    assert sample["id"].tolist() == solution["id"].tolist() == test["id"].tolist()
    assert set(sample["label"]) == {"0"}, "the sample gives no answer away"


def test_every_label_and_picture_is_that_of_scikit_learn(digits: Path) -> None:
    source = load_digits()
    labels = {**dict(read_table(digits / "train.csv").to_numpy()), **dict(read_table(digits / "solution.csv").to_numpy())}
    assert [labels[f"{number:04d}"] for number in range(1797)] == source.target.astype(str).tolist()
    for number in (0, 5, 1796):
        grey = np.asarray(Image.open(digits / "images" / f"{number:04d}.png"))
        np.testing.assert_array_equal(np.round(grey / 255 * 16), source.images[number])


def test_the_digits_pass_the_checks_of_the_index(small: Config) -> None:
    rows = Tables.read(small.competition).rows
    index = check_images(rows, Pictures(small.competition, small.images), [None] * len(rows))
    assert (index["problem"] == "").all()
    assert set(zip(index["height"], index["width"], strict=True)) == {(8, 8)}


def test_written_twice_they_are_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "again")
    for path in [*digits.glob("*.csv"), digits / "images" / "0000.png"]:
        assert (tmp_path / "again" / path.relative_to(digits)).read_bytes() == path.read_bytes()


def test_a_fault_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path, table: object) -> None:
        if path.name == "sample_submission.csv":
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "write_table", fail)
    with pytest.raises(KeyboardInterrupt):
        write_digits(tmp_path / "input" / "digits")
    assert os.listdir(tmp_path / "input") == []


def test_a_folder_that_holds_something_is_never_written_to(tmp_path: Path) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "mine.txt").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        write_digits(tmp_path / "digits")
    assert os.listdir(tmp_path) == ["digits"]
    assert os.listdir(tmp_path / "digits") == ["mine.txt"]
