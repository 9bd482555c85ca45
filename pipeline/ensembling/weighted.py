"""Every metric on rows that count several times, for many draws at once: what the bootstrap is made of.

A metric's form takes (targets, labels or values) once, for the work that no draw changes (sorting, a row's own loss), and
gives a function of counts [draws, rows] to scores [draws]. It equals the metric on repeated rows, and tests hold every
metric to that. A metric that is added to METRICS works without a form here, on repeated rows, only slowly.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.targets import Numbers
from pipeline.training.metrics import METRICS, true_rank

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.uint8]
Draws = Callable[[Counts], Floats]
"""Counts [draws, rows], how often each row was drawn, to the metric of every draw [draws]; nan where it is not defined."""
Form = Callable[[Numbers, Numbers], Draws]


def weighted(metric: str, targets: Numbers, scored: Numbers) -> Draws:
    """The metric of these rows as a function of how often each was drawn; scored: the labels or values that the metric looks at."""
    form = WEIGHTED.get(metric)
    scores = form(targets, scored) if form is not None else _repeated(metric, targets, scored)

    def quiet(counts: Counts) -> Floats:
        with np.errstate(divide="ignore", invalid="ignore"):
            return scores(counts)

    return quiet


def _repeated(metric: str, targets: Numbers, scored: Numbers) -> Draws:
    """The metric itself on rows as often as they were drawn: right for every metric, and slow."""

    def scores(counts: Counts) -> Floats:
        found = np.full(len(counts), np.nan)
        for draw, drawn in enumerate(counts):
            rows = np.repeat(np.arange(len(drawn)), drawn)
            if len(rows):
                found[draw] = METRICS[metric].function(targets[rows], scored[rows])
        return found

    return scores


# ---------------------------------------------------------------- means and sums of rows


def _of_sums(terms: Callable[[Numbers, Numbers], Numbers], score: Callable[[Floats, Floats], Floats]) -> Form:
    """Of sums over rows: `terms` gives each row's [rows, terms]; `score` takes their sums [terms, draws] and the number of rows [draws]."""

    def form(targets: Numbers, scored: Numbers) -> Draws:
        columns = np.column_stack([np.ones(len(targets)), terms(targets, scored)]).astype(np.float64)

        def scores(counts: Counts) -> Floats:
            total, *sums = (counts.astype(np.float64) @ columns).T
            return score(np.array(sums), total)

        return scores

    return form


def _mean(rows: Callable[[Numbers, Numbers], Numbers]) -> Form:
    return _of_sums(rows, lambda sums, total: np.asarray(sums[0] / total))


def _root_of_mean(rows: Callable[[Numbers, Numbers], Numbers]) -> Form:
    return _of_sums(rows, lambda sums, total: np.asarray(np.sqrt(sums[0] / total)))


def _right(targets: Numbers, labels: Numbers) -> Numbers:
    right = targets == labels
    return np.asarray(right if right.ndim == 1 else right.all(axis=1))


def _row_f1(targets: Numbers, labels: Numbers) -> Numbers:
    given = (targets != 0).sum(axis=1) + (labels != 0).sum(axis=1)
    both = ((targets != 0) & (labels != 0)).sum(axis=1)
    return np.where(given > 0, 2 * both / np.maximum(given, 1), 1.0)


def row_log_loss(targets: Numbers, probabilities: Numbers) -> Floats:
    """Negative log of what the truth was given [rows]; of several labels the mean over them. As `metrics.log_loss` scales and clips."""
    if targets.ndim == 2:
        values = probabilities.astype(np.float64)
        return np.asarray(-np.log(np.clip(np.where(targets == 1, values, 1 - values), 1e-15, 1.0)).mean(axis=1))
    given = probabilities[np.arange(len(targets)), targets] / probabilities.sum(axis=1, dtype=np.float64)
    return np.asarray(-np.log(np.clip(given, 1e-15, 1.0)))


def _precision_at(k: int) -> Callable[[Numbers, Numbers], Numbers]:
    def rows(targets: Numbers, values: Numbers) -> Numbers:
        rank = true_rank(targets, values)
        return np.where(rank <= k, 1 / rank, 0.0)

    return rows


def _among_first(k: int) -> Callable[[Numbers, Numbers], Numbers]:
    return lambda targets, values: np.asarray(true_rank(targets, values) <= k)


def _probable(targets: Numbers, probabilities: Numbers) -> Numbers:
    positive = np.clip(probabilities[:, -1].astype(np.float64), 0, 1)
    return np.stack([np.where(targets == 1, positive, 0.0), positive, targets == 1], axis=1)


def _probabilistic_f1(sums: Floats, _: Floats) -> Floats:
    found, positive, has = sums
    return np.where(found > 0, 2 * found / (positive + has), 0.0)


def _squared(targets: Numbers, values: Numbers) -> Numbers:
    return np.asarray((targets.astype(np.float64) - values)[:, 0] ** 2)


def _squared_logs(targets: Numbers, values: Numbers) -> Numbers:
    return _squared(np.log1p(targets.astype(np.float64)), np.log1p(np.maximum(values.astype(np.float64), 0)))


def _absolute(targets: Numbers, values: Numbers) -> Numbers:
    return np.abs(targets.astype(np.float64) - values)[:, 0]


def _r2(targets: Numbers, values: Numbers) -> Draws:
    truth, errors = targets.astype(np.float64)[:, 0], _squared(targets, values)

    def scores(counts: Counts) -> Floats:
        drawn = counts.astype(np.float64)
        mean = drawn @ truth / drawn.sum(axis=1)
        # around each draw's own mean: a difference of two sums would lose the digits of targets that vary little
        total = np.array([row @ (truth - middle) ** 2 for row, middle in zip(drawn, mean, strict=True)])
        return np.where(total > 0, 1 - drawn @ errors / total, np.where(np.isnan(mean), np.nan, 0.0))

    return scores


# ---------------------------------------------------------------- counts of classes


@dataclass(frozen=True)
class Tally:
    """What metrics of labels look at, for many draws or decisions at once."""

    truth: Floats
    """Rows that have each class or label [..., classes]."""
    given: Floats
    """Rows that are given it [..., classes]."""
    right: Floats
    """Rows that have it and are given it [..., classes]."""
    product: Floats | float = 0.0
    """Of grades: sum over rows of the true one times the one given [...]."""
    several: bool = False
    """Whether a row can have several labels: then a label counts that nobody has."""


def _accuracy(tally: Tally) -> Floats:
    return np.asarray(tally.right.sum(axis=-1) / tally.truth.sum(axis=-1))


def _balanced_accuracy(tally: Tally) -> Floats:
    occurs = tally.truth > 0
    return np.asarray(np.where(occurs, tally.right / np.where(occurs, tally.truth, 1), 0).sum(axis=-1) / occurs.sum(axis=-1))


def class_f1(tally: Tally) -> Floats:
    """F1 of each class [..., classes]; 0 where nobody has it and nobody is given it."""
    size = tally.truth + tally.given
    return np.asarray(2 * tally.right / np.maximum(size, 1))


def _macro_f1(tally: Tally) -> Floats:
    counts = tally.several | (tally.truth + tally.given > 0)
    return np.asarray(np.where(counts, class_f1(tally), 0).sum(axis=-1) / counts.sum(axis=-1))


def _micro_f1(tally: Tally) -> Floats:
    size = (tally.truth + tally.given).sum(axis=-1)
    return np.asarray(2 * tally.right.sum(axis=-1) / np.maximum(size, 1))


def _matthews_correlation(tally: Tally) -> Floats:
    rows = tally.truth.sum(axis=-1)
    together = tally.right.sum(axis=-1) * rows - (tally.truth * tally.given).sum(axis=-1)
    apart = (rows**2 - (tally.truth**2).sum(axis=-1)) * (rows**2 - (tally.given**2).sum(axis=-1))
    return np.where(apart > 0, together / np.sqrt(np.where(apart > 0, apart, 1)), 0.0)


def _quadratic_kappa(tally: Tally) -> Floats:
    grades = np.arange(tally.truth.shape[-1], dtype=np.float64)
    rows = tally.truth.sum(axis=-1)
    squares = (tally.truth @ grades**2 + tally.given @ grades**2) / rows
    expected = squares - 2 * (tally.truth @ grades / rows) * (tally.given @ grades / rows)
    observed = squares - 2 * tally.product / rows
    return np.where(expected > 0, 1 - observed / np.where(expected > 0, expected, 1), 0.0)


FROM_TALLY: dict[str, Callable[[Tally], Floats]] = {
    "accuracy": _accuracy,  # of one label per row: of several, all must be right
    "balanced_accuracy": _balanced_accuracy,
    "macro_f1": _macro_f1,
    "micro_f1": _micro_f1,
    "quadratic_kappa": _quadratic_kappa,
    "matthews_correlation": _matthews_correlation,
}
"""Metrics of labels that follow from a tally."""


def _of_tally(score: Callable[[Tally], Floats]) -> Form:
    def form(targets: Numbers, labels: Numbers) -> Draws:
        from scipy.sparse import csc_array

        several = targets.ndim == 2
        outputs = targets.shape[1] if several else 1 + int(max(targets.max(), labels.max()))
        truth, given = ((part if several else np.equal.outer(part, np.arange(outputs))) != 0 for part in (targets, labels))
        members = [csc_array(part, dtype=np.float64) for part in (truth, given, truth & given)]
        product = np.zeros(len(targets)) if several else (targets * labels).astype(np.float64)

        def scores(counts: Counts) -> Floats:
            drawn = counts.astype(np.float64)
            sums = [np.asarray(drawn @ part) for part in members]
            return score(Tally(sums[0], sums[1], sums[2], drawn @ product, several))

        return scores

    return form


# ---------------------------------------------------------------- ranks


@dataclass(frozen=True)
class _Column:
    """One output: the rows that have it and those that do not, each by rising value, and how many of each lie below the former."""

    positive: npt.NDArray[np.int64]
    negative: npt.NDArray[np.int64]
    positives_below: npt.NDArray[np.int64]
    negatives_below: npt.NDArray[np.int64]
    negatives_up_to: npt.NDArray[np.int64]

    @classmethod
    def of(cls, has: npt.NDArray[np.bool_], values: Numbers) -> "_Column":
        order = np.argsort(values, kind="stable")
        positive, negative = order[has[order]], order[~has[order]]
        here, there = values[positive], values[negative]
        below, up_to = np.searchsorted(there, here, side="left"), np.searchsorted(there, here, side="right")
        return cls(positive, negative, np.searchsorted(here, here, side="left"), below, up_to)


def _cumulated(counts: Counts) -> Floats:
    """Sums of the first 0, 1, ... of the rows [draws, rows + 1]."""
    found = np.zeros((len(counts), counts.shape[1] + 1))
    np.cumsum(counts, axis=1, dtype=np.float64, out=found[:, 1:])
    return found


def _area(column: _Column, counts: Counts) -> Floats:
    negatives = _cumulated(np.take(counts, column.negative, axis=1))
    positives = np.take(counts, column.positive, axis=1).astype(np.float64)
    below = np.take(negatives, column.negatives_below, axis=1)
    below += np.take(negatives, column.negatives_up_to, axis=1)
    return np.asarray(np.einsum("dr,dr->d", positives, below) / (2 * positives.sum(axis=1) * negatives[:, -1]))


def _precision(column: _Column, counts: Counts) -> Floats:
    drawn = np.take(counts, column.positive, axis=1)
    negatives, positives = _cumulated(np.take(counts, column.negative, axis=1)), _cumulated(drawn)
    true = positives[:, -1:] - np.take(positives, column.positives_below, axis=1)
    false = negatives[:, -1:] - np.take(negatives, column.negatives_below, axis=1)
    mean = np.einsum("dr,dr->d", drawn.astype(np.float64), true / np.maximum(true + false, 1)) / positives[:, -1]
    return np.where(negatives[:, -1] > 0, mean, np.nan)


def _over_columns(score: Callable[[_Column, Counts], Floats]) -> Form:
    """Mean over outputs, of two classes the second alone; in every draw those are left out that nobody or everybody has."""

    def form(targets: Numbers, values: Numbers) -> Draws:
        outputs = [1] if targets.ndim == 1 and values.shape[1] == 2 else range(values.shape[1])
        members = [targets == number if targets.ndim == 1 else targets[:, number] == 1 for number in outputs]
        columns = [_Column.of(has, values[:, number]) for has, number in zip(members, outputs, strict=True) if 0 < has.sum() < len(has)]

        def scores(counts: Counts) -> Floats:
            total, defined = np.zeros(len(counts)), np.zeros(len(counts))
            for column in columns:
                found = score(column, counts)
                total += np.where(np.isnan(found), 0.0, found)
                defined += ~np.isnan(found)
            return np.asarray(total / defined)

        return scores

    return form


WEIGHTED: dict[str, Form] = {
    "accuracy": _mean(_right),
    "balanced_accuracy": _of_tally(_balanced_accuracy),
    "macro_f1": _of_tally(_macro_f1),
    "micro_f1": _of_tally(_micro_f1),
    "samples_f1": _mean(_row_f1),
    "log_loss": _mean(row_log_loss),
    "roc_auc": _over_columns(_area),
    "average_precision": _over_columns(_precision),
    "quadratic_kappa": _of_tally(_quadratic_kappa),
    "matthews_correlation": _of_tally(_matthews_correlation),
    "map_at_3": _mean(_precision_at(3)),
    "map_at_5": _mean(_precision_at(5)),
    "top_3_accuracy": _mean(_among_first(3)),
    "top_5_accuracy": _mean(_among_first(5)),
    "probabilistic_f1": _of_sums(_probable, _probabilistic_f1),
    "rmse": _root_of_mean(_squared),
    "mae": _mean(_absolute),
    "rmsle": _root_of_mean(_squared_logs),
    "r2": _r2,
}
"""The form of every metric that has one."""
