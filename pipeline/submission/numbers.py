"""What is wrong with columns of numbers: none, infinite ones, no probabilities, rows that do not sum to 1, other indicators than 0 and 1."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.submission.findings import SHOWN, Finding, at, count, quote
from pipeline.submission.rules import SUM_ERROR, Column, Numbers, Rules, numbers, strictly

SUM_NOTE = 1e-6
UNIT_NOTE = 1e-6  # what the float32 sums of a blend go beyond 0 and 1
INDICATOR = r"^\s*[01]\s*$"
NUMBERLESS = {  # what a cell without a number is, the first that fits; patterns of RE2
    "empty": r"^\s*$",
    "NaN": r"(?i)^\s*([-+]?nan|#?n/?a|null|none|<na>|nat)\s*$",
    "infinite": r"(?i)^\s*[-+]?inf(inity)?\s*$",
    "written with a decimal comma": r"^\s*[-+]?[0-9]*,[0-9]+([eE][-+]?[0-9]+)?\s*$",
    "a percentage": r"^\s*[-+]?[0-9.,]+\s*%\s*$",
}
MENDS = {
    "empty": "write a number in every cell",
    "NaN": "write a number: df.isna().sum() tells where they come from",
    "infinite": "write a finite number",
    "too large for a number": "write a finite number",
    "written with a decimal comma": "write a point: 0.5",
    "a percentage": "write a fraction: 0.5 for 50 %",
    "no number": "write a number",
}


def check_numbers(columns: Sequence[Column], rules: Rules) -> list[Finding]:
    """What is wrong with columns of numbers, all of the same rows."""
    rows, (values, findings) = columns[0].rows, _read(columns)
    bad = ~np.isfinite(values)
    good = np.asarray(~bad.any(axis=1), dtype=bool)
    if not good.any():
        return findings
    if rules.unit is not None:
        percent, outside = _outside(columns, values, good, rules)
        findings += percent or outside
        good &= ~_is_outside(values, UNIT_NOTE).any(axis=1)
        if percent:
            return findings
    if rules.sums is not None:
        findings += _sums(rows[good], values[good].sum(axis=1), rules)
    if rules.whole and (fractions := good & (values != np.floor(values)).any(axis=1)).any():
        what = f"floats, e.g. {values[fractions][0, 0]:g} in row {rows[fractions][0]}, where the sample has whole numbers"
        findings.append(Finding("note", at(None, columns[0].position, columns[0].name), what, "round them if the competition counts in whole numbers", True))
    return findings


def check_indicators(columns: Sequence[Column], rules: Rules) -> list[Finding]:
    """What is wrong with columns of 0 and 1, one per label, all of the same rows."""
    rows, (values, findings) = columns[0].rows, _read(columns)
    finite = np.isfinite(values)
    if (odd := finite & (values != 0) & (values != 1)).any():
        where, text, others = _first_cells(odd, columns)
        findings.append(Finding("error", where, f"{text} is neither 0 nor 1{others}", "write 1 for a label that is predicted, else 0"))
    texts = np.stack([~column.cells.str.match(INDICATOR).to_numpy(dtype=bool) for column in columns], axis=1)
    if (floats := finite & ~odd & texts).any():
        where, text, others = _first_cells(floats, columns)
        findings.append(Finding("note", where, f"{text} is written as a float{others}", "write 0 and 1: df[columns].astype(int)"))
    good = (finite & ~odd).all(axis=1)
    given = values[good].sum(axis=1)
    bare, many = given == 0, given > 1
    for bad, what, mend in (
        (bare & (not (rules.several and rules.may_be_empty)), "no label is 1", "write 1 for the most probable"),
        (many & (not rules.several), "several labels are 1, where a row has one", "write 1 for the most probable alone"),
    ):
        if bad.any():
            findings.append(Finding("error", at(int(rows[good][bad.argmax()])), what + (f" ({bad.sum():,} such rows)" if bad.sum() > 1 else ""), mend))
    return findings


def _read(columns: Sequence[Column]) -> tuple[Numbers, list[Finding]]:
    """The cells as numbers [rows, columns], and findings about those that are none, or have spaces."""
    strict = [strictly(column.cells) for column in columns]
    values = np.stack([numbers(column.cells) if found is None else found for column, found in zip(columns, strict, strict=True)], axis=1)
    spaced = [column for column, found in zip(columns, strict, strict=True) if found is None]
    return values, _numberless(columns, values, ~np.isfinite(values)) + _spaces(spaced)


def _numberless(columns: Sequence[Column], values: Numbers, bad: npt.NDArray[np.bool_]) -> list[Finding]:
    """One finding per kind of cell that holds no finite number."""
    import pyarrow as pa
    import pyarrow.compute as pc

    totals: Counter[str] = Counter()
    first: dict[str, list[tuple[int, int, str]]] = {}  # row, column, text; in order
    for number in np.flatnonzero(bad.any(axis=0)).tolist():
        at_rows = np.flatnonzero(bad[:, number])
        texts = columns[number].cells.iloc[at_rows]
        left, array = np.ones(len(at_rows), dtype=bool), pa.array(texts, pa.string())
        kinds = {name: np.asarray(pc.match_substring_regex(array, pattern)) for name, pattern in NUMBERLESS.items()}
        kinds["too large for a number"] = np.isinf(values[at_rows, number])
        kinds["no number"] = left
        for name, fits in kinds.items():
            hit = np.flatnonzero(fits & left)
            left = left & ~fits
            totals[name] += len(hit)
            first.setdefault(name, []).extend((int(at_rows[k]), number, str(texts.iloc[k])) for k in hit[:SHOWN])
    findings = []
    for name in (name for name in MENDS if totals[name]):
        row, place, text = sorted(first[name])[0]
        where = at(int(columns[place].rows[row]), columns[place].position, columns[place].name)
        what = "the cell is empty" if name == "empty" else f"{quote(text)} is {name}"
        more = ", ".join(f"row {columns[0].rows[row]}" + ("" if name == "empty" else f" {quote(text)}") for row, _, text in sorted(first[name])[1:SHOWN])
        others = f" ({totals[name]:,} such cells: also {more}{', ...' if totals[name] > SHOWN else ''})" if totals[name] > 1 else ""
        findings.append(Finding("error", where, what + others, MENDS[name]))
    return findings


def _spaces(columns: Sequence[Column]) -> list[Finding]:
    import pyarrow as pa
    import pyarrow.compute as pc

    for column in columns:
        array = pa.array(column.cells, pa.string())
        spaced = np.flatnonzero(np.asarray(pc.match_substring_regex(array, r"^\s+\S|\S\s+$")))
        if len(spaced):
            row, text = int(column.rows[spaced[0]]), column.cells.iloc[spaced[0]]
            what = f"{quote(text)} has spaces around the number ({count(len(spaced), 'row')} of this column)"
            return [Finding("note", at(row, column.position, column.name), what, "strip them; pandas reads them, others may not")]
    return []


def _outside(columns: Sequence[Column], values: Numbers, good: npt.NDArray[np.bool_], rules: Rules) -> tuple[list[Finding], list[Finding]]:
    """Percentages named as such; else the numbers outside 0 to 1."""
    assert rules.unit is not None
    odd, findings = _is_outside(values, UNIT_NOTE) & good[:, None], []
    if odd.any():
        where, text, others = _first_cells(odd, columns)
        inside = values[good]
        hundred = np.abs(inside.sum(axis=1) - 100) < 1 if rules.sums else inside.max(axis=1) > 1
        if inside.min() >= 0 and inside.max() <= 100.5 and hundred.mean() > 0.5:
            what = f"{text} looks like a percentage: numbers go from {inside.min():g} to {inside.max():g}"
            return [Finding(rules.unit, where, what, f"divide by 100; probabilities are 0 to 1{rules.excuse}", rules.judgement)], []
        findings.append(Finding(rules.unit, where, f"{text} is no probability{others}", f"write 0 to 1{rules.excuse}", rules.judgement))
    if (slight := _is_outside(values, 0.0) & good[:, None] & ~odd).any():
        where, text, others = _first_cells(slight, columns)
        what = f"{text} is outside 0 to 1 by no more than {UNIT_NOTE:g}{others}"
        findings.append(Finding("note", where, what, "clip to 0 and 1 if the competition is strict", True))
    return [], findings


def _is_outside(values: Numbers, tolerance: float) -> npt.NDArray[np.bool_]:
    return np.asarray((values < -tolerance) | (values > 1 + tolerance), dtype=bool)


def _first_cells(odd: npt.NDArray[np.bool_], columns: Sequence[Column]) -> tuple[str, str, str]:
    """Where the first of these cells is [rows, columns], its text in quotes, and how many others there are."""
    first = np.argwhere(odd)[:SHOWN].tolist()
    texts = [quote(str(columns[place].cells.iloc[row])) for row, place in first]
    more = ", ".join(f"row {columns[0].rows[row]} {text}" for (row, _), text in zip(first[1:], texts[1:], strict=True))
    others = f" ({odd.sum():,} such cells: also {more}{', ...' if odd.sum() > SHOWN else ''})" if odd.sum() > 1 else ""
    row, column = first[0][0], columns[first[0][1]]
    return at(int(column.rows[row]), column.position, column.name), texts[0], others


def _sums(rows: npt.NDArray[np.int64], sums: Numbers, rules: Rules) -> list[Finding]:
    assert rules.sums is not None
    findings = []
    off = np.abs(sums - 1)
    bounds: list[tuple[Any, Literal["error", "note"], str]] = [
        (off > SUM_ERROR, rules.sums, f"scale each row to sum 1{rules.excuse}"),
        ((off > SUM_NOTE) & (off <= SUM_ERROR), "note", "write more digits, or scale each row to sum 1"),
    ]
    for bad, grade, mend in bounds:
        if bad.any():
            first = int(bad.argmax())
            others = f" ({bad.sum():,} such rows, the furthest by {off[bad].max():.2g})" if bad.sum() > 1 else ""
            findings.append(Finding(grade, at(int(rows[first])), f"the probabilities sum to {sums[first]:.9g}{others}", mend, rules.judgement))
    return findings
