"""Every metric's weighted form against the metric on repeated rows; and intervals that are known by other means."""

import math
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config import METRIC_TASKS, Task
from pipeline.data.targets import Numbers, Target
from pipeline.ensembling.bootstrap import Resampler, interval, share_better
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.weighted import FROM_TALLY, WEIGHTED, weighted
from pipeline.training.metrics import METRICS

TARGETS: dict[Task, Target] = {
    "multiclass": Target("multiclass", tuple("abcdef")),
    "binary": Target("binary", ("no", "yes")),
    "ordinal": Target("ordinal", ("0", "1", "2", "3", "4")),
    "multilabel": Target("multilabel", ("a", "b", "c"), may_be_empty=True),
    "regression": Target("regression", ("y",)),
}
PAIRS = [(name, task) for name, tasks in METRIC_TASKS.items() for task in tasks]


def random_problem(name: str, task: Task, rows: int, seed: int = 0) -> tuple[Problem, Numbers]:
    """Targets and predictions that know a little of them, in coarse steps so that many tie, with three folds and groups of up to four."""
    generator = np.random.default_rng(seed)
    outputs = len(TARGETS[task].classes)
    numbers: Numbers
    if task == "regression":
        numbers = generator.gamma(2, 10, size=(rows, 1)).astype(np.float32)
        values = (numbers + generator.normal(0, 10, size=(rows, 1))).astype(np.float32)
    elif task == "multilabel":
        numbers = (generator.random((rows, outputs)) < [0.6, 0.3, 0.05]).astype(np.float32)
        values = (0.3 * numbers + 0.7 * generator.random((rows, outputs))).round(1).astype(np.float32)
    else:
        numbers = generator.choice(outputs, p=np.arange(1, outputs + 1) / np.arange(1, outputs + 1).sum(), size=rows)
        values = (0.3 * np.eye(outputs)[numbers] + 0.7 * generator.dirichlet(np.ones(outputs), size=rows)).round(1).astype(np.float32) + np.float32(0.01)
    group = np.sort(generator.integers(rows // 2, size=rows))
    return Problem(TARGETS[task], numbers, (group % 3).astype(np.int16), group, METRICS[name]), values


def test_every_metric_has_a_form_of_its_own() -> None:
    assert list(WEIGHTED) == list(METRICS)
    assert {name for name, metric in METRICS.items() if metric.needs == "labels"} == {*FROM_TALLY, "samples_f1"}


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")  # scikit-learn's, of a draw with one class
@pytest.mark.parametrize(("name", "task"), PAIRS)
class TestEveryMetric:
    @pytest.mark.parametrize("rows", [4, 60])  # of four rows many draws have one class, or no positive
    def test_rows_with_counts_are_repeated_rows(self, name: str, task: Task, rows: int) -> None:
        for seed in range(2):
            problem, values = random_problem(name, task, rows, seed)
            scored = problem.scored(values)
            counts = np.random.default_rng(seed).poisson(1, size=(12, rows)).astype(np.uint8)
            counts[:, -1] += counts.sum(axis=1) == 0
            repeated = [np.repeat(np.arange(rows), drawn) for drawn in counts]
            expected = [METRICS[name].function(problem.numbers[drawn], scored[drawn]) for drawn in repeated]
            assert weighted(name, problem.numbers, scored)(counts) == pytest.approx(expected, abs=1e-9, nan_ok=True)

    def test_what_is_right_in_every_row_and_wrong_in_every_row_counts_too(self, name: str, task: Task) -> None:
        problem, _ = random_problem(name, task, 20)
        outputs = len(TARGETS[task].classes)
        perfect = problem.numbers if problem.numbers.ndim == 2 else np.eye(outputs, dtype=np.float32)[problem.numbers]
        empty = np.zeros_like(perfect) if perfect.shape[1] != outputs or task in ("multilabel", "regression") else np.eye(outputs)[[0] * 20]
        counts = np.eye(20, dtype=np.uint8) * 3 + np.eye(20, k=1, dtype=np.uint8)
        for values in (perfect, empty):
            scored = problem.scored(values)
            repeated = [np.repeat(np.arange(20), drawn) for drawn in counts]
            expected = [METRICS[name].function(problem.numbers[drawn], scored[drawn]) for drawn in repeated]
            assert weighted(name, problem.numbers, scored)(counts) == pytest.approx(expected, abs=1e-9, nan_ok=True)

    def test_the_same_rows_in_another_order_have_the_same_draws(self, name: str, task: Task) -> None:
        problem, values = random_problem(name, task, 60)
        order = np.random.default_rng(1).permutation(60)
        shuffled = problem.take(order)
        expected = Resampler(problem, 50, 7)(problem.scored(values))
        assert Resampler(shuffled, 50, 7)(shuffled.scored(values[order])) == pytest.approx(expected, abs=1e-9, nan_ok=True)

    def test_a_metric_without_a_form_is_scored_on_repeated_rows(self, name: str, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
        problem, values = random_problem(name, task, 30)
        expected = Resampler(problem, 5, 0)(problem.scored(values))
        monkeypatch.delitem(WEIGHTED, name)
        assert Resampler(problem, 5, 0)(problem.scored(values)) == pytest.approx(expected, abs=1e-9, nan_ok=True)


def coin(rows: int, share: float, group: npt.NDArray[np.int64] | None = None) -> tuple[Problem, npt.NDArray[np.int64]]:
    """Rows of class 0, and labels that are right in that share of them."""
    numbers = np.zeros(rows, dtype=np.int64)
    groups = np.arange(rows) if group is None else group
    labels = (np.arange(rows) >= share * rows).astype(np.int64)
    return Problem(TARGETS["binary"], numbers, np.zeros(rows, dtype=np.int16), groups, METRICS["accuracy"]), labels


def test_the_interval_of_an_accuracy_is_that_of_its_binomial_standard_error() -> None:
    problem, labels = coin(1000, 0.8)
    samples = Resampler(problem, 4000, 0)(labels)
    error = math.sqrt(0.8 * 0.2 / 1000)
    assert samples.std() == pytest.approx(error, rel=0.05)
    assert interval(samples) == pytest.approx((0.8 - 1.96 * error, 0.8 + 1.96 * error), abs=0.15 * error)
    assert np.diff(interval(samples, 0.5))[0] == pytest.approx(2 * 0.6745 * error, rel=0.1)


def test_copies_drawn_together_make_the_interval_as_wide_as_that_of_the_pictures() -> None:
    copies = np.arange(1000) // 4
    apart, labels = coin(1000, 0.8)
    together, _ = coin(1000, 0.8, copies)
    alone, labels_of_pictures = coin(250, 0.8)
    spread = [Resampler(problem, 3000, 0)(given).std() for problem, given in ((apart, labels), (together, labels), (alone, labels_of_pictures))]
    assert spread[1] / spread[0] == pytest.approx(2.0, rel=0.08)
    assert spread[1] / spread[2] == pytest.approx(1.0, rel=0.08)


def test_draws_are_paired() -> None:
    problem, values = random_problem("log_loss", "multiclass", 200)
    resampled = Resampler(problem, 300, 0)
    once, again = resampled(values), resampled(values)
    assert np.array_equal(once, again)
    assert share_better(once, again, -1) == share_better(once, again, 1) == 0.0
    better = np.where(np.eye(6)[problem.numbers] == 1, values * 1.001, values).astype(np.float32)  # by less than the draws differ
    assert np.ptp(once) > 10 * abs(np.mean(resampled(better) - once))
    assert share_better(resampled(better), once, -1) == 1.0
    assert share_better(resampled(better), once, 1) == 0.0
    assert not np.array_equal(Resampler(problem, 300, 1)(values), once), "another seed, other draws"


def test_draws_without_a_score_are_no_win_and_widen_no_interval() -> None:
    samples, other = np.array([0.1, np.nan, 0.3, 0.2]), np.array([0.0, 0.0, np.nan, 0.2])
    assert share_better(samples, other, 1) == 0.25
    assert interval(samples, 0.9999) == pytest.approx((0.1, 0.3), abs=1e-4)
    assert all(math.isnan(bound) for bound in interval(np.full(3, np.nan)))


def test_rows_of_two_folds_are_never_ranked_together() -> None:
    """Each fold ranks its rows well, but the second gives all of them less: pooled, the area would be lower."""
    fold = np.repeat(np.array([0, 1], dtype=np.int16), 100)
    numbers = np.tile([0, 1], 100)
    positive = (np.where(fold == 0, 0.6, 0.0) + 0.3 * numbers).astype(np.float32)
    problem = Problem(TARGETS["binary"], numbers, fold, np.arange(200), METRICS["roc_auc"])
    values = np.stack([1 - positive, positive], axis=1)
    assert (Resampler(problem, 50, 0)(values) == 1.0).all()
    pooled = replace(problem, metric=replace(METRICS["roc_auc"], pooled=True))
    assert (Resampler(pooled, 50, 0)(values) < 0.9).all()


def test_a_fold_without_a_score_in_a_draw_is_left_out_of_its_mean() -> None:
    fold = np.array([0, 0, 0, 0, 1, 1, 1, 1], dtype=np.int16)
    numbers = np.array([0, 1, 0, 1, 0, 0, 0, 0])  # the second fold has no positive row at all
    positive = np.array([0.2, 0.1, 0.3, 0.9, 0, 0, 0, 0], dtype=np.float32)
    values = np.stack([1 - positive, positive], axis=1)
    problem = Problem(TARGETS["binary"], numbers, fold, np.arange(8), METRICS["roc_auc"])
    samples = Resampler(problem, 200, 0)(values)
    first = problem.take(np.arange(4))
    drawn = Resampler(problem, 200, 0)._counts[:, :4]
    assert samples == pytest.approx(weighted("roc_auc", first.numbers, values[:4])(drawn), nan_ok=True)
    assert 0 < np.isnan(samples).mean() < 0.5
