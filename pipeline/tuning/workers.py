"""Several processes at one study: one that is killed is replaced, and a fault that each would meet ends all."""

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess

from pipeline.errors import RunFailed, UserError
from pipeline.executor import SAVING, end_processes
from pipeline.runtime import CtrlC, Interrupted, die_with, start_logging

log = logging.getLogger(__name__)
MOST_KILLED = 30  # workers of one run; more than trials that kill theirs can account for
INTERRUPTED = 130  # how a process ends that Ctrl-C has ended
LOOK = 0.5  # seconds between two looks for a Ctrl-C

Work = Callable[[int], None]


def run_workers(count: int, work: Work, deadline: float | None = None) -> None:
    """Runs work(0) to work(count - 1) in spawned processes until each has returned. `work` travels there, so it is a module's function or a partial.

    A process that is killed is replaced, until the deadline (Unix time). What one raises ends the others, which have 60 s to save, and is raised
    here: UserError, RunFailed and OSError as they are, all else as RunFailed. So does Ctrl-C, as KeyboardInterrupt.
    """
    workers = {number: _Worker(number, work) for number in range(count)}
    killed = 0
    try:
        while workers:
            CtrlC().stop_if_asked()
            connection.wait([worker.process.sentinel for worker in workers.values()], timeout=LOOK)
            for number, worker in list(workers.items()):
                if worker.process.is_alive():
                    continue
                del workers[number]
                if worker.was_killed():
                    killed += 1
                    if killed > MOST_KILLED:
                        raise RunFailed(f"{killed} workers were killed, perhaps for lack of memory; write fewer --workers")
                    if deadline is None or time.time() < deadline:
                        workers[number] = _Worker(number, work)
    except BaseException:
        end_processes([worker.process for worker in workers.values()], SAVING)
        raise


class _Worker:
    """One process. What it raises comes through a pipe."""

    def __init__(self, number: int, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self._number = number
        self._faults, there = context.Pipe(duplex=False)
        self.process: SpawnProcess = context.Process(target=_in_process, args=(work, number, there, os.getpid()), name=f"worker {number}")
        with _without_ctrl_c():
            self.process.start()
        there.close()

    def was_killed(self) -> bool:
        """Of one that has ended: whether it was killed from outside. Raises what ended it."""
        with contextlib.suppress(EOFError), self._faults:
            raise self._faults.recv()
        code = self.process.exitcode
        assert code is not None
        if code == INTERRUPTED:
            raise Interrupted
        if code > 0:
            raise RunFailed(f"worker {self._number} could not start; its process ended with code {code}")
        if code < 0:
            log.warning("tune      worker %d was killed by signal %d", self._number, -code)
        return code < 0


@contextlib.contextmanager
def _without_ctrl_c() -> Iterator[None]:
    """Holds Ctrl-C back; a process started meanwhile hears it once it can answer, instead of breaking off its imports with a traceback."""
    resource_tracker.ensure_running()  # or its start lets Ctrl-C through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _in_process(work: Work, number: int, faults: "connection.Connection", parent: int) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    signal.signal(signal.SIGINT, CtrlC.note)  # answered where what was done can be saved; the parent passes it on
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    die_with(parent)
    start_logging()
    try:
        work(number)
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except (UserError, RunFailed, OSError) as error:
        faults.send(error)
    except Exception as error:  # not every exception can travel to the parent
        log.exception("tune      worker %d failed", number)
        faults.send(RunFailed(f"{type(error).__name__}: {error}"))
