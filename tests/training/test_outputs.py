"""Logits to predictions and targets to what training wants, for every task."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config import Task
from pipeline.training.outputs import Outputs, soft_targets

PRICES = np.array([[10.0], [20.0], [60.0]], dtype=np.float32)


def logits(outputs: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(7, outputs, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("task", ["multiclass", "binary", "ordinal"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_of_one_class_probabilities_sum_to_one(task: Task, scale: float) -> None:
    values = Outputs.of(task, np.array([0, 1])).predict(logits(4, scale))
    assert values.dtype == torch.float64
    assert ((values >= 0) & (values <= 1)).all()
    assert torch.allclose(values.sum(dim=1), torch.ones(7, dtype=torch.float64))
    assert torch.equal(values.argmax(dim=1), logits(4, scale).argmax(dim=1))


def test_of_several_labels_each_has_a_probability_of_its_own() -> None:
    values = Outputs.of("multilabel", np.zeros((2, 3))).predict(torch.tensor([[0.0, 100.0, -100.0]]))
    assert values.flatten().tolist() == pytest.approx([0.5, 1.0, 0.0])
    assert torch.allclose(Outputs("multilabel").predict(logits(3)), torch.sigmoid(logits(3).double()))


def test_a_number_is_in_the_unit_of_its_target() -> None:
    outputs = Outputs.of("regression", PRICES)
    assert (outputs.mean, outputs.lowest, outputs.highest) == (30.0, 10.0, 60.0)
    assert outputs.std == pytest.approx(PRICES.std())
    assert outputs.predict(torch.zeros(1, 1)).item() == pytest.approx(30.0)
    assert outputs.predict(torch.full((1, 1), 0.5)).item() == pytest.approx(30 + 0.5 * float(PRICES.std()))


def test_a_number_stays_within_what_was_learned() -> None:
    outputs = Outputs.of("regression", PRICES)
    assert outputs.predict(torch.tensor([[-9.0], [9.0]])).flatten().tolist() == [10.0, 60.0]


def test_training_wants_numbers_of_mean_zero_and_deviation_one() -> None:
    learned = Outputs.of("regression", PRICES).learn(PRICES)
    assert learned.dtype == torch.float32
    assert learned.shape == (3, 1)
    assert float(learned.mean()) == pytest.approx(0, abs=1e-6)
    assert float(learned.std(correction=0)) == pytest.approx(1)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30))
def test_what_is_learned_is_predicted_again(values: list[float]) -> None:
    targets = np.array(values, dtype=np.float32).reshape(-1, 1)
    outputs = Outputs.of("regression", targets)
    found = outputs.predict(outputs.learn(targets)).numpy()
    assert np.abs(found - targets).max() <= 1e-5 * max(1.0, float(np.abs(targets).max()))


class TestLogarithm:
    OUTPUTS = Outputs.of("regression", PRICES, logarithm=True)

    def test_the_network_learns_logarithms_of_mean_zero_and_deviation_one(self) -> None:
        learned = self.OUTPUTS.learn(PRICES)
        assert learned.dtype == torch.float32
        expected = (np.log1p(PRICES) - np.log1p(PRICES).mean()) / np.log1p(PRICES).std()
        assert learned.numpy() == pytest.approx(expected, abs=1e-5)

    def test_the_prediction_is_in_the_unit_of_the_target(self) -> None:
        middle = float(np.expm1(np.log1p(PRICES.astype(np.float64)).mean()))
        assert self.OUTPUTS.predict(torch.zeros(1, 1)).item() == pytest.approx(middle)

    def test_no_logit_leaves_the_range_of_what_was_learned(self) -> None:
        assert self.OUTPUTS.predict(torch.tensor([[-1e4], [-9.0], [9.0], [1e4]])).flatten().tolist() == [10.0, 10.0, 60.0, 60.0]

    def test_the_squared_error_that_is_trained_on_is_that_of_the_metric_rmsle(self) -> None:
        from pipeline.training.metrics import rmsle

        given = torch.tensor([[-0.5], [0.2], [0.8]])
        squared = ((given - self.OUTPUTS.learn(PRICES)) ** 2).mean()
        assert self.OUTPUTS.std * float(squared) ** 0.5 == pytest.approx(rmsle(PRICES, self.OUTPUTS.predict(given).numpy()), rel=1e-5)

    def test_classes_have_none(self) -> None:
        assert Outputs.of("multiclass", np.array([0, 1]), logarithm=True) == Outputs("multiclass")


@given(st.lists(st.floats(-0.5, 1e6, width=32), min_size=1, max_size=30))
def test_what_is_learned_as_a_logarithm_is_predicted_again(values: list[float]) -> None:
    targets = np.array(values, dtype=np.float32).reshape(-1, 1)
    outputs = Outputs.of("regression", targets, logarithm=True)
    found = outputs.predict(outputs.learn(targets)).numpy()
    assert (np.abs(found - targets) <= 1e-5 * (1 + np.abs(targets))).all()


def test_targets_that_do_not_vary_are_learned_without_a_division_by_zero() -> None:
    targets = np.full((4, 1), 7.0, dtype=np.float32)
    outputs = Outputs.of("regression", targets)
    assert outputs.learn(targets).flatten().tolist() == [0.0] * 4
    assert outputs.predict(torch.tensor([[0.3]])).item() == 7.0


@pytest.mark.parametrize("logarithm", [False, True])
def test_targets_that_differ_by_less_than_their_precision_are_learned_too(logarithm: bool) -> None:
    targets = np.array([[0.0], [1e-45]], dtype=np.float32)
    assert torch.isfinite(Outputs.of("regression", targets, logarithm).learn(targets)).all()


def test_classes_and_labels_are_learned_as_they_are() -> None:
    numbers = np.array([2, 0, 1])
    assert Outputs.of("multiclass", numbers).learn(numbers).tolist() == [2, 0, 1]
    labels = np.array([[1, 0], [1, 1]], dtype=np.float32)
    assert Outputs.of("multilabel", labels).learn(labels).tolist() == labels.tolist()


def test_soft_targets_are_floats_with_a_column_per_output() -> None:
    assert soft_targets(torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]
    labels = torch.tensor([[1, 0, 1]])
    assert soft_targets(labels, 3).dtype == torch.float32
    assert soft_targets(labels, 3).tolist() == [[1, 0, 1]]
    assert soft_targets(torch.tensor([[0.25]]), 1).tolist() == [[0.25]]
