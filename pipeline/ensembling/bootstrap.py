"""The bootstrap: how far a score would move on other rows like these, and how surely one prediction beats another.

Efron, Bootstrap methods: another look at the jackknife (1979). What is drawn are whole groups, so that copies of one picture
do not pass for rows of their own.
"""

import numpy as np
import numpy.typing as npt

from pipeline.data.targets import Numbers
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.weighted import Draws, weighted
from pipeline.runtime import stream

Floats = npt.NDArray[np.float64]

CELLS = 2_000_000  # draws x rows that are worked on at once, in double precision


class Resampler:
    """The metric of a problem's rows drawn with replacement, the same draws for every prediction, so that two of them are paired.

    draws: how many; seed: of the draws, which depend on it and on the problem's groups alone, not on the order of rows. Holds one byte
    per draw and group.
    """

    def __init__(self, problem: Problem, draws: int, seed: int) -> None:
        self._problem = problem
        groups, self._group = np.unique(problem.group, return_inverse=True)
        generator = np.random.default_rng(stream("bootstrap", seed))
        # One group is never drawn 256 times: of 256 groups or more that has a chance below 1 / 255!, and of fewer it cannot be.
        self._counts = np.empty((draws, len(groups)), dtype=np.uint8)
        for drawn in self._counts:
            drawn[:] = np.bincount(generator.integers(len(groups), size=len(groups)), minlength=len(groups))

    def __call__(self, scored: Numbers) -> Floats:
        """The metric of every draw [draws], nan where it is not defined; scored: what `problem.scored` gives, labels or values."""
        problem, metric = self._problem, self._problem.metric.name
        parts = [np.arange(len(problem))] if problem.metric.pooled else [np.flatnonzero(problem.fold == fold) for fold in problem.folds]
        scores = [weighted(metric, problem.numbers[rows], scored[rows]) for rows in parts]
        step = max(1, CELLS // len(problem))
        chunks = [self._counts[start : start + step] for start in range(0, len(self._counts), step)]
        return np.concatenate([self._score(chunk, parts, scores) for chunk in chunks])

    def _score(self, counts: npt.NDArray[np.uint8], parts: list[npt.NDArray[np.int64]], scores: list[Draws]) -> Floats:
        """Mean over parts that have a score in a draw [draws]; nan in draws in which none has."""
        found = np.stack([score(np.take(counts, self._group[rows], axis=1)) for rows, score in zip(parts, scores, strict=True)])
        defined = ~np.isnan(found)
        total = np.where(defined, found, 0.0).sum(axis=0)
        return np.where(defined.any(axis=0), total / np.maximum(defined.sum(axis=0), 1), np.nan)


def interval(samples: Floats, level: float = 0.95) -> tuple[float, float]:
    """The percentiles between which the share `level` of the draws lies; draws without a score are left out, (nan, nan) where none has one."""
    defined = samples[~np.isnan(samples)]
    if len(defined) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def share_better(candidate: Floats, baseline: Floats, sign: int) -> float:
    """Share of the paired draws in which the candidate is strictly better; sign: 1 where more is better. A draw without a score is no win."""
    return float((sign * (candidate - baseline) > 0).mean())
