"""Lessons: which test rows are taken, what targets become, and who told a row of its label."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config import Distillation, PseudoLabels
from pipeline.data.targets import Target
from pipeline.errors import UserError
from pipeline.predictions import Predictions
from pipeline.training.teaching import check_selection, confidence, distilled, nested_lesson, nested_pairs, pseudo_targets, select, soft

ANIMALS = Target("multiclass", ("ant", "bee", "cat"))
LABELS = Target("multilabel", ("a", "b", "c"), may_be_empty=True)
PRICE = Target("regression", ("price",))


def probabilities(rows: int, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.default_rng(seed).dirichlet([0.5, 0.5, 0.5], rows).astype(np.float32)


def taken(values: npt.NDArray[np.float32], target: Target = ANIMALS, **keys: Any) -> list[int]:
    return select(PseudoLabels(**keys), target, values).tolist()


def test_without_any_key_every_row_is_taken() -> None:
    assert taken(probabilities(50)) == list(range(50))


@pytest.mark.parametrize("balanced", [False, True])
def test_no_row_below_the_confidence_is_taken_and_every_other_is(balanced: bool) -> None:
    values = probabilities(200)
    assert taken(values, confidence=0.8, balanced=balanced) == np.flatnonzero(values.max(axis=1) >= 0.8).tolist()


def test_a_share_takes_the_surest_and_of_equally_sure_rows_the_first() -> None:
    values = probabilities(200)
    rows = taken(values, share=0.25)
    assert len(rows) == 50
    left = sorted(set(range(200)) - set(rows))
    assert values[rows].max(axis=1).min() >= values[left].max(axis=1).max()
    assert taken(np.full((8, 3), 1 / 3, dtype=np.float32), share=0.5) == [0, 1, 2, 3]


def test_a_share_that_ends_between_two_rows_takes_no_more_than_it_says() -> None:
    assert len(taken(probabilities(10), share=0.29)) == 2
    assert len(taken(probabilities(10), share=0.3)) == 3, "0.3 * 10 is a hair below 3"


def test_a_balanced_share_is_taken_from_each_predicted_class_however_unsure_it_is() -> None:
    sure = np.tile(np.array([[0.98, 0.01, 0.01]], dtype=np.float32), (90, 1))
    unsure = np.tile(np.array([[0.2, 0.5, 0.3]], dtype=np.float32), (10, 1))
    once = np.array([[0.3, 0.3, 0.4]], dtype=np.float32)
    values = np.concatenate([sure, unsure, once])
    assert set(values[taken(values, share=0.5)].argmax(axis=1)) == {0}
    counts = np.bincount(values[taken(values, share=0.5, balanced=True)].argmax(axis=1)).tolist()
    assert counts == [45, 5, 1]


def test_a_grade_is_as_sure_as_the_probability_of_the_grade_that_it_is_decided_for() -> None:
    grades = Target("ordinal", ("0", "1", "2"))
    values = np.array([[0.45, 0.1, 0.45], [0.1, 0.8, 0.1]], dtype=np.float32)
    assert confidence(grades, values) == pytest.approx([0.1, 0.8])
    assert pseudo_targets(PseudoLabels(hard=True), grades, values).tolist() == [[0, 1, 0], [0, 1, 0]]


def test_several_labels_are_as_sure_as_the_mean_of_their_likelier_sides_and_count_for_the_rarest() -> None:
    values = np.array([[0.9, 0.2, 0.4], [0.9, 0.9, 0.1], [0.8, 0.1, 0.1], [0.1, 0.1, 0.1]], dtype=np.float32)
    assert confidence(LABELS, values) == pytest.approx([(0.9 + 0.8 + 0.6) / 3, 0.9, (0.8 + 0.9 + 0.9) / 3, 0.9])
    assert taken(values, LABELS, share=0.5) == [1, 3]
    assert taken(values, LABELS, share=0.5, balanced=True) == [1, 2, 3], "of a, b and no label one each"
    assert pseudo_targets(PseudoLabels(hard=True), LABELS, values).tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0]]


def test_hard_labels_are_the_decision_and_soft_ones_the_prediction() -> None:
    values = probabilities(20)
    assert pseudo_targets(PseudoLabels(), ANIMALS, values) is values
    hard = pseudo_targets(PseudoLabels(hard=True), ANIMALS, values)
    assert hard.dtype == np.float32
    assert (hard.sum(axis=1) == 1).all()
    assert (hard.argmax(axis=1) == values.argmax(axis=1)).all()


@pytest.mark.parametrize("key", [{"confidence": 0.5}, {"share": 0.5}, {"balanced": True}, {"hard": True}], ids=lambda key: next(iter(key)))
def test_a_regression_takes_every_row_or_refuses(key: dict[str, Any]) -> None:
    check_selection(PseudoLabels(**key), ANIMALS)
    check_selection(PseudoLabels(), PRICE)
    assert taken(np.ones((4, 1), dtype=np.float32), PRICE) == [0, 1, 2, 3]
    with pytest.raises(UserError, match=f"teacher.pseudo_labels.{next(iter(key))}"):
        check_selection(PseudoLabels(**key), PRICE)


def test_a_target_is_the_truth_and_the_teacher_by_weight() -> None:
    truth, told = soft(ANIMALS, np.array([0, 2])), np.array([[0.2, 0.7, 0.1], [0.5, 0.5, 0.0]], dtype=np.float32)
    assert truth.tolist() == [[1, 0, 0], [0, 0, 1]]
    mixed = distilled(Distillation(weight=0.25), truth, told)
    assert mixed.dtype == np.float32
    np.testing.assert_allclose(mixed, [[0.8, 0.175, 0.025], [0.125, 0.125, 0.75]], atol=1e-7)
    assert (distilled(Distillation(weight=1.0), truth, told) == told).all()
    prices = PRICE.numbers(["10", "30"])
    assert distilled(Distillation(weight=0.5), soft(PRICE, prices), np.array([[20], [10]], dtype=np.float32)).tolist() == [[15], [20]]


@pytest.mark.parametrize("num_folds", [3, 4, 5])
def test_a_row_is_told_its_label_by_the_teacher_that_saw_neither_its_fold_nor_the_students(num_folds: int) -> None:
    pairs = nested_pairs(num_folds)
    assert len(pairs) == num_folds * (num_folds - 1) // 2
    pieces = {pair: of_pair(*pair) for pair in pairs}
    for student in range(num_folds):
        lesson = nested_lesson(student, pieces)
        assert sorted(lesson.ids) == sorted(f"{fold}-{row}" for fold in range(num_folds) for row in range(3) if fold != student)
        for name, fold, value in zip(lesson.ids, lesson.fold.tolist(), lesson.values, strict=True):
            assert name.startswith(f"{fold}-")
            assert set(value.tolist()) == {fold, student}, "the two folds that its teacher did without"


def of_pair(first: int, second: int) -> Predictions:
    """Three rows of each fold; the values say which teacher spoke."""
    ids = tuple(f"{fold}-{row}" for fold in (first, second) for row in range(3))
    values = np.tile(np.array([[first, second]], dtype=np.float32), (6, 1))
    return Predictions(ids, ("x", "y"), values, np.repeat([first, second], 3).astype(np.int16))
