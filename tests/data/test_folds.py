"""Folds: every row is held out once, in any row order; the same seed gives the same folds for ever."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Folds
from pipeline.data.folds import assign_folds
from pipeline.data.index import read_table
from pipeline.errors import UserError


@pytest.fixture(scope="module")
def rows(digits: Path) -> pd.DataFrame:
    return read_table(digits / "train.csv").rename(columns={"label": "target"})


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What is logged, also where another test started the program's logging, which keeps its messages to itself."""
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    return caplog


def toy(**members: int) -> pd.DataFrame:
    """Rows of classes with this many members each."""
    targets = [name for name, count in members.items() for _ in range(count)]
    return pd.DataFrame({"id": [f"{number:03d}" for number in range(len(targets))], "target": targets})


@pytest.mark.parametrize("strategy", ["stratified", "kfold"])
@pytest.mark.parametrize("n_splits", [2, 5, 7])
def test_every_row_is_held_out_once(rows: pd.DataFrame, strategy: str, n_splits: int) -> None:
    table = assign_folds(rows, Folds(strategy=strategy, n_splits=n_splits))
    assert list(table.columns) == ["id", "target", "fold"]
    assert table["fold"].dtype == np.int16
    assert table["id"].tolist() == sorted(rows["id"])
    assert dict(zip(table["id"], table["target"], strict=True)) == dict(zip(rows["id"], rows["target"], strict=True))
    sizes = table["fold"].value_counts()
    assert sorted(sizes.index) == list(range(n_splits))
    assert sizes.max() - sizes.min() <= (10 if strategy == "stratified" else 1)


@pytest.mark.parametrize("strategy", ["stratified", "kfold"])
def test_the_order_and_the_labels_of_the_rows_change_nothing(rows: pd.DataFrame, strategy: str) -> None:
    section = Folds(strategy=strategy)
    expected = assign_folds(rows, section)
    for seed in range(3):
        pd.testing.assert_frame_equal(assign_folds(rows.sample(frac=1, random_state=seed), section), expected)


def test_columns_that_folds_do_not_need_change_nothing(rows: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(assign_folds(rows.assign(path="x")[["path", "target", "id"]], Folds()), assign_folds(rows, Folds()))


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("stratified", [2, 0, 3, 3, 0, 1, 3, 2, 1, 0, 0, 4, 1, 2, 3, 3, 3, 4, 4, 2]), ("kfold", [2, 4, 2, 1, 3, 1, 2, 2, 4, 2, 1, 3, 1, 4, 4, 0, 3, 3, 3, 3])],
)
def test_the_folds_of_a_seed_never_change(rows: pd.DataFrame, strategy: str, expected: list[int]) -> None:
    assert assign_folds(rows, Folds(strategy=strategy, n_splits=5, seed=42))["fold"].head(20).tolist() == expected


def test_another_seed_gives_other_folds(rows: pd.DataFrame) -> None:
    one, other = (assign_folds(rows, Folds(seed=seed))["fold"] for seed in (0, 1))
    assert (one != other).mean() > 0.5


def test_every_fold_has_its_share_of_every_class(rows: pd.DataFrame) -> None:
    table = assign_folds(rows, Folds(n_splits=5))
    counts = pd.crosstab(table["target"], table["fold"])
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.integers(2, 5), st.integers(0, 3))
def test_any_class_sizes_are_spread_evenly_or_refused(sizes: list[int], n_splits: int, seed: int) -> None:
    members = {f"class {number}": size for number, size in enumerate(sizes)}
    section = Folds(n_splits=n_splits, seed=seed)
    if max(sizes) < n_splits:
        with pytest.raises(UserError, match=r"^folds\.n_splits"):
            assign_folds(toy(**members), section)
        return
    table = assign_folds(toy(**members), section)
    counts = pd.crosstab(table["target"], table["fold"]).reindex(columns=range(n_splits), fill_value=0)
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    assert counts.to_numpy().sum() == sum(sizes)


def test_a_class_with_fewer_members_than_folds_is_warned_of(warnings: pytest.LogCaptureFixture) -> None:
    table = assign_folds(toy(common=20, rare=3), Folds(n_splits=5))
    assert table.loc[table["target"] == "rare", "fold"].nunique() == 3
    (message,) = warnings.messages
    assert '"rare" (3)' in message


def test_common_classes_are_not_warned_of(warnings: pytest.LogCaptureFixture) -> None:
    assign_folds(toy(a=5, b=5), Folds(n_splits=5))
    assert warnings.messages == []


def test_classes_that_are_all_smaller_than_the_number_of_folds_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        assign_folds(toy(a=4, b=3, c=2), Folds(n_splits=5))
    assert 'no class has 5 members (the largest, "a", has 4)' in str(caught.value)
    assert "folds.strategy=kfold" in str(caught.value)


def test_kfold_takes_classes_of_any_size_without_a_warning(warnings: pytest.LogCaptureFixture) -> None:
    table = assign_folds(toy(a=4, b=3, c=2), Folds(strategy="kfold", n_splits=5))
    assert sorted(table["fold"].value_counts()) == [1, 2, 2, 2, 2]
    assert warnings.messages == []


@pytest.mark.parametrize("strategy", ["stratified", "kfold"])
def test_fewer_rows_than_folds_are_refused(strategy: str) -> None:
    with pytest.raises(UserError, match="5 folds need as many rows, but there are 3"):
        assign_folds(toy(a=3), Folds(strategy=strategy, n_splits=5))


def test_classes_that_look_like_numbers_stay_text() -> None:
    rows = toy(a=8)
    rows["target"] = ["1", "01", "1.0", "10"] * 2
    table = assign_folds(rows, Folds(n_splits=2))
    assert table["target"].tolist() == rows["target"].tolist()
    assert (table.groupby("target")["fold"].nunique() == 2).all()
