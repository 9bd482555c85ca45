"""Runs tasks: one by one, or several processes per device. Nothing else knows where a task runs.

A cluster's engine can take the same tasks: plain data in, a manifest on disk out.
"""

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any

from tqdm.auto import tqdm

from pipeline.config import Config
from pipeline.errors import RunFailed, Stopped, UserError
from pipeline.runtime import CtrlC, die_with, free_memory, start_logging

log = logging.getLogger(__name__)
SAVING = 60.0  # seconds that processes have to save after Ctrl-C
FULL = -1  # the fold of a network that learns from all rows


@dataclass(frozen=True)
class Task:
    """One network to train: without the rows of its fold, for nested teachers of a second fold, too."""

    config: Config
    seed: int
    fold: int
    also_hidden: int | None = None

    @property
    def hidden(self) -> tuple[int, ...]:
        """The folds whose rows it must not see; those rows are held out."""
        return tuple(fold for fold in (self.fold, self.also_hidden) if fold is not None and fold != FULL)

    @property
    def folder(self) -> str:
        """Its folder's name below the seed's: fold_2, folds_0_2, or all."""
        if self.fold == FULL:
            return "all"
        return f"fold_{self.fold}" if self.also_hidden is None else f"folds_{self.fold}_{self.also_hidden}"

    @property
    def number(self) -> int:
        """What random draws know it by beside its seed."""
        return self.fold if self.also_hidden is None else (self.also_hidden + 1) << 16 | self.fold

    @property
    def name(self) -> str:
        """Which network of its experiment, in words."""
        if self.fold == FULL:
            return f"seed {self.seed} on all rows"
        return f"seed {self.seed} fold {self.fold}" if self.also_hidden is None else f"seed {self.seed} without folds {self.fold} and {self.also_hidden}"

    def __str__(self) -> str:
        return f"{self.config.experiment} {self.name}"


Work = Callable[[Task, str], bool]
"""Runs a task on a device; False where another process has claimed it."""


@dataclass(frozen=True)
class Outcome:
    """How tasks ended: those that another process has claimed, and those that failed, with the reason."""

    claimed: list[Task]
    failed: list[tuple[Task, str]]


def run_tasks(tasks: Sequence[Task], work: Work, devices: Sequence[str], jobs_per_device: int) -> Outcome:
    """Runs every task; one that fails does not stop the others. UserError, which would meet each, stops all."""
    every = [device for _ in range(jobs_per_device) for device in devices]
    slots = every[: len(tasks)] if _kept is None else every
    outcome = Outcome([], [])
    if len(tasks) <= 1 or len(slots) <= 1:
        for task in tasks:
            _note(outcome, task, functools.partial(work, task, slots[0]))
            CtrlC().stop_if_asked()
        return outcome
    # A killed process takes its whole pool down: what it left undone runs again, each task in a pool of its own.
    for task in _run_pool(outcome, tasks, work, slots):
        if _run_pool(outcome, [task], work, slots[:1]):
            outcome.failed.append((task, "its process was killed, perhaps for lack of memory"))
    return outcome


_kept: dict[tuple[str, ...], ProcessPoolExecutor] | None = None  # one at most, by its devices


@contextlib.contextmanager
def keep_processes() -> Iterator[None]:
    """Inside, processes stay when their tasks are done and take the next ones: a process takes seconds to start."""
    global _kept
    assert _kept is None, "not to be nested"
    _kept = {}
    try:
        yield
    finally:
        _close_kept()
        _kept = None


def _close_kept() -> None:
    for pool in (_kept or {}).values():
        pool.shutdown(cancel_futures=True)
    (_kept or {}).clear()


def _submit(tasks: Sequence[Task], work: Work, slots: Sequence[str]) -> tuple[ProcessPoolExecutor, "dict[Future[bool], Task]"]:
    """Hands tasks to the processes that are kept for these slots, or to new ones."""
    if (pool := (_kept or {}).pop(tuple(slots), None)) is not None:
        with contextlib.suppress(BrokenProcessPool):  # one was killed while it waited
            return pool, {pool.submit(_in_process, work, task): task for task in tasks}
    _close_kept()
    pool = _open_pool(slots)
    return pool, {pool.submit(_in_process, work, task): task for task in tasks}


def _run_pool(outcome: Outcome, tasks: Sequence[Task], work: Work, slots: Sequence[str]) -> list[Task]:
    """Runs tasks in one process per slot and notes how they end; returns those that a killed process left undone."""
    undone: list[Task] = []
    pool, futures = _submit(tasks, work, slots)
    processes = list((pool._processes or {}).values())
    try:
        for future in tqdm(as_completed(futures), total=len(futures), desc="train", unit="network", leave=False, delay=2, disable=None):
            try:
                _note(outcome, futures[future], future.result)
            except BrokenProcessPool:
                undone.append(futures[future])
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        end_processes(processes, SAVING if isinstance(error, KeyboardInterrupt) else 0)
        raise
    if _kept is None or undone:
        pool.shutdown()
    else:
        _kept[tuple(slots)] = pool
    return undone


def _open_pool(slots: Sequence[str]) -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    for slot in slots:
        queue.put(slot)
    known = {name: logging.getLogger(name).level for name in list(logging.root.manager.loggerDict)}
    levels = {name: level for name, level in known.items() if level and name.startswith("pipeline.")}
    return ProcessPoolExecutor(len(slots), context, _start_process, (queue, os.getpid(), levels))


def end_processes(processes: Sequence[BaseProcess], seconds: float) -> None:
    """Ends processes; they have so many seconds to save what they did. A fold that is cut off goes on from its checkpoint."""
    try:
        if seconds:
            log.info("train     saving; press Ctrl-C again to stop at once")
        for process in processes if seconds else ():
            if process.pid is not None and process.is_alive():
                os.kill(process.pid, signal.SIGINT)
        deadline = time.monotonic() + seconds
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for process in processes:
            process.kill()


def _note(outcome: Outcome, task: Task, run: Callable[[], bool]) -> None:
    try:
        if not run():
            outcome.claimed.append(task)
    except (UserError, Stopped, KeyboardInterrupt, BrokenProcessPool):
        raise
    except OSError as error:
        if error.errno is not None:
            raise
        outcome.failed.append((task, str(error)))
    except RunFailed as error:
        outcome.failed.append((task, str(error)))
    except Exception as error:  # whatever broke one fold is reported with it, after the others ran
        log.exception("train     %s failed", task)
        outcome.failed.append((task, f"{type(error).__name__}: {error}"))


_slot: dict[str, Any] = {}


def _start_process(queue: Any, parent: int, levels: Mapping[str, int]) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    signal.signal(signal.SIGINT, CtrlC.note)  # answered by the training loop, which saves; the parent passes it on
    start_logging()
    for name, level in levels.items():  # what is quiet there is quiet here
        logging.getLogger(name).setLevel(level)
    _slot["device"] = queue.get()
    die_with(parent)


def _in_process(work: Work, task: Task) -> bool:
    CtrlC().stop_if_asked()
    try:
        return work(task, _slot["device"])
    except (UserError, RunFailed, OSError):
        raise
    except Exception as error:  # not every exception can travel to the parent
        log.exception("train     %s failed", task)
        raise RunFailed(f"{type(error).__name__}: {error}") from None
    finally:
        free_memory()  # for those who share the device, while this process waits for another task
