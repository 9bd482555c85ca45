import math

import numpy as np
import pytest
import sklearn.metrics

from pipeline.config import Competition
from pipeline.training.metrics import METRICS, accuracy, log_loss, macro_f1

ROWS, CLASSES = 300, 4


def random_case(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    targets = generator.choice(CLASSES, p=[0.55, 0.3, 0.1, 0.05], size=ROWS)
    return targets, generator.dirichlet(np.ones(CLASSES), size=ROWS).astype(np.float32)


@pytest.mark.parametrize("name", METRICS)
class TestEveryMetric:
    def test_it_gives_a_finite_python_float(self, name: str) -> None:
        score = METRICS[name](*random_case())
        assert type(score) is float
        assert math.isfinite(score)

    def test_a_perfect_prediction_beats_a_random_one_which_beats_a_wrong_one(self, name: str) -> None:
        metric = METRICS[name]
        targets, noise = random_case()
        perfect = np.eye(CLASSES, dtype=np.float32)[targets]
        wrong = np.eye(CLASSES, dtype=np.float32)[(targets + 1) % CLASSES]
        scores = [metric.sign * metric(targets, probabilities) for probabilities in (perfect, noise, wrong)]
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) == 3

    def test_rows_in_another_order_give_the_same_score(self, name: str) -> None:
        targets, probabilities = random_case()
        order = np.random.default_rng(1).permutation(ROWS)
        assert METRICS[name](targets[order], probabilities[order]) == pytest.approx(METRICS[name](targets, probabilities), abs=1e-12)

    def test_classes_in_another_order_give_the_same_score(self, name: str) -> None:
        targets, probabilities = random_case()
        order = np.array([2, 0, 3, 1])
        assert METRICS[name](np.argsort(order)[targets], probabilities[:, order]) == pytest.approx(METRICS[name](targets, probabilities), abs=1e-12)

    @pytest.mark.parametrize("kind", [np.float32, np.float64])
    def test_nothing_that_goes_in_is_changed(self, name: str, kind: type) -> None:
        targets, probabilities = random_case()
        probabilities = 2 * probabilities.astype(kind)
        before = targets.copy(), probabilities.copy()
        METRICS[name](targets, probabilities)
        assert np.array_equal(targets, before[0])
        assert np.array_equal(probabilities, before[1])

    def test_a_single_row_has_a_score(self, name: str) -> None:
        assert math.isfinite(METRICS[name](np.array([1]), np.array([[0.2, 0.5, 0.3]], dtype=np.float32)))

    def test_certainty_of_the_wrong_class_is_still_finite(self, name: str) -> None:
        assert math.isfinite(METRICS[name](np.array([0, 1]), np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)))


def test_a_config_offers_exactly_the_registered_metrics() -> None:
    offered = Competition.model_json_schema()["properties"]["metric"]["enum"]
    assert sorted(offered) == sorted(METRICS)


def test_accuracy_is_the_share_of_right_labels() -> None:
    assert accuracy(np.array([0, 1, 2, 1]), np.array([0, 1, 1, 1])) == 0.75


def test_macro_f1_is_the_mean_over_classes_by_hand() -> None:
    # class 0: precision 1, recall 1/2, F1 2/3; class 1: precision 1/2, recall 1, F1 2/3; class 2: F1 1; class 3 is nowhere
    targets, labels = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    assert macro_f1(targets, labels) == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)


def test_macro_f1_counts_a_class_that_is_only_predicted_as_zero() -> None:
    assert macro_f1(np.array([0, 0, 1, 1]), np.array([0, 0, 1, 2])) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_log_loss_by_hand() -> None:
    probabilities = np.array([[0.5, 0.5], [0.25, 0.75]])
    assert log_loss(np.array([0, 1]), probabilities) == pytest.approx((math.log(2) - math.log(0.75)) / 2)


def test_log_loss_scales_rows_and_clips_zero() -> None:
    assert log_loss(np.array([0]), np.array([[2.0, 6.0]])) == pytest.approx(math.log(4))
    assert log_loss(np.array([0]), np.array([[0.0, 1.0]])) == pytest.approx(15 * math.log(10))


@pytest.mark.parametrize("seed", range(3))
def test_scores_equal_those_of_scikit_learn(seed: int) -> None:
    targets, probabilities = random_case(seed)
    labels = probabilities.argmax(axis=1)
    assert METRICS["accuracy"](targets, probabilities) == pytest.approx(sklearn.metrics.accuracy_score(targets, labels))
    assert METRICS["macro_f1"](targets, probabilities) == pytest.approx(sklearn.metrics.f1_score(targets, labels, average="macro"))
    scaled = probabilities.astype(np.float64) / probabilities.sum(axis=1, keepdims=True, dtype=np.float64)
    assert METRICS["log_loss"](targets, probabilities) == pytest.approx(sklearn.metrics.log_loss(targets, scaled, labels=range(CLASSES)), abs=1e-9)
