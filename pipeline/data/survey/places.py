"""Where a row's picture is: templates of paths, found by laying the tables' cells beside the files' names."""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import pandas as pd

from pipeline.data.survey.files import Folder

MOST_ROWS = 400  # looked at to find a template; the reader then counts all
NOT_THE_PICTURE = re.compile(r"mask|segment|annot|thumb|label|overlay|sample", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """Templates that lead from a split's rows to their pictures, the simplest of the best first."""

    column: str
    templates: tuple[str, ...]
    share: float
    """Of the rows looked at, those whose picture is there."""


def find_place(folder: Folder, table: pd.DataFrame, split: str, columns: Iterable[str] | None = None) -> Place | None:
    """The column that names the pictures best, and how; `columns`: those to try, default all."""
    step = max(1, len(table) // MOST_ROWS)
    rows = table.iloc[::step].head(MOST_ROWS)
    best: Place | None = None
    for column in columns if columns is not None else table.columns:
        if not re.fullmatch(r"[^.\[\]{}!:]+", column):  # no template can name it
            continue
        votes = _votes(folder, rows, column, ("", "")) or _votes(folder, rows, column, _affixes(folder, rows[column].tolist()))
        if votes and (place := _best(votes, column, split, len(rows))) and (best is None or place.share > best.share):
            best = place
    return best


def _votes(folder: Folder, rows: pd.DataFrame, column: str, affixes: tuple[str, str] | None) -> "dict[int, Counter[str]]":
    """Rows led to a picture by each template, per kind of template, the simplest kind first."""
    votes: dict[int, Counter[str]] = defaultdict(Counter)
    if affixes is None or not rows[column].str.strip().any():
        return {}
    others = [name for name in rows.columns if name != column and re.fullmatch(r"\w+", name)]
    cells = rows[others].to_dict("records") if others else [{} for _ in range(len(rows))]
    for text, beside in zip(rows[column], cells, strict=True):
        name = f"{affixes[0]}{text.rpartition('/')[2]}{affixes[1]}"
        found: dict[int, set[str]] = defaultdict(set)
        for file in folder.by_name.get(name, []) if text else ():
            for kind, template in _templates(file, column, text, affixes, {str(k): str(v) for k, v in beside.items()}):
                found[kind].add(template)
        for file in folder.by_folder.get(text, ()) if text and not found else ():
            found[1].add("/".join(f"{{{column}}}" if part == text else part for part in file.split("/")))
        for kind, templates in found.items():
            votes[kind].update(templates)
    return votes


def _templates(file: str, column: str, value: str, affixes: tuple[str, str], beside: dict[str, str]) -> Iterator[tuple[int, str]]:
    """Templates that lead from `value` to `file`: 0 plain, 1 with folders named by cells, 2 any folders; +3 with any ending."""
    path = PurePosixPath(file)
    leaf = value.rpartition("/")[2]
    ending = path.name.removeprefix(affixes[0] + leaf + affixes[1])
    if "/" in value:
        bare = value.removeprefix("./")
        if f"/{file}".endswith(f"/{bare}{ending}"):
            head = file[: len(file) - len(bare) - len(ending)]
            yield 0, f"{head}{{{column}}}{ending}"
        return
    tail = f"{affixes[0]}{{{column}}}{affixes[1]}"
    parts = list(path.parts[:-1])
    named = [_named(part, number, column, value, beside, parts) for number, part in enumerate(parts)]
    folders = [(0, "".join(f"{part}/" for part in parts)), (1, "".join(f"{part}/" for part in named))]
    folders += [(2, "".join(f"{part}/" for part in parts[:depth]) + "**/") for depth in range(len(parts) + 1)]
    for kind, head in folders:
        yield kind, f"{head}{tail}{ending}"
        if ending:
            yield kind + 3, f"{head}{tail}.*"


def _named(part: str, number: int, column: str, value: str, beside: dict[str, str], parts: Sequence[str]) -> str:
    """A folder's name as the cell that it equals, or as the character of the value."""
    if equal := [name for name, cell in beside.items() if cell == part]:
        return f"{{{equal[0]}}}"
    singles = [at for at, name in enumerate(parts) if len(name) == 1]
    position = singles.index(number) if number in singles else -1
    return f"{{{column}[{position}]}}" if 0 <= position < len(value) and value[position] == part else part


def _best(votes: "dict[int, Counter[str]]", column: str, split: str, num_rows: int) -> Place:
    most = max(max(counter.values()) for counter in votes.values())
    other = "test" if split == "train" else "train"

    def rank(kind: int, template: str) -> tuple[int, bool, bool, bool, int, str]:
        low = template.lower()
        length = -len(template) if "**/" in template else len(template)
        return kind, other in low, bool(NOT_THE_PICTURE.search(template)), split not in low, length, template

    full = [(kind, template) for kind, counter in votes.items() for template, count in counter.items() if count == most]
    own = [entry for entry in full if other not in entry[1].lower() or split in entry[1].lower()]
    ordered = [template for _, template in sorted(own or full, key=lambda entry: rank(*entry))]
    return Place(column, tuple(dict.fromkeys(ordered)), most / num_rows)


def _affixes(folder: Folder, values: Sequence[str]) -> tuple[str, str] | None:
    """What stands before and after a value in files' names, e.g. ("img_", "") for img_7.jpg; None if nothing fits."""
    texts = [value for value in dict.fromkeys(values) if value and "/" not in value][:60]
    if not texts:
        return None
    stems = {name for name in folder.by_name if "." not in name}
    found: Counter[tuple[str, str]] = Counter()
    for value in texts[:3]:
        pattern = re.compile(rf"(?P<before>(?:.*[^0-9A-Za-z]|[A-Za-z]*)){re.escape(value)}(?P<after>(?:[^0-9A-Za-z].*)?)")
        found.update((match["before"], match["after"]) for stem in stems if value in stem and (match := pattern.fullmatch(stem)))
    for (before, after), _ in found.most_common(5):
        if sum(f"{before}{value}{after}" in folder.by_name for value in texts) > len(texts) / 2:
            return before, after
    return None


def join_places(folder: Folder, train: Place, test: Place | None) -> str | None:
    """One template for both splits, with {split} for train and test; None where no such template leads to both."""
    if test is None:
        plain = train.templates[0]
        return next((joined for joined in _with_split(plain, "train") if joined != plain and "train" in plain.lower()), plain)
    pairs = sorted((a + b, a, b) for a in range(len(train.templates)) for b in range(len(test.templates)))
    for _, a, b in pairs:
        left, right = train.templates[a], test.templates[b].replace(f"{{{test.column}", f"{{{train.column}")
        mine = set(_with_split(left, "train"))
        joined = left if left == right else next((template for template in _with_split(right, "test") if template in mine), None)
        if joined is not None and _leads_to_one(folder, joined):
            return joined
    return None


def join_any_ending(folder: Folder, train: Place, test: Place) -> str | None:
    """The same with * for the ending: for ids that have their file's ending in one split and none in the other."""
    loose = [replace(place, templates=tuple(dict.fromkeys(re.sub(r"(?<=\})(\.\w+)?$", ".*", name) for name in place.templates))) for place in (train, test)]
    return join_places(folder, *loose)


def _leads_to_one(folder: Folder, template: str) -> bool:
    """Whether a template with any folders or any ending finds no name twice; another always leads to one file."""
    deep, any_ending = "**/" in template, template.endswith(".*")
    if not deep and not any_ending:
        return True
    for split in ("train", "test"):
        head = re.split(r"\{|\*\*/", template.replace("{split}", split))[0]
        below = [PurePosixPath(file) for file in folder.pictures if file.startswith(head)]
        names = [("" if deep else str(file.parent), file.stem if any_ending else file.name) for file in below]
        if len(set(names)) < len(names):
            return False
    return True


def _with_split(template: str, word: str) -> list[str]:
    """The template with {split} for every occurrence of the word outside braces, most of them first."""
    pieces = re.split(rf"({word})(?![^{{]*\}})", template)
    places = list(range(1, len(pieces), 2))
    variants = []
    for mask in range((1 << min(len(places), 4)) - 1, 0, -1):
        chosen = {place for bit, place in enumerate(places[:4]) if mask >> bit & 1}
        variants.append("".join("{split}" if number in chosen else piece for number, piece in enumerate(pieces)))
    return variants
