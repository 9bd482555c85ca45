"""Several processes at one study: no trial twice, none lost, whoever is killed."""

import functools
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from toys import OWN, attempts_of, failing_work, killing_objective, rows_of, run, slow_objective, toy_plan, waiting_work, work, work_that_may_die_often

from pipeline.errors import UserError
from pipeline.tuning.study import open_study
from pipeline.tuning.workers import run_workers


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy.db", "toy.journal"])
def test_two_workers_try_each_trial_once_and_none_too_many(tmp_path: Path, name: str) -> None:
    plan = toy_plan(tmp_path, name, trials=12, pruner="none")
    open_study(plan, {}, OWN)
    run_workers(2, functools.partial(work, plan, slow_objective))
    rows = rows_of(plan)
    assert [(row.number, row.state) for row in rows] == [(number, "complete") for number in range(12)]
    assert len({str(row.parameters) for row in rows}) == 12
    attempts = attempts_of(plan.folder)
    assert sorted(number for number, _ in attempts) == list(range(12))
    assert len({process for _, process in attempts}) == 2
    assert not list(plan.folder.glob("trial_*.lock"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy.db", "toy.journal"])
def test_a_killed_workers_trial_is_finished_under_its_number(tmp_path: Path, name: str) -> None:
    plan = toy_plan(tmp_path, name, trials=8, pruner="none")
    open_study(plan, {}, OWN)
    run_workers(2, functools.partial(work, plan, functools.partial(killing_objective, 1)))
    rows = rows_of(plan)
    assert [(row.number, row.state) for row in rows] == [(number, "complete") for number in range(8)]
    assert Counter(number for number, _ in attempts_of(plan.folder)) == {number: 2 if number == 3 else 1 for number in range(8)}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["toy.db", "toy.journal"])
def test_a_study_killed_at_random_moments_is_the_undisturbed_one(tmp_path: Path, name: str) -> None:
    calm = run(toy_plan(tmp_path / "calm", startup=2, trials=5))
    plan = toy_plan(tmp_path, name, startup=2, trials=5)
    open_study(plan, {}, OWN)
    context, moments, kills = multiprocessing.get_context("spawn"), random.Random(0), 0
    while sum(row.finished for row in rows_of(plan)) < plan.trials:
        before = len(attempts_of(plan.folder))
        process = context.Process(target=work_that_may_die_often, args=(plan, 0))
        process.start()
        while process.is_alive() and len(attempts_of(plan.folder)) == before:
            time.sleep(0.005)
        process.join(moments.uniform(0.0, 0.5 + 0.2 * kills))  # ever later, so that it ends on a slow machine, too
        kills += process.is_alive()
        process.kill()
        process.join()
    assert kills >= 3
    assert [(row.number, row.parameters, row.state, row.steps) for row in rows_of(plan)] == [(row.number, row.parameters, row.state, row.steps) for row in calm]


@pytest.mark.slow
def test_a_trial_that_kills_its_worker_three_times_is_given_up(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, trials=6, pruner="none")
    open_study(plan, {}, OWN)
    run_workers(1, functools.partial(work, plan, functools.partial(killing_objective, 9)))
    rows = rows_of(plan)
    assert [row.number for row in rows if row.state == "failed"] == [3]
    assert rows[3].reason == "its process was killed 3 times, perhaps for lack of memory"
    assert sum(row.finished for row in rows) == 6
    assert Counter(number for number, _ in attempts_of(plan.folder))[3] == 3


@pytest.mark.slow
def test_a_fault_of_the_users_in_one_worker_ends_all(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match="write-protected"):
        run_workers(2, failing_work)
    assert time.monotonic() - started < 30


@pytest.mark.slow
def test_ctrl_c_reaches_the_workers_which_end_by_themselves(capfd: pytest.CaptureFixture[str]) -> None:
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))  # while they are still importing
    started = time.monotonic()
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run_workers(2, waiting_work)
    assert time.monotonic() - started < 30
    assert "Traceback" not in capfd.readouterr().err
