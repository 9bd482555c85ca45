import math

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from pipeline.data.targets import Target
from pipeline.ensembling.scores import cross_validation, describe, problem_of, score_of, union
from pipeline.predictions import Predictions

# fold 0: one row, right; fold 1: three rows, one right
ANIMALS = Target("multiclass", ("cat", "dog", "owl"))
TRUTH = {"d": "owl", "c": "dog", "b": "cat", "a": "cat"}
CASE = Predictions(
    ids=("a", "b", "c", "d"),
    classes=("cat", "dog", "owl"),
    values=np.array([[0.8, 0.1, 0.1], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25], [0.5, 0.25, 0.25]], dtype=np.float32),
    fold=np.array([0, 1, 1, 1], dtype=np.int16),
)


def test_targets_are_found_by_id_and_rows_of_a_group_are_one_draw() -> None:
    assert problem_of(CASE, ANIMALS, TRUTH, "accuracy").numbers.tolist() == [0, 0, 1, 2]
    mixed = problem_of(CASE.of(["d", "a", "c", "b"]), ANIMALS, TRUTH, "accuracy", {"a": "7", "d": "7", "b": "", "c": ""})
    assert mixed.numbers.tolist() == [2, 0, 1, 0]
    assert mixed.group[0] == mixed.group[1]
    assert len(set(mixed.group.tolist())) == 3


def test_cv_is_pooled_and_the_folds_are_beside_it() -> None:
    score = cross_validation(CASE, ANIMALS, TRUTH, "accuracy")
    assert score["cv"] == pytest.approx(2 / 4), "two of four rows, not the mean of the folds"
    assert score["folds"] == pytest.approx([1.0, 1 / 3])
    assert score["mean"] == pytest.approx(2 / 3)
    assert score["spread"] == pytest.approx(math.sqrt(2) / 3)
    assert score["rows"] == 4
    assert score["metric"] == "accuracy"


def test_log_loss_by_hand() -> None:
    score = cross_validation(CASE, ANIMALS, TRUTH, "log_loss")
    first, second = -math.log(0.8), (math.log(2) + 2 * math.log(4)) / 3
    assert score["folds"] == pytest.approx([first, second], abs=1e-6)
    assert score["cv"] == pytest.approx((first + 3 * second) / 4, abs=1e-6)


def test_macro_f1_is_of_all_rows_and_not_the_mean_of_folds() -> None:
    # all rows are called cat: of all, precision 1/2, recall 1, F1 2/3, and 0 for dog and owl; in fold 1, F1 1/2, 0 and 0
    score = cross_validation(CASE, ANIMALS, TRUTH, "macro_f1")
    assert score["cv"] == pytest.approx(2 / 9)
    assert score["folds"] == pytest.approx([1.0, 1 / 6])


def test_rows_in_another_order_give_the_same_scores() -> None:
    shuffled = CASE.of(["c", "a", "d", "b"])
    for metric in ("accuracy", "log_loss", "macro_f1"):
        left, right = cross_validation(CASE, ANIMALS, TRUTH, metric), cross_validation(shuffled, ANIMALS, TRUTH, metric)
        assert left["cv"] == pytest.approx(right["cv"])
        assert left["folds"] == pytest.approx(right["folds"])


def test_a_single_fold_has_no_spread() -> None:
    score = cross_validation(CASE.in_fold(1), ANIMALS, TRUTH, "accuracy")
    assert score["folds"] == pytest.approx([1 / 3])
    assert score["spread"] == 0.0


def test_a_score_is_described_with_its_folds() -> None:
    assert describe(cross_validation(CASE, ANIMALS, TRUTH, "accuracy")) == "accuracy 0.5000 (2 folds: 0.6667 +- 0.4714)"


# ---------------------------------------------------------------- other tasks


def random_case(target: Target, rows: int = 90, folds: int = 3) -> tuple[Predictions, dict[str, str]]:
    """Predictions that know a little of the truth; those of every fold lie a little higher than of the one before."""
    generator = np.random.default_rng(0)
    ids = tuple(f"{row:03d}" for row in range(rows))
    fold = (np.arange(rows) % folds).astype(np.int16)
    numbers = generator.integers(len(target.classes), size=rows)
    values = generator.random((rows, len(target.classes))) + 0.4 * np.eye(len(target.classes))[numbers] + fold[:, None]
    return Predictions(ids, target.classes, values.astype(np.float32), fold), {name: target.classes[number] for name, number in zip(ids, numbers, strict=True)}


def test_where_rows_of_two_folds_do_not_compare_the_cv_is_the_mean_over_folds() -> None:
    target = Target("binary", ("no", "yes"))
    predictions, truth = random_case(target)
    score = cross_validation(predictions, target, truth, "roc_auc")
    marks = np.array([truth[name] == "yes" for name in predictions.ids])
    folds = [roc_auc_score(marks[predictions.fold == fold], predictions.values[predictions.fold == fold, 1]) for fold in range(3)]
    assert score["folds"] == pytest.approx(folds)
    assert score["cv"] == score["mean"] == pytest.approx(np.mean(folds))
    assert score["cv"] > roc_auc_score(marks, predictions.values[:, 1]) + 0.02, "folds of different levels mix up the pooled ranks"


def test_a_fold_that_has_no_score_is_left_out_of_the_mean() -> None:
    target = Target("binary", ("no", "yes"))
    predictions, truth = random_case(target)
    truth |= {name: "no" for name, fold in zip(predictions.ids, predictions.fold, strict=True) if fold == 1}
    score = cross_validation(predictions, target, truth, "roc_auc")
    assert [math.isnan(fold) for fold in score["folds"]] == [False, True, False]
    assert score["cv"] == pytest.approx((score["folds"][0] + score["folds"][2]) / 2)
    assert math.isfinite(score["spread"])
    none = cross_validation(predictions, target, dict.fromkeys(predictions.ids, "no"), "roc_auc")
    assert math.isnan(none["cv"])


def test_grades_are_scored_pooled_and_in_their_own_order_whatever_the_columns() -> None:
    target = Target("ordinal", ("0", "1", "2", "10"))
    predictions, truth = random_case(target)
    order = [2, 0, 3, 1]
    shuffled = Predictions(predictions.ids, tuple(target.classes[number] for number in order), predictions.values[:, order].copy(), predictions.fold)
    expected = cohen_kappa_score(target.numbers([truth[name] for name in predictions.ids]), target.decide(predictions.values), weights="quadratic")
    for one in (predictions, shuffled):
        assert cross_validation(one, target, truth, "quadratic_kappa")["cv"] == pytest.approx(expected)


def test_the_positive_class_is_the_targets_last_whatever_the_columns() -> None:
    target = Target("binary", ("no", "yes"))
    predictions, truth = random_case(target)
    shuffled = Predictions(predictions.ids, ("yes", "no"), predictions.values[:, ::-1].copy(), predictions.fold)
    for metric in ("roc_auc", "average_precision", "macro_f1"):
        assert score_of(shuffled, target, truth, metric) == pytest.approx(score_of(predictions, target, truth, metric))


def test_numbers_are_scored_in_their_own_unit() -> None:
    target = Target("regression", ("price",))
    predictions = Predictions(("a", "b"), ("price",), np.array([[10], [30]], dtype=np.float32), np.array([0, 1], dtype=np.int16))
    score = cross_validation(predictions, target, {"b": "33", "a": "14"}, "rmse")
    assert score["folds"] == [4.0, 3.0]
    assert score["cv"] == pytest.approx(math.sqrt(12.5)), "of all rows, not the mean of the folds"


def test_several_labels_are_scored_by_name() -> None:
    target = Target("multilabel", ("a", "b"), may_be_empty=True)
    predictions = Predictions(("x", "y"), ("b", "a"), np.array([[0.9, 0.1], [0.2, 0.3]], dtype=np.float32), np.array([0, 1], dtype=np.int16))
    assert problem_of(predictions.in_classes(target.classes), target, {"x": "b", "y": "a|b"}, "samples_f1").numbers.tolist() == [[0, 1], [1, 1]]
    assert score_of(predictions, target, {"x": "b", "y": ""}, "samples_f1") == 1.0
    assert score_of(predictions, target, {"x": "b", "y": "a"}, "accuracy") == 0.5


def test_a_score_that_flatters_says_why_and_no_other_does() -> None:
    reasons = ("train.checkpoint=best", "train.patience")
    score = cross_validation(CASE, ANIMALS, TRUTH, "accuracy", reasons)
    assert score["optimistic"] == list(reasons)
    assert describe(score) == "accuracy 0.5000 (2 folds: 0.6667 +- 0.4714) - optimistic: train.checkpoint=best, train.patience"
    honest = cross_validation(CASE, ANIMALS, TRUTH, "accuracy")
    assert "optimistic" not in describe(honest)
    del honest["optimistic"]
    assert "optimistic" not in describe(honest), "as cv.json was written once"
    assert union([reasons, (), ("train.patience", "other")]) == ["train.checkpoint=best", "train.patience", "other"]
