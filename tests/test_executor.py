"""Tasks: one that fails stops no other, a fault that each would meet stops all, processes are real and end."""

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.errors import RunFailed, UserError
from pipeline.executor import FULL, SAVING, Task, run_tasks
from pipeline.files import write_text
from pipeline.runtime import CtrlC, Interrupted


class Unpicklable(Exception):
    """Raised in one process, it cannot be built anew in another."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} {second}")


def note(task: Task, device: str) -> None:
    """Leaves a trace of the task: its process and device."""
    folder = task.config.outputs
    write_text(folder / f"{task.seed}_{task.fold}", f"{os.getpid()} {device}")


def traces(config: Config) -> dict[str, tuple[int, str]]:
    """Of every task that ran: the process and the device."""
    found = {path.name: path.read_text().split() for path in sorted(config.outputs.glob("[0-9]*"))}
    return {name: (int(process), device) for name, (process, device) in found.items()}


def work_that_meets_faults(task: Task, device: str) -> bool:
    """Fold 0 fails, fold 1 breaks, fold 2 is claimed by another process, the others do well."""
    note(task, device)
    if task.fold == 0:
        raise RunFailed("loss is not finite")
    if task.fold == 1:
        raise ZeroDivisionError("a mistake of ours")
    return task.fold != 2


def work_that_meets(task: Task, other: str) -> bool:
    """Ends only once another process has started, which shows that two run at the same time."""
    note(task, other)
    ended = time.monotonic() + 30
    while len({process for process, _ in traces(task.config).values()}) < 2 and time.monotonic() < ended:
        time.sleep(0.01)
    return True


def work_of_the_user(task: Task, device: str) -> bool:
    """Fold 0 meets a fault of the user's once the others have begun, which then take for ever."""
    note(task, device)
    if task.fold == 0:
        ended = time.monotonic() + 30
        while len(traces(task.config)) < 2 and time.monotonic() < ended:
            time.sleep(0.01)
        raise UserError("write something else")
    time.sleep(60)
    return True


def work_that_saves_after_ctrl_c(task: Task, device: str) -> bool:
    note(task, device)
    ended = time.monotonic() + 60
    while not CtrlC.asked and time.monotonic() < ended:
        time.sleep(0.01)
    write_text(task.config.outputs / f"saved_{task.fold}", "")
    raise Interrupted


def work_that_does_not_hear_ctrl_c(task: Task, device: str) -> bool:
    note(task, device)
    CtrlC.note()
    return True


def work_that_is_refused(task: Task, device: str) -> bool:
    note(task, device)
    raise UserError("write something else")


def work_that_fills_the_disk(task: Task, device: str) -> bool:
    note(task, device)
    raise OSError(28, "No space left on device")


def work_that_is_killed(task: Task, device: str) -> bool:
    if task.fold == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    note(task, device)
    return True


def work_that_raises_the_unpicklable(task: Task, device: str) -> bool:
    if task.fold == 0:
        raise Unpicklable("two", "parts")
    note(task, device)
    return True


def tasks(config: Config, number: int = 5) -> list[Task]:
    return [Task(config, 0, fold) for fold in range(number)]


@pytest.mark.parametrize("jobs", [1, 2], ids=["in this process", "in two processes"])
def test_a_task_that_fails_stops_no_other_and_claimed_ones_are_reported(small: Config, jobs: int) -> None:
    outcome = run_tasks(tasks(small), work_that_meets_faults, ["cpu"], jobs)
    assert sorted(traces(small)) == [f"0_{fold}" for fold in range(5)]
    assert {(task.fold, reason) for task, reason in outcome.failed} == {(0, "loss is not finite"), (1, "ZeroDivisionError: a mistake of ours")}
    assert [task.fold for task in outcome.claimed] == [2]


def test_one_job_runs_in_this_process_in_order(small: Config) -> None:
    order: list[tuple[int, str]] = []

    def work(task: Task, device: str) -> bool:
        order.append((task.fold, device))
        return True

    outcome = run_tasks(tasks(small), work, ["cpu"], 1)
    assert order == [(fold, "cpu") for fold in range(5)]
    assert (outcome.claimed, outcome.failed) == ([], [])


def test_no_tasks_are_done_at_once(small: Config) -> None:
    outcome = run_tasks([], work_that_meets, ["cpu"], 2)
    assert (outcome.claimed, outcome.failed) == ([], [])


def test_one_task_needs_no_process_however_many_may_run(small: Config) -> None:
    run_tasks(tasks(small, 1), work_that_meets_faults, ["cpu"], 4)
    assert traces(small) == {"0_0": (os.getpid(), "cpu")}


def test_two_jobs_run_at_the_same_time_in_other_processes_and_keep_their_device(small: Config) -> None:
    outcome = run_tasks(tasks(small, 4), work_that_meets, ["one", "two"], 1)
    assert (outcome.claimed, outcome.failed) == ([], [])
    found = traces(small)
    assert len(found) == 4
    assert len(set(found.values())) == 2, "each process keeps the device that it began with"
    assert {device for _, device in found.values()} == {"one", "two"}
    assert os.getpid() not in {process for process, _ in found.values()}


def test_a_fault_of_the_user_stops_all_in_this_process(small: Config) -> None:
    with pytest.raises(UserError, match="write something else"):
        run_tasks(tasks(small), work_that_is_refused, ["cpu"], 1)
    assert list(traces(small)) == ["0_0"]


def test_a_full_disk_stops_all(small: Config) -> None:
    with pytest.raises(OSError, match="No space left"):
        run_tasks(tasks(small), work_that_fills_the_disk, ["cpu"], 1)
    assert list(traces(small)) == ["0_0"]


def test_a_fault_of_the_user_stops_all_other_processes_too(small: Config) -> None:
    started = time.monotonic()
    try:
        with pytest.raises(UserError, match="write something else"):
            run_tasks(tasks(small), work_of_the_user, ["cpu"], 2)
        assert time.monotonic() - started < 50
        assert len(traces(small)) < 5
        alive = still_alive({process for process, _ in traces(small).values()}, seconds=5)
        assert not alive, "a process trains on although the run has stopped"
    finally:
        for process in multiprocessing.active_children():
            process.kill()


def still_alive(processes: set[int], seconds: float) -> set[int]:
    """Those of our children that run after so many seconds."""
    ended = time.monotonic() + seconds
    alive = processes
    while alive and time.monotonic() < ended:
        time.sleep(0.05)
        alive = processes & {child.pid for child in multiprocessing.active_children()}
    return alive


def test_a_task_whose_process_is_killed_is_reported_and_the_others_run(small: Config) -> None:
    outcome = run_tasks(tasks(small, 4), work_that_is_killed, ["cpu"], 2)
    assert [(task.fold, reason) for task, reason in outcome.failed] == [(0, "its process was killed, perhaps for lack of memory")]
    assert sorted(traces(small)) == ["0_1", "0_2", "0_3"]


def test_an_error_that_cannot_travel_between_processes_stops_no_other_task(small: Config) -> None:
    outcome = run_tasks(tasks(small, 3), work_that_raises_the_unpicklable, ["cpu"], 2)
    assert [(task.fold, reason) for task, reason in outcome.failed] == [(0, "Unpicklable: two parts")]
    assert sorted(traces(small)) == ["0_1", "0_2"]


def test_a_task_is_called_by_its_experiment_seed_and_fold(small: Config, tmp_path: Path) -> None:
    assert str(Task(small, 3, 1)) == "small seed 3 fold 1"


def test_every_network_of_an_experiment_has_a_folder_a_name_and_random_draws_of_its_own(small: Config) -> None:
    networks = [Task(small, 0, fold) for fold in (FULL, 0, 1, 2, 40)]
    networks += [Task(small, 0, first, second) for first, second in ((0, 1), (0, 2), (1, 2), (0, 40), (39, 40))]
    for of in (lambda task: task.folder, lambda task: task.number, lambda task: task.name):
        assert len({of(task) for task in networks}) == len(networks)
    assert [task.folder for task in networks[:2]] == ["all", "fold_0"]
    assert [task.number for task in networks[1:5]] == [0, 1, 2, 40], "those of folds draw as they always did"
    assert [task.hidden for task in (*networks[:2], networks[5])] == [(), (0,), (0, 1)]


def press_ctrl_c_once(config: Config, folds: int) -> None:
    """As soon as so many tasks have started."""
    ended = time.monotonic() + 50
    while len(traces(config)) < folds and time.monotonic() < ended:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGINT)


def test_after_ctrl_c_running_tasks_save_and_no_further_one_starts(small: Config) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    presser = threading.Thread(target=press_ctrl_c_once, args=(small, 2))
    started = time.monotonic()
    try:
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            run_tasks(tasks(small, 6), work_that_saves_after_ctrl_c, ["cpu"], 2)
    finally:
        presser.join()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - started < SAVING, "processes that have saved are not waited for"
    assert len(traces(small)) == 2
    assert len(list(small.outputs.glob("saved_*"))) == 2


def test_a_ctrl_c_that_a_task_did_not_hear_stops_the_next_one(small: Config) -> None:
    before = signal.getsignal(signal.SIGINT)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_tasks(tasks(small, 3), work_that_does_not_hear_ctrl_c, ["cpu"], 1)
    finally:
        CtrlC.asked = False
        signal.signal(signal.SIGINT, before)
    assert len(traces(small)) == 1
