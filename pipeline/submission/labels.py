"""What is wrong with a column of labels: none, no such label, several where one belongs, more than are looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.errors import did_you_mean
from pipeline.submission.findings import AS_FLOAT, SHOWN, Finding, at, by_difference, count, explain, quote, quote_some, where_meant
from pipeline.submission.rules import MISSING, WHOLE, Column, Rules, is_blank, numbers

LIST_OF_WHOLE = r"^\s*[-+]?[0-9]+((\s+|\s*[|;]\s*|,\s+)[-+]?[0-9]+)+\s*$"
COMMA_LIST = r"^[0-9]+(,[0-9]+)+$"
LONG_COMMA_LIST = r"^[0-9]+(,[0-9]+){2,}$"
AS_INTEGER = "write whole numbers: df[column].astype(int)"


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
    """Of cells with one label each."""
    known = set(rules.classes if rules.classes is not None else asked)
    odd = pd.Series([cell for cell in cells.index if cell not in known], dtype=str)
    blank = odd[is_blank(odd)].tolist()
    odd = odd[~is_blank(odd)]
    if rules.classes is None:
        return _faults_of_unknown_classes(cells.drop(blank), odd, blank, rules, asked)
    faults = [_Fault(blank, f"there is no label, the cell is {_missing(blank[0])}", "write a label in every row")] if blank else []
    return faults + _unknown(odd.tolist(), rules.classes, {text: [text] for text in odd})


def _faults_of_unknown_classes(cells: "pd.Series[int]", odd: "pd.Series[str]", blank: list[str], rules: Rules, asked: "pd.Series[str]") -> list[_Fault]:
    """What the sample and the other cells tell: little, so that an error is only what no competition with this sample can mean.

    odd: what the sample does not show, without blank cells.
    """
    several = are_lists_of_whole(odd)
    faults = _blanks(blank, rules, sure=rules.whole and not several.any())
    spaced = odd[odd != odd.str.strip()]
    padded = bool((asked != asked.str.strip()).any())  # a sample whose cells all begin with a space
    sure: list[str] = [] if padded else spaced[~spaced.str.match(WHOLE) & ~spaced.str.strip().str.contains(r"\s")].tolist()
    if sure:
        faults.append(_Fault(sure, f"{quote_some(sure)} has spaces before or after", "strip them"))
    if maybe := spaced[~spaced.isin(sure)].tolist():
        faults.append(_Fault(maybe, f"{quote_some(maybe)} has spaces before or after", "strip them; graders may not", "note"))
    faults += _spellings(cells)
    finite = np.isfinite(numbers(odd))
    words = asked[~is_blank(asked) & ~are_lists_of_whole(asked)]
    if rules.whole:
        whole = odd.str.match(WHOLE)
        kinds: list[tuple[npt.NDArray[np.bool_], str, str, Literal["error", "note"]]] = [
            (several.to_numpy(dtype=bool), "is several numbers, where the sample shows one", "right if a row may have several labels", "note"),
            (finite & ~whole & ~several, "written as a float, where the sample has whole numbers", f"graders may read them as text: {AS_INTEGER}", "note"),
            (~finite & ~several & ~odd.isin(sure), "where the sample has whole numbers", "write the number of the class", "error"),
        ]
        for those, what, mend, level in kinds:
            if texts := odd[those].tolist():
                faults.append(_Fault(texts, f"{quote_some(texts)} {what}", mend, level))
    elif len(odd) and finite.all() and not np.isfinite(numbers(asked)).any() and len(words):
        what = f"{quote_some(odd.tolist())} where the sample has words, e.g. {quote(words.iloc[0])}"
        faults.append(_Fault(odd.tolist(), what, "write the name of the class"))
    return faults


def are_lists_of_whole(texts: "pd.Series[str]") -> "pd.Series[bool]":
    """Which cells are several whole numbers; two with a comma between, only if another cell has more, since they may be one with a decimal comma."""
    spaced = texts.str.match(LIST_OF_WHOLE)
    return spaced | texts.str.match(COMMA_LIST) if texts.str.match(LONG_COMMA_LIST).any() else spaced


def _blanks(blank: list[str], rules: Rules, sure: bool) -> list[_Fault]:
    """Of cells without a label, where the sample does not say that there may be such; `sure`: no label looks like that."""
    if blank and sure:
        return [_Fault(blank, f"there is no label, the cell is {_missing(blank[0])}", "write a label in every row")]
    named = [cell for cell in blank if cell.strip()]
    faults = [_Fault(named, f"{quote_some(named)} looks like no label", "right only if a class is called so", "note")] if named else []
    if (empty := [cell for cell in blank if not cell.strip()]) and not rules.may_be_empty:
        faults.append(_Fault(empty, "there is no label, the cell is empty", "right only if a row may have none", "note"))
    return faults


def _spellings(cells: "pd.Series[int]") -> list[_Fault]:
    """Without known classes: labels that differ in case alone, the rarer of the two."""
    faults = []
    commonest: dict[str, str] = {}
    for cell in cells.sort_values(ascending=False, kind="stable").index:
        first = commonest.setdefault(cell.casefold(), cell)
        if first != cell:
            faults.append(_Fault([cell], f"{quote(cell)} differs from {quote(first)} in case alone", "write one of them if they are one label", "note"))
    return faults[:SHOWN]


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
    many = [cell for cell, labels in parts.items() if len(labels if rules.ranked else set(labels)) > most]
    otherwise = {cell: other for cell in odd if (other := _other_separator(cell, known)) is not None}
    faults = []
    if bare := [cell for cell in blank if parts[cell] or not rules.may_be_empty]:
        faults.append(_Fault(bare, f"there is no label, the cell is {_missing(bare[0])}", "write at least one label"))
    if doubled:
        mend = "write each once, the most probable first" + ("; graders that go by rank count the first" if rules.ranked else "")
        faults.append(_Fault(doubled, f"{quote(doubled[0])} has a label twice", mend, "note" if rules.ranked else "error"))
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
