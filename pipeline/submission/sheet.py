"""A CSV that anybody may have written, as rows of text, and what is odd about its bytes and lines."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.errors import UserError
from pipeline.submission.findings import Finding, at, count, printable, quote

MOST_BYTES = 500_000_000
CELLS_AT_ONCE = 1_000_000
SEPARATORS = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a |"}
MAGIC = {b"PK\x03\x04": "a zip archive, as .xlsx is one", b"\x1f\x8b": "a gzip archive", b"PAR1": "a parquet file", b"\x89PNG": "a picture"}
MAGIC |= {b"\xff\xd8\xff": "a picture", b"%PDF": "a PDF", b"\xd0\xcf\x11\xe0": "an old Excel file", b"\x93NUMPY": "a NumPy file", b"\x7fELF": "a program"}
THE_FILE = "the file"
SAVE_AS_UTF8 = 'save it as UTF-8 without BOM: df.to_csv(path, index=False, encoding="utf-8")'


CUT_OFF = "see that the file was not cut off"


@dataclass(frozen=True)
class Original:
    """How the sample's own file is written, which no submission can be blamed for."""

    header: tuple[str, ...]
    """Names of its columns, spaces and all."""
    oddities: frozenset[str] = frozenset()
    """How its bytes and lines would be mended."""

    def excuse(self, findings: Sequence[Finding]) -> list[Finding]:
        """The same findings about another file's bytes and lines; what the sample has, too, is a note."""
        return [replace(finding, level="note", mend=f"the sample has it, too; {finding.mend}") if self._has(finding) else finding for finding in findings]

    def _has(self, finding: Finding) -> bool:
        return finding.level == "error" and finding.mend in self.oddities


def read_original(path: Path, sample: pd.DataFrame) -> Original:
    """The sample's file once more, of which `sample` is the table with its names stripped."""
    try:
        sheet, findings = read_sheet(path, list(sample.columns))
    except UserError:  # packed, which pandas reads and no grader is sent
        return Original(tuple(sample.columns))
    header = tuple(sample.columns) if sheet is None or len(sheet.header) != len(sample.columns) else tuple(sheet.header)
    return Original(header, frozenset(finding.mend for finding in findings if finding.level == "error" and finding.mend != CUT_OFF))


@dataclass
class Sheet:
    """The rows below the header; `columns` are pyarrow arrays of text, as many as the header has cells."""

    header: list[str]
    columns: list[Any]
    rows: npt.NDArray[np.int64]
    """Each row's number, as a spreadsheet counts them."""
    whole: npt.NDArray[np.bool_]
    """Rows with as many cells as the header; others were filled up or cut."""
    size: int
    """Of the file, bytes."""

    def text(self, column: int, whole: bool = False) -> "pd.Series[str]":
        """A column's cells; `whole`: of whole rows alone."""
        cells = self.columns[column]
        return pd.Series((cells.filter(self.whole) if whole and not self.whole.all() else cells).to_pandas(), dtype=str)


def read_sheet(path: Path, wanted: Sequence[str]) -> tuple[Sheet | None, list[Finding]]:
    """The file's rows, None where its quotes do not close, and what is odd; `wanted`: the sample's columns, by which the separator is known.

    UserError where there is no text to look at: no such file, a folder, no bytes, an archive, a picture.
    """
    raw = _bytes(path)
    size = len(raw)
    findings = (
        [] if size <= MOST_BYTES else [Finding("note", THE_FILE, f"is {size / 1e6:,.0f} MB", "check the competition's limit, or write fewer digits", True)]
    )
    raw, more = _as_utf8(raw)
    findings += more
    if not raw.strip():
        raise UserError(f"{path}: holds nothing but spaces and line ends; write the submission again")
    findings += _line_ends(raw)
    separator = _separator(raw, wanted)
    if separator != ",":
        what = f"cells are separated by {SEPARATORS[separator]} instead of a comma"
        findings.append(Finding("error", THE_FILE, what, 'write commas: df.to_csv(path, index=False, sep=",")'))
    sheet, more = _Reading(separator).read(raw, size)
    return sheet, findings + more


# ---------------------------------------------------------------- bytes


def _bytes(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{printable(str(path))}: no such file; check the path") from None
    except IsADirectoryError:
        raise UserError(f"{printable(str(path))}: is a folder; name the CSV in it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{printable(str(path))}: cannot be read: {getattr(error, 'strerror', None) or error}; check the path") from None
    if not raw:
        raise UserError(f"{printable(str(path))}: is empty, 0 bytes; write the submission again")
    kind = next((kind for start, kind in MAGIC.items() if raw.startswith(start)), None)
    if kind is None and not _utf16(raw) and _looks_binary(raw[:4096]):
        kind = "no text"
    if kind is not None:
        raise UserError(f"{printable(str(path))}: is {kind}; save the table as CSV")
    return raw


def _looks_binary(start: bytes) -> bool:
    control = sum(start.count(bytes([byte])) for byte in {*range(32), 127} - {9, 10, 13})
    return control > len(start) / 20 and control > 3


def _utf16(raw: bytes) -> str | None:
    """Its name where the bytes are UTF-16, by its mark or by a zero in every other byte of the start."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    start = raw[: min(200, len(raw) // 2 * 2)]
    for name, zeros, others in (("utf-16-le", start[1::2], start[::2]), ("utf-16-be", start[::2], start[1::2])):
        if len(start) >= 4 and zeros.count(0) > 0.5 * len(zeros) and others.count(0) < 0.2 * len(others):
            return name
    return None


def _as_utf8(raw: bytes) -> tuple[bytes, list[Finding]]:
    """The text as UTF-8 without a mark and zero bytes, so that the rest can be looked at."""
    findings: list[Finding] = []
    if name := _utf16(raw):
        findings.append(Finding("error", THE_FILE, 'is UTF-16 ("Unicode text" of a spreadsheet), not UTF-8', SAVE_AS_UTF8))
        return raw.decode(name, "replace").lstrip("\ufeff").encode(), findings
    if raw.startswith(codecs.BOM_UTF8):
        what = "begins with a byte order mark (BOM), which many readers take for a part of the first column's name"
        findings.append(Finding("error", at(1, 0), what, SAVE_AS_UTF8))
        raw = raw[len(codecs.BOM_UTF8) :]
    if zeros := raw.count(b"\0"):
        row = _row(raw, raw.index(b"\0"))
        findings.append(
            Finding("error", at(row), f"there is a zero byte ({count(zeros, 'zero byte')} in all)", "the file is damaged, or no CSV: write it again")
        )
        raw = raw.replace(b"\0", b"")
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        what = f"byte {raw[error.start]:#04x} at position {error.start:,} is not UTF-8 (a spreadsheet's own encoding?)"
        findings.append(Finding("error", at(_row(raw, error.start)), what, SAVE_AS_UTF8))
        raw = raw.decode("cp1252", "replace").encode()
    return raw, findings


def _row(raw: bytes, position: int) -> int:
    before = raw[:position].replace(b"\r\n", b"\n")
    return before.count(b"\n") + before.count(b"\r") + 1


def _line_ends(raw: bytes) -> list[Finding]:
    """What pandas reads as it should is a note; a carriage return among other line ends cuts a row in two there, and is an error."""
    both = raw.count(b"\r\n")
    feeds, returns = raw.count(b"\n") - both, raw.count(b"\r") - both
    findings = []
    mend = 'write \\n alone: df.to_csv(path, index=False, lineterminator="\\n")'
    if returns and (both or feeds):
        first = re.search(rb"\r(?!\n)", raw)
        assert first is not None
        what = f"there is a carriage return (\\r) without \\n ({returns:,} in all), at which pandas ends the row"
        findings.append(Finding("error", at(_row(raw, first.start())), what, "remove it"))
    elif returns:
        findings.append(Finding("note", THE_FILE, "lines end with \\r (old Macs); pandas reads that, others may see one line", mend))
    if both and feeds:
        findings.append(Finding("note", THE_FILE, f"{both:,} lines end with \\r\\n and {feeds:,} with \\n; pandas reads both", mend))
    elif both:
        findings.append(Finding("note", THE_FILE, "lines end with \\r\\n (Windows); pandas reads that as \\n", mend))
    if not raw.endswith((b"\n", b"\r")):
        findings.append(Finding("note", at(_row(raw, len(raw))), "the last row has no line end", "see that the file was not cut off, and end it with \\n"))
    return findings


def _separator(raw: bytes, wanted: Sequence[str]) -> str:
    """By which the header gives most of the sample's columns; a comma where none does."""
    start = re.match(rb"\s*([^\r\n]*)", raw)
    line = start[1].decode("utf-8", "replace") if start else ""
    known = {name.strip().casefold() for name in wanted}

    def hits(separator: str) -> int:
        try:
            return len({name.strip().casefold() for name in next(csv.reader([line], delimiter=separator), [])} & known)
        except csv.Error:
            return 0

    return max(SEPARATORS, key=hits)


# ---------------------------------------------------------------- lines and cells


@dataclass
class _Reading:
    """Counts rows as a spreadsheet does: blank ones too, and a cell of several lines once."""

    separator: str
    blank: list[int] = field(default_factory=list)
    hollow: list[int] = field(default_factory=list)
    """Rows of nothing but separators."""
    ragged: list[tuple[int, int]] = field(default_factory=list)
    """Row, number of cells."""

    def read(self, raw: bytes, size: int) -> tuple[Sheet | None, list[Finding]]:
        lines = io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8", newline="")
        records = enumerate(csv.reader(lines, delimiter=self.separator, strict=True), start=1)
        self._last = 0
        try:
            _, header = next(self._filled(records), (0, []))
            if not header:
                return None, [Finding("error", THE_FILE, "holds nothing but separators", "write the submission again")]
            columns, rows, whole = self._columns(records, len(header))
        except csv.Error as error:
            return None, [self._broken(str(error))]
        return Sheet(header, columns, rows, whole, size), self._findings(len(header), rows)

    def _filled(self, records: "Iterator[tuple[int, list[str]]]") -> Iterator[tuple[int, list[str]]]:
        """The records that hold something; notes the others."""
        for row, record in records:
            self._last = row
            if any(record) and (len(record) > 1 or record[0].strip()):
                yield row, record
            else:
                (self.hollow if len(record) > 1 else self.blank).append(row)

    def _columns(self, records: "Iterator[tuple[int, list[str]]]", width: int) -> tuple[list[Any], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        import pyarrow as pa

        parts: list[list[Any]] = [[] for _ in range(width)]
        chunk: list[list[str]] = []
        rows: list[int] = []
        at_once = max(1, CELLS_AT_ONCE // width)

        def flush() -> None:
            for part, cells in zip(parts, zip(*chunk, strict=True), strict=False):
                part.append(pa.array(cells, pa.string()))
            chunk.clear()

        for row, record in self._filled(records):
            if len(record) != width:
                self.ragged.append((row, len(record)))
                record = record[:width] + [""] * (width - len(record))
            rows.append(row)
            chunk.append(record)
            if len(chunk) == at_once:
                flush()
        flush()
        numbers = np.array(rows, dtype=np.int64)
        return [pa.chunked_array(part, pa.string()) for part in parts], numbers, ~np.isin(numbers, [row for row, _ in self.ragged])

    def _broken(self, error: str) -> Finding:
        row = self._last + 1
        if "expected after" in error:
            return Finding("error", at(row), "a cell goes on after its closing quote", 'double the quotes inside a cell: "a ""b"" c"')
        return Finding("error", at(row), "a quote opens here and does not close, so that all further rows are one cell", 'close it, or double it: ""')

    def _findings(self, width: int, rows: npt.NDArray[np.int64]) -> list[Finding]:
        findings = []
        if self.ragged:
            row, cells = self.ragged[0]
            shown = ", ".join(str(row) for row, _ in self.ragged[:3]) + (", ..." if len(self.ragged) > 3 else "")
            others = f" ({len(self.ragged):,} rows of another length: {shown})" if len(self.ragged) > 1 else ""
            what = f"has {count(cells, 'cell')}, but the header has {width}{others}"
            mend = "quote texts that hold a comma, and write decimals with a point" if cells > width else CUT_OFF
            findings.append(Finding("error", at(row), what, mend))
        if self.hollow:
            others = f" ({len(self.hollow):,} such rows)" if len(self.hollow) > 1 else ""
            findings.append(Finding("error", at(self.hollow[0]), f"all cells are empty, a row of separators alone{others}", "remove that row"))
        last = int(rows[-1]) if len(rows) else 0
        inside = [row for row in self.blank if row < last]
        if inside:
            what = f"is blank{f' ({len(inside):,} blank rows inside the file)' if len(inside) > 1 else ''}; pandas skips it, others read an empty id"
            findings.append(Finding("note", at(inside[0]), what, "remove it"))
        if len(self.blank) > len(inside):
            findings.append(Finding("note", at(self.blank[len(inside)]), "is a blank line at the end; pandas skips it", "remove it"))
        return findings


def sample_of(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """The sample as it was read; UserError where it asks for nothing that could be checked."""
    ids = table.iloc[:, 0]
    if len(table.columns) < 2 or table.empty:
        raise UserError(
            f"{path}: a sample has an id column, one to predict and rows, but this has {count(len(table.columns), 'column')} and {count(len(table), 'row')}"
        )
    if (doubled := ids[ids.duplicated()]).size:
        raise UserError(f"{path}: id {printable(quote(doubled.iloc[0]))} is there twice, so its first column names no rows; is this the sample submission?")
    return table
