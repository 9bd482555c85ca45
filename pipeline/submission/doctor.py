"""The doctor of submissions: everything that a competition would refuse or misread, in any CSV, with its row and how to mend it.

Column order is a note, since graders that read as pandas does go by name; case and spaces of a name are errors for the same reason.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.data.targets import Target
from pipeline.errors import UserError, did_you_mean
from pipeline.files import atomic
from pipeline.submission.findings import CASE, SHOWN, SPACES, Difference, Finding, at, by_difference, count, explain, quote, quote_some, where_meant
from pipeline.submission.formats import Form
from pipeline.submission.labels import check_labels
from pipeline.submission.numbers import check_indicators, check_numbers
from pipeline.submission.rules import Column, Rules, guess_rules, numbers, rules_of
from pipeline.submission.sheet import Original, Sheet, read_sheet

INDEX = "Unnamed:"  # how pandas names a column without a name


@dataclass(frozen=True)
class Diagnosis:
    """What was found, and the size of what was looked at."""

    findings: list[Finding]
    rows: int
    columns: int
    size: int
    """Bytes."""

    @property
    def errors(self) -> int:
        """How many findings the competition would refuse."""
        return sum(finding.level == "error" for finding in self.findings)

    def __str__(self) -> str:
        notes = len(self.findings) - self.errors
        noted = f", {count(notes, 'note')}" if notes else ""
        if self.errors:
            return f"refused: {count(self.errors, 'error')}{noted}"
        unit, scale = next((unit, scale) for unit, scale in (("B", 1), ("kB", 1e3), ("MB", 1e6)) if self.size < 1000 * scale or unit == "MB")
        return f"accepted: {count(self.rows, 'row')}, {count(self.columns, 'column')}, {self.size / scale:.{1 if scale > 1 else 0}f} {unit}{noted}"


def check_file(path: Path, sample: pd.DataFrame, form: Form | None = None, target: Target | None = None, original: Original | None = None) -> list[Finding]:
    """What is wrong with the submission in a file; see `diagnose`."""
    return diagnose(path, sample, form, target, original).findings


def diagnose(path: Path, sample: pd.DataFrame, form: Form | None = None, target: Target | None = None, original: Original | None = None) -> Diagnosis:
    """Looks at bytes, lines, columns, ids and cells of a file.

    sample: all cells text, ids first and each once; form and target: as the config says, or both None to infer them from sample and
    file, without knowing the labels; original: how the sample's own file is written, where it has one. UserError where there is no text to look at.
    """
    assert (form is None) == (target is None)
    sheet, findings = read_sheet(path, list(sample.columns))
    if original is not None:
        sample = sample.set_axis(pd.Index(original.header), axis=1)
        findings = original.excuse(findings)
    if sheet is None:
        return Diagnosis(findings, 0, 0, path.stat().st_size)
    more, places = _check_columns(sheet, sample)
    findings += more
    if (place := places.get(sample.columns[0])) is not None:
        findings += _check_ids(sheet, place, sample)
    if len(places) == len(sample.columns):
        rows = sheet.rows[sheet.whole]
        columns = [Column(name, places[name], sheet.text(places[name], whole=True), rows) for name in sample.columns[1:]]
        if form is not None and target is not None:
            findings += _check_cells(columns, rules_of(form, target, sample), sample)
        else:
            rules, more = guess_rules(sample, [column.cells for column in columns])
            findings += more + _check_cells(columns, rules, sample, [column for column in columns if not _is_as_asked(column, sample)])
    in_order = sorted(findings, key=lambda finding: finding.level)
    return Diagnosis(in_order, len(sheet.rows), len(sheet.header), sheet.size)


def require_valid(path: Path, sample: pd.DataFrame, form: Form, target: Target, original: Original | None = None) -> None:
    """UserError with every finding, notes too, unless the file is as it should be; only what is a matter of judgement passes."""
    if findings := [finding for finding in check_file(path, sample, form, target, original) if not finding.judgement]:
        raise UserError("submission refused: " + " | ".join(str(finding) for finding in findings))


def write_valid(path: Path, table: pd.DataFrame, sample: pd.DataFrame, form: Form, target: Target, original: Original | None = None) -> None:
    """Writes a submission beside `path` with the header of `original`, and gives it that name only after `require_valid`."""
    if original is not None:
        table = table.set_axis(pd.Index(original.header), axis=1)
    with atomic(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", encoding="utf-8")
        require_valid(temporary, sample, form, target, original)


# ---------------------------------------------------------------- columns


def _check_columns(sheet: Sheet, sample: pd.DataFrame) -> tuple[list[Finding], dict[str, int]]:
    """Findings about the header, and where each of the sample's columns is, as far as that can be told."""
    wanted, header = [str(name) for name in sample.columns], sheet.header
    places: dict[str, int] = {}
    findings, left = [], []
    for position, name in enumerate(header):
        if name not in wanted:
            left.append(position)
        elif name in places:
            findings.append(Finding("error", at(1, position), f"the column {quote(name)} is there twice", "remove one"))
        else:
            places[name] = position
    for position in list(left):
        near = explain([header[position]], [name for name in wanted if name not in places], (SPACES, CASE)).get(header[position])
        if near is not None:
            places[near[1]] = position
            left.remove(position)
            stripped = near[0] is SPACES and header[position] == near[1].strip()
            what = f"the column {quote(header[position])} should be {quote(near[1])}"
            findings.append(Finding("note" if stripped else "error", at(1, position), what, "write its name exactly so"))
    if not places and header[0] in set(sample[wanted[0]]):
        return [Finding("error", at(1), "there is no header: the first row is a row of the sample", f"write {_names(wanted)} above it")], {}
    more, left = _unnamed(sheet, left)
    findings += more
    if not places and len(header) == 1 and header[0].split(",") == wanted:
        return [Finding("error", at(1), "is one cell in quotes, with all columns in it", "write no quotes around a whole row")], {}
    if not places and not more:
        return [Finding("error", at(1), f"has none of the sample's columns, but {quote(','.join(header))}", f"write {_names(wanted)}")], {}
    missing = [name for name in wanted if name not in places]
    if len(left) == len(missing) == 1 and len(header) - len(more) == len(wanted):
        places[missing[0]] = left[0]
        what = f"the column {quote(header[left[0]])} is not in the sample, which has {quote(missing[0])}"
        return [*findings, Finding("error", at(1, left[0]), what, f"write {quote(missing[0])}")], places
    if left:
        what = f"{_columns(left)} not in the sample: {quote_some([header[position] for position in left])}"
        near_names = did_you_mean(header[left[0]], missing) if missing else ""
        findings.append(Finding("error", at(1, left[0]), what, "remove it" + near_names if len(left) == 1 else "remove them" + near_names))
    if missing:
        what = f"{count(len(missing), 'column')} of the sample missing: {quote_some(missing)}"
        findings.append(Finding("error", at(1), what, f"write {_names(wanted)}"))
    if not findings and [name for name in header if name in places] != wanted:
        what = f"the columns are {_names(header)}, and the sample's {_names(wanted)}"
        findings.append(Finding("note", at(1), what, "graders that go by name do not mind; keep the sample's order to be safe"))
    return findings, places


def _names(columns: Sequence[str]) -> str:
    text = ",".join(columns)
    return text if len(text) <= 120 else text[:120] + "..."


def _columns(positions: Sequence[int]) -> str:
    return "1 column that is" if len(positions) == 1 else f"{len(positions):,} columns that are"


def _unnamed(sheet: Sheet, left: list[int]) -> tuple[list[Finding], list[int]]:
    """Columns without a name: the index that pandas wrote, or what a separator at the end of each line makes."""
    findings = []
    for position in left:
        name = sheet.header[position]
        if name.strip() and not name.startswith(INDEX):
            continue
        if not name.strip() and (sheet.text(position).str.strip() == "").all():
            findings.append(Finding("error", at(1, position), "the column is empty and has no name: each line ends with a separator", "remove the column"))
        else:
            what = f"{quote(name)} is no column of the sample: the index that pandas wrote"
            findings.append(Finding("error", at(1, position), what, "write df.to_csv(path, index=False)"))
    unnamed = {position for position in left if not sheet.header[position].strip() or sheet.header[position].startswith(INDEX)}
    return findings, [position for position in left if position not in unnamed]


# ---------------------------------------------------------------- ids


def _check_ids(sheet: Sheet, place: int, sample: pd.DataFrame) -> list[Finding]:
    """Ids against the sample's, joined as text."""
    ids, wanted = (pd.Series(texts.to_numpy(dtype=object), dtype=object) for texts in (sheet.text(place), sample.iloc[:, 0]))
    if len(ids) == len(wanted) and (ids == wanted).all():
        return []
    return _Ids(str(sample.columns[0]), place, ids, sheet.rows, wanted).findings()


@dataclass
class _Ids:
    name: str
    place: int
    ids: "pd.Series[str]"
    rows: npt.NDArray[np.int64]
    wanted: "pd.Series[str]"

    def findings(self) -> list[Finding]:
        unknown = self.ids[~self.ids.isin(self.wanted)]
        missing = self.wanted[~self.wanted.isin(self.ids)].tolist()
        blank = unknown.map(str.strip) == ""
        empty, unknown = unknown[blank], unknown[~blank]
        explained = explain(unknown, missing)
        findings = [self._explained(difference, pairs) for difference, pairs in by_difference(explained).items()]
        met = {original for _, original in explained.values()}
        missing = [name for name in missing if name not in met]
        if len(empty):
            others = f" ({len(empty):,} such rows)" if len(empty) > 1 else ""
            findings.append(Finding("error", self._at(empty.index[0]), f"the id is empty{others}", "fill it in or remove the row"))
        findings += self._doubled(missing)
        rest = unknown[~unknown.isin(list(explained))]
        if len(rest):
            names = list(dict.fromkeys(rest))
            shown = ", ".join(f"{quote(name)} (row {self.rows[int((self.ids == name).to_numpy().argmax())]})" for name in names[:SHOWN])
            are = "is" if len(names) == 1 else "are"
            what = f"{count(len(names), 'id')} {are} not in the sample: {shown}{', ...' if len(names) > SHOWN else ''}"
            findings.append(Finding("error", self._at(rest.index[0]), what, "write the sample's ids, and no others"))
        if missing:
            are = "is" if len(missing) == 1 else "are"
            counts = "" if len(self.ids) == len(self.wanted) else f" ({count(len(self.ids), 'row')}, and the sample has {len(self.wanted):,})"
            what = f"{count(len(missing), 'id')} of the sample {are} missing: {quote_some(missing)}{counts}"
            findings.append(Finding("error", at(None, self.place, self.name), what, "write one row for each"))
        return findings or self._order()

    def _at(self, index: int) -> str:
        return at(int(self.rows[index]), self.place, self.name)

    def _explained(self, difference: Difference, pairs: list[tuple[str, str]]) -> Finding:
        first = int((self.ids == pairs[0][0]).to_numpy().argmax())
        return Finding("error", self._at(first), f"{count(len(pairs), 'id')} {difference.phrase}: {where_meant(pairs, 'the sample')}", difference.mend)

    def _doubled(self, missing: list[str]) -> list[Finding]:
        """Ids that are there again; what a program does to texts may have made two of them one."""
        again = self.ids[self.ids.duplicated() & (self.ids.map(str.strip) != "")]
        if again.empty:
            return []
        names = list(dict.fromkeys(again))
        rows = ", ".join(map(str, self.rows[np.flatnonzero(self.ids == names[0])[: SHOWN + 1]]))
        are = "is" if len(names) == 1 else "are"
        what = f"{count(len(names), 'id')} {are} there more than once: {quote(names[0])} (rows {rows}){', ' + quote_some(names[1:]) if len(names) > 1 else ''}"
        mend = "write each once"
        if merged := explain(names, missing):
            name, (difference, original) = next(iter(merged.items()))
            what += f", and {quote(original)} is missing: {quote(name)} may be it {difference.phrase}"
            mend = difference.mend
        return [Finding("error", self._at(again.index[0]), what, mend)]

    def _order(self) -> list[Finding]:
        first = int((self.ids.to_numpy() != self.wanted.to_numpy()).argmax())
        what = f"the id {quote(self.ids[first])} stands where the sample has {quote(self.wanted[first])}: another order of rows"
        return [Finding("note", self._at(first), what, "graders that join by id do not mind; keep the sample's order to be safe")]


# ---------------------------------------------------------------- cells


def _check_cells(columns: Sequence[Column], rules: Rules, sample: pd.DataFrame, doubtful: Sequence[Column] | None = None) -> list[Finding]:
    """What is wrong with the columns that the sample asks for; `doubtful`: those to look at, if not all."""
    looked_at = columns if doubtful is None else doubtful
    if not len(columns[0].rows):
        return []
    if not looked_at:
        findings = []
    elif rules.kind == "labels":
        findings = [finding for column in looked_at for finding in check_labels(column, rules, sample[column.name])]
    else:
        findings = (check_numbers if rules.kind == "numbers" else check_indicators)(looked_at, rules)
    return findings if any(finding.level == "error" for finding in findings) else findings + _constant(columns)


def _is_as_asked(column: Column, sample: pd.DataFrame) -> bool:
    """Whether the cells are the sample's own, and not all numbers: what a competition shows it does not refuse."""
    asked = sample[column.name]
    return len(asked) == len(column.cells) and bool((asked.to_numpy() == column.cells.to_numpy()).all()) and not np.isfinite(numbers(asked)).all()


def _constant(columns: Sequence[Column]) -> list[Finding]:
    if len(columns[0].rows) < 2 or any((column.cells != column.cells.iloc[0]).any() for column in columns):
        return []
    what = f"every row says {', '.join(column.cells.iloc[0] for column in columns[:SHOWN])}{', ...' if len(columns) > SHOWN else ''}"
    return [Finding("note", "the file", what, "see that this is not the sample itself", True)]
