"""A competition's files, fetched with Kaggle's client into a folder that appears when it is whole.

Beside input/<slug>/ a hidden folder holds the archive while it comes, and what is unpacked of it; the last step renames it. So a run that was
cut off leaves nothing that looks finished, and the same command goes on where the client can.
"""

import contextlib
import csv
import fcntl
import io
import os
import re
import shutil
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pipeline.errors import UserError
from pipeline.files import free_space, read_json
from pipeline.kaggle.client import SLUG, ask, cleaned, competition_advice
from pipeline.kaggle.unpack import DamagedArchive, in_words, require_room, unpack, unpack_inner

PAGE, PAGES = 200, 5  # files in a list, lists that are asked for: more would take longer than they tell
STALL = 600.0  # seconds without one more byte; the client itself gives up a silent connection after 300
MARKER = ".kaggle-partial"  # ending of the client's note on what it is fetching


@dataclass(frozen=True)
class Downloaded:
    """What lies in a folder."""

    folder: Path
    files: int
    size: int
    """Bytes."""
    packed: list[str]
    """A line for each archive in it that was not unpacked."""


def slug_in(text: str) -> str:
    """A competition's name on Kaggle, of a name or of its page's address. UserError for anything else."""
    name = re.sub(r"^(https?://)?(www\.)?kaggle\.com/(competitions|c)/([^/?#]+).*$", r"\4", text.strip())
    if not re.fullmatch(SLUG, name):
        raise UserError(f"\"{text}\" is no competition's name; write the end of its page's address, e.g. digit-recognizer")
    return name


def download(slug: str, folder: Path, inner: bool = True, stall: float = STALL) -> Downloaded:
    """Fetches a competition's files into `folder`, which is new or empty.

    inner: archives among the files are unpacked too, one level; stall: seconds after which a download without progress is given up.
    UserError with one line for a folder that holds files, a full disk, whatever Kaggle refuses, and an archive that is damaged or hostile.
    """
    place = folder.resolve()  # a link to a larger disk stays one
    part = place.parent / f".{place.name}.download"
    if place.exists() and not place.is_dir():
        raise UserError(f"{folder}: is a file; write --folder for another place")
    if place.is_mount():  # nothing can be renamed to it
        raise UserError(f"{folder}: is a disk of its own; write --folder {folder / slug}")
    with _claimed(part) as claim:
        if place.exists() and any(place.iterdir()):
            shutil.rmtree(part, ignore_errors=True)
            raise UserError(f"{folder}: holds files already; write --folder for another place, or delete it to fetch them again")
        files = part / "files"
        shutil.rmtree(files, ignore_errors=True)
        archive = _fetch(slug, part, claim, stall)
        files.mkdir()
        packed = _unpack(archive, files, folder, inner)
        sizes = [path.stat().st_size for path in files.rglob("*") if path.is_file()]
        place.parent.mkdir(parents=True, exist_ok=True)
        files.rename(place)
        shutil.rmtree(part, ignore_errors=True)
    return Downloaded(folder, len(sizes), sum(sizes), packed)


@contextlib.contextmanager
def _claimed(part: Path) -> Iterator[int]:
    """The folder for what is on its way, locked; yields the lock's descriptor, for the client to hold too: it may outlive this process."""
    part.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(part / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{part}: another download is writing there; wait until it ends, then run the same command again") from None
        try:
            yield descriptor
        finally:
            if not any(part.glob("archive/*")):
                shutil.rmtree(part, ignore_errors=True)
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------- the archive


def listed_size(slug: str) -> tuple[int, bool]:
    """Bytes of a competition's unpacked files by Kaggle's list, and whether that are all: long lists are not read to their end."""
    total, token = 0, ""
    for _ in range(PAGES):
        words = ["competitions", "files", slug, "--csv", f"--page-size={PAGE}", "--quiet", *([f"--page-token={token}"] if token else [])]
        output = ask(words, competition_advice(slug))
        header = re.search(r"^name,(size|totalBytes),.*$", output, re.MULTILINE)
        rows = csv.DictReader(io.StringIO(output[header.start() :], newline="")) if header else ()
        total += sum(_bytes(row.get("size") or row.get("totalBytes") or "") for row in rows)
        following = re.search(r"^Next Page Token = (\S+)$", output, re.MULTILINE)
        if following is None:
            return total, True
        token = following[1]
    return total, False


def _bytes(text: str) -> int:
    """Of 1234, or as older clients write it, 12KB."""
    found = re.fullmatch(r"(\d+)\s*([KMGT]?)B?", text.strip())
    return int(found[1]) * 1024 ** " KMGT".index(found[2] or " ") if found else 0


def _fetch(slug: str, part: Path, claim: int, stall: float) -> Path:
    """The archive, whole as far as the client can tell; one that is there already is not fetched again."""
    listed, whole = listed_size(slug)
    require_room(part, listed, f"{slug} unpacked")
    folder = part / "archive"
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if not path.name.startswith(f"{slug}."):  # another competition's, once on its way to the same folder
            path.unlink()
    with tqdm(desc=slug, unit="B", unit_scale=True, leave=False, disable=None) as bar:
        watch = _Watch(folder, listed, whole, stall, bar)
        try:
            ask(["competitions", "download", slug, f"--path={folder}", "--quiet"], competition_advice(slug), None, watch, (claim,))
        except UserError as error:
            size = watch.size()
            raise UserError(f"{error}; the same command goes on behind the {in_words(size)} that are there" if size else str(error)) from None
    found = [path for path in folder.iterdir() if not path.name.endswith(MARKER)]
    if len(found) != 1:
        raise UserError(f"{slug}: Kaggle sent no archive; run the same command again")
    return found[0]


class _Watch:
    """Looks at the growing archive: progress, room on the disk, and whether it grows at all."""

    def __init__(self, folder: Path, listed: int, whole: bool, stall: float, bar: "tqdm[Any]") -> None:
        self.folder, self.listed, self.whole, self.stall, self.bar = folder, listed, whole, stall, bar
        self.last, self.grown = self.size(), time.monotonic()

    def size(self) -> int:
        """Bytes that are there."""
        return sum(path.stat().st_size for path in self.folder.iterdir() if not path.name.endswith(MARKER))

    def __call__(self) -> None:
        size = self.size()
        if size != self.last:
            self.last, self.grown = size, time.monotonic()
        self.bar.total = self._expected()
        self.bar.update(size - self.bar.n)
        left = max((self.bar.total or 0) - size, 0)
        unpacked = self.listed if self.whole else max(self.listed, self.bar.total or 0)  # pictures do not get smaller by packing
        if free_space(self.folder) < left + unpacked:
            raise UserError(
                f"{in_words(left)} of the archive are to come and {in_words(unpacked)} to be unpacked, and the disk of {self.folder} "
                f"has {in_words(free_space(self.folder))}; make room, or write --folder on another disk"
            )
        if time.monotonic() - self.grown > self.stall:
            raise UserError(f"Kaggle sent nothing for {self.stall:.0f} seconds; look at the network, then run the same command again")

    def _expected(self) -> int | None:
        """Bytes of the whole archive, as the client notes them while it fetches."""
        for path in self.folder.glob(f"*{MARKER}"):
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                return int(read_json(path)["size"])
        return None


def _unpack(archive: Path, files: Path, folder: Path, inner: bool) -> list[str]:
    """Writes what is in the archive below `files`; a line for each archive in it that stays packed."""
    if not zipfile.is_zipfile(archive):
        archive.unlink()
        raise UserError(f"{folder}: what came is no whole zip archive; it was deleted: run the same command again")
    with tqdm(desc="unpack", unit="B", unit_scale=True, leave=False, delay=2, disable=None) as bar:
        try:
            unpack(archive, files, bar.update)
        except DamagedArchive as error:
            archive.unlink()
            raise UserError(f"{folder}: {error}; it was deleted: run the same command again") from None
        except UserError as error:
            raise UserError(f"{folder}: {error} (the archive is {archive})") from None
        return [cleaned(line) for line in unpack_inner(files, bar.update)] if inner else []
