"""The competition's rows before any picture is opened: tables, names of files, ids, labels, where each picture is."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.config_data import Competition, ExtraTrain
from pipeline.data.paths import PICTURE_ENDINGS, columns_in, files_like, is_inside, list_files, resolve
from pipeline.data.pictures import is_idx, is_pixel, read_idx
from pipeline.data.targets import read_target, refuse_control, refuse_rows
from pipeline.errors import UserError

SPLITS = ("train", "extra", "test")
METADATA = "table."  # before the names of the tables' further columns, in the index


def read_table(path: Path, pixel_columns: str | None = None) -> pd.DataFrame:
    """A CSV with every cell as text; empty cells are "". UserError if it is missing or unreadable.

    pixel_columns: start of the names of columns to leave out.
    """
    try:
        names = [str(name).strip() for name in _cells(path, nrows=1).iloc[0]]
        if doubled := [name for name in names if names.count(name) > 1]:
            raise UserError(f'{path}: column "{doubled[0]}" is there twice; rename or remove one')
        kept = [number for number, name in enumerate(names) if pixel_columns is None or not is_pixel(name, pixel_columns)]
        chosen = {} if len(kept) == len(names) else {"usecols": kept or [0]}  # with usecols, pandas drops what a row has too much
        rows = _cells(path, **chosen).iloc[1:].fillna("").astype(str).reset_index(drop=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such table; check competition.root and the table's name") from None
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"{path}: not a readable CSV: {' '.join(str(error).split())}") from None
    return rows.set_axis(pd.Index([names[number] for number in kept]), axis=1) if kept else rows[[]]


def _cells(path: Path, **options: object) -> pd.DataFrame:
    table: pd.DataFrame = pd.read_csv(path, header=None, dtype=str, keep_default_na=False, encoding="utf-8-sig", **options)  # type: ignore[call-overload]
    return table


@dataclass(frozen=True)
class Source:
    """A table, or names of files, as rows of text; `pictures`: their paths where the rows themselves say them."""

    path: Path
    table: pd.DataFrame
    pictures: list[str] | None = None


def open_source(root: Path, name: str, competition: Competition) -> Source:
    """A CSV, a pattern of file names with columns in braces, or an idx file with its labels beside it."""
    path = root / name
    if "{" in name:
        table = files_like(root, name)
        if competition.id is not None and competition.id not in table.columns:
            table[competition.id] = table["path"]
        return Source(path, table, table["path"].tolist())
    if is_idx(name):
        count, labels = len(read_idx(path)), _labels_beside(path)
        column = competition.target if isinstance(competition.target, str) else "label"
        table = pd.DataFrame(index=range(count)) if labels is None else pd.DataFrame({column: labels})
        if len(table) != count:
            raise UserError(f"{path}: holds {count} pictures, but the labels beside it are {len(table)}; download both again")
        return Source(path, table, [f"{name}#{row}" for row in range(count)])
    table = read_table(path, competition.pixel_columns)
    return Source(path, table, [f"{name}#{row}" for row in range(len(table))] if competition.pixel_columns is not None else None)


def _labels_beside(path: Path) -> "list[str] | None":
    name = re.sub(r"images([-.])idx\d", r"labels\1idx1", path.name)
    return [str(label) for label in read_idx(path.with_name(name))] if name != path.name and path.with_name(name).exists() else None


@dataclass(frozen=True)
class Tables:
    """Rows of the competition: split, id, path, target, and further columns of the tables as table.<name>."""

    rows: pd.DataFrame
    sample: pd.DataFrame | None
    sample_path: Path

    @classmethod
    def read(cls, competition: Competition) -> "Tables":
        """Reads and checks the tables; UserError names the file, the column and the row."""
        root = competition.root
        if not root.is_dir():
            raise UserError(f"{root}: no such folder; put the competition's files there or set competition.root")
        sample_path = root / (competition.sample_submission or "")
        sample = None if competition.sample_submission is None else read_table(sample_path)
        if sample is not None and len(sample.columns) < 2:
            raise UserError(f"{sample_path}: needs an id column and one to predict, but has {list(sample.columns)}")
        first = "0" if sample is not None and "0" in set(sample.iloc[:, 0]) else "1"
        parts = [_labelled(open_source(root, competition.train_table, competition), "train", competition, first)]
        parts += [_extra(competition, extra, number) for number, extra in enumerate(competition.extra_train)]
        parts.append(unlabelled_rows(competition, sample, sample_path, first))
        rows = pd.concat(parts, ignore_index=True).fillna("")
        return cls(rows, sample, sample_path)


def new_rows(competition: Competition, source: Path) -> tuple[Competition, pd.DataFrame]:
    """Rows of pictures that the competition does not know, as id and path, and the competition as if its folder were where these paths lead from.

    source: a folder, of which every picture is a row, its path the id; or a CSV, whose first column names files below the CSV's folder, or whose
    columns say where the pictures are as the competition's test table does, below the CSV's folder or the competition's.
    """
    if source.is_dir():
        paths = [path for path in list_files(source) if PurePosixPath(path).suffix.lower() in PICTURE_ENDINGS]
        if not paths:
            raise UserError(f"{source}: no picture in this folder ({', '.join(PICTURE_ENDINGS[:4])}, ...); name another, or a CSV")
        return competition.model_copy(update={"root": source}), pd.DataFrame({"id": paths, "path": paths})
    table = read_table(source, competition.pixel_columns)
    folder = source.resolve().parent
    paths = [str(cell) for cell in table.iloc[:, 0]] if len(table.columns) else []
    if any(is_inside(path) and os.path.isfile(folder / path) for path in paths):
        if odd := [path for path in paths if not is_inside(path)]:
            raise UserError(f"{source}: {odd[0]} would be outside the CSV's folder; write paths relative to it")
        return competition.model_copy(update={"root": folder}), pd.DataFrame({"id": paths, "path": paths})
    for root in (folder, competition.root.resolve()):
        table_name = source.name if root == folder else str(source.resolve())
        own = competition.model_copy(update={"root": root, "test_table": table_name, "sample_submission": None})
        rows = unlabelled_rows(own, None, source, "1")[["id", "path"]]
        if competition.pixel_columns is not None or any(os.path.isfile(root / path) for path in rows["path"]):
            break
    return own, rows.reset_index(drop=True)


def _labelled(source: Source, split: str, competition: Competition, first: str) -> pd.DataFrame:
    columns = competition.target_columns
    for column in columns:
        require_column(source.table, column, source.path)
    texts = read_target(source.table, competition, competition.target, source.path)
    return _rows(source, split, competition, first, texts, columns)


def _extra(competition: Competition, extra: ExtraTrain, number: int) -> pd.DataFrame:
    """Rows of a further table; ids get its number, paths lead from the competition's folder."""
    root = extra.root or competition.root
    changes = {"root": root, "id": extra.id or competition.id, "target": extra.target or competition.target}
    own = competition.model_copy(update={**changes, "image_path": extra.image_path or competition.image_path})
    rows = _labelled(open_source(root, extra.table, own), "extra", own, "1")
    at = os.path.relpath(root.resolve(), competition.root.resolve()).replace(os.sep, "/")  # ".." of a link is where it leads to
    return rows.assign(id=f"extra{number}/" + rows["id"], path=[str(PurePosixPath(at) / path) for path in rows["path"]])


def unlabelled_rows(competition: Competition, sample: pd.DataFrame | None, sample_path: Path, first: str) -> pd.DataFrame:
    """The rows to predict, of the test table or of the sample; first: the number of the first row where rows are numbered."""
    if competition.test_table is None:
        if sample is None:  # nothing to predict: a CV alone
            return pd.DataFrame(columns=["split", "id", "path", "target"], dtype=str)
        if competition.image_path is None:
            raise UserError("competition.image_path: write where the picture of a test id is, e.g. test/{id}.jpg, or name a test_table")
        table = sample[[sample.columns[0]]].set_axis(pd.Index([competition.id or "id"]), axis=1)
        source = Source(sample_path, table)
    else:
        source = open_source(competition.root, competition.test_table, competition)
    targets = competition.target_columns
    return _rows(source, "test", competition, first, pd.Series("", index=source.table.index, dtype=str), targets)


def _rows(source: Source, split: str, competition: Competition, first: str, texts: "pd.Series[str]", targets: Sequence[str]) -> pd.DataFrame:
    table, path = source.table, source.path
    if table.index.empty:
        raise UserError(f"{path}: has no rows; download it again")
    numbered = competition.id is None and not (split == "test" and competition.test_table is None)
    if numbered:
        ids = pd.Series([str(int(first) + row) for row in range(len(table))], index=table.index, dtype=str)
    else:
        ids = table[require_column(table, competition.id or "id", path)]
        refuse_control(ids, path)
        refuse_rows(ids.str.strip() == "", ids, path, f'"{competition.id}" is empty', "fill it in or remove the row")
        refuse_rows(ids.duplicated(), ids, path, "the id is there twice; an id names one row", "remove one, or name the right column in competition.id")
    pictures = source.pictures if source.pictures is not None else _paths(table, split, competition, path)
    for row, (name, relative) in enumerate(zip(ids, pictures, strict=True)):
        if not is_inside(relative):
            raise UserError(f'{path}, row {row + 2}: the picture of id "{name}" would be outside the competition\'s folder: {relative}')
    further = [name for name in table.columns if name not in {competition.id, *targets, "path"}]
    metadata = table[further].add_prefix(METADATA)
    return pd.concat([pd.DataFrame({"split": split, "id": ids, "path": pictures, "target": texts}), metadata], axis=1)


def _paths(table: pd.DataFrame, split: str, competition: Competition, path: Path) -> list[str]:
    template = competition.image_path
    if template is None:
        raise UserError("competition.image_path: write where a row's picture is, e.g. images/{id}.jpg; or pixel_columns if the tables hold the pixels")
    names = columns_in(template)
    for name in names:
        if name != "split":
            require_column(table, name, path, "competition.image_path names it")
    columns = [table[name] if name != "split" else [split] * len(table) for name in names]
    values: Iterable[tuple[str, ...]] = zip(*columns, strict=True) if columns else iter([()] * len(table))
    try:
        paths = [template.format(**dict(zip(names, row, strict=True))) for row in values]
    except IndexError:
        raise UserError(f"competition.image_path: {template}: a row's text is shorter than the character that is asked for") from None
    return resolve(competition.root, template, paths) if "*" in template else paths


def require_column(table: pd.DataFrame, column: str, path: Path, why: str = "the config names it") -> str:
    """The column's name; UserError where the table has no such column."""
    if column not in table.columns:
        have = ", ".join(table.columns[:12]) + (", ..." if len(table.columns) > 12 else "")
        raise UserError(f'{path}: there is no column "{column}" ({why}); its columns are {have}')
    return column


def require_same_ids(tables: Tables) -> None:
    """UserError unless the sample submission asks for exactly the test rows: better now than after training."""
    if tables.sample is None:
        return
    asked, there = tables.sample[tables.sample.columns[0]], tables.rows.loc[tables.rows["split"] == "test", "id"]
    doubled = asked[asked.duplicated()]
    if len(doubled):
        raise UserError(f'{tables.sample_path}: id "{doubled.iloc[0]}" is there twice; an id names one row')
    odd = sorted(set(asked) ^ set(there))
    if odd:
        where = "asked for but in no row of the test table" if odd[0] in set(asked) else "in the test table but not asked for"
        raise UserError(f'{tables.sample_path}: {len(odd)} ids differ, e.g. "{odd[0]}" is {where}; competition.test_table=null takes the ids from the sample')


def read_solution(competition: Competition, ids: Sequence[str]) -> dict[str, str]:
    """The true target of every test row, for a score at the end; UserError where the table does not fit the sample."""
    path = competition.root / str(competition.solution)
    table = read_table(path)
    columns = competition.target_columns
    for column in (competition.id or "id", *columns):
        require_column(table, column, path)
    truth = dict(zip(table[competition.id or "id"], read_target(table, competition, competition.target, path), strict=True))
    if missing := sorted(set(ids) - truth.keys()):
        raise UserError(f'{path}: {len(missing)} ids of the sample are missing, e.g. "{missing[0]}"; complete it or write competition.solution=null')
    return {name: truth[name] for name in ids}
