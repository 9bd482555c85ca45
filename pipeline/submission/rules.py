"""What the cells of a submission must hold: as the config says, or as the sample and the file look."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.data.targets import Target
from pipeline.submission.findings import Finding, at, quote
from pipeline.submission.formats import Form

SUM_ERROR = 1e-3
MISSING = ("nan", "na", "n/a", "#n/a", "null", "none", "<na>", "-nan", "nat")
AUC = "; an AUC metric does not mind"
WHOLE = r"^\s*[-+]?[0-9]+\s*$"
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Rules:
    """What the cells beside the ids must hold."""

    kind: Literal["labels", "numbers", "indicators"]
    classes: tuple[str, ...] | None = None
    """Every label there is; None: not known."""
    separator: str | None = None
    """Between several labels of a cell; None: a cell is one label."""
    most: int | None = None
    """Labels in a cell."""
    ranked: bool = False
    """Whether the labels of a cell stand in order, of which graders count the first of two that are the same."""
    may_be_empty: bool = False
    """Whether a row may have no label."""
    several: bool = False
    """Indicators: whether a row may have several labels."""
    unit: Literal["error", "note"] | None = None
    """How bad a number outside 0 to 1 is; None: fine."""
    sums: Literal["error", "note"] | None = None
    """How bad a row is that does not sum to 1."""
    judgement: bool = False
    """Whether these two are about what was predicted, since the metric looks at the order of rows alone."""
    excuse: str = ""
    """Who does not mind these two; after how to mend them."""
    whole: bool = False
    """The sample holds whole numbers alone."""


def rules_of(form: Form, target: Target, sample: pd.DataFrame) -> Rules:
    """As the competition's config says."""
    if form.name in ("label", "top_k"):
        several = form.name == "top_k" or target.task == "multilabel"
        most = form.k if form.name == "top_k" else len(target.classes)
        empty = target.task == "multilabel" and form.name == "label" and target.may_be_empty
        return Rules("labels", target.classes, form.separator if several else None, most, form.name == "top_k", empty)
    if form.name == "indicators":
        return Rules("indicators", several=target.task == "multilabel", may_be_empty=target.may_be_empty)
    if target.task == "regression":
        return Rules("numbers", whole=_all_match(sample, WHOLE))
    summed = target.task != "multilabel" and len(sample.columns) > 2
    if form.any_scale:
        return Rules("numbers", unit="note", sums="note" if summed else None, judgement=True, excuse=AUC)
    return Rules("numbers", unit="error", sums="error" if summed else None)


def guess_rules(sample: pd.DataFrame, columns: Sequence["pd.Series[str]"]) -> tuple[Rules, list[Finding]]:
    """As sample and file look: one column of text or whole numbers is labels, of other numbers a score, several are probabilities.

    What the sample does not say is at most a note: its cells may be a placeholder.
    """
    asked = sample.iloc[:, 1:]
    values = np.stack([numbers(asked[name]) for name in asked.columns], axis=1)
    filled = np.stack([~is_blank(asked[name]) for name in asked.columns], axis=1)
    numeric = bool(np.isfinite(values).all())
    if asked.shape[1] > 1:
        words = bool((filled & ~np.isfinite(values)).any())
        return Rules("labels", may_be_empty=not filled.all()) if words else _columns_of_numbers(values), []
    unit = numeric and bool(((values >= 0) & (values <= 1)).all())
    whole = _all_match(sample, WHOLE)
    if numeric and not whole:
        return Rules("numbers", unit="note" if unit else None, excuse=AUC), []
    found = numbers(columns[0])
    fractions = np.isfinite(found) & (found != np.floor(found))
    if (whole or not filled.any()) and fractions.any() and np.isfinite(found).mean() > 0.5:
        what = f"floats, e.g. {quote(columns[0][fractions].iloc[0])}, where the sample has whole numbers"
        note = Finding("note", at(None, 1, str(asked.columns[0])), what, "right for a probability or a number, wrong for labels: name a CONFIG to know", True)
        return Rules("numbers"), [note] if whole else []
    return Rules("labels", may_be_empty=not filled.all(), whole=whole), []


def _columns_of_numbers(values: Numbers) -> Rules:
    """Several columns [rows, columns]: probabilities where rows sum to 1, unless only as a placeholder of 0, 1 or one half does."""
    if not ((values >= 0) & (values <= 1)).all():
        return Rules("numbers")
    if (np.abs(values.sum(axis=1) - 1) > SUM_ERROR).any() or np.isin(values, (0.0, 1.0)).all():
        return Rules("numbers", unit="note", excuse=AUC)
    level: Literal["error", "note"] = "note" if np.isin(values, (0.0, 0.5, 1.0)).all() else "error"
    return Rules("numbers", unit=level, sums=level, excuse=AUC)


def is_blank(cells: "pd.Series[str]") -> npt.NDArray[np.bool_]:
    """Which cells are empty, or a word for it."""
    return np.asarray(cells.str.strip().str.lower().isin(["", *MISSING]), dtype=bool)


def _all_match(sample: pd.DataFrame, pattern: str) -> bool:
    return all(bool(sample[name].str.match(pattern).all()) for name in sample.columns[1:])


def numbers(cells: "pd.Series[str]") -> Numbers:
    """Text to float64, NaN where it is no number."""
    strict = strictly(cells)
    return np.asarray(pd.to_numeric(cells, errors="coerce"), dtype=np.float64) if strict is None else strict


def strictly(cells: "pd.Series[str]") -> Numbers | None:
    """The same, fast; None unless every cell is a number without spaces."""
    import pyarrow as pa
    import pyarrow.compute as pc

    try:
        return np.asarray(pc.cast(pa.array(cells, pa.string()), pa.float64()), dtype=np.float64)
    except pa.ArrowInvalid:
        return None


@dataclass(frozen=True)
class Column:
    """A column's cells in whole rows, with its place in the file."""

    name: str
    position: int
    cells: "pd.Series[str]"
    rows: npt.NDArray[np.int64]
