"""Zip archives of strangers, unpacked into a folder that they cannot leave, onto a disk that they cannot fill."""

import errno
import lzma
import re
import shutil
import stat
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pipeline.errors import UserError
from pipeline.files import free_space
from pipeline.submission.findings import quote

CHUNK = 1 << 20  # bytes written at a time
REMARKS = "__MACOSX"  # what a Mac adds to an archive: no part of the data
PACKED = (".7z", ".rar", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # archives that are left as they are
DAMAGED = (  # RuntimeError: encrypted; NotImplementedError: an unknown kind; ValueError: a name that is no UTF-8, a place before the start
    zipfile.BadZipFile,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
    ValueError,
    struct.error,
    zlib.error,
    lzma.LZMAError,
)
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)  # trouble that is not an archive's

Advance = Callable[[int], object]


class DamagedArchive(UserError):
    """An archive that is not what was packed: to be fetched again."""


def unpack(archive: Path, folder: Path, advance: Advance = lambda size: None) -> int:
    """Writes an archive's files below `folder`, which is new and empty; returns how many.

    advance: called with each number of bytes written. UserError, before anything is written, for a name that leaves the folder, a link, names
    that are in each other's way, or more bytes than the disk has room for; while writing, for what is damaged or longer than declared.
    """
    assert not any(folder.iterdir())
    try:
        with zipfile.ZipFile(archive) as opened:
            members = _members(opened)
            require_room(folder, sum(member.file_size for member, _ in members), f"unpacking {archive.name}")
            for member, place in members:
                target = folder / place
                target.parent.mkdir(parents=True, exist_ok=True)
                _write(opened, member, target, advance)
            return len(members)
    except DAMAGED as error:
        raise _damaged(archive, error) from None
    except OSError as error:
        if error.errno not in (None, errno.EINVAL):  # bz2 has no number for what it cannot read, a place before the start has EINVAL
            raise
        raise _damaged(archive, error) from None


def _damaged(archive: Path, error: Exception) -> DamagedArchive:
    return DamagedArchive(f"{archive.name} cannot be unpacked ({type(error).__name__}: {error})")


def require_room(folder: Path, needed: int, purpose: str) -> None:
    """UserError unless the folder's disk has room."""
    if (free := free_space(folder)) < needed:
        raise UserError(f"{purpose} takes {in_words(needed)}, and the disk of {folder} has {in_words(free)}; make room, or write --folder on another disk")


def in_words(size: float) -> str:
    """A number of bytes: 1.5 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _members(opened: zipfile.ZipFile) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Every file of an archive and its place below a folder."""
    members: list[tuple[zipfile.ZipInfo, PurePosixPath]] = []
    files: set[PurePosixPath] = set()
    folders: set[PurePosixPath] = set()
    for member in opened.infolist():
        place = _place(member)
        if place.parts[:1] == (REMARKS,):
            continue
        folders.update(place.parents)
        if member.filename.endswith(("/", "\\")):
            folders.add(place)
        elif place in files:
            raise _refused(member, "is there twice")
        else:
            files.add(place)
            members.append((member, place))
    if clashes := [member for member, place in members if place in folders]:
        raise _refused(clashes[0], "is a file and a folder")
    return members


def _place(member: zipfile.ZipInfo) -> PurePosixPath:
    """Where a member goes; a backslash separates folders in archives that Windows programs wrote."""
    name = member.filename.replace("\\", "/")
    kind = stat.S_IFMT(member.external_attr >> 16)
    if stat.S_ISLNK(kind):
        raise _refused(member, "is a link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _refused(member, "is no file")
    if name.startswith("/") or re.match("[A-Za-z]:/", name):
        raise _refused(member, "is an absolute path")
    place = PurePosixPath(name)
    if ".." in place.parts:
        raise _refused(member, "leaves the folder")
    if not place.parts or re.search(r"[\x00-\x1f\x7f-\x9f]", name):
        raise _refused(member, "is no name for a file")
    return place


def _refused(member: zipfile.ZipInfo, why: str) -> UserError:
    return UserError(f"the archive is not to be trusted: {quote(member.filename)} {why}; nothing of it was unpacked")


def _write(opened: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, advance: Advance) -> None:
    written = 0  # zipfile itself ends a member at its declared size, and says so
    with opened.open(member) as source, target.open("xb") as file:
        while chunk := source.read(CHUNK):
            written += len(chunk)
            file.write(chunk)
    if written != member.file_size:
        raise zipfile.BadZipFile(f"{quote(member.filename)} has {written:,} of its {member.file_size:,} bytes")


def unpack_inner(folder: Path, advance: Advance = lambda size: None) -> list[str]:
    """Unpacks the zip archives among a folder's files, one level, beside themselves, and deletes those; a line for each archive that stays packed.

    What holds one folder, or one file that bears the archive's name, becomes that; anything else, and what is in another's way, becomes a
    folder of the archive's name.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    archives = [path for path in files if path.suffix.lower() == ".zip"]
    remarks = [f"{path.relative_to(folder)} stays packed: only zip archives are unpacked" for path in files if path.name.lower().endswith(PACKED)]
    entries = {archive: _entry_alone(archive) for archive in archives}
    often = Counter(archive.parent / (entry or archive.stem) for archive, entry in entries.items())
    for archive, entry in entries.items():
        place = archive.parent / (entry or archive.stem)
        if often[place] > 1 or place.exists():
            entry, place = None, archive.parent / archive.stem
        temporary = archive.with_name(f".{archive.name}.tmp")
        temporary.mkdir()
        try:
            unpack(archive, temporary, advance)
            if not any(temporary.iterdir()):
                raise UserError("it is empty")
            if place.exists():
                raise UserError(f"{place.name} is there already")
            (temporary if entry is None else temporary / entry).rename(place)
            archive.unlink()
        except UserError as error:
            remarks.append(f"{archive.relative_to(folder)} stays packed: {error}")
        except OSError as error:
            if error.errno in DISK:
                raise
            remarks.append(f"{archive.relative_to(folder)} stays packed: {error.strerror}")
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return remarks


def _entry_alone(archive: Path) -> str | None:
    """The name of an archive's only entry, where that is a folder or bears the archive's name; None: it wants a folder."""
    try:
        with zipfile.ZipFile(archive) as opened:
            places = [place for _, place in _members(opened)]
    except (*DAMAGED, UserError, OSError):  # said when it is unpacked
        return None
    names = {place.parts[0] for place in places}
    if len(names) != 1 or (len(places[0].parts) == 1 and archive.stem not in (places[0].name, places[0].stem)):
        return None
    return names.pop()
