"""Cells to numbers and predictions back to cells, for every task; which classes there are and in which order."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import Competition, Task
from pipeline.data.targets import Target, define_target, read_target, split_labels, with_classes
from pipeline.errors import UserError

NAMES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="|"), min_size=1, max_size=4), min_size=2, max_size=6, unique=True)
ONE_OF_MANY: list[Task] = ["multiclass", "binary", "ordinal"]


def competition(**settings: Any) -> Competition:
    given = {"name": "toy", "root": ".", "id": "id", "target": "label", "metric": "accuracy"}
    return Competition.model_validate(given | settings)


def defined(texts: list[str], columns: list[str] | None = None, **settings: Any) -> Target:
    return define_target(competition(**settings), pd.Series(texts, dtype=str), columns)


def refusal(texts: list[str], columns: list[str] | None = None, **settings: Any) -> str:
    with pytest.raises(UserError) as caught:
        defined(texts, columns, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- there and back


@given(st.data(), NAMES, st.sampled_from(ONE_OF_MANY))
def test_certain_predictions_of_one_class_are_its_label(data: st.DataObject, names: list[str], task: Task) -> None:
    target = Target(task, tuple(names))
    texts = data.draw(st.lists(st.sampled_from(names), min_size=1, max_size=20))
    numbers = target.numbers(texts)
    assert numbers.dtype == np.int64
    certain = np.eye(len(names), dtype=np.float32)[numbers]
    np.testing.assert_array_equal(target.decide(certain), numbers)
    assert target.labels(certain) == texts


@given(st.data(), NAMES, st.booleans())
def test_certain_predictions_of_several_labels_are_these_labels(data: st.DataObject, names: list[str], may_be_empty: bool) -> None:
    target = Target("multilabel", tuple(names), may_be_empty)
    rows = data.draw(st.lists(st.sets(st.sampled_from(names), min_size=0 if may_be_empty else 1), min_size=1, max_size=20))
    texts = ["|".join(sorted(row)) for row in rows]
    numbers = target.numbers(texts)
    assert numbers.dtype == np.float32
    assert numbers.shape == (len(rows), len(names))
    assert [set(split_labels(text)) for text in texts] == rows
    np.testing.assert_array_equal(target.decide(numbers), numbers)
    assert target.labels(numbers) == texts


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_numbers_come_back_as_they_were(values: list[float]) -> None:
    target = Target("regression", ("price",))
    numbers = target.numbers([repr(value) for value in values])
    assert numbers.dtype == np.float32
    assert numbers.shape == (len(values), 1)
    np.testing.assert_array_equal(target.decide(numbers), numbers)
    assert [np.float32(text) for text in target.labels(numbers)] == numbers[:, 0].tolist()


@given(st.data(), NAMES, st.sampled_from(["multiclass", "binary", "multilabel"]))
def test_classes_in_another_order_change_no_label(data: st.DataObject, names: list[str], task: Task) -> None:
    values = np.random.default_rng(data.draw(st.integers(0, 99))).random((5, len(names)), dtype=np.float32)
    order = data.draw(st.permutations(range(len(names))))
    target = Target(task, tuple(names))
    shuffled = with_classes(target, [names[number] for number in order])
    assert shuffled.labels(values[:, order]) == target.labels(values)


# ---------------------------------------------------------------- decisions


@settings(deadline=None)
@given(st.integers(2, 7), st.integers(0, 200))
def test_a_grade_is_the_one_nearest_to_the_expected_grade(grades: int, seed: int) -> None:
    target = Target("ordinal", tuple(str(grade) for grade in range(grades)))
    values = np.random.default_rng(seed).dirichlet(np.full(grades, 0.5), size=20)
    expected = values @ np.arange(grades)
    distance = np.abs(np.arange(grades)[None, :] - expected[:, None])
    decided = target.decide(values)
    np.testing.assert_allclose(distance[np.arange(20), decided], distance.min(axis=1), atol=1e-9)


def test_between_two_peaks_lies_a_grade_that_is_neither() -> None:
    target = Target("ordinal", ("0", "1", "2", "3", "4"))
    assert target.decide(np.array([[0.5, 0.0, 0.0, 0.0, 0.5]])).tolist() == [2], "where multiclass would say 0"
    assert target.decide(np.array([[0.45, 0.0, 0.0, 0.0, 0.55]])).tolist() == [2]
    assert target.decide(np.array([[0.0, 2.0, 2.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 3.0]])).tolist() == [2, 4], "rows need not sum to one; a tie goes up"
    assert Target("multiclass", ("0", "1", "2", "3", "4")).decide(np.array([[0.5, 0.0, 0.0, 0.0, 0.5]])).tolist() == [0]


def test_a_row_without_any_label_gets_its_most_probable_one_unless_there_are_such_rows() -> None:
    values = np.array([[0.2, 0.4, 0.1], [0.5, 0.7, 0.49]], dtype=np.float32)
    never, sometimes = (Target("multilabel", ("a", "b", "c"), may_be_empty) for may_be_empty in (False, True))
    assert never.labels(values) == ["b", "a|b"]
    assert sometimes.labels(values) == ["", "a|b"]


def test_labels_of_a_row_stand_sorted_whatever_the_order_of_the_classes() -> None:
    assert Target("multilabel", ("c", "a", "b")).labels(np.ones((1, 3), dtype=np.float32)) == ["a|b|c"]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_a_number_is_written_so_that_it_reads_back_equal(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32).reshape(-1, 1)
    assert [np.float32(text) for text in Target("regression", ("y",)).labels(array)] == array[:, 0].tolist()


# ---------------------------------------------------------------- shares


def test_shares_are_the_mean_of_the_rows() -> None:
    assert Target("multiclass", ("a", "b", "c")).shares(["a", "b", "a", "a"]).tolist() == [0.75, 0.25, 0.0]
    assert Target("multilabel", ("a", "b", "c"), may_be_empty=True).shares(["a|b", "", "a", "a"]).tolist() == [0.75, 0.25, 0.0]
    assert Target("regression", ("y",)).shares(["1", "2", "6"]).tolist() == [3.0]


# ---------------------------------------------------------------- which classes


def test_classes_are_sorted_as_text() -> None:
    assert defined(["2", "10", "1", "2"]).classes == ("1", "10", "2")
    assert defined(["b|a", "c", ""], task="multilabel", metric="macro_f1").classes == ("a", "b", "c")


def test_grades_are_sorted_as_numbers() -> None:
    assert defined(["2", "10", "1", "-1", "0.5"], task="ordinal", metric="quadratic_kappa").classes == ("-1", "0.5", "1", "2", "10")


def test_grades_that_are_words_need_their_order() -> None:
    settings = {"task": "ordinal", "metric": "quadratic_kappa"}
    assert "write classes: [lowest, ..., highest]" in refusal(["mild", "severe"], **settings)
    assert defined(["severe", "mild"], classes=["none", "mild", "severe"], **settings).classes == ("none", "mild", "severe")


def test_classes_of_the_config_are_taken_in_its_order_even_those_without_a_row() -> None:
    assert defined(["b", "a"], classes=["c", "b", "a"]).classes == ("c", "b", "a")
    message = refusal(["b", "cat"], classes=["b", "cats"])
    assert 'competition.classes: "cat" is in the train table but not listed; did you mean "cats"?' in message


def test_one_hot_columns_are_the_classes_in_their_order() -> None:
    assert defined(["scab", "healthy"], target=["scab", "rust", "healthy"]).classes == ("scab", "rust", "healthy")


def test_columns_of_the_sample_are_the_classes_in_their_order() -> None:
    assert defined(["cat", "ä", "dog", "cat"], ["dog", "ä", "cat"]).classes == ("dog", "ä", "cat")
    assert defined(["1", "0", "2"], ["2", "1", "0"], task="ordinal", metric="quadratic_kappa").classes == ("0", "1", "2"), "grades keep theirs"


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["cat", "dog"], 'class "ä" is in the sample but in no training row'),
        (["cat", "dog", "ä", "bird"], 'class "bird" is in the train table but not in the sample'),
        (["cat", "dog", "ä "], "is in"),
    ],
)
def test_classes_that_the_sample_and_the_train_table_do_not_share_are_refused(targets: list[str], message: str) -> None:
    assert message in refusal(targets, ["dog", "ä", "cat"])


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_one_class_is_none_to_learn(task: Task) -> None:
    assert "has the one class" in refusal(["cat", "cat"], task=task, metric="macro_f1")


def test_the_positive_class_is_the_last() -> None:
    settings = {"task": "binary", "metric": "roc_auc"}
    assert defined(["0", "1"], **settings).classes == ("0", "1")
    assert defined(["dog", "cat"], **settings).classes == ("cat", "dog")
    assert defined(["dog", "cat"], positive="cat", **settings).classes == ("dog", "cat")
    assert defined(["dog", "cat"], ["cat", "dog"], positive="cat", **settings).classes == ("dog", "cat")
    assert 'competition.positive: "cats" is no class' in refusal(["dog", "cat"], positive="cats", **settings)
    assert "binary wants two classes, but there are 3" in refusal(["a", "b", "c"], **settings)


def test_empty_rows_are_known_from_the_train_table() -> None:
    settings = {"task": "multilabel", "metric": "macro_f1"}
    assert defined(["a|b", ""], **settings).may_be_empty
    assert not defined(["a|b", "a"], **settings).may_be_empty


def test_a_number_has_one_output_of_the_columns_name() -> None:
    assert defined(["1.5", "2"], target="Pawpularity", task="regression", metric="rmse") == Target("regression", ("Pawpularity",))


# ---------------------------------------------------------------- reading


def test_a_target_that_is_read_is_a_target_that_has_numbers() -> None:
    table = pd.DataFrame({"label": ["b a", "c", "", " a  b "]}, dtype=str)
    own = competition(task="multilabel", metric="macro_f1")
    texts = read_target(table, own, "label", "train.csv")
    assert texts.tolist() == ["a|b", "c", "", "a|b"]
    assert define_target(own, texts, None).numbers(texts.tolist()).tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0]]


def test_a_grade_that_no_row_has_keeps_its_place() -> None:
    assert defined(["0", "4", "1", "2"], task="ordinal", metric="quadratic_kappa").classes == ("0", "1", "2", "3", "4")


def test_grades_that_are_no_whole_numbers_stay_as_they_are() -> None:
    assert defined(["0.5", "2.0", "1"], task="ordinal", metric="quadratic_kappa").classes == ("0.5", "1", "2.0")


@pytest.mark.parametrize("label", ["a\rb", "a\nb", "a\tb", "a\x00b"])
def test_a_label_with_a_control_character_is_refused_with_its_row(label: str) -> None:
    with pytest.raises(UserError, match=r"train\.csv, row 3: .* control character"):
        read_target(pd.DataFrame({"label": ["a", label]}), competition(), "label", "train.csv")


@pytest.mark.parametrize("number", ["1e39", "inf", "-1e400"])
def test_a_number_that_training_cannot_hold_is_refused(number: str) -> None:
    with pytest.raises(UserError, match='row 3: "label" is no number'):
        read_target(pd.DataFrame({"label": ["1", number]}), competition(task="regression", metric="rmse"), "label", "train.csv")
