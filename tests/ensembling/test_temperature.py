"""Temperatures: known ones are found again, the most probable class stays, and no row has a part in its own."""

from collections.abc import Iterator
from functools import cache

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit, logit

from pipeline.config import Task
from pipeline.ensembling.temperature import cross_fitted_temperature, fit_temperature, with_temperature
from pipeline.training.metrics import log_loss

Values = npt.NDArray[np.float32]
TASKS: tuple[Task, ...] = ("multiclass", "binary", "multilabel")


@cache
def digits(task: Task) -> tuple[Values, npt.NDArray[np.int64]]:
    """Probabilities of logistic regressions on half of the digits, noisy ones so that they err, for the other half; and its truth."""
    from sklearn.datasets import load_digits
    from sklearn.linear_model import LogisticRegression

    pixels, digit = load_digits(return_X_y=True)
    noisy = (pixels + np.random.default_rng(0).normal(0, 6, size=pixels.shape)) / 16
    fit, rest = slice(0, None, 2), slice(1, None, 2)
    labels = {"multiclass": [digit], "binary": [digit % 2], "multilabel": [digit % 2, digit // 5, (digit == 8).astype(int)]}[task]
    found = [LogisticRegression(C=0.1).fit(noisy[fit], column[fit]).predict_proba(noisy[rest]).astype(np.float32) for column in labels]
    if task == "multilabel":
        return np.stack([part[:, 1] for part in found], axis=1), np.stack(labels, axis=1)[rest]
    return found[0], labels[0][rest]


def sharpened(values: Values, by: float, task: Task) -> Values:
    if task == "multilabel":
        return expit(by * logit(values.astype(np.float64))).astype(np.float32)
    powers = values.astype(np.float64) ** by
    return (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("task", TASKS)
class TestTemperature:
    def test_what_was_sharpened_three_times_has_three_times_the_temperature(self, task: Task) -> None:
        values, numbers = digits(task)
        own = fit_temperature(values, numbers, task)
        assert fit_temperature(sharpened(values, 3.0, task), numbers, task) == pytest.approx(3 * own, rel=1e-3)
        assert fit_temperature(sharpened(values, 0.5, task), numbers, task) == pytest.approx(0.5 * own, rel=1e-3)
        assert with_temperature(sharpened(values, 1.5, task), 1.5, task) == pytest.approx(values, abs=1e-5)

    def test_no_other_temperature_has_a_lower_log_loss(self, task: Task) -> None:
        values, numbers = digits(task)
        best = fit_temperature(values, numbers, task)
        lowest = log_loss(numbers, with_temperature(values, best, task))
        assert lowest <= min(log_loss(numbers, with_temperature(values, best * factor, task)) for factor in (0.9, 0.99, 1.01, 1.1))
        assert lowest <= log_loss(numbers, values)

    def test_the_most_probable_class_stays_and_rows_are_probabilities(self, task: Task) -> None:
        values, _ = digits(task)
        for temperature in (0.3, 3.0):
            changed = with_temperature(values, temperature, task)
            assert changed.dtype == np.float32
            assert np.array_equal(changed.argmax(axis=1), values.argmax(axis=1))
            assert np.array_equal(changed >= 0.5, values >= 0.5) if task == "multilabel" else np.abs(changed.sum(axis=1) - 1).max() < 1e-6
        assert np.array_equal(with_temperature(values, 1.0, task), values)

    def test_it_stays_within_bounds_and_leaves_few_rows_alone(self, task: Task) -> None:
        values, numbers = digits(task)
        perfect = numbers if task == "multilabel" else np.eye(values.shape[1], dtype=np.int64)[numbers]
        right = (0.9 * perfect + 0.05).astype(np.float32)
        right /= right.sum(axis=1, keepdims=True) if task != "multilabel" else 1
        assert 0.05 <= fit_temperature(right, numbers, task) < 0.1, "below, the loss is 0 to the last bit"
        assert 19 < fit_temperature((1 - right) / (1 if task == "multilabel" else values.shape[1] - 1), numbers, task) <= 20
        assert fit_temperature(right[:19], numbers[:19], task) == 1.0 != fit_temperature(right[:20], numbers[:20], task)
        uniform = np.full_like(values, 0.5 if task == "multilabel" else 1 / values.shape[1])
        assert fit_temperature(uniform, numbers, task) == 1.0, "where none gains"

    def test_certain_and_wrong_is_finite(self, task: Task) -> None:
        _, numbers = digits(task)
        certain = (1 - numbers if task == "multilabel" else np.eye(numbers.max() + 1)[(numbers + 1) % (numbers.max() + 1)]).astype(np.float32)
        changed = with_temperature(certain, fit_temperature(certain, numbers, task), task)
        assert np.isfinite(changed).all()
        assert log_loss(numbers, changed) < log_loss(numbers, certain)


class TestHalvesOfAFold:
    def halves(self, group: npt.NDArray[np.int64], seed: int = 0, fold: int = 0) -> Iterator[npt.NDArray[np.bool_]]:
        """By row, which rows' values change where its target does: each row alone is given to another class."""
        values, numbers = digits("multiclass")
        values, numbers = values[: len(group)], numbers[: len(group)]
        before = cross_fitted_temperature(values, numbers, group, "multiclass", seed, fold)
        for row in range(0, len(group), 7):
            changed = numbers.copy()
            changed[row] = values[row].argmin()
            yield (cross_fitted_temperature(values, changed, group, "multiclass", seed, fold) != before).any(axis=1)

    def test_no_row_and_no_copy_of_it_sees_its_own_target(self) -> None:
        group = np.arange(90) // 3
        for row, seen in zip(range(0, 90, 7), self.halves(group), strict=True):
            assert not seen[group == group[row]].any()
            assert 40 <= seen.sum() <= 50, "the other half does"

    def test_halves_depend_on_seed_and_fold_and_on_no_order_of_rows(self) -> None:
        group = np.arange(90)
        first = next(self.halves(group))
        assert not np.array_equal(first, next(self.halves(group, seed=1)))
        assert not np.array_equal(first, next(self.halves(group, fold=1)))
        values, numbers = digits("multiclass")
        values, numbers, order = values[:90], numbers[:90], np.random.default_rng(0).permutation(90)
        shuffled = cross_fitted_temperature(values[order], numbers[order], group[order], "multiclass", 0, 0)
        assert shuffled == pytest.approx(cross_fitted_temperature(values, numbers, group, "multiclass", 0, 0)[order], abs=1e-6)

    def test_it_mends_a_sharpened_network_nearly_as_well_as_its_own_rows_would(self) -> None:
        values, numbers = digits("multiclass")
        sharp = sharpened(values, 3.0, "multiclass")
        mended = cross_fitted_temperature(sharp, numbers, np.arange(len(sharp)), "multiclass", 0, 0)
        own = with_temperature(sharp, fit_temperature(sharp, numbers, "multiclass"), "multiclass")
        assert log_loss(numbers, own) <= log_loss(numbers, mended) < log_loss(numbers, own) + 0.02
        assert log_loss(numbers, mended) < log_loss(numbers, sharp) - 0.1

    def test_a_fold_that_is_one_group_or_small_stays_as_it_is(self) -> None:
        values, numbers = digits("multiclass")
        for rows, group in ((100, np.zeros(100, dtype=np.int64)), (38, np.arange(38))):
            found = cross_fitted_temperature(values[:rows], numbers[:rows], group, "multiclass", 0, 0)
            assert np.array_equal(found, values[:rows])
