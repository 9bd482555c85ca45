"""The ledger: what the leaderboard said of each submission, in a CSV that a person may edit."""

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts import Workspace
from pipeline.errors import UserError
from pipeline.files import lock, write_text
from pipeline.stages.standing import Standing, kept_submissions, read_standings
from pipeline.training.metrics import METRICS

LEDGER = ("time", "submission", "name", "metric", "cv", "public", "private", "note")
NUMBERS = ("cv", "public", "private")


@dataclass(frozen=True)
class Noted:
    """A row of the ledger: what the leaderboard said of a submission."""

    submission: str
    """File name in submissions/."""
    time: str = ""
    """When it was noted last."""
    name: str = ""
    metric: str = ""
    cv: float | None = None
    public: float | None = None
    private: float | None = None
    note: str = ""
    further: Mapping[str, str] = field(default_factory=dict)
    """Cells of the columns that a person has added."""


def read_ledger(work: Workspace) -> list[Noted]:
    """Every row, in the file's order; empty where there is no ledger. UserError for one that is damaged.

    A spreadsheet may have changed the order of the columns, added some, and written BOM, CRLF, semicolons or decimal commas.
    """
    return _read_ledger(work.ledger)[1]


def note_score(work: Workspace, submission: str, public: float | None = None, private: float | None = None, note: str | None = None) -> Noted:
    """Notes the leaderboard's scores of a submission, with its CV of now; what is None is kept as an earlier note has it.

    submission: its file name, the start of it, the name behind the time, or latest. UserError for one that is unknown or ambiguous.
    """
    with lock(work.root / ".ledger.lock", wait=f"ledger: waiting for another process in {work.root}"):
        columns, ledger = _read_ledger(work.ledger)
        file = _find_submission(submission, work, [one.submission for one in ledger])
        old = next((one for one in ledger if one.submission == file), Noted(file))
        row = next((row for row in read_standings(work)[0] if row.file == file), Standing("submission", old.name, file))
        new = replace(
            old,
            time=time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            name=row.name or old.name,
            metric=row.metric or old.metric,
            cv=old.cv if row.cv is None else row.cv,
            public=old.public if public is None else public,
            private=old.private if private is None else private,
            note=old.note if note is None else note,
        )
        ledger = [new if one is old else one for one in ledger] if old in ledger else [*ledger, new]
        write_rows([work.ledger], columns, [{**one.further, **cells_of(one, LEDGER)} for one in ledger])
    return new


def to_number(text: str) -> float | None:
    """A finite number with decimal point or comma; None for an empty cell. ValueError for anything else."""
    if not text.strip():
        return None
    number = float(text.strip().replace(",", "."))
    if not math.isfinite(number):
        raise ValueError(f"{text} is not finite")
    return number


def _read_ledger(path: Path) -> tuple[list[str], list[Noted]]:
    """Columns in the file's order, with those that a ledger has; and the rows."""
    if not path.exists():
        return list(LEDGER), []
    try:
        text = path.read_text(encoding="utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        lines = [line for line in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if any(map(str.strip, line))]
    except (ValueError, csv.Error) as error:
        raise _damaged(path, f"is not CSV in UTF-8 ({error})") from None
    columns = [column.strip() for column in lines[0]] if lines else []
    while columns and not columns[-1]:
        columns.pop()
    if "submission" not in columns or len(set(columns)) < len(columns) or "" in columns:
        raise _damaged(path, "its first line must name each column once, submission among them")
    rows: list[Noted] = []
    for number, line in enumerate(lines[1:], start=2):
        if any(map(str.strip, line[len(columns) :])):
            raise _damaged(path, f"row {number} has more cells than the first line")
        cells = {**dict.fromkeys(columns, ""), **dict(zip(columns, line, strict=False))}
        rows.append(_noted(cells, path, number))
        if rows[-1].submission in {one.submission for one in rows[:-1]}:
            raise _damaged(path, f'row {number}: "{rows[-1].submission}" is there twice')
    return [*columns, *(column for column in LEDGER if column not in columns)], rows


def _noted(cells: dict[str, str], path: Path, number: int) -> Noted:
    values: dict[str, Any] = {column: cells.get(column, "").strip() for column in LEDGER}
    if not values["submission"]:
        raise _damaged(path, f"row {number} names no submission")
    for column in NUMBERS:
        try:
            values[column] = to_number(values[column])
        except ValueError:
            raise _damaged(path, f'row {number}: {column} is no number: "{values[column]}"') from None
    return Noted(**values, further={column: cell for column, cell in cells.items() if column not in LEDGER})


def _damaged(path: Path, what: str) -> UserError:
    return UserError(f"{path}: {what}; mend it or move it away: nothing was changed")


def _find_submission(given: str, work: Workspace, noted: Sequence[str]) -> str:
    """The file name of the one submission that is meant."""
    kept = [path.name for path in kept_submissions(work)]
    known = kept + [name for name in noted if name not in kept]
    if not known:
        raise UserError(f"{work.root}: no submission yet; python scripts/submit.py CONFIG makes one")
    if given == "latest" and kept:
        return kept[-1]
    word = Path(given).name
    exact = [name for name in known if word in (name, name.removesuffix(".csv"))]
    found = exact or [name for name in known if word and (name.startswith(word) or name.partition("-")[2].removesuffix(".csv") == word)]
    if len(found) != 1:
        several, candidates = f"{len(found)} submissions fit" if found else "no such submission", (found or known)[-8:]
        more = f", and {len(found or known) - len(candidates)} older" if len(found or known) > len(candidates) else ""
        raise UserError(f'"{given}": {several}; write one of {", ".join(reversed(candidates))}{more}')
    return found[0]


def with_notes(rows: Sequence[Standing], ledger: Sequence[Noted]) -> list[Standing]:
    """Submissions with their leaderboard scores; noted ones whose files are not there are rows of their own."""
    noted = {one.submission: one for one in ledger}
    files = {row.file for row in rows}
    absent = [Standing("submission", one.name or one.submission, one.submission, remark="its file is not in submissions/") for one in ledger]
    found = []
    for row in [*rows, *(row for row in absent if row.file not in files)]:
        if (one := noted.get(row.file)) is not None:
            cv, metric = (one.cv, one.metric if one.metric in METRICS else row.metric) if row.cv is None else (row.cv, row.metric)
            row = replace(row, cv=cv, metric=metric, public=one.public, private=one.private, note=one.note)
        found.append(row)
    return found


def cells_of(row: object, columns: Sequence[str]) -> dict[str, str]:
    """A row's attributes as text on one line, numbers in full."""
    return {column: _cell(getattr(row, column)) for column in columns}


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return "; ".join(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return "" if value is None else " ".join(value.split()) if isinstance(value, str) else repr(value)


def write_rows(paths: Sequence[Path], columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Writes a CSV to each of the paths, atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    for path in paths:
        write_text(path, text.getvalue())
