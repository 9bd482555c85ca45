"""Which views help: chosen greedily on out-of-fold predictions, scored on rows that the choice did not see."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.data.targets import Numbers, Target
from pipeline.inference.tta import Floats, Merge, merged, ranked_among, summand, view_names
from pipeline.training.metrics import METRICS, general_loss

Values = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Loss = Callable[[Values, Rows], float]
"""Of predictions [rows, outputs] and the numbers of their rows; lower is better."""

LEAST_GAIN = 1e-6  # a view must lower the loss by more
ALONE = ("identity",)
NOTICEABLE = 0.01  # change of a number's error that counts


@dataclass(frozen=True)
class ViewedRows:
    """Out-of-fold predictions of an experiment, view by view.

    parts: per seed [views, rows, outputs], as `predict_views` keeps them, the rows aligned; mapped arrays stay on disk. Views may
    stand in any order. fold: in which a row was held out [rows].
    """

    parts: Sequence[Values]
    names: tuple[str, ...]
    fold: npt.NDArray[np.int16]
    target: Target
    merge: Merge

    def __post_init__(self) -> None:
        assert all(part.shape[:2] == (len(self.names), len(self.fold)) for part in self.parts), "views and rows of every seed"

    def merged(self, views: Collection[str], rows: Rows | slice = slice(None)) -> Values:
        """The mean over seeds of the merged views [rows, outputs], as `merge_views` merges them."""
        sums = [_sum([self.summands(name, rows)[seed] for name in view_names(views)]) for seed in range(len(self.parts))]
        return self.predictions(sums, len(set(views)), rows)

    def summands(self, name: str, rows: Rows | slice) -> list[Values]:
        """Per seed what of a view is averaged [rows, outputs]."""
        return [part[self.names.index(name), rows] for part in self._summands]

    def predictions(self, sums: Sequence[Floats], count: int, rows: Rows | slice) -> Values:
        """The mean over seeds, of the sums over `count` views [rows, outputs] each."""
        found = [merged(total / count, self.merge, self.target.task, self._among[rows]) for total in sums]
        return found[0] if len(found) == 1 else (_sum(found) / len(found)).astype(np.float32)

    @cached_property
    def _summands(self) -> Sequence[Values]:
        if self.merge != "ranks":
            return self.parts
        return [np.stack([summand(view, self.merge, self.fold) for view in part]) for part in self.parts]

    @cached_property
    def _among(self) -> Floats:
        return ranked_among(len(self.fold), self.fold)


def _sum(parts: Sequence[Values]) -> Floats:
    total = np.zeros(parts[0].shape)
    for part in parts:
        total += part
    return total


def view_loss(found: ViewedRows, numbers: Numbers, metric: str) -> Loss:
    """What views are chosen by: log loss of probabilities; squared error of numbers, as a share of the targets' variance; and of ranks,
    which are neither, the competition's metric, a mean over folds. numbers: the truth, as `target.numbers` gives it."""
    target, scored = found.target, METRICS[metric]
    scale = float(numbers.var(dtype=np.float64)) if target.task == "regression" else 1.0

    def general(values: Values, rows: Rows) -> float:
        return general_loss(target.task)(numbers[rows], values) / (scale or 1.0)

    def ranking(values: Values, rows: Rows) -> float:
        fold = found.fold[rows]
        scores = [scored(target, numbers[rows][fold == number], values[fold == number]) for number in np.unique(fold)]
        defined = [score for score in scores if np.isfinite(score)]
        return -scored.sign * float(np.mean(defined)) if defined else float("nan")

    return ranking if found.merge == "ranks" else general


def choose_views(found: ViewedRows, loss: Loss, rows: Rows | None = None) -> tuple[str, ...]:
    """Identity, and one after the other the view that lowers the loss on `rows` (default: all) most, while one does.

    With a single fold there is nowhere to choose that is not scored, and identity stays alone.
    """
    assert "identity" in found.names, "every choice starts from the picture as it is"
    if len(np.unique(found.fold)) < 2:
        return ALONE
    every = np.arange(len(found.fold)) if rows is None else rows
    part = slice(None) if rows is None else rows  # a slice is not copied
    chosen, sums = list(ALONE), [values.astype(np.float64) for values in found.summands("identity", part)]
    least = loss(found.predictions(sums, 1, part), every)
    while remaining := [name for name in view_names(found.names) if name not in chosen]:
        losses = {}
        for name in remaining:
            tried = [total + values for total, values in zip(sums, found.summands(name, part), strict=True)]
            losses[name] = loss(found.predictions(tried, len(chosen) + 1, part), every)
        best = min(losses, key=lambda name: losses[name])
        if not losses[best] < least - LEAST_GAIN:
            break
        for total, values in zip(sums, found.summands(best, part), strict=True):
            total += values
        chosen, least = [*chosen, best], losses[best]
    return view_names(chosen)


def cross_fitted_views(found: ViewedRows, loss: Loss) -> tuple[Values, dict[int, tuple[str, ...]]]:
    """Predictions [rows, outputs] in which each fold's rows have the views that were chosen on the other folds; and these views by fold."""
    values = np.empty(found.parts[0].shape[1:], dtype=np.float32)
    chosen = {}
    for number in np.unique(found.fold).tolist():
        chosen[number] = choose_views(found, loss, np.flatnonzero(found.fold != number))
        inside = np.flatnonzero(found.fold == number)
        values[inside] = found.merged(chosen[number], inside)
    return values, chosen


def view_table(found: ViewedRows, numbers: Numbers, loss: Loss, score: Callable[[Values], float], milliseconds: Mapping[str, float]) -> list[dict[str, Any]]:
    """A line per view alone: its score and loss on all rows, how many rows it corrects and spoils against identity (where that is
    not among them, against the first), milliseconds per picture.

    numbers: the truth; score: of predictions [rows, outputs] of all rows, e.g. the CV.
    """
    every = np.arange(len(found.fold))
    names = view_names(found.names)
    before = found.merged(names[:1])
    table = []
    for name in names:
        values = found.merged([name])
        corrected, spoiled = changed_rows(found.target, numbers, before, values)
        scores = {"score": score(values), "loss": loss(values, every)}
        table.append({"view": name, **scores, "corrected": corrected, "spoiled": spoiled, "milliseconds": milliseconds[name]})
    return table


def changed_rows(target: Target, numbers: Numbers, before: Values, after: Values) -> tuple[int, int]:
    """How many rows become right and how many wrong, by what `target` decides, of several labels all of them; of a regression, how many
    absolute errors fall and how many rise by more than 1 %."""
    if target.task == "regression":
        first, second = (np.abs(values.astype(np.float64) - numbers).max(axis=1) for values in (before, after))
        return int((second < first * (1 - NOTICEABLE)).sum()), int((second > first * (1 + NOTICEABLE)).sum())
    was, now = (_right(target, numbers, values) for values in (before, after))
    return int((now & ~was).sum()), int((was & ~now).sum())


def _right(target: Target, numbers: Numbers, values: Values) -> npt.NDArray[np.bool_]:
    right = np.asarray(target.decide(values) == numbers)
    return np.asarray(right if right.ndim == 1 else right.all(axis=1), dtype=np.bool_)
