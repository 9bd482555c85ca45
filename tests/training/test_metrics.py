"""Every metric over one contract, and each against scikit-learn, a published definition, or a case by hand."""

import math
import typing
from collections.abc import Iterator

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from pipeline.config import METRIC_TASKS, Task
from pipeline.config_data import MetricName
from pipeline.data.targets import Target
from pipeline.training.metrics import METRICS, Metric, accuracy, general_loss, log_loss

ROWS = 300
TARGETS: dict[Task, Target] = {
    "multiclass": Target("multiclass", tuple("abcdef")),
    "binary": Target("binary", ("no", "yes")),
    "ordinal": Target("ordinal", ("0", "1", "2", "3", "4")),
    "multilabel": Target("multilabel", ("a", "b", "c"), may_be_empty=True),
    "regression": Target("regression", ("y",)),
}
MULTICLASS, BINARY, ORDINAL, MULTILABEL, NUMBER = TARGETS.values()
PAIRS = [(name, task) for name, tasks in METRIC_TASKS.items() for task in tasks]


def random_case(task: Task, seed: int = 0, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """Targets as `Target.numbers` gives them, and predictions that know nothing of them."""
    generator = np.random.default_rng(seed)
    outputs = len(TARGETS[task].classes)
    if task == "regression":
        return generator.gamma(2, 10, size=(rows, 1)).astype(np.float32), generator.gamma(2, 10, size=(rows, 1)).astype(np.float32)
    if task == "multilabel":
        return (generator.random((rows, outputs)) < [0.6, 0.3, 0.1]).astype(np.float32), generator.random((rows, outputs)).astype(np.float32)
    shares = generator.dirichlet(np.arange(1, outputs + 1))
    return generator.choice(outputs, p=shares, size=rows), generator.dirichlet(np.ones(outputs), size=rows).astype(np.float32)


def perfect(task: Task, targets: np.ndarray) -> np.ndarray:
    return targets if targets.ndim == 2 else np.eye(len(TARGETS[task].classes), dtype=np.float32)[targets]


def wrong(task: Task, targets: np.ndarray) -> np.ndarray:
    if task == "regression":
        return np.asarray(500 - 20 * targets)
    outputs = len(TARGETS[task].classes)
    if task == "ordinal":
        return np.eye(outputs, dtype=np.float32)[np.where(targets < outputs / 2, outputs - 1, 0)]
    if task == "multiclass":
        return np.float32(1 / (outputs - 1)) * (1 - perfect(task, targets))  # the true class is the last of all
    return 1 - targets if targets.ndim == 2 else np.eye(outputs, dtype=np.float32)[(targets + 1) % outputs]


def score(name: str, task: Task, targets: np.ndarray, values: np.ndarray) -> float:
    return METRICS[name](TARGETS[task], targets, values)


def test_config_tasks_and_program_know_the_same_metrics() -> None:
    assert list(METRICS) == list(METRIC_TASKS) == list(typing.get_args(MetricName))
    assert all(metric.name == name for name, metric in METRICS.items())


@pytest.mark.parametrize(("name", "task"), PAIRS)
class TestEveryMetric:
    def test_it_gives_a_finite_python_float(self, name: str, task: Task) -> None:
        found = score(name, task, *random_case(task))
        assert type(found) is float
        assert math.isfinite(found)

    def test_a_perfect_prediction_beats_a_random_one_which_beats_a_wrong_one(self, name: str, task: Task) -> None:
        targets, noise = random_case(task)
        scores = [METRICS[name].sign * score(name, task, targets, values) for values in (perfect(task, targets), noise, wrong(task, targets))]
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == 3

    def test_no_prediction_beats_a_perfect_one(self, name: str, task: Task) -> None:
        targets, _ = random_case(task)
        best = METRICS[name].sign * score(name, task, targets, perfect(task, targets))
        assert best == pytest.approx({1: 1.0, -1: 0.0}[METRICS[name].sign], abs=1e-12)
        for seed in range(5):
            assert METRICS[name].sign * score(name, task, targets, random_case(task, seed + 10)[1]) < best

    def test_rows_in_another_order_give_the_same_score(self, name: str, task: Task) -> None:
        targets, values = random_case(task)
        order = np.random.default_rng(1).permutation(ROWS)
        assert score(name, task, targets[order], values[order]) == pytest.approx(score(name, task, targets, values), abs=1e-12)

    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    def test_nothing_that_goes_in_is_changed(self, name: str, task: Task, kind: type) -> None:
        targets, values = random_case(task)
        values = values.astype(kind)
        before = targets.copy(), values.copy()
        score(name, task, targets, values)
        assert np.array_equal(targets, before[0])
        assert np.array_equal(values, before[1])

    def test_a_single_row_has_a_score_unless_it_is_of_ranks(self, name: str, task: Task) -> None:
        targets, values = random_case(task, rows=1)
        found = score(name, task, targets, values)
        assert math.isfinite(found) or (name in ("roc_auc", "average_precision") and math.isnan(found))

    def test_certainty_of_the_wrong_class_is_still_finite(self, name: str, task: Task) -> None:
        targets, _ = random_case(task)
        assert math.isfinite(score(name, task, targets, wrong(task, targets)))


@pytest.mark.parametrize(("name", "task"), [pair for pair in PAIRS if pair[1] in ("multiclass", "multilabel")])
def test_classes_in_another_order_give_the_same_score_where_they_have_none(name: str, task: Task) -> None:
    targets, values = random_case(task)
    order = np.random.default_rng(2).permutation(values.shape[1])
    shuffled = targets[:, order] if targets.ndim == 2 else np.argsort(order)[targets]
    assert score(name, task, shuffled, values[:, order]) == pytest.approx(score(name, task, targets, values), abs=1e-12)


@pytest.mark.parametrize("name", [name for name, metric in METRICS.items() if metric.needs == "labels"])
def test_a_metric_of_labels_does_not_see_how_sure_they_are(name: str) -> None:
    for task in METRIC_TASKS[name]:
        targets, values = random_case(task)
        decided = perfect(task, TARGETS[task].decide(values))
        assert score(name, task, targets, decided) == pytest.approx(score(name, task, targets, values))


@pytest.mark.parametrize(("name", "task"), [(name, task) for name, task in PAIRS if not METRICS[name].pooled])
def test_a_metric_of_ranks_does_not_see_the_values_themselves(name: str, task: Task) -> None:
    targets, values = random_case(task)
    assert score(name, task, targets, values.astype(np.float64) ** 3) == pytest.approx(score(name, task, targets, values))


# ---------------------------------------------------------------- against scikit-learn


def cases(*tasks: Task) -> Iterator[tuple[Task, np.ndarray, np.ndarray, np.ndarray]]:
    for task in tasks:
        for seed in range(3):
            targets, values = random_case(task, seed)
            yield task, targets, values, TARGETS[task].decide(values)


def test_accuracies_equal_those_of_scikit_learn() -> None:
    for task, targets, values, labels in cases("multiclass", "binary", "ordinal", "multilabel"):
        assert score("accuracy", task, targets, values) == pytest.approx(sklearn.metrics.accuracy_score(targets, labels))
    for task, targets, values, labels in cases("multiclass", "binary", "ordinal"):
        assert score("balanced_accuracy", task, targets, values) == pytest.approx(sklearn.metrics.balanced_accuracy_score(targets, labels))
        assert score("matthews_correlation", task, targets, values) == pytest.approx(sklearn.metrics.matthews_corrcoef(targets, labels))


@pytest.mark.parametrize("average", ["macro", "micro"])
def test_f1_equals_that_of_scikit_learn(average: str) -> None:
    for task, targets, values, labels in cases("multiclass", "binary", "ordinal", "multilabel"):
        assert score(f"{average}_f1", task, targets, values) == pytest.approx(sklearn.metrics.f1_score(targets, labels, average=average))


def test_log_loss_equals_that_of_scikit_learn() -> None:
    for task, targets, values, _ in cases("multiclass", "binary", "ordinal"):
        scaled = values.astype(np.float64) / values.sum(axis=1, keepdims=True, dtype=np.float64)
        expected = sklearn.metrics.log_loss(targets, scaled, labels=range(values.shape[1]))
        assert score("log_loss", task, targets, values) == pytest.approx(expected, abs=1e-9)
    for task, targets, values, _ in cases("multilabel"):
        columns = [sklearn.metrics.log_loss(targets[:, k], values[:, k].astype(np.float64)) for k in range(3)]
        assert score("log_loss", task, targets, values) == pytest.approx(np.mean(columns), abs=1e-6)


def test_roc_auc_equals_that_of_scikit_learn_with_and_without_ties() -> None:
    for digits in (7, 1):
        for task, targets, values, _ in cases("binary"):
            values = values.round(digits)
            assert score("roc_auc", task, targets, values) == pytest.approx(sklearn.metrics.roc_auc_score(targets, values[:, 1]))
        for task, targets, values, _ in cases("multilabel"):
            values = values.round(digits)
            assert score("roc_auc", task, targets, values) == pytest.approx(sklearn.metrics.roc_auc_score(targets, values))
        for task, targets, values, _ in cases("multiclass", "ordinal"):
            values = values.round(digits)
            one_hot = perfect(task, targets)
            assert score("roc_auc", task, targets, values) == pytest.approx(sklearn.metrics.roc_auc_score(one_hot, values, average="macro"))


def test_average_precision_equals_that_of_scikit_learn() -> None:
    for digits in (7, 1):
        for task, targets, values, _ in cases("binary"):
            expected = sklearn.metrics.average_precision_score(targets, values[:, 1].round(digits))
            assert score("average_precision", task, targets, values.round(digits)) == pytest.approx(expected)
        for task, targets, values, _ in cases("multilabel"):
            expected = sklearn.metrics.average_precision_score(targets, values.round(digits), average="macro")
            assert score("average_precision", task, targets, values.round(digits)) == pytest.approx(expected)


def test_quadratic_kappa_equals_cohens_with_quadratic_weights() -> None:
    for task, targets, values, labels in cases("ordinal"):
        expected = sklearn.metrics.cohen_kappa_score(targets, labels, weights="quadratic", labels=range(5))
        assert score("quadratic_kappa", task, targets, values) == pytest.approx(expected)


def test_top_accuracy_equals_that_of_scikit_learn() -> None:
    for task, targets, values, _ in cases("multiclass"):
        for k in (3, 5):
            expected = sklearn.metrics.top_k_accuracy_score(targets, values, k=k, labels=range(6))
            assert score(f"top_{k}_accuracy", task, targets, values) == pytest.approx(expected)


def published_probabilistic_f1(labels: list[int], predictions: list[float]) -> float:
    """As on the evaluation page of RSNA's breast cancer competition of 2022, with beta = 1, written out row by row."""
    positives, true_mass, false_mass = 0, 0.0, 0.0
    for label, prediction in zip(labels, predictions, strict=True):
        inside = min(max(prediction, 0), 1)
        positives += label
        true_mass, false_mass = (true_mass + inside, false_mass) if label else (true_mass, false_mass + inside)
    precision, recall = true_mass / (true_mass + false_mass), true_mass / positives
    return 2 * precision * recall / (precision + recall) if precision > 0 and recall > 0 else 0.0


def test_probabilistic_f1_is_the_published_one_and_of_certain_values_that_of_scikit_learn() -> None:
    for task, targets, values, labels in cases("binary"):
        expected = published_probabilistic_f1(targets.tolist(), values[:, 1].tolist())
        assert score("probabilistic_f1", task, targets, values) == pytest.approx(expected)
        assert score("probabilistic_f1", task, targets, perfect(task, labels)) == pytest.approx(sklearn.metrics.f1_score(targets, labels))


def test_errors_of_numbers_equal_those_of_scikit_learn() -> None:
    for task, targets, values, _ in cases("regression"):
        assert score("rmse", task, targets, values) == pytest.approx(sklearn.metrics.root_mean_squared_error(targets, values), rel=1e-6)
        assert score("mae", task, targets, values) == pytest.approx(sklearn.metrics.mean_absolute_error(targets, values), rel=1e-6)
        assert score("rmsle", task, targets, values) == pytest.approx(sklearn.metrics.root_mean_squared_log_error(targets, values), rel=1e-6)
        assert score("r2", task, targets, values) == pytest.approx(sklearn.metrics.r2_score(targets, values), rel=1e-6)


# ---------------------------------------------------------------- by hand


def metric(name: str) -> Metric:
    return METRICS[name]


def test_accuracy_is_the_share_of_right_rows() -> None:
    assert accuracy(np.array([0, 1, 2, 1]), np.array([0, 1, 1, 1])) == 0.75
    assert accuracy(np.array([[1, 0], [1, 1], [0, 0]]), np.array([[1, 0], [1, 0], [0, 0]])) == pytest.approx(2 / 3), "of several labels, all of them"


def test_balanced_accuracy_weighs_every_class_that_occurs_alike() -> None:
    assert METRICS["balanced_accuracy"].function(np.array([0, 0, 0, 0, 2]), np.array([0, 0, 0, 1, 2])) == pytest.approx((3 / 4 + 1) / 2)


def test_macro_f1_is_the_mean_over_classes_by_hand() -> None:
    # class 0: precision 1, recall 1/2, F1 2/3; class 1: precision 1/2, recall 1, F1 2/3; class 2: F1 1; class 3 is nowhere
    macro_f1 = METRICS["macro_f1"].function
    assert macro_f1(np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    assert macro_f1(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])) == pytest.approx((1 + 2 / 3 + 0) / 3), "only predicted counts as zero"


def test_samples_f1_is_the_mean_over_rows_and_none_for_none_is_right() -> None:
    targets = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]], dtype=np.float32)
    values = np.array([[0.9, 0.1, 0.9], [0.0, 0.0, 0.6], [0.1, 0.1, 0.1], [0.1, 0.1, 0.8]], dtype=np.float32)
    # row 0: one of two found, one of two right, 1/2; row 1: 1; row 2: none is asked for and none given, 1; row 3: 0
    assert metric("samples_f1")(MULTILABEL, targets, values) == pytest.approx((0.5 + 1 + 1 + 0) / 4)


def test_log_loss_by_hand() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]])
    assert log_loss(np.array([0, 1]), probabilities) == pytest.approx((math.log(2) - math.log(0.75)) / 2)
    cells = np.array([[0.5, 0.25]])
    assert log_loss(np.array([[1.0, 0.0]]), cells) == pytest.approx((math.log(2) - math.log(0.75)) / 2)


def test_log_loss_scales_rows_and_clips_zero() -> None:
    assert log_loss(np.array([0]), np.array([[2.0, 6.0]])) == pytest.approx(math.log(4))
    assert log_loss(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(15 * math.log(10))
    assert log_loss(np.array([[1.0]]), np.array([[0.0]])) == pytest.approx(15 * math.log(10))


def test_roc_auc_is_the_share_of_pairs_in_order_and_half_of_those_that_tie() -> None:
    targets = np.array([1, 1, 0, 0])
    values = np.array([0.9, 0.5, 0.5, 0.1])
    assert metric("roc_auc")(BINARY, targets, np.stack([1 - values, values], axis=1)) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert metric("roc_auc")(BINARY, targets, np.full((4, 2), 0.5)) == 0.5
    rows = np.random.default_rng(0).random((60, 2))
    marks = np.arange(60) % 3 == 0
    expected = scipy.stats.mannwhitneyu(rows[marks, 1], rows[~marks, 1]).statistic / (20 * 40)
    assert metric("roc_auc")(BINARY, marks.astype(int), rows) == pytest.approx(expected)


def test_columns_that_nobody_or_everybody_has_are_left_out_of_a_mean_of_columns() -> None:
    targets = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]], dtype=np.float32)
    values = np.array([[0.9, 0.1, 0.1], [0.1, 0.9, 0.9], [0.8, 0.5, 0.5]])
    for name in ("roc_auc", "average_precision"):
        assert metric(name)(MULTILABEL, targets, values) == 1.0
        assert math.isnan(metric(name)(MULTILABEL, np.ones((3, 3), dtype=np.float32), values))
    assert math.isnan(metric("roc_auc")(BINARY, np.zeros(3, dtype=int), values[:, :2]))


def test_kappa_of_one_and_the_same_grade_is_zero_and_of_opposites_is_minus_one() -> None:
    kappa = METRICS["quadratic_kappa"].function
    assert kappa(np.array([2, 2]), np.array([2, 2])) == 0.0
    assert kappa(np.array([0, 4, 0, 4]), np.array([4, 0, 4, 0])) == pytest.approx(-1.0)
    assert kappa(np.array([0, 1, 2]), np.array([0, 1, 1])) == pytest.approx(1 - (1 / 3) / (5 / 3 + 2 / 3 - 2 * 1 * 2 / 3))


def test_map_at_k_is_one_over_the_rank_of_the_truth_among_the_first_k() -> None:
    values = np.array([[0.4, 0.3, 0.1, 0.1, 0.06, 0.04]] * 5)
    targets = np.array([0, 1, 4, 5, 3])
    # ranks 1, 2, 5, 6 and, of the two that tie for the third place, the second: 4
    assert metric("map_at_5")(MULTICLASS, targets, values) == pytest.approx((1 + 1 / 2 + 1 / 5 + 0 + 1 / 4) / 5)
    assert metric("map_at_3")(MULTICLASS, targets, values) == pytest.approx((1 + 1 / 2) / 5)


def test_map_at_k_scores_the_list_that_a_submission_would_hold() -> None:
    targets, values = random_case("multiclass")
    values = values.round(1)  # many ties
    best = np.argsort(-values, axis=1, kind="stable")[:, :3]
    expected = np.mean([1 / (1 + list(row).index(truth)) if truth in row else 0.0 for row, truth in zip(best, targets, strict=True)])
    assert metric("map_at_3")(MULTICLASS, targets, values) == pytest.approx(expected)


def test_top_k_is_the_share_of_rows_with_the_truth_among_the_first_k() -> None:
    values = np.array([[0.4, 0.3, 0.1, 0.1, 0.06, 0.04]] * 5)
    targets = np.array([0, 2, 3, 4, 5])
    # ranks 1, 3 and, of the two that tie for the third place, the second: 4; then 5 and 6
    assert metric("top_3_accuracy")(MULTICLASS, targets, values) == pytest.approx(2 / 5)
    assert metric("top_5_accuracy")(MULTICLASS, targets, values) == pytest.approx(4 / 5)
    assert metric("top_5_accuracy")(Target("multiclass", ("a", "b", "c")), np.array([0, 2]), np.eye(3)[[1, 1]]) == 1.0, "fewer classes than k"


def test_probabilistic_f1_by_hand_and_zero_where_it_is_undefined() -> None:
    def of(targets: list[int], positive: list[float]) -> float:
        values = np.stack([1 - np.array(positive), np.array(positive)], axis=1)
        return metric("probabilistic_f1")(BINARY, np.array(targets), values)

    # of the mass 0.8 + 0.4 + 0.2 two positives hold 1.0: precision 1 / 1.4, recall 1 / 2
    assert of([1, 0, 1], [0.8, 0.4, 0.2]) == pytest.approx(2 * (1 / 1.4) * 0.5 / (1 / 1.4 + 0.5))
    assert of([0, 0], [0.3, 0.0]) == 0.0, "no positive row"
    assert of([1, 0], [0.0, 0.0]) == 0.0, "no positive prediction"
    assert of([0, 0], [0.0, 0.0]) == 0.0
    assert of([1, 0], [1.5, -0.5]) == 1.0, "clipped, as it is published"


ONE_HOT = np.eye(2)[[0, 1, 1, 1]]
CELLS = np.array([[1, 0], [0, 1], [1, 1]], dtype=np.float32)
KNOWN: dict[str, tuple[Target, np.ndarray, np.ndarray, float]] = {
    "accuracy": (BINARY, np.array([0, 0, 1, 1]), ONE_HOT, 3 / 4),
    "balanced_accuracy": (BINARY, np.array([0, 0, 0, 1]), ONE_HOT, (1 / 3 + 1) / 2),
    "macro_f1": (BINARY, np.array([0, 0, 1, 1]), ONE_HOT, (2 / 3 + 4 / 5) / 2),
    "micro_f1": (BINARY, np.array([0, 0, 1, 1]), ONE_HOT, 3 / 4),
    "samples_f1": (MULTILABEL, CELLS, np.array([[1.0, 0.0], [0.9, 0.9], [0.1, 0.8]]), (1 + 2 / 3 + 2 / 3) / 3),
    "log_loss": (BINARY, np.array([0, 1]), np.array([[0.5, 0.5], [0.75, 0.25]]), (math.log(2) + math.log(4)) / 2),
    "roc_auc": (BINARY, np.array([0, 1, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]), 3 / 4),
    "average_precision": (BINARY, np.array([0, 1, 0, 1]), np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]), (1 + 2 / 3) / 2),
    "quadratic_kappa": (ORDINAL, np.array([0, 1, 2]), np.eye(5)[[0, 1, 1]], 1 - (1 / 3) / 1),
    "matthews_correlation": (BINARY, np.array([0, 0, 1, 1]), ONE_HOT, (1 * 2 - 1 * 0) / math.sqrt(3 * 2 * 2 * 1)),
    "map_at_3": (MULTICLASS, np.array([0, 1, 3]), np.array([[0.4, 0.3, 0.2, 0.1, 0, 0]] * 3), (1 + 1 / 2 + 0) / 3),
    "map_at_5": (MULTICLASS, np.array([0, 1, 3]), np.array([[0.4, 0.3, 0.2, 0.1, 0, 0]] * 3), (1 + 1 / 2 + 1 / 4) / 3),
    "top_3_accuracy": (MULTICLASS, np.array([0, 1, 3]), np.array([[0.4, 0.3, 0.2, 0.1, 0, 0]] * 3), 2 / 3),
    "top_5_accuracy": (MULTICLASS, np.array([0, 1, 5]), np.array([[0.4, 0.3, 0.2, 0.1, 0, 0]] * 3), 2 / 3),
    "probabilistic_f1": (BINARY, np.array([0, 1]), np.array([[0.5, 0.5], [0.5, 0.5]]), 1 / 2),
    "rmse": (NUMBER, np.array([[1.0], [2.0]]), np.array([[1.0], [5.0]]), math.sqrt(9 / 2)),
    "mae": (NUMBER, np.array([[1.0], [2.0]]), np.array([[1.0], [5.0]]), 3 / 2),
    "rmsle": (NUMBER, np.array([[0.0], [1.0]]), np.array([[1.0], [1.0]]), math.log(2) / math.sqrt(2)),
    "r2": (NUMBER, np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]]), 1 - 1 / 2),
}


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_the_value_worked_out_by_hand(name: str) -> None:
    target, targets, values, expected = KNOWN[name]
    assert metric(name)(target, targets, values) == pytest.approx(expected)


def test_errors_of_numbers_by_hand() -> None:
    targets, values = np.array([[0.0], [3.0]], dtype=np.float32), np.array([[-4.0], [0.0]])
    assert metric("rmse")(NUMBER, targets, values) == pytest.approx(math.sqrt((16 + 9) / 2))
    assert metric("mae")(NUMBER, targets, values) == pytest.approx(3.5)
    assert metric("rmsle")(NUMBER, targets, values) == pytest.approx(math.log(4) / math.sqrt(2)), "below zero counts as zero"
    assert metric("r2")(NUMBER, targets, np.array([[1.5], [1.5]])) == pytest.approx(0.0)
    assert metric("r2")(NUMBER, np.ones((3, 1)), values[:1].repeat(3, axis=0)) == 0.0


def test_what_is_watched_beside_the_metric_is_log_loss_or_the_squared_error() -> None:
    for task in TARGETS:
        targets, values = random_case(task)
        expected = score("rmse", task, targets, values) ** 2 if task == "regression" else log_loss(targets, values)
        assert general_loss(task)(targets, values) == pytest.approx(expected)
