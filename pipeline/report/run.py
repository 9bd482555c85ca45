"""What a report is made of: the run as the stage hands it over, and its rows in one order."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.data.images import Pixels
from pipeline.data.targets import Numbers, Target
from pipeline.predictions import Predictions


@dataclass(frozen=True)
class Experiment:
    """One experiment of the blend.

    score: as in cv.json (metric, cv, folds, mean, spread, rows, optimistic, interval). histories: by the name of a training run, e.g.
    "seed 0 fold 1", its history.csv (epoch, learning_rate, train_loss, valid_loss, the metric). views: as in views.json. summary: keys and
    values of the config that tell it from others.
    """

    name: str
    out_of_fold: Predictions
    score: Mapping[str, Any]
    histories: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    views: Mapping[str, Any] | None = None
    seconds: float | None = None
    parameters: int | None = None
    summary: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Run:
    """What was submitted and what it was made of.

    truth: target by id, of at least every row of `out_of_fold`; out_of_fold: the chosen blend; decided: its labels as `target.numbers` would
    give them, in the rows of `out_of_fold` and the classes of `target`; score: of what is submitted; ensemble: the ensemble's cv.json;
    read: RGB uint8 [H, W, 3] of an id's picture, or CorruptImage; thresholds: score by medal; groups: what copies of a picture have in common, by id.
    """

    title: str
    competition: str
    metric: str
    sign: int
    target: Target
    truth: Mapping[str, str]
    out_of_fold: Predictions
    decided: Numbers
    score: Mapping[str, Any]
    ensemble: Mapping[str, Any]
    experiments: Sequence[Experiment]
    read: Callable[[str], Pixels]
    thresholds: Mapping[str, float] | None = None
    notes: Sequence[str] = ()
    groups: Mapping[str, Hashable] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert len(self.decided) == len(self.out_of_fold)

    @property
    def thresholds_used(self) -> Sequence[float] | None:
        """The thresholds that test rows are decided by: fitted ones where the ensemble took those; None is one half."""
        decisions = self.ensemble.get("decisions") or {}
        given: Sequence[float] | None = decisions.get("thresholds") if decisions.get("chosen") == "fitted" else self.target.thresholds
        return given

    @property
    def are_probabilities(self) -> bool:
        """Whether the blend's values are probabilities: no regression, and no ranks."""
        ranked = self.ensemble.get("chosen") == "ranks" or any((one.views or {}).get("merge") == "ranks" for one in self.experiments)
        return self.target.task != "regression" and not ranked


@dataclass(frozen=True)
class Rows:
    """Rows in the order of their ids, outputs in the order of `target.classes`.

    values: float32 [rows, outputs]; numbers, decided: as `target.numbers` gives them; fold: int16 [rows].
    """

    target: Target
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    values: npt.NDArray[np.float32]
    numbers: Numbers
    decided: Numbers
    fold: npt.NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def wrong(self) -> npt.NDArray[np.bool_]:
        """Rows whose label is wrong, of several labels at least one [rows]."""
        differs = self.numbers != self.decided
        return np.asarray(differs if differs.ndim == 1 else differs.any(axis=1))


def rows_of(run: Run) -> Rows:
    """The rows of a run's blend."""
    order, ids, values = _in_order(run.out_of_fold, run.target)
    texts = tuple(run.truth[name] for name in ids)
    return Rows(run.target, ids, texts, values, run.target.numbers(texts), run.decided[order], run.out_of_fold.fold[order])


def default_rows(out_of_fold: Predictions, target: Target, truth: Mapping[str, str]) -> Rows:
    """The rows of any predictions, decided without fitted thresholds or cut points."""
    order, ids, values = _in_order(out_of_fold, target)
    texts = tuple(truth[name] for name in ids)
    plain = replace(target, thresholds=None, cut_points=None)
    return Rows(target, ids, texts, values, target.numbers(texts), plain.decide(values), out_of_fold.fold[order])


def _in_order(out_of_fold: Predictions, target: Target) -> tuple[npt.NDArray[np.int64], tuple[str, ...], npt.NDArray[np.float32]]:
    """The order of the ids, the ids, and the values [rows, outputs]."""
    order = np.array(sorted(range(len(out_of_fold)), key=out_of_fold.ids.__getitem__), dtype=np.int64)
    ids = tuple(out_of_fold.ids[row] for row in order)
    columns = np.array([out_of_fold.classes.index(name) for name in target.classes], dtype=np.int64)
    return order, ids, np.ascontiguousarray(out_of_fold.values[np.ix_(order, columns)])
