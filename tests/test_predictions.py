"""Predictions are joined by id, never by row position."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.predictions import TEST, Predictions, align, concatenate


def predictions(ids: Sequence[str], classes: Sequence[str] = ("a", "b", "c"), seed: int = 0, fold: Sequence[int] | None = None) -> Predictions:
    values = np.random.default_rng(seed).dirichlet(np.ones(len(classes)), len(ids)).astype(np.float32)
    return Predictions(tuple(ids), tuple(classes), values, np.array(range(len(ids)) if fold is None else fold, dtype=np.int16))


def assert_same(one: Predictions, other: Predictions) -> None:
    assert one.ids == other.ids
    assert one.classes == other.classes
    np.testing.assert_array_equal(one.values, other.values)
    np.testing.assert_array_equal(one.fold, other.fold)
    assert (one.values.dtype, one.fold.dtype) == (other.values.dtype, other.fold.dtype)


def shuffled(whole: Predictions, rows: Sequence[int], columns: Sequence[int] | None = None) -> Predictions:
    """The same predictions with rows and class columns in another order."""
    columns = range(len(whole.classes)) if columns is None else columns
    values = whole.values[np.ix_(np.array(rows, dtype=int), np.array(columns, dtype=int))]
    return Predictions(tuple(whole.ids[row] for row in rows), tuple(whole.classes[c] for c in columns), values, whole.fold[list(rows)])


# ---------------------------------------------------------------- on disk


def test_predictions_are_read_back_as_they_were_saved(tmp_path: Path) -> None:
    whole = predictions(["007", "7", "ä,b", "", "x\ny"], fold=[0, 1, 2, TEST, 0])
    whole.save(tmp_path / "oof")
    assert_same(Predictions.load(tmp_path / "oof"), whole)


def test_no_rows_are_read_back_as_no_rows(tmp_path: Path) -> None:
    empty = Predictions((), ("a", "b"), np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.int16))
    empty.save(tmp_path)
    assert_same(Predictions.load(tmp_path), empty)


@pytest.mark.parametrize("name", ["values.npy", "rows.parquet"])
def test_half_saved_predictions_are_not_there(tmp_path: Path, name: str) -> None:
    predictions("abc").save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError):
        Predictions.load(tmp_path)


def test_the_values_on_disk_are_plain_float32(tmp_path: Path) -> None:
    whole = predictions("abc")
    whole.save(tmp_path)
    values = np.load(tmp_path / "values.npy", allow_pickle=False)
    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, whole.values)


# ---------------------------------------------------------------- by id


def test_rows_come_in_the_order_that_is_asked_for() -> None:
    whole = predictions("abcd")
    asked = whole.of(["c", "a", "d", "b"])
    assert asked.ids == ("c", "a", "d", "b")
    np.testing.assert_array_equal(asked.values, whole.values[[2, 0, 3, 1]])
    assert asked.fold.tolist() == [2, 0, 3, 1]


@given(st.permutations(range(12)), st.permutations(range(12)))
def test_any_order_of_rows_joined_back_is_identical(rows: list[int], asked: list[int]) -> None:
    whole = predictions([f"{number:03d}" for number in range(12)])
    assert_same(shuffled(whole, rows).of(whole.ids), whole)
    assert_same(shuffled(whole, rows).of([whole.ids[row] for row in asked]), shuffled(whole, asked))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "c", "d"], '1 ids are missing, e.g. "d"'),
        (["a", "b"], '1 ids are unknown, e.g. "c"'),
        (["a", "b", "c", "c"], "asked for twice"),
        ([], "3 ids are unknown"),
        (["a", "b", " c"], '1 ids are missing, e.g. " c"'),
    ],
    ids=["missing", "unknown", "doubled", "none", "with a space"],
)
def test_ids_that_do_not_match_one_to_one_are_refused(ids: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        predictions("abc").of(ids)
    assert message in str(caught.value)


def test_an_id_that_is_there_twice_is_refused() -> None:
    with pytest.raises(UserError, match='id "b" is there twice'):
        predictions(["a", "b", "b"])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused_with_its_id(value: float) -> None:
    values = predictions("abc").values.copy()
    values[1, 2] = value
    with pytest.raises(UserError, match='id "b" is not finite'):
        Predictions(tuple("abc"), tuple("xyz"), values, np.zeros(3, dtype=np.int16))


def test_values_of_another_type_or_shape_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError):
        Predictions(tuple("ab"), tuple("xyz"), np.zeros((2, 3)), np.zeros(2, dtype=np.int16))  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        Predictions(tuple("ab"), tuple("xyz"), np.zeros((3, 3), dtype=np.float32), np.zeros(3, dtype=np.int16))


# ---------------------------------------------------------------- folds


def test_the_rows_of_all_folds_are_the_rows_out_of_fold_and_the_test_rows_are_apart() -> None:
    whole = predictions("abcdef", fold=[0, 1, 0, TEST, 1, TEST])
    assert whole.in_fold(1).ids == ("b", "e")
    assert whole.in_fold(TEST).ids == ("d", "f")


def test_an_id_in_two_folds_is_refused() -> None:
    with pytest.raises(UserError, match='id "b" is there twice'):
        concatenate([predictions("ab"), predictions("bc")])


def test_the_digest_changes_with_every_part() -> None:
    whole = predictions("abc")
    others = [
        predictions("abd"),
        predictions("abc", seed=1),
        predictions("abc", classes="abd"),
        predictions("abc", fold=[0, 1, 1]),
        shuffled(whole, [1, 0, 2]),
        shuffled(whole, [0, 1, 2], [1, 0, 2]),
    ]
    assert predictions("abc").digest() == whole.digest()
    assert len({whole.digest(), *(other.digest() for other in others)}) == 7


# ---------------------------------------------------------------- several models


@given(st.permutations(range(6)), st.permutations(range(3)))
def test_models_with_rows_and_classes_in_any_order_are_aligned(rows: list[int], columns: list[int]) -> None:
    first, other = predictions("abcdef"), predictions("abcdef", seed=1)
    aligned = align([first, shuffled(other, rows, columns), shuffled(first, rows, columns)])
    for got, expected in zip(aligned, (first, other, first), strict=True):
        assert_same(got, expected)
        assert got.values.flags.c_contiguous


def test_each_model_keeps_its_own_folds_by_id() -> None:
    other = predictions("cab", fold=[2, 0, 1])
    assert align([predictions("abc", fold=[0, 0, 0]), other])[1].fold.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (predictions("abd"), "ids are missing"),
        (predictions("ab"), "ids are missing"),
        (predictions("abcd"), "ids are unknown"),
        (predictions("abc", classes="abx"), 'class "c" is in one model and not in another'),
        (predictions("abc", classes="ab"), 'class "c" is in one model and not in another'),
    ],
    ids=["other id", "fewer ids", "more ids", "other class", "fewer classes"],
)
def test_models_of_other_rows_or_classes_are_refused(other: Predictions, message: str) -> None:
    with pytest.raises(UserError, match=message):
        align([predictions("abc"), other])


# ---------------------------------------------------------------- parts


def test_rows_outside_a_fold_are_all_but_those_in_it() -> None:
    whole = predictions(list("abcdef"), fold=[0, 1, 2, 0, 1, TEST])
    assert whole.outside_fold(1).ids == ("a", "c", "d", "f")
    both = concatenate([whole.outside_fold(1), whole.in_fold(1)])
    assert_same(both.of(whole.ids), whole)
    assert_same(whole.take(np.array([4, 0])), whole.of(list("eabcdf")).take(np.array([0, 1])))


def test_columns_are_joined_by_the_name_of_their_class() -> None:
    whole = predictions(list("xyz"))
    turned = whole.in_classes(("c", "a", "b"))
    np.testing.assert_array_equal(turned.values, whole.values[:, [2, 0, 1]])
    assert_same(turned.in_classes(whole.classes), whole)
    with pytest.raises(UserError, match='class "c" is in one model and not in another'):
        whole.in_classes(("a", "b", "d"))
