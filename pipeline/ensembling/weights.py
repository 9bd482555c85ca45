"""Weights: over the folds of one model, and over models by a convex stand-in of the metric."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.data.targets import Numbers
from pipeline.ensembling.problem import Problem

Floats = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
Values = Sequence[npt.NDArray[np.float32]]  # of each model [rows, outputs], perhaps mapped from disk

RIDGE = 1e-9  # pulls towards equal weights: what the rows leave open, as between two copies of a model, is shared evenly
MAX_STEPS = 200
KEPT = 50_000_000  # numbers (400 MB) up to which what the models gave to the truth stays in memory
CHUNK = 4_000_000  # numbers in work at a time
THINNED = 16  # every so many rows give the start where each pass reads from disk


def fold_weights(how: str, scores: Sequence[float], sign: int) -> Floats:
    """Weights of one model's folds on test rows, sum 1.

    equal; or score: in proportion to how far each fold beats the worst, plus the spread, so that the
    worst keeps half the weight of the best. A fold whose score is not
    defined (an AUC without positives) counts as the worst. Not fitted: no row is predicted by two folds out of fold.
    """
    good = sign * np.asarray(scores, dtype=np.float64)
    good = np.where(np.isnan(good), np.nanmin(good) if np.isfinite(good).any() else 0.0, good)
    spread = good.max() - good.min()
    if how == "equal" or spread == 0:
        return np.full(len(good), 1 / len(good))
    raw = good - good.min() + spread
    return np.asarray(raw / raw.sum())


def with_mean_weight(weights: Floats, members: int) -> Floats:
    """Weights of `members` [members], sum 1: those of the first ones in proportion, each further one with their mean."""
    return np.concatenate([weights, np.full(members - len(weights), weights.mean())]) * (len(weights) / members)


def blend(values: Sequence[npt.NDArray[np.float32]], weights: Floats) -> npt.NDArray[np.float32]:
    """Weighted mean of predictions [rows, outputs], weights of sum 1; summed in double precision."""
    total = np.zeros(values[0].shape, dtype=np.float64)
    for part, weight in zip(values, weights, strict=True):
        total += weight * part
    return total.astype(np.float32)


def given_truth(values: npt.NDArray[np.float32], targets: Numbers) -> Floats:
    """The probability that a model gave the truth: of the true class [rows], or of each label's being there or not [rows, labels]."""
    if targets.ndim == 2:
        return np.where(targets == 1, values.astype(np.float64), 1 - values.astype(np.float64))
    return values[np.arange(len(targets)), targets].astype(np.float64)


Curve = Callable[[Floats, Floats], tuple[Floats, Floats, Floats]]  # blend and truth [cells] to loss, slope and curvature by the blend [cells]


def _log_loss(blend: Floats, truth: Floats) -> tuple[Floats, Floats, Floats]:
    return -np.log(blend), -1 / blend, blend**-2


def _squared(blend: Floats, truth: Floats) -> tuple[Floats, Floats, Floats]:
    away = blend - truth
    return away**2, 2 * away, np.full_like(away, 2)


def _absolute(width: float) -> Curve:
    """Absolute error, round within `width`; its curvature is that of the parabola that touches it and lies above it."""

    def curve(blend: Floats, truth: Floats) -> tuple[Floats, Floats, Floats]:
        away = blend - truth
        size = np.hypot(away, width)
        return size, away / size, 1 / size

    return curve


def _log_squared(blend: Floats, truth: Floats) -> tuple[Floats, Floats, Floats]:
    inside = np.maximum(blend, 0)
    away, rate = np.log1p(inside) - np.log1p(truth), (blend >= 0) / (1 + inside)
    return away**2, 2 * away * rate, 2 * rate**2


Pieces = Iterable[tuple[Floats, Floats]]  # chunks of what the models gave [cells, models], and of a regression the truth [cells]


@dataclass(frozen=True)
class Streamed:
    """Pieces that are read again on every pass."""

    read: Callable[[], Iterator[tuple[Floats, Floats]]]

    def __iter__(self) -> Iterator[tuple[Floats, Floats]]:
        return self.read()


class StandIn:
    """The metric's smooth stand-in as a function of the weights of a blend.

    Log loss of classes, mean binary log loss of labels; of numbers squared error, absolute error for mae, squared error of
    log(1 + x) for rmsle. values: per model [rows, outputs]; what each model gave to the truth is read once, unless it is too
    much (many labels): then once per pass, a chunk of rows at a time.
    """

    def __init__(self, values: Values, problem: Problem) -> None:
        self.values, self.problem = values, problem
        self.cells = problem.numbers.shape[1] if problem.numbers.ndim == 2 else 1
        self.numeric = problem.target.task == "regression"

    @property
    def kept(self) -> bool:
        """Whether what the models gave to the truth stays in memory."""
        return len(self.problem) * self.cells * len(self.values) <= KEPT

    @cached_property
    def _given(self) -> Floats:
        return self._read(np.arange(len(self.problem)))

    def _read(self, rows: Rows) -> Floats:
        """Of each model what it gave to the truth, or a regression's values [rows * cells, models]."""
        result = np.empty((len(rows) * self.cells, len(self.values)))
        numbers = self.problem.numbers[rows]
        for column, part in enumerate(self.values):
            if self.numeric:
                result[:, column] = part[rows].ravel()
            elif self.cells == 1 and numbers.ndim == 1:
                result[:, column] = part[rows, numbers]  # of a mapped file these few numbers alone
            else:
                result[:, column] = given_truth(part[rows], numbers).ravel()
        return result if self.numeric else np.clip(result, 1e-15, 1.0, out=result)

    def pieces(self, rows: Rows) -> Iterator[tuple[Floats, Floats]]:
        """Chunks of these rows, read when they are asked for; see `Pieces`."""
        size = max(1, CHUNK // (self.cells * len(self.values)))
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            cells = some[:, None] * self.cells + np.arange(self.cells)
            given = self._given[cells.ravel()] if self.kept else self._read(some)
            yield given, self.problem.numbers[some].astype(np.float64).ravel() if self.numeric else np.empty(0)

    def on(self, rows: Rows) -> "Objective":
        """The stand-in on these rows."""
        pieces: Pieces = Streamed(lambda: self.pieces(rows))
        start = self.on(rows[::THINNED]).minimise() if not self.kept and len(rows) >= 100 * THINNED else None
        objective = Objective(_squared, list(pieces) if self.kept else pieces, len(self.values), 1.0, start)
        if not self.numeric:
            return objective.like(_log_loss, 1.0)
        equal = objective.equal
        if self.problem.metric.name == "rmsle":
            objective = objective.like(_log_squared, 1.0)
        if self.problem.metric.name == "mae":
            typical = objective.like(_absolute(1e-300), 1.0).loss(equal)
            return objective.like(_absolute(typical / 100 or 1.0), typical or 1.0)
        return objective.like(objective.curve, objective.loss(equal) or 1.0)


@dataclass(frozen=True)
class Objective:
    """Mean loss of blends over the cells of some rows; scale: what it is divided by; start: weights to begin from, else equal ones."""

    curve: Curve
    pieces: Pieces
    models: int
    scale: float
    start: Floats | None = None

    @property
    def equal(self) -> Floats:
        """Equal weights [models]."""
        return np.full(self.models, 1 / self.models)

    def like(self, curve: Curve, scale: float) -> "Objective":
        """Another loss of the same cells."""
        return Objective(curve, self.pieces, self.models, scale, self.start)

    def reordered(self, order: Rows) -> "Objective":
        """The same loss with the models in another order."""
        start = None if self.start is None else self.start[order]
        pieces = self.pieces
        if isinstance(pieces, Streamed):
            return Objective(self.curve, Streamed(lambda: ((given[:, order], truth) for given, truth in pieces)), self.models, self.scale, start)
        return Objective(self.curve, [(given[:, order], truth) for given, truth in pieces], self.models, self.scale, start)

    def loss(self, weights: Floats) -> float:
        """Of a blend with weights [models]; `scale` divides it."""
        parts = [(self.curve(given @ weights, truth)[0].sum(), len(given)) for given, truth in self.pieces]
        return float(sum(total for total, _ in parts) / sum(count for _, count in parts) / self.scale)

    def alone(self) -> Floats:
        """Loss of each model by itself [models]."""
        totals = [np.array([self.curve(column, truth)[0].sum() for column in given.T]) for given, truth in self.pieces]
        return np.asarray(np.sum(totals, axis=0))

    def expand(self, weights: Floats) -> tuple[float, Floats, Floats]:
        """Loss, gradient [models] and curvature [models, models] along the simplex, with the ridge."""
        loss, count = 0.0, 0
        gradient, curvature = np.zeros(self.models), np.zeros((self.models, self.models))
        for given, truth in self.pieces:
            mixed = given @ weights
            losses, slopes, curvatures = self.curve(mixed, truth)
            given = given - mixed[:, None]  # nothing changes for steps that keep the sum, and large common numbers drop out
            loss, count = loss + losses.sum(), count + len(given)
            gradient += given.T @ slopes
            given *= np.sqrt(curvatures)[:, None]
            curvature += given.T @ given
        away, unit = weights - self.equal, count * self.scale
        return float(loss / unit + RIDGE * away @ away), gradient / unit + 2 * RIDGE * away, curvature / unit + 2 * RIDGE * np.eye(self.models)

    def minimise(self) -> Floats:
        """Weights on the simplex with the least loss: Newton's method, each step the exact minimum on the simplex of the parabola."""
        weights = self.equal if self.start is None else self.start
        loss, gradient, curvature = self.expand(weights)
        for _ in range(MAX_STEPS):
            step = least_on_simplex(weights, gradient, curvature) - weights
            slope, length = gradient @ step, 1.0
            if np.abs(step).max() < 1e-10 or slope >= 0:
                break
            tried = self.expand(weights + step)
            while tried[0] > loss + 1e-4 * length * slope + 1e-15 * abs(loss) and length > 1e-6:
                length /= 2
                tried = self.expand(weights + length * step)
            if tried[0] > loss + 1e-15 * abs(loss):
                break
            weights, (loss, gradient, curvature) = weights + length * step, tried
        weights = np.maximum(weights, 0)
        return np.asarray(weights / weights.sum())


def least_on_simplex(weights: Floats, gradient: Floats, curvature: Floats) -> Floats:
    """The least of a parabola on the simplex, given at `weights` by its gradient [models] and its definite curvature [models, models].

    With y = s w, w on the simplex, the least of |A y|^2 + (sum y - 1)^2 over y >= 0 has the w with the least |A w|, whatever
    s is: so it is a non-negative least squares problem (Lawson and Hanson, 1974), solved to rounding.
    """
    from scipy.optimize import nnls

    sizes, directions = np.linalg.eigh(curvature)
    roots = np.sqrt(np.maximum(sizes, RIDGE))
    constant = directions.T @ gradient / roots
    matrix = (roots[:, None] * directions.T) @ (np.eye(len(weights)) - weights[:, None]) + constant[:, None]
    scale = np.linalg.norm(matrix @ weights) or 1.0
    found, _ = nnls(np.vstack([matrix / scale, np.ones(len(weights))]), np.append(np.zeros(len(weights)), 1.0))
    return np.asarray(found / found.sum())
