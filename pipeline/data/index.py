"""The index: one row per train and test picture, every file decoded once and checked.

Columns of `index.parquet`: split (train, test), id, path (below the competition's root), target
("" for test), digest (SHA-256 of the file), height, width (pixels, upright), problem ("" if none).
"""

import string
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from tqdm.auto import tqdm

from pipeline.config import Competition
from pipeline.data.images import CorruptImage, read
from pipeline.errors import UserError
from pipeline.runtime import cores, ordered_map

SPLITS = ("train", "test")


def read_table(path: Path) -> pd.DataFrame:
    """A CSV with every cell as text; empty cells are "". UserError if it is missing or unreadable."""
    try:
        cells = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{path}: no such table; check competition.root and the table's name") from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a readable CSV: {' '.join(str(error).split())}") from None
    names = [name.strip() for name in cells.iloc[0]]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise UserError(f'{path}: column "{doubled[0]}" is there twice; rename or remove one')
    rows = cells.iloc[1:].fillna("").astype(str).reset_index(drop=True)
    return rows.set_axis(pd.Index(names), axis=1)


@dataclass(frozen=True)
class Tables:
    """Rows of the competition before any picture is opened: split, id, path, target."""

    rows: pd.DataFrame
    sample: Path

    @classmethod
    def read(cls, competition: Competition) -> "Tables":
        """Reads and checks the tables; UserError names the file, the column and the row."""
        root = competition.root
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; put the competition's files there or set competition.root")
        train_path = root / competition.train_table
        train = read_table(train_path)
        for column in (competition.id, competition.target):
            _require_column(train, column, train_path)
        _refuse_empty(train, competition.target, train_path)
        sample = root / competition.sample_submission
        if competition.test_table is None:
            test_path, test = sample, read_table(sample)
            test = test.rename(columns={test.columns[0]: competition.id})
        else:
            test_path = root / competition.test_table
            test = read_table(test_path)
            _require_column(test, competition.id, test_path)
        parts = [
            _rows(train, "train", competition, train_path, train[competition.target]),
            _rows(test, "test", competition, test_path, pd.Series("", index=test.index)),
        ]
        return cls(pd.concat(parts, ignore_index=True), sample)


def require_same_ids(tables: Tables, sample: pd.DataFrame) -> None:
    """UserError unless the sample submission asks for exactly the test rows: better now than after training."""
    asked, there = sample[sample.columns[0]], tables.rows.loc[tables.rows["split"] == "test", "id"]
    doubled = asked[asked.duplicated()]
    if len(doubled):
        raise UserError(f'{tables.sample}: id "{doubled.iloc[0]}" is there twice; an id names one row')
    odd = sorted(set(asked) ^ set(there))
    if odd:
        where = "asked for but in no row of the test table" if odd[0] in set(asked) else "in the test table but not asked for"
        raise UserError(f'{tables.sample}: {len(odd)} ids differ, e.g. "{odd[0]}" is {where}; competition.test_table=null takes the ids from the sample')


def read_solution(competition: Competition, sample: pd.DataFrame, classes: Sequence[str]) -> dict[str, str]:
    """The true class of every test row, for a score at the end; UserError where the table does not fit the sample."""
    path = competition.root / str(competition.solution)
    table = read_table(path)
    for column in (competition.id, competition.target):
        _require_column(table, column, path)
    truth = dict(zip(table[competition.id], table[competition.target], strict=True))
    asked = sample[sample.columns[0]].tolist()
    if missing := sorted(set(asked) - truth.keys()):
        raise UserError(f'{path}: {len(missing)} ids of the sample are missing, e.g. "{missing[0]}"; complete it or write competition.solution=null')
    if unknown := sorted({truth[name] for name in asked} - set(classes)):
        raise UserError(f'{path}: "{unknown[0]}" is no class of the train table; mend it or write competition.solution=null')
    return {name: truth[name] for name in asked}


def _rows(table: pd.DataFrame, split: str, competition: Competition, path: Path, target: "pd.Series[str]") -> pd.DataFrame:
    if table.empty:
        raise UserError(f"{path}: has no rows; download it again")
    _refuse_empty(table, competition.id, path)
    doubled = table[competition.id].duplicated()
    if doubled.any():
        row = int(doubled.to_numpy().argmax())
        raise UserError(f'{path}, row {row + 2}: id "{table[competition.id].iloc[row]}" is there twice; an id names one row')
    names = _columns_in(competition.image_path)
    for name in names:
        if name != "split":
            _require_column(table, name, path, "competition.image_path names it")
    columns = [table[name] if name != "split" else pd.Series(split, index=table.index) for name in names]
    values = zip(*columns, strict=True) if columns else iter([()] * len(table))
    paths = [competition.image_path.format(**dict(zip(names, row, strict=True))) for row in values]
    for row, (name, relative) in enumerate(zip(table[competition.id], paths, strict=True)):
        if not is_inside(relative):
            raise UserError(f'{path}, row {row + 2}: the picture of id "{name}" would be outside the competition\'s folder: {relative}')
    return pd.DataFrame({"split": split, "id": table[competition.id], "path": paths, "target": target})


def _columns_in(template: str) -> list[str]:
    try:
        names = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
        template.format(**dict.fromkeys(names, "text"))
    except (ValueError, LookupError, AttributeError) as error:
        raise UserError(f"competition.image_path: {template}: {error}; write columns in braces, e.g. images/{{id}}.jpg") from None
    return names


def is_inside(relative: str) -> bool:
    """Whether a path from a table stays below the folder that it is relative to."""
    parts = Path(relative).parts
    return not Path(relative).is_absolute() and ".." not in parts and "\0" not in relative and bool(parts)


def _require_column(table: pd.DataFrame, column: str, path: Path, why: str = "the config names it") -> None:
    if column not in table.columns:
        have = ", ".join(table.columns[:12]) + (", ..." if len(table.columns) > 12 else "")
        raise UserError(f'{path}: there is no column "{column}" ({why}); its columns are {have}')


def _refuse_empty(table: pd.DataFrame, column: str, path: Path) -> None:
    empty = table[column].str.strip() == ""
    if empty.any():
        row = int(empty.to_numpy().argmax())
        raise UserError(f'{path}, row {row + 2}: "{column}" is empty; fill it in or remove the row')


def check_images(rows: pd.DataFrame, root: Path, digests: list[str | None]) -> pd.DataFrame:
    """The index: `rows` with digest, height, width and problem; every file is decoded here."""
    resolved_root = root.resolve()

    def check(relative: str) -> tuple[int, int, str]:
        path = root / relative
        try:
            if not path.resolve().is_relative_to(resolved_root):
                return 0, 0, "a link that leads outside the competition's folder"
            height, width, _ = read(path).shape
        except CorruptImage as problem:
            return 0, 0, str(problem)
        except (OSError, RuntimeError):
            return 0, 0, "a link that leads to itself"
        return height, width, ""

    checked = ordered_map(check, rows["path"], cores())
    found = list(tqdm(checked, total=len(rows), desc="index", unit="img", leave=False, delay=2, disable=None))
    index = rows.copy()
    index["digest"] = [digest or "" for digest in digests]
    index[["height", "width", "problem"]] = pd.DataFrame(found, index=index.index)
    return index


def usable(index: pd.DataFrame, corrupt: str) -> pd.DataFrame:
    """The rows to work with under `images.corrupt`: fail raises for any problem, skip leaves train rows out.

    Test rows with a problem stay: they must be predicted, and get the training class shares.
    """
    bad = index[index["problem"] != ""]
    if len(bad) and corrupt == "fail":
        first = bad.iloc[0]
        raise UserError(
            f'{len(bad)} pictures cannot be read, e.g. {first["path"]} (id "{first["id"]}"): {first["problem"]};'
            " mend them, or write images.corrupt=skip (all are listed in prepared/problems.csv)"
        )
    return index[(index["problem"] == "") | (index["split"] == "test")].reset_index(drop=True)
