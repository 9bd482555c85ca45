"""What is wrong with columns of numbers: none, infinite ones, no probabilities, rows that do not sum to 1."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from pipeline.submission.findings import SHOWN, Finding, at, count, quote
from pipeline.submission.rules import SUM_ERROR, Column, Numbers, Rules, numbers, strictly

SUM_NOTE = 1e-6
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
    rows, strict = columns[0].rows, [strictly(column.cells) for column in columns]
    values = np.stack([numbers(column.cells) if found is None else found for column, found in zip(columns, strict, strict=True)], axis=1)
    bad = ~np.isfinite(values)
    findings = _numberless(columns, values, bad) + _spaces([column for column, found in zip(columns, strict, strict=True) if found is None])
    good = np.asarray(~bad.any(axis=1), dtype=bool)
    if not good.any():
        return findings
    if rules.unit is not None:
        percent, outside = _outside(columns, values, good, rules)
        findings += percent or outside
        good &= ((values >= 0) & (values <= 1)).all(axis=1)
        if percent:
            return findings
    if rules.sums is not None:
        findings += _sums(rows[good], values[good].sum(axis=1), rules.sums)
    if rules.whole and (fractions := good & (values != np.floor(values)).any(axis=1)).any():
        what = f"floats, e.g. {values[fractions][0, 0]:g} in row {rows[fractions][0]}, where the sample has whole numbers"
        findings.append(Finding("note", at(None, columns[0].position, columns[0].name), what, "round them if the competition counts in whole numbers", True))
    return findings


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
    odd = ((values < 0) | (values > 1)) & good[:, None]
    if not odd.any():
        return [], []
    inside, first = values[good], np.argwhere(odd)[:SHOWN]
    row, column = int(first[0, 0]), columns[int(first[0, 1])]
    where = at(int(column.rows[row]), column.position, column.name)
    hundred = np.abs(inside.sum(axis=1) - 100) < 1 if rules.sums else inside.max(axis=1) > 1
    if inside.min() >= 0 and inside.max() <= 100.5 and hundred.mean() > 0.5:
        what = f"{quote(str(column.cells.iloc[row]))} looks like a percentage: numbers go from {inside.min():g} to {inside.max():g}"
        return [Finding(rules.unit, where, what, "divide by 100; probabilities are 0 to 1")], []
    more = ", ".join(f"row {columns[0].rows[row]} {quote(str(columns[place].cells.iloc[row]))}" for row, place in first[1:].tolist())
    others = f" ({odd.sum():,} such cells: also {more}{', ...' if odd.sum() > SHOWN else ''})" if odd.sum() > 1 else ""
    return [], [Finding(rules.unit, where, f"{quote(str(column.cells.iloc[row]))} is no probability{others}", "write 0 to 1")]


def _sums(rows: npt.NDArray[np.int64], sums: Numbers, level: Literal["error", "note"]) -> list[Finding]:
    findings = []
    off = np.abs(sums - 1)
    bounds: list[tuple[Any, Literal["error", "note"], str]] = [
        (off > SUM_ERROR, level, "scale each row to sum 1"),
        ((off > SUM_NOTE) & (off <= SUM_ERROR), "note", "write more digits, or scale each row to sum 1"),
    ]
    for bad, grade, mend in bounds:
        if bad.any():
            first = int(bad.argmax())
            others = f" ({bad.sum():,} such rows, the furthest by {off[bad].max():.2g})" if bad.sum() > 1 else ""
            findings.append(Finding(grade, at(int(rows[first])), f"the probabilities sum to {sums[first]:.9g}{others}", mend))
    return findings
