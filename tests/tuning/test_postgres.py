"""Studies in a real PostgreSQL, as several machines share one; skipped with the reason where it is not installed."""

import functools
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from postgres import Server, running_server
from toys import OWN, attempts_of, killing_objective, objective, rows_of, run, slow_objective, suggest, toy_plan, work, work_with_short_heartbeats

import pipeline.tuning.storage
from pipeline.errors import UserError
from pipeline.runtime import Interrupted
from pipeline.tuning.storage import open_storage
from pipeline.tuning.study import Attempt, Plan, Result, open_study, run_trials
from pipeline.tuning.workers import run_workers


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as started:
        yield started


@pytest.fixture
def plan(server: Server, tmp_path: Path) -> Plan:
    """A study of the test's own in the server's database."""
    return toy_plan(tmp_path, server.url(), name=tmp_path.name, pruner="none")


@pytest.mark.slow
def test_a_database_gives_the_trials_of_a_file(plan: Plan, tmp_path: Path) -> None:
    assert [row.parameters for row in run(plan)] == [row.parameters for row in run(toy_plan(tmp_path, pruner="none"))]


@pytest.mark.slow
def test_machines_begin_one_study_together_and_run_no_trial_too_many(server: Server, plan: Plan, tmp_path: Path) -> None:
    import psycopg

    with psycopg.connect(server.url().replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("CREATE DATABASE fresh")  # its tables are made by all machines at once, too
    plan = replace(plan, storage=server.url(database="fresh"))

    def machine(number: int) -> None:  # a folder of its own: no lock is shared
        own = replace(plan, folder=tmp_path / str(number))
        open_study(own, {}, OWN)
        run_trials(own, suggest, slow_objective, lambda row, best: None)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(machine, range(4)))
    rows = rows_of(plan)
    assert sum(row.state == "complete" for row in rows) == 8
    assert {row.state for row in rows} <= {"complete", "waiting"}  # one of two that asked for the last at the same moment has put its own back
    assert [row.parameters for row in rows].count(OWN) == 1


@pytest.mark.slow
@pytest.mark.parametrize("kills", [1, 9])
def test_a_killed_workers_trial_is_tried_again_under_its_first_number(plan: Plan, kills: int) -> None:
    open_study(plan, {}, OWN)
    run_workers(2, functools.partial(work_with_short_heartbeats, plan, functools.partial(killing_objective, kills)))
    rows = rows_of(plan)
    assert sum(row.finished for row in rows) == 8
    assert Counter(number for number, _ in attempts_of(plan.folder))[3] == min(kills + 1, 3)
    assert next(row.number for row in rows if row.is_repeated) == 3
    if kills == 9:
        assert [row.reason for row in rows if row.state == "failed" and not row.is_repeated] == ["its process was killed 3 times, perhaps for lack of memory"]
    else:
        again = [row for row in rows if row.record.get("folder") == 3]
        assert [(row.parameters, row.state) for row in again] == [(rows[3].parameters, "complete")]


@pytest.mark.slow
def test_two_workers_try_each_trial_once(plan: Plan) -> None:
    open_study(plan, {}, OWN)
    run_workers(2, functools.partial(work, plan, slow_objective))
    assert sorted(number for number, _ in attempts_of(plan.folder)) == list(range(8))


@pytest.mark.slow
def test_a_trial_that_was_interrupted_goes_on_at_once_and_lives_by_its_heartbeat(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.tuning.storage, "HEARTBEAT", 1)
    monkeypatch.setattr(pipeline.tuning.storage, "GRACE", 2)
    interrupted: list[int] = []

    def long(attempt: Attempt) -> Result:
        if attempt.number == 1 and not interrupted:
            attempt.report(0, -1.0)
            interrupted.append(1)
            raise Interrupted
        if attempt.number == 1:
            time.sleep(3.5)
            open_study(plan, {}, OWN)
            other = replace(plan, trials=1, folder=plan.folder / "other")
            run_trials(other, suggest, objective, lambda row, best: None)
        return objective(attempt)

    plan = replace(plan, trials=2)
    with pytest.raises(Interrupted):
        run(plan, long)
    time.sleep(2.5)  # its last sign of life is too old by now
    rows = run(plan, long)
    assert [(row.number, row.state) for row in rows] == [(0, "complete"), (1, "complete")]
    assert rows[1].steps[0] == -1.0


@pytest.mark.slow
def test_a_trial_that_died_before_its_first_heartbeat_is_missed(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.tuning.storage, "HEARTBEAT", 1)
    monkeypatch.setattr(pipeline.tuning.storage, "GRACE", 2)
    study = open_study(plan, {}, OWN)
    study.ask()
    study.ask()  # the second was not in the queue, so nothing was recorded of it
    assert sum(row.finished for row in run(replace(plan, trials=2))) == 2


@pytest.mark.slow
def test_a_wrong_password_is_said_in_one_line_without_it(server: Server) -> None:
    with pytest.raises(UserError, match="password authentication failed") as caught:
        open_storage(server.url("Tr0ub4dor"))
    assert "Tr0ub4dor" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="does not exist"):
        open_storage(server.url(database="nowhere"))
