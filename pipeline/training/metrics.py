"""Metrics by name: what a competition scores, which way is up, and what it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Metric:
    """A score of predictions.

    function: (targets int [rows], labels int [rows] or probabilities [rows, classes]) to a number;
    sign: 1 where more is better, -1 where less is; needs: what the second argument is.
    """

    name: str
    function: Callable[[Numbers, Numbers], float]
    sign: Literal[1, -1]
    needs: Literal["labels", "probabilities"]

    def __call__(self, targets: Numbers, probabilities: Numbers) -> float:
        """The score of `probabilities` [rows, classes]; targets index its columns."""
        given = probabilities.argmax(axis=1) if self.needs == "labels" else probabilities
        return float(self.function(targets, given))


def accuracy(targets: Numbers, labels: Numbers) -> float:
    """Share of rows whose label is right."""
    return float((targets == labels).mean())


def macro_f1(targets: Numbers, labels: Numbers) -> float:
    """Mean over classes of the harmonic mean of precision and recall; a class that is nowhere is left out."""
    from sklearn.metrics import f1_score

    return float(f1_score(targets, labels, average="macro", zero_division=0.0))


def log_loss(targets: Numbers, probabilities: Numbers) -> float:
    """Mean negative log of the true class's probability, rows scaled to sum 1, clipped at 1e-15 as Kaggle does."""
    values = probabilities.astype(np.float64)
    values /= values.sum(axis=1, keepdims=True)
    return float(-np.log(np.clip(values[np.arange(len(targets)), targets], 1e-15, 1.0)).mean())


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, 1, "labels"),
        Metric("macro_f1", macro_f1, 1, "labels"),
        Metric("log_loss", log_loss, -1, "probabilities"),
    )
}
