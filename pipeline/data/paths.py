"""Names of files: patterns with columns in braces, wildcards, and what a path from a table may be."""

import itertools
import os
import re
import string
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pandas as pd

from pipeline.errors import UserError

PICTURE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
NOT_OURS = {"thumbs.db", "desktop.ini"}


def columns_in(template: str, key: str = "competition.image_path") -> list[str]:
    """The columns that a pattern names in braces; {id[0]} is a character of id. UserError where it is no pattern."""
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(template) if name is not None]
    except ValueError as error:
        raise UserError(f"{key}: {template}: {error}; write columns in braces, e.g. images/{{id}}.jpg") from None
    for field in fields:
        if not re.fullmatch(r"[^.\[\]{}!:]+(\[\d+\])?", field):
            raise UserError(f"{key}: {template}: {{{field}}} is no column; write columns in braces, e.g. images/{{id}}.jpg")
    names = list(dict.fromkeys(field.partition("[")[0] for field in fields))
    try:
        template.format(**dict.fromkeys(names, "0" * 100))
    except (ValueError, LookupError) as error:
        raise UserError(f"{key}: {template}: {error}; write columns in braces, e.g. images/{{id}}.jpg") from None
    return names


def files_like(root: Path, pattern: str) -> pd.DataFrame:
    """Columns in braces, and path, of every file below `root` whose name fits, sorted by path; * and **/ are wildcards.

    A column takes as much as it can, one written {name:d} digits alone. Where the pattern names no ending, files with one that
    is no picture's are passed over.
    """
    names = columns_in(pattern.replace(":d}", "}"), "a table's pattern")
    if "path" in names:
        raise UserError(f"{pattern}: the column path is every file's own; name another in braces")
    parts = re.split(r"(\{[^{}]*\}|\*\*/|\*)", pattern)
    any_ending = not PurePosixPath(re.sub(r"\{[^{}]*\}", "x", pattern)).suffix
    seen: set[str] = set()
    regex = "".join(_as_regex(part, seen) for part in parts)
    files = [path for path in list_files(root, fixed_folder(pattern)) if not any_ending or may_be_picture(path)]
    found = [(match, path) for path in files if (match := re.fullmatch(regex, path))]
    if not found:
        raise UserError(f"{root / pattern}: no file has such a name; check competition.root and the pattern")
    rows = [{**match.groupdict(), "path": path} for match, path in found]
    return pd.DataFrame(rows, columns=[*dict.fromkeys(names), "path"], dtype=str)


def _as_regex(part: str, seen: set[str]) -> str:
    if part.startswith("{"):
        name, _, digits = part[1:-1].partition(":")
        if not name.isidentifier():
            raise UserError(f"{part}: a column in a pattern of file names is letters, digits and _, e.g. {{label}}")
        if name in seen:
            return f"(?P={name})"
        seen.add(name)
        return f"(?P<{name}>\\d+)" if digits else f"(?P<{name}>[^/]+)"
    return {"**/": "(?:.+/)?", "*": "[^/]*"}.get(part, re.escape(part))


def may_be_picture(path: str) -> bool:
    """Whether a file's ending is that of a picture, or there is none."""
    suffix = PurePosixPath(path).suffix.lower()
    return suffix in PICTURE_ENDINGS or not suffix or suffix[1:].isdigit()


def fixed_folder(pattern: str) -> str:
    """The folders of a pattern before its first brace or wildcard."""
    return re.split(r"[{*]", pattern)[0].rpartition("/")[0]


def list_files(root: Path, folder: str = "") -> list[str]:
    """Every file below root/folder as a path from `root`, sorted; hidden ones and what systems leave behind are skipped.

    Links to folders are followed where they lie in root/folder itself and lead out of `root`, nowhere else.
    """
    found = []
    for at, folders, files in itertools.chain.from_iterable(map(os.walk, [root / folder, *_linked(root, root / folder)])):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        inside = os.path.relpath(at, root)
        found += [name if inside == "." else f"{inside}/{name}" for name in files if not name.startswith(".") and name.lower() not in NOT_OURS]
    return sorted(path.replace(os.sep, "/") for path in found)


def _linked(root: Path, folder: Path) -> list[Path]:
    """Links to folders elsewhere: one to a folder of the same root would give each of its files twice."""
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        links = sorted(Path(entry.path) for entry in entries if entry.is_symlink() and entry.is_dir() and not entry.name.startswith("."))
    return [path for path in links if not path.resolve().is_relative_to(root.resolve()) and not root.resolve().is_relative_to(path.resolve())]


def resolve(root: Path, template: str, paths: Sequence[str]) -> list[str]:
    """Paths with * as their ending or **/ among their folders, as the files that they mean; where there is none, as they are."""
    any_ending = template.endswith("*")
    if "*" in template.removesuffix("*").replace("**/", ""):
        raise UserError(f"competition.image_path: {template}: a * stands for the ending (images/{{id}}.*), **/ for any folders")
    known: dict[str, list[str]] = defaultdict(list)
    for file in list_files(root, fixed_folder(template)):
        name = PurePosixPath(file)
        known[name.name].append(file)
        if any_ending and name.suffix.lower() in PICTURE_ENDINGS:
            known[name.stem].append(file)
    return [_resolve_one(known, path, any_ending) for path in paths]


def _resolve_one(known: dict[str, list[str]], path: str, any_ending: bool) -> str:
    wanted = path.removesuffix("*").removesuffix(".") if any_ending else path
    head, deep, tail = wanted.partition("**/")
    folder = tail.rpartition("/")[0] if deep else ""
    found = []
    for file in known.get(wanted.rpartition("/")[2], []):
        at = file.rpartition("/")[0]
        if at == wanted.rpartition("/")[0] if not deep else file.startswith(head) and f"/{at}".endswith(f"/{folder}" if folder else ""):
            found.append(file)
    if len(set(found)) > 1:
        raise UserError(f"competition.image_path: {path} may be {found[0]} or {found[1]}; write the ending or the folder")
    return found[0] if found else path


def is_inside(relative: str) -> bool:
    """Whether a path from a table stays below the folder that it is relative to."""
    parts = Path(relative).parts
    return not Path(relative).is_absolute() and ".." not in parts and "\0" not in relative and bool(parts)
