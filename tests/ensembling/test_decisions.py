"""Fitted cut points and thresholds against brute force, on digits, and on labels by lot, where nothing can be won honestly."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from itertools import combinations_with_replacement

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.config import METRIC_TASKS, Task
from pipeline.data.targets import Target
from pipeline.ensembling.decisions import cross_fitted_decision, decides, fit_decision
from pipeline.ensembling.problem import Problem
from pipeline.training.metrics import METRICS

Values = npt.NDArray[np.float32]
BINARY = ("accuracy", "balanced_accuracy", "macro_f1", "micro_f1", "matthews_correlation")
ORDINAL = ("quadratic_kappa", *BINARY)
MULTILABEL = ("macro_f1", "micro_f1", "samples_f1", "accuracy")
TASKS: dict[Task, tuple[str, ...]] = {"binary": BINARY, "ordinal": ORDINAL, "multilabel": MULTILABEL}
FITTED: list[tuple[Task, str]] = [(task, name) for task, names in TASKS.items() for name in names]


def made(task: Task, name: str, rows: int, seed: int = 0, may_be_empty: bool = True, outputs: int = 3) -> tuple[Problem, Values]:
    """Rare labels and low grades, predicted too timidly for the default, in coarse steps so that some tie."""
    generator = np.random.default_rng(seed)
    fold = (np.arange(rows) % 4).astype(np.int16)
    values: npt.NDArray[np.float64]
    if task == "multilabel":
        numbers = (generator.random((rows, outputs)) < np.linspace(0.1, 0.4, outputs)).astype(np.float32)
        values = 1 / (1 + np.exp(1.5 - 2 * numbers - generator.normal(size=(rows, outputs)) + np.arange(outputs) / 2))
        target = Target(task, tuple(map(str, range(outputs))), may_be_empty)
    else:
        classes = 2 if task == "binary" else outputs
        shares = 0.45 ** np.arange(classes)
        numbers = generator.choice(classes, p=shares / shares.sum(), size=rows)
        odds = np.exp(np.eye(classes)[numbers] + np.log(shares) + 0.7 * generator.normal(size=(rows, classes)))
        values = odds / odds.sum(axis=1, keepdims=True)
        target = Target(task, tuple(map(str, range(classes))))
    return Problem(target, numbers, fold, np.arange(rows), METRICS[name]), values.round(2).astype(np.float32)


def scored(problem: Problem, target: Target, values: Values) -> float:
    return replace(problem, target=target).score(values)


@pytest.mark.parametrize("task", ["multiclass", "binary", "ordinal", "multilabel", "regression"])
def test_fitted_is_what_wants_labels_and_has_a_bound_to_move(task: Task) -> None:
    for name, tasks in METRIC_TASKS.items():
        if task in tasks:
            target = Target(task, ("a", "b"))
            problem = Problem(target, np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int16), np.zeros(1, dtype=np.int64), METRICS[name])
            assert decides(problem) == ((task, name) in FITTED), (task, name)


# ---------------------------------------------------------------- against brute force


def bounds_between(values: npt.NDArray[np.floating]) -> list[float]:
    """One below, one between each two different values, and one above."""
    different = np.unique(values.astype(np.float64))
    return [different[0] - 0.01, *(different[1:] + different[:-1]) / 2, different[-1] + 0.01]


@pytest.mark.parametrize("name", BINARY)
def test_no_threshold_of_the_positive_class_is_better(name: str) -> None:
    for seed in range(2):
        problem, values = made("binary", name, 200, seed)
        best = max(scored(problem, replace(problem.target, thresholds=(bound,)), values) for bound in bounds_between(values[:, 1]))
        assert scored(problem, fit_decision(values, problem), values) == pytest.approx(best)


def test_no_threshold_of_any_label_has_a_better_f1() -> None:
    problem, values = made("multilabel", "macro_f1", 200)
    fitted = fit_decision(values, problem)
    assert fitted.thresholds is not None
    for label in range(3):
        others = [(*fitted.thresholds[:label], bound, *fitted.thresholds[label + 1 :]) for bound in bounds_between(values[:, label])]
        assert scored(problem, fitted, values) >= max(scored(problem, replace(fitted, thresholds=tried), values) for tried in others) - 1e-12


@pytest.mark.parametrize("may_be_empty", [True, False])
@pytest.mark.parametrize("name", ["micro_f1", "samples_f1", "accuracy"])
def test_no_common_threshold_is_better(name: str, may_be_empty: bool) -> None:
    for seed in range(2):
        problem, values = made("multilabel", name, 200, seed, may_be_empty)
        problem.numbers[0] = 0  # a row without labels, whatever the others are
        tried = [replace(problem.target, thresholds=(bound,) * 3) for bound in bounds_between(values)]
        best = max(scored(problem, target, values) for target in tried)
        assert scored(problem, fit_decision(values, problem), values) == pytest.approx(best)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "rows"), [("quadratic_kappa", 40), ("balanced_accuracy", 40), ("macro_f1", 14)])
def test_cut_points_are_as_good_as_the_best_of_all_pairs(name: str, rows: int) -> None:
    """One cut point at a time can stop short of the best pair: seldom, and not far from it."""
    gaps = []
    for seed in range(5):
        problem, values = made("ordinal", name, rows, seed)
        pairs = combinations_with_replacement(bounds_between(problem.target.expected_grade(values)), 2)
        best = max(scored(problem, replace(problem.target, cut_points=pair), values) for pair in pairs)
        gaps.append(best - scored(problem, fit_decision(values, problem), values))
    assert min(gaps) > -1e-9
    assert np.median(gaps) < 1e-9
    assert max(gaps) < 0.04


@pytest.mark.parametrize("name", ORDINAL)
def test_no_cut_point_is_better_moved_alone(name: str) -> None:
    problem, values = made("ordinal", name, 60, outputs=5)
    fitted = fit_decision(values, problem)
    assert fitted.cut_points is not None
    best = scored(problem, fitted, values)
    for number in range(4):
        moved = [(*fitted.cut_points[:number], bound, *fitted.cut_points[number + 1 :]) for bound in bounds_between(problem.target.expected_grade(values))]
        assert max(scored(problem, replace(fitted, cut_points=cuts), values) for cuts in moved if list(cuts) == sorted(cuts)) <= best + 1e-9


@pytest.mark.filterwarnings("ignore:A single label was found:UserWarning")
@pytest.mark.parametrize(("task", "name"), FITTED)
@pytest.mark.parametrize("rows", [3, 60])
def test_fitted_is_never_worse_than_the_default_on_its_own_rows(task: Task, name: str, rows: int) -> None:
    for seed in range(5):
        for may_be_empty in (True, False):
            problem, values = made(task, name, rows, seed, may_be_empty)
            assert scored(problem, fit_decision(values, problem), values) >= problem.score(values) - 1e-9


@pytest.mark.parametrize(("task", "name"), FITTED)
def test_the_order_of_rows_changes_no_bound(task: Task, name: str) -> None:
    problem, values = made(task, name, 150)
    order = np.random.default_rng(1).permutation(150)
    assert fit_decision(values[order], problem.take(order)) == fit_decision(values, problem)


# ---------------------------------------------------------------- where a bound lies


def test_a_threshold_lies_half_way_between_the_values_that_it_parts() -> None:
    positive = np.array([0.1, 0.2, 0.3, 0.4], dtype=np.float32)
    problem = Problem(Target("binary", ("no", "yes")), np.array([0, 0, 1, 1]), np.zeros(4, dtype=np.int16), np.arange(4), METRICS["accuracy"])
    assert fit_decision(np.stack([1 - positive, positive], axis=1), problem).thresholds == pytest.approx((0.25,))
    apart = positive + np.array([0, 0, 0.4, 0.4], dtype=np.float32)
    assert fit_decision(np.stack([1 - apart, apart], axis=1), problem).thresholds == (0.5,), "not moved for nothing"


def test_cut_points_lie_half_way_between_the_grades_that_they_part() -> None:
    grades = np.array([0.1, 0.2, 0.9, 1.0, 1.3, 1.4])
    values = np.stack([np.maximum(1 - grades, 0), 1 - np.abs(1 - grades), np.maximum(grades - 1, 0)], axis=1).astype(np.float32)
    problem = Problem(Target("ordinal", ("0", "1", "2")), np.array([0, 0, 1, 1, 2, 2]), np.zeros(6, dtype=np.int16), np.arange(6), METRICS["quadratic_kappa"])
    assert fit_decision(values, problem).cut_points == pytest.approx((0.5, 1.15))


def test_neighbours_in_single_precision_are_parted() -> None:
    above = np.nextafter(np.float32(0.7), np.float32(1))
    for low in (np.float32(0.7), above):  # half way between them rounds down from the one and up from the other
        positive = np.array([low, np.nextafter(low, np.float32(1))] * 20, dtype=np.float32)
        problem = Problem(Target("binary", ("no", "yes")), np.tile([0, 1], 20), np.zeros(40, dtype=np.int16), np.arange(40), METRICS["accuracy"])
        values = np.stack([1 - positive, positive], axis=1)
        assert scored(problem, fit_decision(values, problem), values) == 1.0


def test_a_class_that_nothing_finds_can_be_given_to_nobody() -> None:
    positive = np.ones(10, dtype=np.float32)
    problem = Problem(Target("binary", ("no", "yes")), np.zeros(10, dtype=np.int64), np.zeros(10, dtype=np.int16), np.arange(10), METRICS["accuracy"])
    values = np.stack([1 - positive, positive], axis=1)
    assert scored(problem, fit_decision(values, problem), values) == 1.0
    grades = Problem(Target("ordinal", ("0", "1")), problem.numbers, problem.fold, problem.group, METRICS["accuracy"])
    assert scored(grades, fit_decision(values, grades), values) == 1.0


# ---------------------------------------------------------------- cross-fitted


@cache
def read_digits(task: Task) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Digits blurred by noise, so that a linear model errs; skewed grades, a rare class, or four labels of a digit."""
    from sklearn.datasets import load_digits

    pixels, digit = load_digits(return_X_y=True)
    noisy = (pixels + np.random.default_rng(0).normal(0, 8, size=pixels.shape)) / 16
    if task == "ordinal":
        return noisy, np.searchsorted([5, 7, 8, 9], digit, side="right")  # half of the rows are of the lowest grade
    if task == "binary":
        return noisy, np.asarray(digit == 8, dtype=np.int64)
    return noisy, np.stack([digit == 8, np.isin(digit, [1, 9]), digit % 2 == 0, np.isin(digit, [4])], axis=1).astype(np.int64)


@cache
def digits_case(task: Task) -> tuple[Values, npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    """Out-of-fold probabilities of logistic regressions on three folds."""
    from sklearn.linear_model import LogisticRegression

    pixels, numbers = read_digits(task)
    fold = (np.random.default_rng(1).permutation(len(pixels)) % 3).astype(np.int16)
    columns = numbers.T if numbers.ndim == 2 else [numbers]
    found = []
    for column in columns:
        given = np.zeros((len(pixels), 1 + int(column.max())), dtype=np.float32)
        for number in range(3):
            model = LogisticRegression(C=0.03).fit(pixels[fold != number], column[fold != number])
            given[fold == number] = model.predict_proba(pixels[fold == number])
        found.append(given)
    return (found[0] if numbers.ndim == 1 else np.stack([given[:, 1] for given in found], axis=1)), numbers, fold


def digits_problem(task: Task, name: str) -> tuple[Problem, Values]:
    values, numbers, fold = digits_case(task)
    target = Target(task, tuple(map(str, range(values.shape[1]))), may_be_empty=True)
    return Problem(target, numbers.astype(np.float32) if task == "multilabel" else numbers, fold, np.arange(len(fold)), METRICS[name]), values


class Same(dict[int, Values]):
    """The same predictions for every fold."""

    def __init__(self, values: Values) -> None:
        super().__init__(dict.fromkeys(range(5), values))


SKEWED: list[tuple[Task, str]] = [
    ("ordinal", "quadratic_kappa"),
    ("ordinal", "macro_f1"),
    ("binary", "macro_f1"),
    ("binary", "balanced_accuracy"),
    ("binary", "matthews_correlation"),
    ("multilabel", "macro_f1"),
    ("multilabel", "micro_f1"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("task", "name"), SKEWED)
@pytest.mark.parametrize("case", [lambda task, name: made(task, name, 2000), digits_problem], ids=["toy", "digits"])
def test_on_skewed_targets_what_is_fitted_beats_the_default_on_rows_that_it_has_not_seen(
    task: Task, name: str, case: Callable[[Task, str], tuple[Problem, Values]]
) -> None:
    problem, values = case(task, name)
    assert problem.score_scored(cross_fitted_decision(Same(values), problem)) > problem.score(values) + 0.005


@pytest.mark.parametrize(("task", "name"), FITTED)
def test_labels_of_a_fold_do_not_know_its_targets(task: Task, name: str) -> None:
    problem, values = made(task, name, 200)
    inside = problem.fold == 2
    changed = problem.numbers.copy()
    changed[inside] = changed[inside][::-1]
    before, after = (cross_fitted_decision(Same(values), replace(problem, numbers=numbers)) for numbers in (problem.numbers, changed))
    assert before.dtype == problem.numbers.dtype
    assert np.array_equal(before[inside], after[inside])
    assert not np.array_equal(fit_decision(values, problem), fit_decision(values, replace(problem, numbers=changed))), "the test can tell"


def test_a_fold_is_decided_and_fitted_on_the_blend_that_did_not_see_it() -> None:
    problem, values = made("binary", "macro_f1", 200)
    blended = {fold: (values ** (1 + fold)).astype(np.float32) for fold in range(4)}
    labels = cross_fitted_decision(blended, problem)
    for fold in range(4):
        inside = problem.fold == fold
        fitted = fit_decision(blended[fold][~inside], problem.take(np.flatnonzero(~inside)))
        assert np.array_equal(labels[inside], fitted.decide(blended[fold][inside]))


def test_one_fold_is_decided_as_by_default() -> None:
    problem, values = made("ordinal", "quadratic_kappa", 100)
    alone = replace(problem, fold=np.zeros(100, dtype=np.int16), target=replace(problem.target, cut_points=(0.1, 0.2)))
    assert np.array_equal(cross_fitted_decision({0: values}, alone), problem.target.decide(values))


def gains(task: Task, name: str) -> Iterator[tuple[float, float]]:
    """By how much fitted labels beat the default on targets dealt out by lot: in sample, and cross-fitted."""
    for seed in range(25):
        problem, values = made(task, name, 80, seed)
        lot = problem.numbers[np.random.default_rng(100 + seed).permutation(80)]
        problem = replace(problem, numbers=lot)
        default = problem.score(values)
        fitted = scored(problem, fit_decision(values, problem), values)
        yield fitted - default, problem.score_scored(cross_fitted_decision(Same(values), problem)) - default


# metrics that the shares of the classes alone cannot raise
@pytest.mark.slow
@pytest.mark.parametrize(("task", "name"), [("ordinal", "quadratic_kappa"), ("binary", "matthews_correlation"), ("binary", "balanced_accuracy")])
def test_of_targets_by_lot_nothing_is_won_but_on_the_rows_that_were_fitted(task: Task, name: str) -> None:
    in_sample, cross_fitted = np.array(list(gains(task, name))).T
    chance = cross_fitted.std() / np.sqrt(len(cross_fitted))
    assert in_sample.mean() > 3 * in_sample.std() / np.sqrt(len(in_sample))
    assert cross_fitted.mean() < 2 * chance
