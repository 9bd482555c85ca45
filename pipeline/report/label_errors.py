"""Labels that look wrong: confident learning on out-of-fold probabilities, and residuals far out.

Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset labels (2021). A suspicion is no proof: a row that
every network gets wrong is as often a hard picture as a wrong label.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.data.targets import Target
from pipeline.predictions import Predictions
from pipeline.report.run import Rows, default_rows

COLUMNS = ["id", "label", "suggested", "own", "other", "rank"]
FAR_OUT = 4.0  # residuals of a normal distribution lie there once in 16,000 rows
BLOCK = 1 << 22  # probabilities that are looked at in one go

Floats = npt.NDArray[np.float64]
Names = npt.NDArray[np.object_]


@dataclass(frozen=True)
class Pair:
    """Rows of one label that look like another."""

    label: str
    suggested: str
    suspected: int
    estimated: float
    """Share of all rows that have this label and are of the other class, by the calibrated confident joint."""


def label_errors(out_of_fold: Predictions, target: Target, truth: Mapping[str, str]) -> pd.DataFrame:
    """Rows whose label looks wrong, the most suspicious first: id, label, suggested, own, other, rank (from 1).

    own, other: the probability of the label and of the suggested class; ranked by their difference. Multilabel: one line per row and
    label; an empty `suggested` means that the label should go, an empty `label` that the suggested one is missing. Not for regression.
    """
    return suspects(default_rows(out_of_fold, target, truth))


def suspects(rows: Rows) -> pd.DataFrame:
    """The same of rows that are in order already."""
    assert rows.target.task != "regression", "a regression has residuals, no confident joint"
    names = np.array(rows.target.classes, dtype=object)
    parts = []
    if rows.target.task == "multilabel":
        for column, name in enumerate(names):
            given = rows.numbers[:, column].astype(np.int64)
            two = np.stack([1 - rows.values[:, column], rows.values[:, column]], axis=1)
            parts.append(_off_diagonal(two, given, np.array(["", name], dtype=object)))
    else:
        parts.append(_off_diagonal(rows.values, rows.numbers, names))
    at, label, suggested, own, other = (np.concatenate(column) for column in zip(*parts, strict=True))
    table = pd.DataFrame({"id": np.array(rows.ids, dtype=object)[at], "label": label, "suggested": suggested, "own": own, "other": other})
    order = np.argsort((table["own"] - table["other"]).to_numpy(), kind="stable")
    return table.iloc[order].reset_index(drop=True).assign(rank=np.arange(1, len(table) + 1))[COLUMNS]


def _off_diagonal(values: npt.NDArray[np.float32], given: npt.NDArray[np.int64], names: Names) -> tuple[npt.NDArray[np.int64], Names, Names, Floats, Floats]:
    """Row numbers off the diagonal of the confident joint, their labels, the suggested ones, and the probabilities of both."""
    confident = confident_classes(values, given)
    at = np.flatnonzero((confident >= 0) & (confident != given))
    own, other = (values[at, which[at]].astype(np.float64) for which in (given, confident))
    return at, names[given[at]], names[confident[at]], own, other


def confident_classes(values: npt.NDArray[np.float32], given: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The class that each row is counted for in the confident joint [rows], -1 for none.

    The most probable of the classes whose probability reaches the class's threshold: its mean over the rows that are labelled so.
    values: [rows, classes]; given: [rows].
    """
    num_classes = values.shape[1]
    count = np.bincount(given, minlength=num_classes)
    total = np.bincount(given, weights=values[np.arange(len(given)), given], minlength=num_classes)
    threshold = np.where(count > 0, total / np.maximum(1, count), np.inf)
    result = np.full(len(given), -1, dtype=np.int64)
    block = max(1, BLOCK // num_classes)
    for start in range(0, len(given), block):
        part = values[start : start + block]
        reached = np.where(part >= threshold - 1e-7, part, -1.0)  # rows that are all alike reach their own mean
        best = reached.argmax(axis=1)
        result[start : start + block] = np.where(reached[np.arange(len(part)), best] >= 0, best, -1)
    return result


def noisy_pairs(rows: Rows) -> tuple[list[Pair], float]:
    """Pairs of classes by how many rows of the first look like the second, the most first; and the estimated share of wrong labels.

    The confident joint's rows are scaled to the number of rows of each label, then all to sum 1. Multilabel: nothing, its labels are
    judged one by one.
    """
    if rows.target.task == "multilabel":
        return [], float("nan")
    num_classes = len(rows.target.classes)
    confident = confident_classes(rows.values, rows.numbers)
    counted = confident >= 0
    cells, joint = np.unique(rows.numbers[counted] * num_classes + confident[counted], return_counts=True)
    label, other = cells // num_classes, cells % num_classes
    per_label = np.bincount(rows.numbers, minlength=num_classes)
    scaled = joint * (per_label / np.maximum(1, np.bincount(label, weights=joint, minlength=num_classes)))[label]
    share = scaled / scaled.sum() if scaled.sum() else scaled
    names = rows.target.classes
    pairs = [Pair(names[i], names[j], int(n), float(s)) for i, j, n, s in zip(label, other, joint, share, strict=True) if i != j]
    return sorted(pairs, key=lambda pair: (-pair.suspected, pair.label, pair.suggested)), float(sum(pair.estimated for pair in pairs))


def large_residuals(rows: Rows) -> pd.DataFrame:
    """Regression: rows whose residual lies more than 4 robust standard deviations from the median one: id, label, predicted, residual,
    standardised, rank. The standard deviation is 1.4826 times the median absolute deviation."""
    residual = rows.values[:, 0].astype(np.float64) - rows.numbers[:, 0]
    middle = np.median(residual)
    spread = 1.4826 * np.median(np.abs(residual - middle))
    standardised = (residual - middle) / spread if spread > 0 else np.zeros_like(residual)
    order = np.argsort(-np.abs(standardised), kind="stable")
    at = order[np.abs(standardised[order]) > FAR_OUT]
    table = {"id": [rows.ids[i] for i in at], "label": [rows.texts[i] for i in at], "predicted": rows.values[at, 0]}
    return pd.DataFrame(table | {"residual": residual[at], "standardised": standardised[at], "rank": np.arange(1, len(at) + 1)})
