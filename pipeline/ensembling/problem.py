"""What blends are fitted and scored on: the truth of rows, which fold held each out, which rows are copies of one picture."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.targets import Numbers, Target
from pipeline.training.metrics import Metric


@dataclass(frozen=True)
class Problem:
    """Rows in one order, with their truth.

    numbers: as `target.numbers` gives it, its classes in the order of the predictions' columns; fold: int16 [rows];
    group: int64 [rows], equal for rows that are drawn together.
    """

    target: Target
    numbers: Numbers
    fold: npt.NDArray[np.int16]
    group: npt.NDArray[np.int64]
    metric: Metric

    def __post_init__(self) -> None:
        assert len(self.numbers) == len(self.fold) == len(self.group)

    def __len__(self) -> int:
        return len(self.fold)

    @property
    def folds(self) -> list[int]:
        """The folds that hold rows out, ascending."""
        return [int(fold) for fold in np.unique(self.fold)]

    def take(self, rows: npt.NDArray[np.int64]) -> "Problem":
        """The rows of these numbers, in their order."""
        return Problem(self.target, self.numbers[rows], self.fold[rows], self.group[rows], self.metric)

    def scored(self, values: npt.NDArray[np.float32]) -> Numbers:
        """What the metric looks at of predictions [rows, outputs]: labels, or the values themselves."""
        return self.target.decide(values) if self.metric.needs == "labels" else values

    def score(self, values: npt.NDArray[np.float32]) -> float:
        """The metric of predictions [rows, outputs], or of labels by `score_scored`."""
        return self.score_scored(self.scored(values))

    def score_scored(self, scored: Numbers) -> float:
        """The metric of what `scored` gives: of all rows at once, or where rows of two folds do not compare, the mean over the folds that have a score."""
        if self.metric.pooled:
            return float(self.metric.function(self.numbers, scored))
        parts = [float(self.metric.function(self.numbers[self.fold == fold], scored[self.fold == fold])) for fold in self.folds]
        defined = [part for part in parts if np.isfinite(part)]
        return float(np.mean(defined)) if defined else float("nan")
