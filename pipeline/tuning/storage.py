"""Where a study is kept: an SQLite file, a journal file for several processes, or a database for several machines."""

import contextlib
import fcntl
import json
import os
import re
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline.errors import UserError, did_you_mean

if TYPE_CHECKING:
    import optuna

SQLITE = "sqlite:///"
BUSY = 60.0  # seconds that a process waits while another writes to the SQLite file
CONNECT = 10  # seconds in which a database has to answer
MOST_TRIES = 8  # to make the tables of a new database beside other machines
HEARTBEAT = 60  # seconds between two signs of life of a trial in a database
GRACE = 120  # seconds without one after which its worker is given up
DRIVERS = {"postgresql": ("postgresql+psycopg", '"psycopg[binary]"'), "mysql": ("mysql+pymysql", "pymysql")}


def locate(given: str | None, studies: Path, name: str, workers: int) -> str:
    """The storage of a study as Plan and `open_storage` take it: a URL, or the path of a journal.

    given: journal or sqlite, for a file of the study's name in `studies`; a path that ends in .journal or .db; an SQLAlchemy URL; None: the
    study's file that is there, else SQLite for one worker and a journal for several. UserError for anything else.
    """
    database, journal = studies / f"{name}.db", studies / f"{name}.journal"
    if given is None:
        if database.exists() and journal.exists():
            raise UserError(f"there are two studies, {database} and {journal}; write --storage sqlite or --storage journal")
        given = "journal" if journal.exists() or (workers > 1 and not database.exists()) else "sqlite"
    if given in ("journal", "sqlite"):
        return str(journal) if given == "journal" else f"{SQLITE}{database}"
    if "://" in given:
        return _checked_url(given)
    if given.endswith((".journal", ".db")):
        return given if given.endswith(".journal") else f"{SQLITE}{given}"
    wanted = "sqlite, journal, a path that ends in .db or .journal, or a URL such as postgresql+psycopg://user:password@host/database"
    raise UserError(f"--storage: {given} is not a storage{did_you_mean(given, ['sqlite', 'journal'])}; write {wanted}")


def _checked_url(given: str) -> str:
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(given)
    except (ArgumentError, ValueError):
        raise UserError(f"--storage: {without_password(given)} is not a URL; write dialect+driver://user:password@host:port/database") from None
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise UserError(f"--storage: {given} is lost with the process; write {SQLITE}PATH.db")
    return given


def is_local_file(located: str) -> bool:
    """Whether it is a file of this machine, and not a database."""
    return located.endswith(".journal") or located.startswith("sqlite")


def file_of(located: str) -> Path:
    """The file of a storage that is one."""
    return Path(located) if located.endswith(".journal") else _database_file(located)


def without_password(url: str) -> str:
    """The same with *** for a password, fit for a message."""
    return re.sub(r"([?&]password=)[^&]*", r"\1***", re.sub(r"(://[^:/@]*:).*@", r"\1***@", url))


def open_storage(located: str) -> "optuna.storages.BaseStorage":
    """Opens or creates it. UserError, in one line and without the password, for one that is damaged, closed to us or not there."""
    from sqlalchemy.exc import NoSuchModuleError

    _silence()
    try:
        with storage_errors(located):
            return _open_journal(Path(located)) if located.endswith(".journal") else _open_database(located)
    except (ImportError, NoSuchModuleError) as error:
        _refuse_driver(located, error)


def _silence() -> None:
    """Keeps Optuna's notes about experimental features and its own log from the terminal."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="Heartbeat of storage is supposed")  # with ask and tell: study.py beats itself


# ---------------------------------------------------------------- a journal


def _open_journal(path: Path) -> "optuna.storages.BaseStorage":
    from optuna.storages.journal import JournalFileBackend, JournalStorage

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock: Any = _JournalLock(path)
        backend = JournalFileBackend(str(path), lock_obj=lock)
        lock.acquire()
        try:
            _read_last_line(path)
            return JournalStorage(backend)
        finally:
            lock.release()
    except (ValueError, KeyError, TypeError, AssertionError):  # what Optuna meets in lines that are not its own
        raise UserError(f"{path}: is damaged, or not a journal of studies; restore it from a copy, or move it away") from None


def _read_last_line(path: Path) -> None:
    """ValueError for a last line that is not JSON: Optuna would only stumble over it when more lines follow."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - 2**20))
        lines = file.read().splitlines()
    if lines and not isinstance(json.loads(lines[-1]), dict):
        raise ValueError


class _JournalLock:
    """Lets one process at a time write to a journal, and takes away the half of a line that a killed one left.

    Optuna's own locks are files that outlive a killed holder: for 30 seconds, in Optuna 4.2 and before for ever. And a line that is appended to
    half a line makes a journal that cannot be read any more.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def acquire(self) -> bool:
        """Waits for the lock, which dies with the process."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _drop_half_a_line(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Lets the next one write."""
        os.close(self._descriptor)


def _drop_half_a_line(descriptor: int) -> None:
    end = size = os.fstat(descriptor).st_size
    while end > 0:
        start = max(0, end - 4096)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            end = start + newline + 1
            break
        end = start
    if end < size:
        os.ftruncate(descriptor, end)


# ---------------------------------------------------------------- a database


def _open_database(located: str) -> "optuna.storages.BaseStorage":
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    url = located.replace("{", "{{").replace("}", "}}")  # Optuna takes it for a template
    if is_local_file(located):
        _database_file(located).parent.mkdir(parents=True, exist_ok=True)
        return optuna.storages.RDBStorage(url, {"connect_args": {"timeout": BUSY}})
    engine: dict[str, Any] = {"pool_pre_ping": True}
    if located.startswith("postgres"):
        engine["connect_args"] = {"connect_timeout": CONNECT}
    # Optuna 4.9 gave both of these new names, and warns of the old ones.
    renamed = hasattr(optuna.storages, "RetryHeartbeatStaleTrialCallback")
    retry = getattr(optuna.storages, "RetryHeartbeatStaleTrialCallback" if renamed else "RetryFailedTrialCallback")
    callback = {"heartbeat_stale_trial_callback" if renamed else "failed_trial_callback": retry(inherit_intermediate_values=True)}
    for attempt in range(MOST_TRIES):
        try:
            return optuna.storages.RDBStorage(url, engine, heartbeat_interval=HEARTBEAT, grace_period=GRACE, **callback)
        except SQLAlchemyError as error:
            if attempt == MOST_TRIES - 1 or "already exists" not in str(error):
                raise
            time.sleep(0.1 * (1 + os.getpid() % 8))  # another machine makes the tables of a new database at this moment
    raise AssertionError


def _database_file(located: str) -> Path:
    from sqlalchemy.engine import make_url

    return Path(make_url(located).database or "")


@contextlib.contextmanager
def storage_errors(located: str) -> Iterator[None]:
    """Makes of what a storage raises a UserError of one line that names it, without a password."""
    import optuna
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    try:
        yield
    except NoSuchModuleError:
        raise
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        _refuse(located, error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) and error.__cause__ else error)
    except RuntimeError as error:
        if "table schema" not in str(error):
            raise
        _refuse(located, error)


def _refuse(located: str, error: BaseException) -> NoReturn:
    text = " ".join(str(getattr(error, "orig", None) or error).split())
    if "://" in located:
        from sqlalchemy.engine import make_url

        if password := make_url(located).password:
            text = re.sub(rf"(?<!\w){re.escape(str(password))}(?!\w)", "***", text)
    if is_local_file(located):
        wrong = "malformed" in text or "not a database" in text
        raise UserError(f"{_database_file(located)}: {text}{'; restore it from a copy, or move it away' if wrong else ''}") from None
    raise UserError(f"the storage {without_password(located)}: {text}") from None


def _refuse_driver(located: str, error: Exception) -> NoReturn:
    backend = re.split(r"[+:]", located)[0]
    if backend in DRIVERS:
        driver, package = DRIVERS[backend]
        raise UserError(f"the storage {without_password(located)}: has no driver; pip install {package} and write {driver}://...") from None
    raise UserError(f"the storage {without_password(located)}: has no driver ({error}); write postgresql+psycopg://... or mysql+pymysql://...") from None
