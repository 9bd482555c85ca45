"""Which trials are alive: a running trial is held by a lock that dies with its worker, or by a heartbeat in a database of several machines."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.files import lock
from pipeline.tuning.storage import is_local_file

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial

log = logging.getLogger(__name__)


@contextlib.contextmanager
def one_at_a_time(folder: Path) -> Iterator[None]:
    """Lets one worker of this machine at a time look at a study and take a trial."""
    while True:
        with lock(folder / "study.lock", wait=None) as held:
            if held:
                yield
                return
        time.sleep(0.05)


class Claims(Protocol):
    """How workers know of each other. All but `hold` is called by one worker of a machine at a time."""

    def orphans(self, study: "optuna.study.Study") -> "Sequence[FrozenTrial]":
        """Running trials whose workers are gone, to be carried on as they are."""

    def ask(self, study: "optuna.study.Study") -> "Trial":
        """The next trial."""

    def hold(self, trial: "FrozenTrial") -> contextlib.AbstractContextManager[None]:
        """Shows that a trial is alive."""

    def hand_back(self, trial: "FrozenTrial") -> None:
        """Leaves a trial that is held to whoever comes next."""

    def forget(self, trial: "FrozenTrial") -> None:
        """Clears up behind a trial that has ended and is still held."""


def claims_of(located: str, storage: "optuna.storages.BaseStorage", folder: Path) -> Claims:
    """Locks for a file on this machine, heartbeats for a database."""
    if is_local_file(located):
        return FileClaims(storage, folder)
    import optuna

    assert isinstance(storage, optuna.storages.RDBStorage)
    return HeartbeatClaims(storage)


class FileClaims:
    """Trials are held by locks of files. An orphan is found at once and goes on as the same trial."""

    def __init__(self, storage: "optuna.storages.BaseStorage", folder: Path) -> None:
        self._storage, self._folder = storage, folder

    def _path(self, trial: "FrozenTrial") -> Path:
        return self._folder / f"trial_{trial.number:03}.lock"

    def orphans(self, study: "optuna.study.Study") -> "Sequence[FrozenTrial]":
        """Those whose lock nobody holds."""
        return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "RUNNING" and self._is_orphan(trial)]

    def _is_orphan(self, trial: "FrozenTrial") -> bool:
        with lock(self._path(trial), wait=None) as held:
            # Read again: the worker that held the lock may have ended the trial before it let go.
            return held and self._storage.get_trial(trial._trial_id).state.name == "RUNNING"

    def ask(self, study: "optuna.study.Study") -> "Trial":
        """The next in the queue, else a new one."""
        return study.ask()

    @contextlib.contextmanager
    def hold(self, trial: "FrozenTrial") -> Iterator[None]:
        """Locks its file, which no other can hold: trials are taken one at a time."""
        with lock(self._path(trial), wait=f"tune: waiting for {self._path(trial)}"):
            yield

    def hand_back(self, trial: "FrozenTrial") -> None:
        """Nothing: an open lock says it."""

    def forget(self, trial: "FrozenTrial") -> None:
        """Removes the lock's file."""
        self._path(trial).unlink(missing_ok=True)


class HeartbeatClaims:
    """Trials leave signs of life in the database. Of one without them for long Optuna queues a copy, which knows the first one's number."""

    def __init__(self, storage: "optuna.storages.RDBStorage") -> None:
        self._storage = storage
        self._seen: set[int] = set()

    def orphans(self, study: "optuna.study.Study") -> "Sequence[FrozenTrial]":
        """None: copies of stale trials are in the queue after this."""
        import optuna

        for trial in study.get_trials(deepcopy=False):
            # Killed before its first sign of life it would never be missed.
            if trial.state.name == "RUNNING" and "attempts" not in trial.user_attrs and trial._trial_id not in self._seen:
                self._seen.add(trial._trial_id)
                self._storage.record_heartbeat(trial._trial_id)
        optuna.storages.fail_stale_trials(study)
        return []

    def ask(self, study: "optuna.study.Study") -> "Trial":
        """The next in the queue, else a new one; what waits gets a sign of life, or the one of a trial handed back yesterday would make it stale."""
        for trial in study.get_trials(deepcopy=False):
            if trial.state.name == "WAITING":
                self._storage.record_heartbeat(trial._trial_id)
        return study.ask()

    @contextlib.contextmanager
    def hold(self, trial: "FrozenTrial") -> Iterator[None]:
        """Leaves signs of life from a thread: Optuna does so in its own loop only, not with ask and tell."""
        self._storage.record_heartbeat(trial._trial_id)
        ended = threading.Event()
        thread = threading.Thread(target=self._beat, args=(trial._trial_id, ended), daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _beat(self, trial: int, ended: threading.Event) -> None:
        interval = self._storage.get_heartbeat_interval()
        while not ended.wait(interval):
            try:
                self._storage.record_heartbeat(trial)
            except Exception as error:  # a database that is away for a minute ends no trial
                log.warning("tune      no heartbeat of trial %d: %s", trial, type(error).__name__)

    def hand_back(self, trial: "FrozenTrial") -> None:
        """Puts it into the queue again, under its number."""
        import optuna

        with contextlib.suppress(RuntimeError):  # given up by another machine, which runs a copy
            self._storage.record_heartbeat(trial._trial_id)
            self._storage.set_trial_state_values(trial._trial_id, optuna.trial.TrialState.WAITING)

    def forget(self, trial: "FrozenTrial") -> None:
        """Nothing to clear up."""
