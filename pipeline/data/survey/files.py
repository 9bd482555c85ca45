"""A competition's folder before anybody knows it: its pictures, its tables, and what is neither."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.data.paths import PICTURE_ENDINGS, list_files
from pipeline.data.pictures import is_idx
from pipeline.data.tables import read_table
from pipeline.errors import UserError

ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar", ".tar.gz")
MOST_TABLES = 40
FEWEST_PIXELS = 49
MOST_IN_A_FOLDER = 8


@dataclass(frozen=True)
class Table:
    """A CSV of the folder: every cell text, pixel columns left out and named by their start."""

    name: str
    rows: pd.DataFrame
    pixel_columns: str | None = None
    num_pixels: int = 0

    @property
    def stem(self) -> str:
        """Name without folders and ending, lower case."""
        return PurePosixPath(self.name).stem.lower()


@dataclass(frozen=True)
class Folder:
    """What lies below `root`, as paths from it."""

    root: Path
    pictures: tuple[str, ...]
    tables: tuple[Table, ...]
    idx: tuple[str, ...]
    notes: list[str] = field(default_factory=list)
    """What a person should know: leftovers, tables that cannot be read."""

    @cached_property
    def by_name(self) -> dict[str, list[str]]:
        """Pictures by their name, and by their name without its ending."""
        known: dict[str, list[str]] = defaultdict(list)
        for picture in self.pictures:
            name = PurePosixPath(picture)
            known[name.name].append(picture)
            if name.stem != name.name:
                known[name.stem].append(picture)
        return known

    @cached_property
    def by_folder(self) -> dict[str, list[str]]:
        """Pictures by the name of the folder that they lie in, a few of each: where an id names a folder."""
        known: dict[str, list[str]] = defaultdict(list)
        for picture in self.pictures:
            few = known[PurePosixPath(picture).parent.name]
            if len(few) < MOST_IN_A_FOLDER:
                few.append(picture)
        return known


def look(root: Path) -> Folder:
    """Lists a folder and reads its tables; UserError where there is nothing to work with."""
    if not root.is_dir():
        raise UserError(f"{root}: no such folder; name the folder that holds the competition's files")
    files = list_files(root)
    pictures = tuple(file for file in files if file.lower().endswith(PICTURE_ENDINGS))
    notes: list[str] = []
    tables = _read_tables(root, files, notes)
    idx = tuple(file for file in files if is_idx(file))
    archives = [file for file in files if file.lower().endswith(ARCHIVES)]
    _note_archives(files, archives, notes)
    if not pictures and not idx and not any(table.pixel_columns is not None for table in tables):
        unpack = f"; unpack {archives[0]} first" if archives else f"; {_most_common(files)}"
        raise UserError(f"{root}: holds no pictures ({', '.join(PICTURE_ENDINGS)}, pixel columns or idx files){unpack}")
    return Folder(root, pictures, tables, idx, notes)


def _most_common(files: Sequence[str]) -> str:
    endings = Counter(PurePosixPath(file).suffix for file in files)
    if not files:
        return "the folder is empty"
    ending, count = endings.most_common(1)[0]
    return f"most of its files end in {ending or 'nothing'} ({count:,} of {len(files):,}): is it the right folder, or must they become pictures first?"


def _read_tables(root: Path, files: Sequence[str], notes: list[str]) -> tuple[Table, ...]:
    names = sorted((file for file in files if file.lower().endswith(".csv")), key=lambda file: (file.count("/"), file))
    if len(names) > MOST_TABLES:
        notes.append(f"{len(names)} CSV files; the {MOST_TABLES} uppermost were looked at")
    tables = []
    for name in names[:MOST_TABLES]:
        try:
            tables.append(_read_one(root, name))
        except UserError as error:
            notes.append(str(error))
    strange = [file for file in files if file.lower().endswith((".tsv", ".parquet", ".xlsx", ".xls", ".feather", ".jsonl"))]
    notes += [f"{file}: not a CSV, so it was not read; write it as a CSV if it holds labels" for file in strange[:3]]
    return tuple(tables)


def _read_one(root: Path, name: str) -> Table:
    with (root / name).open(encoding="utf-8-sig", errors="replace") as file:
        header = file.readline()
    for separator, word in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if separator in header and "," not in header:
            raise UserError(f"{root / name}: its cells stand between {word}; only commas are read: rewrite it with commas")
    prefix, count = _pixel_columns(root / name)
    return Table(name, read_table(root / name, prefix), prefix, count)


def _pixel_columns(path: Path) -> tuple[str | None, int]:
    """Start of the names of columns that hold pixels, and how many they are: one prefix, counted on, whole numbers to 255, a square."""
    try:
        head = pd.read_csv(path, nrows=20, encoding="utf-8-sig", dtype=str, keep_default_na=False)
    except (ValueError, OSError):  # read_table says what is wrong
        return None, 0
    groups: dict[str, list[str]] = defaultdict(list)
    for column in head.columns:
        if match := re.fullmatch(r"(.*\D)\d+", str(column).strip()):
            groups[match[1]].append(str(column))
    for prefix, columns in groups.items():
        if len(columns) < FEWEST_PIXELS or not (_is_square(len(columns)) or (len(columns) % 3 == 0 and _is_square(len(columns) // 3))):
            continue
        values = head[columns].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=float)
        whole = bool((values % 1 == 0).all()) and values.size > 0
        if whole and values.min() >= 0 and values.max() <= 255 and (values.max() > 15 or "pix" in prefix.lower()):
            return prefix, len(columns)
    return None, 0


def _is_square(count: int) -> bool:
    return math.isqrt(count) ** 2 == count


def _note_archives(files: Sequence[str], archives: Sequence[str], notes: list[str]) -> None:
    folders = {part for file in files for part in PurePosixPath(file).parts[:-1]}
    names = {PurePosixPath(file).name for file in files}
    unpacked = [
        file for file in archives if (stem := PurePosixPath(file).name.partition(".")[0]) in folders or PurePosixPath(file).stem in names or stem in names
    ]
    if unpacked:
        notes.append(f"{', '.join(unpacked[:4])}: left beside what was unpacked from {'it' if len(unpacked) == 1 else 'them'}; not read")
    if closed := sorted(set(archives) - set(unpacked)):
        notes.append(f"{', '.join(closed[:4])}: not unpacked, so nothing in {'it' if len(closed) == 1 else 'them'} was seen")
