"""Cross-validation scores: the metric on the pooled out-of-fold rows, its folds beside it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.data.targets import Numbers, Target
from pipeline.ensembling.problem import Problem
from pipeline.predictions import Predictions
from pipeline.training.metrics import METRICS


def problem_of(predictions: Predictions, target: Target, truth: Mapping[str, str], metric: str, groups: Mapping[str, str] | None = None) -> Problem:
    """What rows are scored on; truth: target by id; groups: by id of rows that are drawn together, "" for a row of its own."""
    assert predictions.classes == target.classes, "grades have an order, and of two classes the last is the positive one"
    numbers = target.numbers([truth[name] for name in predictions.ids])
    names = [(groups or {}).get(name) or f"\n{name}" for name in predictions.ids]  # no group is called so
    return Problem(target, numbers, predictions.fold, np.unique(names, return_inverse=True)[1].astype(np.int64), METRICS[metric])


def score_of(predictions: Predictions, target: Target, truth: Mapping[str, str], metric: str) -> float:
    """The metric of predictions, of all rows at once."""
    ordered = predictions.in_classes(target.classes)
    return METRICS[metric](target, target.numbers([truth[name] for name in ordered.ids]), ordered.values)


def cross_validation(out_of_fold: Predictions, target: Target, truth: Mapping[str, str], metric: str, optimistic: Sequence[str] = ()) -> dict[str, Any]:
    """The CV of predictions, as `validation` gives it."""
    ordered = out_of_fold.in_classes(target.classes)
    problem = problem_of(ordered, target, truth, metric)
    return validation(problem, problem.scored(ordered.values), optimistic)


def validation(problem: Problem, scored: Numbers, optimistic: Sequence[str] = ()) -> dict[str, Any]:
    """cv: the metric on all rows, or where rows of two folds do not compare, the mean over folds; folds: per fold; mean and
    spread (standard deviation) over folds, those left out that the metric is not defined for; optimistic: why it flatters."""
    inside = [np.flatnonzero(problem.fold == fold) for fold in problem.folds]
    folds = [float(problem.metric.function(problem.numbers[rows], scored[rows])) for rows in inside]
    defined = [fold for fold in folds if np.isfinite(fold)]
    return {
        "metric": problem.metric.name,
        "cv": problem.score_scored(scored),
        "folds": folds,
        "mean": float(np.mean(defined)) if defined else float("nan"),
        "spread": float(np.std(defined, ddof=1)) if len(defined) > 1 else 0.0,
        "rows": len(problem),
        "optimistic": list(optimistic),
    }


def describe(score: Mapping[str, Any]) -> str:
    """A score in words: accuracy 0.9912 [0.9880, 0.9944] (5 folds: 0.9912 +- 0.0031), and why it flatters, if it does."""
    folds = f"({len(score['folds'])} folds: {score['mean']:.4f} +- {score['spread']:.4f})"
    interval = " [{:.4f}, {:.4f}]".format(*score["interval"]) if "interval" in score else ""
    return f"{score['metric']} {score['cv']:.4f}{interval} {folds}{mark(score.get('optimistic', ()))}"


def mark(optimistic: Sequence[str]) -> str:
    """What stands behind a score that flatters: what chose on the rows that it is of."""
    return f" - optimistic: {', '.join(optimistic)}" if optimistic else ""


def union(reasons: Iterable[Sequence[str]]) -> list[str]:
    """Every reason of several experiments once, in order."""
    return list(dict.fromkeys(reason for part in reasons for reason in part))
