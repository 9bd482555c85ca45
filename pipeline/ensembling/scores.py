"""Cross-validation scores: the metric on the pooled out-of-fold rows, its folds beside it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.predictions import Predictions
from pipeline.training.metrics import METRICS


def target_numbers(predictions: Predictions, truth: Mapping[str, str]) -> npt.NDArray[np.int64]:
    """Column of the true class of every row; truth: class by id."""
    column = {name: number for number, name in enumerate(predictions.classes)}
    return np.array([column[truth[name]] for name in predictions.ids], dtype=np.int64)


def cross_validation(out_of_fold: Predictions, truth: Mapping[str, str], metric: str) -> dict[str, Any]:
    """cv: the metric on all rows; folds: per fold; mean and spread (standard deviation) over folds."""
    targets = target_numbers(out_of_fold, truth)
    score = METRICS[metric]
    parts = [out_of_fold.in_fold(int(number)) for number in np.unique(out_of_fold.fold)]
    folds = [score(target_numbers(part, truth), part.values) for part in parts]
    return {
        "metric": metric,
        "cv": score(targets, out_of_fold.values),
        "folds": folds,
        "mean": float(np.mean(folds)),
        "spread": float(np.std(folds, ddof=1)) if len(folds) > 1 else 0.0,
        "rows": len(out_of_fold),
    }


def describe(score: Mapping[str, Any]) -> str:
    """A score in words: accuracy 0.9912 (5 folds: 0.9912 +- 0.0031)."""
    return f"{score['metric']} {score['cv']:.4f} ({len(score['folds'])} folds: {score['mean']:.4f} +- {score['spread']:.4f})"
