import math

import numpy as np
import pytest

from pipeline.ensembling.scores import cross_validation, describe, target_numbers
from pipeline.predictions import Predictions

# fold 0: one row, right; fold 1: three rows, one right
TRUTH = {"d": "owl", "c": "dog", "b": "cat", "a": "cat"}
CASE = Predictions(
    ids=("a", "b", "c", "d"),
    classes=("cat", "dog", "owl"),
    values=np.array([[0.8, 0.1, 0.1], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], dtype=np.float32),
    fold=np.array([0, 1, 1, 1], dtype=np.int16),
)


def test_targets_are_found_by_id_and_class_name() -> None:
    assert target_numbers(CASE, TRUTH).tolist() == [0, 0, 1, 2]
    assert target_numbers(CASE.of(["d", "a", "c", "b"]), TRUTH).tolist() == [2, 0, 1, 0]


def test_cv_is_pooled_and_the_folds_are_beside_it() -> None:
    score = cross_validation(CASE, TRUTH, "accuracy")
    assert score["cv"] == pytest.approx(2 / 4), "two of four rows, not the mean of the folds"
    assert score["folds"] == pytest.approx([1.0, 1 / 3])
    assert score["mean"] == pytest.approx(2 / 3)
    assert score["spread"] == pytest.approx(math.sqrt(2) / 3)
    assert score["rows"] == 4
    assert score["metric"] == "accuracy"


def test_log_loss_by_hand() -> None:
    score = cross_validation(CASE, TRUTH, "log_loss")
    first, second = -math.log(0.8), (math.log(2) + 2 * math.log(4)) / 3
    assert score["folds"] == pytest.approx([first, second], abs=1e-6)
    assert score["cv"] == pytest.approx((first + 3 * second) / 4, abs=1e-6)


def test_macro_f1_is_of_all_rows_and_not_the_mean_of_folds() -> None:
    # all rows are called cat: of all, precision 1/2, recall 1, F1 2/3, and 0 for dog and owl; in fold 1, F1 1/2, 0 and 0
    score = cross_validation(CASE, TRUTH, "macro_f1")
    assert score["cv"] == pytest.approx(2 / 9)
    assert score["folds"] == pytest.approx([1.0, 1 / 6])


def test_rows_in_another_order_give_the_same_scores() -> None:
    shuffled = CASE.of(["c", "a", "d", "b"])
    for metric in ("accuracy", "log_loss", "macro_f1"):
        left, right = cross_validation(CASE, TRUTH, metric), cross_validation(shuffled, TRUTH, metric)
        assert left["cv"] == pytest.approx(right["cv"])
        assert left["folds"] == pytest.approx(right["folds"])


def test_a_single_fold_has_no_spread() -> None:
    score = cross_validation(CASE.in_fold(1), TRUTH, "accuracy")
    assert score["folds"] == pytest.approx([1 / 3])
    assert score["spread"] == 0.0


def test_a_score_is_described_with_its_folds() -> None:
    assert describe(cross_validation(CASE, TRUTH, "accuracy")) == "accuracy 0.5000 (2 folds: 0.6667 +- 0.4714)"
