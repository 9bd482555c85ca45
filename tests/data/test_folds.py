"""Folds: every row is held out once, groups stay whole, in any row order; the same seed gives the same folds for ever."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Folds, Task
from pipeline.data.folds import assign_folds, needed_columns, place_extra
from pipeline.data.tables import read_table
from pipeline.errors import UserError

STRATEGIES = ["kfold", "stratified", "group", "stratified_group"]
STRATIFIED = ["stratified", "stratified_group"]
GROUPED = ["group", "stratified_group"]


@pytest.fixture(scope="module")
def rows(digits: Path) -> pd.DataFrame:
    return read_table(digits / "train.csv").rename(columns={"label": "target"})


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    """What is logged, also where another test started the program's logging, which keeps its messages to itself."""
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    return caplog


def section(strategy: str = "stratified_group", n_splits: int = 5, **keys: Any) -> Folds:
    return Folds.model_validate({"strategy": strategy, "n_splits": n_splits, **keys})


def assigned(rows: pd.DataFrame, folds: Folds, task: Task = "multiclass", copies: dict[str, str] | None = None) -> pd.DataFrame:
    return assign_folds(rows, folds, task, copies or {})


def table_of(targets: Sequence[str], **columns: Sequence[str]) -> pd.DataFrame:
    ids = [f"{number:04d}" for number in range(len(targets))]
    return pd.DataFrame({"id": ids, "target": list(targets), **{f"table.{name}": list(cells) for name, cells in columns.items()}})


def toy(**members: int) -> pd.DataFrame:
    """Rows of classes with this many members each."""
    return table_of([name for name, count in members.items() for _ in range(count)])


def unevenness(table: pd.DataFrame, n_splits: int) -> int:
    """The largest difference between two folds' counts of a class."""
    counts = pd.crosstab(table["target"], table["fold"]).reindex(columns=range(n_splits), fill_value=0)
    return int((counts.max(axis=1) - counts.min(axis=1)).max())


# ---------------------------------------------------------------- every strategy


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n_splits", [2, 5, 7])
def test_every_row_is_held_out_once(rows: pd.DataFrame, strategy: str, n_splits: int) -> None:
    table = assigned(rows, section(strategy, n_splits))
    assert list(table.columns) == ["id", "target", "group", "fold"]
    assert table["fold"].dtype == np.int16
    assert table["id"].tolist() == sorted(rows["id"])
    assert dict(zip(table["id"], table["target"], strict=True)) == dict(zip(rows["id"], rows["target"], strict=True))
    assert (table["group"] == "").all(), "every row stands alone"
    sizes = table["fold"].value_counts()
    assert sorted(sizes.index) == list(range(n_splits))
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_of_the_rows_changes_no_byte(rows: pd.DataFrame, strategy: str) -> None:
    ids = rows["id"].tolist()
    copies = dict.fromkeys(ids[100:102], "pair") | dict.fromkeys(ids[7:10], "three")
    expected = assigned(rows, section(strategy), copies=copies)
    for seed in range(3):
        shuffled = assigned(rows.sample(frac=1, random_state=seed), section(strategy), copies=dict(reversed(copies.items())))
        assert shuffled.to_csv() == expected.to_csv()
        pd.testing.assert_frame_equal(shuffled, expected)


def test_columns_that_folds_do_not_need_change_nothing(rows: pd.DataFrame) -> None:
    more = rows.assign(path="x", **{"table.age": "7"})[["path", "target", "table.age", "id"]]
    pd.testing.assert_frame_equal(assigned(more, Folds()), assigned(rows, Folds()))


PINNED = {
    "kfold": [1, 4, 0, 3, 4, 0, 4, 2, 4, 2, 2, 0, 2, 1, 2, 1, 1, 2, 2, 2],
    "stratified": [2, 1, 0, 1, 4, 0, 3, 2, 4, 2, 2, 2, 2, 3, 1, 3, 0, 2, 0, 4],
    "group": [1, 1, 4, 0, 1, 0, 0, 0, 0, 0, 4, 2, 2, 4, 4, 2, 4, 1, 3, 3],
    "stratified_group": [3, 3, 1, 0, 4, 0, 0, 0, 3, 0, 0, 4, 2, 2, 3, 1, 4, 2, 3, 0],
}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_folds_of_a_seed_never_change(rows: pd.DataFrame, strategy: str) -> None:
    ids = rows["id"].tolist()
    copies = dict.fromkeys(ids[:2], "pair") | dict.fromkeys(ids[5:8], "three")
    table = assigned(rows, section(strategy, 5, seed=42), copies=copies)
    assert table["fold"].head(20).tolist() == PINNED[strategy]


def test_the_folds_of_labels_numbers_and_groups_never_change() -> None:
    labels = table_of(["a", "a|b", "b", "", "c|a", "b|c", "a", "b", "c", "a|b|c", "", "b"])
    assert assigned(labels, section("stratified", 3), "multilabel")["fold"].tolist() == [2, 2, 1, 1, 0, 0, 1, 0, 2, 1, 2, 2]
    numbers = table_of([str(number * 7 % 12 / 4) for number in range(12)])
    assert assigned(numbers, section("stratified", 3, bins=4), "regression")["fold"].tolist() == [2, 0, 0, 0, 0, 1, 1, 1, 2, 1, 2, 2]
    patients = table_of(list("ababababcccc"), patient=["p1", "p1", "p2", "p3", "p3", "p3", "", "", "p4", "p2", "p4", ""])
    table = assigned(patients, section("stratified_group", 3, group=["patient"]))
    assert table["fold"].tolist() == [0, 0, 2, 1, 1, 1, 2, 2, 0, 2, 0, 1]
    assert table["group"].tolist() == ["0000", "0000", "0002", "0003", "0003", "0003", "", "", "0008", "0002", "0008", ""]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_another_seed_gives_other_folds(rows: pd.DataFrame, strategy: str) -> None:
    one, other = (assigned(rows, section(strategy, seed=seed))["fold"] for seed in (0, 1))
    assert (one != other).mean() > 0.5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_fewer_rows_than_folds_are_refused(strategy: str) -> None:
    with pytest.raises(UserError, match="5 folds need as many rows, but there are 3"):
        assigned(toy(a=3), section(strategy))


def test_a_hundred_thousand_rows_are_assigned_in_seconds() -> None:
    import time

    generator = np.random.default_rng(0)
    targets = generator.integers(200, size=100_000).astype(str)
    started = time.monotonic()
    table = assigned(table_of(targets.tolist()), Folds())
    assert time.monotonic() - started < 30, "a loop over rows has become a loop over pairs of rows"
    assert unevenness(table, 5) <= 1


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize("strategy", STRATIFIED)
def test_every_fold_has_its_share_of_every_class(rows: pd.DataFrame, strategy: str) -> None:
    assert unevenness(assigned(rows, section(strategy)), 5) <= 1


@pytest.mark.parametrize("strategy", ["kfold", "group"])
def test_what_is_not_stratified_is_at_random(rows: pd.DataFrame, strategy: str) -> None:
    assert unevenness(assigned(rows, section(strategy)), 5) > 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=2, max_size=5), st.integers(2, 5), st.integers(0, 3), st.sampled_from(STRATIFIED))
def test_any_class_sizes_are_spread_evenly_or_refused(sizes: list[int], n_splits: int, seed: int, strategy: str) -> None:
    members = {f"class {number}": size for number, size in enumerate(sizes)}
    folds = section(strategy, n_splits, seed=seed)
    if max(sizes) < n_splits:
        with pytest.raises(UserError, match=r"^folds\.n_splits"):
            assigned(toy(**members), folds)
        return
    table = assigned(toy(**members), folds)
    assert unevenness(table, n_splits) <= 1
    assert len(table) == sum(sizes)
    assert table["fold"].nunique() == n_splits


def test_a_class_with_fewer_members_than_folds_is_warned_of(warnings: pytest.LogCaptureFixture) -> None:
    table = assigned(toy(common=20, rare=3), Folds(n_splits=5))
    assert table.loc[table["target"] == "rare", "fold"].nunique() == 3
    (message,) = warnings.messages
    assert '"rare" (3)' in message


def test_a_label_with_fewer_rows_than_folds_is_warned_of(warnings: pytest.LogCaptureFixture) -> None:
    table = assigned(table_of(["a|b", "a", "b|rare"] + ["a"] * 4 + ["b"] * 4), Folds(n_splits=3), "multilabel")
    assert table.loc[table["target"].str.contains("rare"), "fold"].nunique() == 1
    assert ['"rare" (1)' in message for message in warnings.messages] == [True]


def test_common_classes_are_not_warned_of(warnings: pytest.LogCaptureFixture) -> None:
    assigned(toy(a=5, b=5), Folds(n_splits=5))
    assert warnings.messages == []


def test_classes_that_are_all_smaller_than_the_number_of_folds_are_refused() -> None:
    with pytest.raises(UserError) as caught:
        assigned(toy(a=4, b=3, c=2), Folds(n_splits=5))
    assert 'no class has 5 members (the largest, "a", has 4)' in str(caught.value)
    assert "folds.strategy=group" in str(caught.value)


@pytest.mark.parametrize("strategy", ["kfold", "group"])
def test_without_stratifying_classes_of_any_size_are_taken_without_a_warning(warnings: pytest.LogCaptureFixture, strategy: str) -> None:
    table = assigned(toy(a=4, b=3, c=2), section(strategy, 5))
    assert sorted(table["fold"].value_counts()) == [1, 2, 2, 2, 2]
    assert warnings.messages == []


def test_classes_that_look_like_numbers_stay_text() -> None:
    rows = table_of(["1", "01", "1.0", "10"] * 2)
    table = assigned(rows, Folds(n_splits=2))
    assert table["target"].tolist() == rows["target"].tolist()
    assert (table.groupby("target")["fold"].nunique() == 2).all()


# ---------------------------------------------------------------- groups


def whole(table: pd.DataFrame, keys: Sequence[Any]) -> bool:
    """Whether rows with one key, empty ones left out, lie in one fold."""
    key = pd.Series(list(keys), index=table.index)
    known = key.notna() & (key != "")
    return bool((table["fold"][known].groupby(key[known]).nunique() == 1).all())


@pytest.mark.parametrize("strategy", GROUPED)
def test_copies_of_a_picture_stay_in_one_fold(rows: pd.DataFrame, strategy: str) -> None:
    generator = np.random.default_rng(0)
    ids = sorted(rows["id"])
    copies = {name: str(number // 3) for number, name in enumerate(generator.permutation(ids)[:300])}
    table = assigned(rows, section(strategy), copies=copies)
    assert whole(table, table["id"].map(copies))
    assert (table["group"] != "").sum() == 300
    assert table.loc[table["group"] != "", "group"].nunique() == 100
    assert (table.loc[table["group"] != ""].groupby("group")["id"].min() == sorted(set(table["group"]) - {""})).all(), "named by its first id"
    assert not whole(assigned(rows, section("stratified"), copies=copies), table["id"].map(copies)), "it was by chance"


@pytest.mark.parametrize("strategy", GROUPED)
def test_rows_that_agree_in_any_group_column_or_are_copies_stay_together(strategy: str) -> None:
    patients = ["p1", "p1", "p2", "p3", "p3", "", "p4", "p5", "p6", "p7", "p8", ""]
    sites = ["s1", "s2", "s2", "s3", "s4", "", "s5", "s6", "s7", "s8", "s9", ""]
    rows = table_of(["a", "b"] * 6, patient=patients, site=sites)
    table = assigned(rows, section(strategy, 3, group=["patient", "site"]), copies={"0002": "x", "0003": "x", "0011": "y"})
    # row 0 and 1 share a patient, 1 and 2 a site, 2 and 3 a picture, 3 and 4 a patient: all five are one group
    assert table["group"].tolist() == ["0000"] * 5 + [""] * 7
    assert table["fold"].head(5).nunique() == 1


def test_equal_cells_of_different_columns_do_not_join_rows() -> None:
    rows = table_of(["a", "b"] * 4, patient=["1", "2", "3", "4", "5", "6", "7", "8"], site=["2", "3", "4", "5", "6", "7", "8", "1"])
    assert (assigned(rows, section("group", 4, group=["patient", "site"]))["group"] == "").all()


def test_empty_group_cells_are_no_group() -> None:
    rows = table_of(["a", "b"] * 5, patient=[""] * 10)
    table = assigned(rows, section("stratified_group", 5, group=["patient"]))
    assert (table["group"] == "").all()
    assert unevenness(table, 5) <= 1


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_groups_stay_whole_and_no_fold_is_empty(data: st.DataObject) -> None:
    size = data.draw(st.integers(6, 40))
    cells = st.lists(st.sampled_from(["", "1", "2", "3", "4", "5", "6", "7", "8"]), min_size=size, max_size=size)
    targets = data.draw(st.lists(st.sampled_from(["a", "a|b", "b", "c"]), min_size=size, max_size=size))
    patient, copy = data.draw(cells), data.draw(cells)
    rows = table_of(targets, patient=patient)
    copies = {name: key for name, key in zip(rows["id"], copy, strict=True) if key}
    folds = section(data.draw(st.sampled_from(GROUPED)), 3, group=["patient"])
    try:
        table = assigned(rows, folds, "multilabel", copies)
    except UserError:  # fewer groups than folds, or no label with as many rows
        return
    assert whole(table, patient)
    assert whole(table, copy)
    assert whole(table, table["group"])
    assert sorted(table["fold"].unique()) == [0, 1, 2]


def test_groups_of_one_class_are_spread_by_their_size(rows: pd.DataFrame) -> None:
    """Forty patients with 3 to 12 rows of each class: no fold is far from a fifth of any class."""
    generator = np.random.default_rng(0)
    pieces = [(f"p{patient}", label) for patient in range(40) for label in "abc" for _ in range(int(generator.integers(3, 13)))]
    table = assigned(table_of([label for _, label in pieces], patient=[patient for patient, _ in pieces]), section(n_splits=5, group=["patient"]))
    counts = pd.crosstab(table["target"], table["fold"])
    assert whole(table, [patient for patient, _ in pieces])
    assert (counts.div(counts.sum(axis=1), axis=0) - 0.2).abs().to_numpy().max() < 0.05


def test_fewer_groups_than_folds_are_refused_although_there_are_rows_enough() -> None:
    rows = table_of(["a", "b"] * 10, patient=["p1"] * 10 + ["p2"] * 10)
    with pytest.raises(UserError, match="3 folds need as many groups of rows that stay together, but there are 2"):
        assigned(rows, section("group", 3, group=["patient"]))


# ---------------------------------------------------------------- labels and numbers


def many_labels(rows: int = 600) -> pd.DataFrame:
    """Twelve labels, the rarest on one row of fifty; some rows have none."""
    generator = np.random.default_rng(0)
    shares = np.geomspace(0.4, 0.02, 12)
    return table_of(["|".join(f"l{label:02d}" for label in np.flatnonzero(generator.random(12) < shares)) for _ in range(rows)])


def label_gap(table: pd.DataFrame, n_splits: int = 5) -> float:
    """The mean over labels of how far a fold's share of the label's rows is from equal."""
    exploded = table.assign(target=table["target"].str.split("|")).explode("target")
    counts = pd.crosstab(exploded["target"], exploded["fold"]).reindex(columns=range(n_splits), fill_value=0)
    return float((counts.div(counts.sum(axis=1), axis=0) - 1 / n_splits).abs().to_numpy().mean())


@pytest.mark.parametrize("strategy", STRATIFIED)
def test_every_fold_has_its_share_of_every_label(strategy: str) -> None:
    rows = many_labels()
    gap = label_gap(assigned(rows, section(strategy), "multilabel"))
    by_chance = np.mean([label_gap(assigned(rows, section("kfold", seed=seed), "multilabel")) for seed in range(5)])
    assert gap < 0.02
    assert gap < by_chance / 3


def test_rows_without_a_label_are_spread_too() -> None:
    table = assigned(many_labels(), Folds(), "multilabel")
    sizes = table.loc[table["target"] == "", "fold"].value_counts()
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("strategy", STRATIFIED)
def test_every_fold_has_its_share_of_every_range_of_a_number(strategy: str) -> None:
    numbers = np.random.default_rng(0).lognormal(3, 1, size=503)
    rows = table_of([f"{number:.6f}" for number in numbers])
    table = assigned(rows, section(strategy, bins=10), "regression")
    quantile = pd.Series(numbers).rank(method="first").sub(1).mul(10).floordiv(503)
    counts = pd.crosstab(quantile, table["fold"])
    assert counts.shape == (10, 5)
    assert (counts.max(axis=1) - counts.min(axis=1)).max() <= 1
    means = table.assign(number=numbers).groupby("fold")["number"].mean()
    assert means.max() / means.min() < 1.2


def test_a_number_that_many_rows_share_is_still_spread() -> None:
    rows = table_of(["0"] * 90 + ["1.5", "2.5", "1e3", "-1"] * 5)
    assert assigned(rows, Folds(), "regression")["fold"].value_counts().tolist() == [22] * 5


# ---------------------------------------------------------------- the competition's own column


def test_own_folds_are_taken_as_they_are_in_order_of_their_values() -> None:
    rows = table_of(["a", "b"] * 3, split=["10", "9", "2", "10", "2", "9"])
    table = assigned(rows, section("column", 3, column="split"))
    assert table["fold"].tolist() == [2, 1, 0, 2, 0, 1]
    named = table_of(["a", "b"] * 3, split=["z", "x", "y"] * 2)
    assert assigned(named, section("column", 3, column="split"))["fold"].tolist() == [2, 0, 1] * 2


def test_another_number_of_own_folds_is_refused_with_theirs() -> None:
    rows = table_of(["a", "b"] * 3, split=["0", "1", "2"] * 2)
    with pytest.raises(UserError, match=r'folds\.column: "split" has 3 values; write folds\.n_splits=3'):
        assigned(rows, section("column", 5, column="split"))


def test_a_column_that_the_train_table_has_not_is_refused_with_those_that_it_has() -> None:
    rows = table_of(["a", "b"], patient=["1", "2"], site=["1", "2"])
    with pytest.raises(UserError, match=r'folds\.group: the train table has no further column "pateint"; it has patient, site'):
        needed_columns(rows, section(group=["patient", "pateint"]))
    with pytest.raises(UserError, match=r'folds\.column: the train table has no further column "fold"; it has none'):
        needed_columns(table_of(["a"]), section("column", 2, column="fold"))
    assert needed_columns(rows, section(group=["patient"])) == ["table.patient"]
    assert needed_columns(rows, section("kfold")) == []


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"strategy": "stratified", "group": ["patient"]}, "group columns are kept together by strategy group"),
        ({"strategy": "kfold", "group": ["patient"]}, "group columns are kept together by strategy group"),
        ({"strategy": "column"}, "strategy column and the key column go together"),
        ({"strategy": "kfold", "column": "fold"}, "strategy column and the key column go together"),
    ],
)
def test_keys_that_a_strategy_would_ignore_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Folds.model_validate(keys)


def test_an_extra_row_is_not_trained_on_by_the_fold_that_holds_its_group_out() -> None:
    train = table_of(["a", "b"] * 10, patient=[f"p{number // 2}" for number in range(20)], site=[f"s{number // 4}" for number in range(20)])
    folds = section("stratified_group", 2, group=["patient"])
    table = assigned(train, folds)
    extra = table_of(["a", "b", "a"], patient=["p0", "stranger", ""]).assign(id=["e0", "e1", "e2"])
    placed = place_extra(extra, train, table, folds).set_index("id")["fold"]
    held_out = table.set_index("id")["fold"][train.loc[train["table.patient"] == "p0", "id"]]
    assert placed["e0"] == held_out.iloc[0]
    assert (placed[["e1", "e2"]] == -1).all()


def test_an_extra_row_with_groups_in_two_folds_is_left_out_and_said_so(warnings: pytest.LogCaptureFixture) -> None:
    train = table_of(["a", "b"] * 10, patient=[f"p{number}" for number in range(20)], site=[f"s{number}" for number in range(20)])
    folds = section("stratified_group", 2, group=["patient", "site"])
    table = assigned(train, folds)
    fold = dict(zip(train["table.patient"], table.set_index("id")["fold"][train["id"]], strict=True))
    site = next(f"s{number}" for number in range(20) if fold[f"p{number}"] != fold["p0"])
    extra = table_of(["a"], patient=["p0"], site=[site])
    assert place_extra(extra, train, table, folds).empty
    assert "1 extra rows share groups with several folds" in warnings.text


@pytest.mark.parametrize("key", ["group", "column"])
def test_a_column_that_only_another_table_has_is_refused(key: str) -> None:
    train = table_of(["a", "b"] * 10, patient=[""] * 20)
    folds = section("stratified_group", 2, group=["patient"]) if key == "group" else section("column", 2, column="patient")
    with pytest.raises(UserError, match=f'folds.{key}: the train table has no further column "patient"'):
        needed_columns(train, folds)


def test_an_empty_cell_in_the_competitions_fold_column_is_refused() -> None:
    train = table_of(["a", "b"] * 3, fold=["0", "1", "", "0", "1", "0"])
    with pytest.raises(UserError, match=r'folds.column: "fold" is empty for id ".+"; fill it in'):
        assigned(train, section("column", 3, column="fold"))
