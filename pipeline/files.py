"""Files: atomic writes, digests, locks, room on the disk."""

import contextlib
import fcntl
import glob
import hashlib
import io
import json
import logging
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas

log = logging.getLogger(__name__)


# ---------------------------------------------------------------- atomic writes


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Gives a temporary path in the same folder; on success it is synced and renamed to `path`.

    Temporary files that killed writers of the same `path` left behind are deleted.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, path.name)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync(path.parent)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text atomically, line ends as given."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Writes readable JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON value in a file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_table(path: Path, table: "pandas.DataFrame") -> None:
    """Writes a table atomically: parquet or CSV, as the suffix says; the same table gives the same CSV bytes."""
    with atomic(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, lineterminator="\n")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Deletes temporary files in `folder`, of one file's name or of any, whose writers are gone."""
    for leftover in folder.glob(f".{name if name == '*' else glob.escape(name)}.*.tmp"):
        if not _is_running(leftover.name.split(".")[-2]):
            leftover.unlink(missing_ok=True)


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        return True
    return int(process) != os.getpid()


# ---------------------------------------------------------------- digests


def digest(value: Any) -> str:
    """SHA-256 of a value's canonical JSON: keys sorted, no spaces, paths refused."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_file(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_table(table: "pandas.DataFrame") -> str:
    """SHA-256 of a table's columns and rows as CSV: its logical content, not a file's bytes."""
    buffer = io.StringIO()
    table.to_csv(buffer, index=False, lineterminator="\n")
    return hashlib.sha256(buffer.getvalue().encode()).hexdigest()


class DigestMemory:
    """Digests of files, remembered in one parquet file by path, size and modification time."""

    COLUMNS = ("path", "size", "mtime_ns", "digest")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[int, int, str]] = {}
        if path.exists():
            import pandas

            with contextlib.suppress(Exception):  # a damaged memory costs time, not answers
                for name, size, mtime, value in pandas.read_parquet(path).itertuples(index=False, name=None):
                    self._known[name] = (size, mtime, value)

    def digests(self, paths: Iterable[Path], threads: int = 4) -> list[str | None]:
        """One SHA-256 per path, in order; None where there is no readable file."""
        from concurrent.futures import ThreadPoolExecutor

        before = len(self._known)
        self._changed = False
        with ThreadPoolExecutor(threads) as pool:
            result = list(pool.map(self._one, paths))
        if self._changed or len(self._known) != before:
            self._save()
        return result

    def _one(self, path: Path) -> str | None:
        try:
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):  # a device or a pipe may have no end
                return None
            name = str(path.resolve())
            known = self._known.get(name)
            if known and known[:2] == (status.st_size, status.st_mtime_ns):
                return known[2]
            value = digest_file(path)
        except (OSError, RuntimeError):  # RuntimeError: a link that leads to itself
            return None
        self._known[name] = (status.st_size, status.st_mtime_ns, value)
        self._changed = True
        return value

    def _save(self) -> None:
        import pandas

        rows = [(name, *known) for name, known in sorted(self._known.items())]
        write_table(self._path, pandas.DataFrame(rows, columns=list(self.COLUMNS)))


# ---------------------------------------------------------------- locks and room


@contextlib.contextmanager
def lock(path: Path, wait: str | None) -> Iterator[bool]:
    """Holds an flock that dies with the process. `wait`: message while waiting; None: do not wait.

    Yields whether the lock is held, always true unless `wait` is None.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if wait is None:
                yield False
                return
            log.info(wait)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield True
    finally:
        if descriptor in _held:  # not in a forked child, which has closed it
            _held.discard(descriptor)
            os.close(descriptor)


_held: set[int] = set()


def _forget_locks() -> None:
    """In a forked child, e.g. a loader's worker: without its copies, a lock dies with the process that took it."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget_locks)


def free_space(folder: Path) -> int:
    """Free bytes of the disk that `folder` is or will be on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
