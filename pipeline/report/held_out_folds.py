"""Scores per fold, and folds that stand out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.eda.facts import Finding
from pipeline.predictions import Predictions
from pipeline.report.charts import defined, score_text
from pipeline.report.run import Run

MOST_FOLDS = 40
MOST_COLUMNS = 12
UNLIKELY = 0.05  # that among equal folds any one lies so far from the others


@dataclass(frozen=True)
class Folds:
    """A line per fold."""

    names: tuple[str, ...]
    lines: tuple[tuple[int, int, tuple[str, ...]], ...]
    """Fold, rows, and the score of what is submitted and of every experiment."""
    more: int
    more_names: int
    findings: tuple[Finding, ...]


def describe_folds(run: Run) -> Folds:
    """Scores by fold of what is submitted and of the experiments, the best first."""
    experiments = sorted(run.experiments, key=lambda one: one.name)[:MOST_COLUMNS]
    columns = [_by_fold(run.out_of_fold, run.score), *(_by_fold(one.out_of_fold, one.score) for one in experiments)]
    folds = sorted({fold for column in columns for fold in column} | set(np.unique(run.out_of_fold.fold).tolist()))
    counts = {fold: int((run.out_of_fold.fold == fold).sum()) for fold in folds}
    lines = tuple((fold, counts[fold], tuple(score_text(column.get(fold)) for column in columns)) for fold in folds[:MOST_FOLDS])
    names = ("submitted", *(one.name for one in experiments))
    return Folds(names, lines, max(0, len(folds) - MOST_FOLDS), len(run.experiments) - len(experiments), _findings(columns[0]))


def _by_fold(out_of_fold: Predictions, score: Mapping[str, Any]) -> dict[int, float | None]:
    known = np.unique(out_of_fold.fold).tolist()
    scores = score.get("folds", ())
    return dict(zip(known, scores, strict=True)) if len(scores) == len(known) else {}


def stands_out(scores: Sequence[float]) -> tuple[int, float] | None:
    """The place of the score that lies farthest from the others, and how likely that is among equal folds; None if it is not unlikely.

    A t test of one number against the others, times the number of folds (Bonferroni); four folds at least. With five folds, a distance
    of two standard deviations is no rarity: one of them lies there in more than half of all runs.
    """
    from scipy.stats import t

    count = len(scores)
    if count < 4:
        return None
    values = np.asarray(scores, dtype=np.float64)
    found: tuple[int, float] | None = None
    for place in range(count):
        others = np.delete(values, place)
        spread = others.std(ddof=1) * np.sqrt(1 + 1 / (count - 1))
        if spread == 0:
            continue
        likely = min(1.0, count * 2 * float(t.sf(abs(values[place] - others.mean()) / spread, count - 2)))
        if likely < UNLIKELY and (found is None or likely < found[1]):
            found = (place, likely)
    return found


def _findings(by_fold: Mapping[int, float | None]) -> tuple[Finding, ...]:
    known = [(fold, float(score)) for fold, score in by_fold.items() if score is not None and defined(score)]
    found = stands_out([score for _, score in known])
    if found is None:
        return ()
    fold, score = known[found[0]]
    others = [value for number, value in known if number != fold]
    text = f"Fold {fold} scores {score_text(score)}, the other {len(others)} between {score_text(min(others))} and {score_text(max(others))}: "
    text += f"among equal folds one lies so far off in {max(1, round(100 * found[1]))} of 100 runs. Look at which rows it holds."
    return (Finding("decide", text, "folds"),)
