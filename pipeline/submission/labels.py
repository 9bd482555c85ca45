"""What is wrong with a column of labels: none, no such label, several where one belongs, more than are looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.errors import did_you_mean
from pipeline.submission.findings import AS_FLOAT, SHOWN, Finding, at, by_difference, count, explain, quote, quote_some, where_meant
from pipeline.submission.rules import WHOLE, Column, Rules, numbers

FLOAT_OF_WHOLE = r"^\s*[-+]?[0-9]+\.0+\s*$"
AS_INTEGER = "write whole numbers: df[column].astype(int)"
MISSING = ("nan", "na", "n/a", "#n/a", "null", "none", "<na>", "-nan", "nat")


def check_labels(column: Column, rules: Rules, asked: "pd.Series[str]") -> list[Finding]:
    """What is wrong with a column's labels; `asked`: the sample's cells."""
    cells = column.cells.value_counts(sort=False)
    faults = _faults_of_lists(cells.index.tolist(), rules) if rules.separator is not None else _faults_of_labels(cells, rules, asked)
    findings = []
    for fault in faults:
        rows = column.rows[column.cells.isin(fault.cells).to_numpy()]
        others = f" ({len(rows):,} rows: {', '.join(map(str, rows[:SHOWN]))}{', ...' if len(rows) > SHOWN else ''})" if len(rows) > 1 else ""
        findings.append(Finding(fault.level, at(int(rows[0]), column.position, column.name), fault.what + others, fault.mend))
    return findings


@dataclass(frozen=True)
class _Fault:
    cells: list[str]
    """Which of the column's different cells have it."""
    what: str
    mend: str
    level: Literal["error", "note"] = "error"


def _faults_of_labels(cells: "pd.Series[int]", rules: Rules, asked: "pd.Series[str]") -> list[_Fault]:
    """Of cells with one label each; without known classes, what the sample and the other cells tell."""
    known = set(rules.classes if rules.classes is not None else asked)
    odd = [cell for cell in cells.index if cell not in known]
    blank = [cell for cell in odd if not cell.strip() or cell.strip().lower() in MISSING]
    odd = [cell for cell in odd if cell not in set(blank)]
    faults = []
    if blank and not (rules.may_be_empty and blank == [""]):
        faults.append(_Fault(blank, f"there is no label, the cell is {_missing(blank[0])}", "write a label in every row"))
    if rules.classes is not None:
        return faults + _unknown(odd, rules.classes, {text: [text] for text in odd})
    faults += _spellings(cells.drop(blank))
    texts = pd.Series([cell for cell in odd if cell == cell.strip()], dtype=str)
    whole = texts.str.match(WHOLE)
    if rules.whole:
        floats = texts[texts.str.match(FLOAT_OF_WHOLE)].tolist()
        others = texts[~whole & ~texts.isin(floats)].tolist()
        if floats:
            faults.append(_Fault(floats, f"{quote_some(floats)} written as a float, where the sample has whole numbers", AS_INTEGER))
        if others:
            faults.append(_Fault(others, f"{quote_some(others)} where the sample has whole numbers", "write the number of the class"))
    elif len(texts) and np.isfinite(numbers(texts)).all() and not np.isfinite(numbers(asked)).any() and (asked != "").any():
        faults.append(
            _Fault(texts.tolist(), f"{quote_some(texts.tolist())} where the sample has words, e.g. {quote(asked.iloc[0])}", "write the name of the class")
        )
    return faults


def _spellings(cells: "pd.Series[int]") -> list[_Fault]:
    """Without known classes: spaces around a label, and labels that differ in case alone, the rarer of the two."""
    faults = []
    if spaced := [cell for cell in cells.index if cell != cell.strip()]:
        faults.append(_Fault(spaced, f"{quote_some(spaced)} has spaces before or after", "strip them"))
    commonest: dict[str, str] = {}
    for cell in cells.sort_values(ascending=False, kind="stable").index:
        first = commonest.setdefault(cell.casefold(), cell)
        if first != cell:
            faults.append(_Fault([cell], f"{quote(cell)} differs from {quote(first)} in case alone", "write one of them if they are one label", "note"))
    return faults[: SHOWN + 1]


def _missing(cell: str) -> str:
    return quote(cell) if cell.strip() else "empty"


def _unknown(odd: Sequence[str], classes: Sequence[str], cells_with: Mapping[str, list[str]]) -> list[_Fault]:
    """Faults of texts that are no class, by what made them so; `cells_with`: the cells that hold each."""

    def cells(texts: Sequence[str]) -> list[str]:
        return [cell for text in texts for cell in cells_with[text]]

    explained = explain(odd, classes)
    faults = []
    for difference, pairs in by_difference(explained).items():
        what = f"{count(len(pairs), 'label')} {difference.phrase}: {where_meant(pairs, 'the train table')}"
        faults.append(_Fault(cells([text for text, _ in pairs]), what, AS_INTEGER if difference is AS_FLOAT else difference.mend))
    if rest := [text for text in odd if text not in explained]:
        what = (
            f"{quote(rest[0])} is no label of the train table" if len(rest) == 1 else f"{len(rest):,} labels that the train table has not: {quote_some(rest)}"
        )
        faults.append(_Fault(cells(rest), what, "write one of its labels" + did_you_mean(rest[0], classes)))
    return faults


def _faults_of_lists(cells: list[str], rules: Rules) -> list[_Fault]:
    """Of cells with several labels each, of known classes."""
    assert rules.separator is not None
    assert rules.classes is not None
    assert rules.most is not None
    known, most = set(rules.classes), rules.most
    parts = {cell: [label for label in cell.split(rules.separator) if label] for cell in cells}
    blank = [cell for cell, labels in parts.items() if not labels or (labels[0] not in known and cell.strip().lower() in MISSING)]
    odd = {cell: [label for label in labels if label not in known] for cell, labels in parts.items() if not known.issuperset(labels)}
    doubled = [cell for cell, labels in parts.items() if len(set(labels)) != len(labels)]
    many = [cell for cell, labels in parts.items() if len(set(labels)) > most]
    otherwise = {cell: other for cell in odd if (other := _other_separator(cell, known)) is not None}
    faults = []
    if bare := [cell for cell in blank if parts[cell] or not rules.may_be_empty]:
        faults.append(_Fault(bare, f"there is no label, the cell is {_missing(bare[0])}", "write at least one label"))
    if doubled:
        faults.append(_Fault(doubled, f"{quote(doubled[0])} has a label twice", "write each once, the most probable first"))
    if many:
        faults.append(_Fault(many, f"{quote(many[0])} has {len(parts[many[0]])} labels, but {most} are the most", f"write the {most} most probable"))
    if otherwise:
        first, other = next(iter(otherwise.items()))
        faults.append(_Fault(list(otherwise), f"labels in {quote(first)} are separated by {quote(other)}", f"separate them by {quote(rules.separator)}"))
    having: dict[str, list[str]] = {}
    for cell in odd.keys() - otherwise.keys() - set(blank):
        for label in odd[cell]:
            having.setdefault(label, []).append(cell)
    return faults + _unknown(sorted(having), rules.classes, having)


def _other_separator(cell: str, known: set[str]) -> str | None:
    """By which the cell would be known labels."""
    return next((other for other in (", ", ",", ";", "|", " ") if other in cell and known.issuperset(cell.split(other))), None)
