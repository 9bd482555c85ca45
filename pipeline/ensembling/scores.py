"""Cross-validation scores: the metric on the pooled out-of-fold rows, its folds beside it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.data.targets import Numbers, Target, with_classes
from pipeline.predictions import Predictions
from pipeline.training.metrics import METRICS


def target_numbers(predictions: Predictions, target: Target, truth: Mapping[str, str]) -> Numbers:
    """The truth of every row, as `target.numbers` gives it for the predictions' columns; truth: target by id."""
    return with_classes(target, predictions.classes).numbers([truth[name] for name in predictions.ids])


def score_of(predictions: Predictions, target: Target, truth: Mapping[str, str], metric: str) -> float:
    """The metric of predictions."""
    columns = [predictions.classes.index(name) for name in target.classes]  # grades have an order, and of two classes the last is the positive one
    return METRICS[metric](target, target.numbers([truth[name] for name in predictions.ids]), predictions.values[:, columns])


def cross_validation(out_of_fold: Predictions, target: Target, truth: Mapping[str, str], metric: str, optimistic: Sequence[str] = ()) -> dict[str, Any]:
    """cv: the metric on all rows, or where rows of two folds do not compare, the mean over folds; folds: per fold; mean and
    spread (standard deviation) over folds, those left out that the metric is not defined for; optimistic: why it flatters."""
    parts = [out_of_fold.in_fold(int(number)) for number in np.unique(out_of_fold.fold)]
    folds = [score_of(part, target, truth, metric) for part in parts]
    defined = [fold for fold in folds if np.isfinite(fold)]
    mean = float(np.mean(defined)) if defined else float("nan")
    return {
        "metric": metric,
        "cv": score_of(out_of_fold, target, truth, metric) if METRICS[metric].pooled else mean,
        "folds": folds,
        "mean": mean,
        "spread": float(np.std(defined, ddof=1)) if len(defined) > 1 else 0.0,
        "rows": len(out_of_fold),
        "optimistic": list(optimistic),
    }


def describe(score: Mapping[str, Any]) -> str:
    """A score in words: accuracy 0.9912 (5 folds: 0.9912 +- 0.0031), and why it flatters, if it does."""
    folds = f"({len(score['folds'])} folds: {score['mean']:.4f} +- {score['spread']:.4f})"
    return f"{score['metric']} {score['cv']:.4f} {folds}{mark(score.get('optimistic', ()))}"


def mark(optimistic: Sequence[str]) -> str:
    """What stands behind a score that flatters: what chose on the rows that it is of."""
    return f" - optimistic: {', '.join(optimistic)}" if optimistic else ""


def union(reasons: Iterable[Sequence[str]]) -> list[str]:
    """Every reason of several experiments once, in order."""
    return list(dict.fromkeys(reason for part in reasons for reason in part))
