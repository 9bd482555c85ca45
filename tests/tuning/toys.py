"""Studies of a function of three parameters, without any training; what spawned processes run is here, so that they can import it."""

import functools
import os
import signal
import time
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pipeline.tuning.storage
import pipeline.tuning.study
from pipeline.tuning.storage import open_storage
from pipeline.tuning.study import Attempt, Objective, Plan, Result, open_study, run_trials
from pipeline.tuning.trials import Parameter, TrialRow, read_trials

if TYPE_CHECKING:
    import optuna

FOLDS = 5
OWN = {"x": 0.5}  # what of the config as it is the space can express


def toy_plan(folder: Path, storage: str = "toy.journal", **changes: Any) -> Plan:
    """A plan whose storage is a file in a folder, or a URL."""
    located = storage if "://" in storage else f"sqlite:///{folder / storage}" if storage.endswith(".db") else str(folder / storage)
    return replace(Plan(located, "toy", folder / "toy", ("maximize",), "tpe", 3, 0, "folds", 0.15, 8, None), **changes)


def suggest(trial: "optuna.trial.Trial", only: Collection[str] | None) -> dict[str, Parameter]:
    """A number, a whole number and a label."""
    found: dict[str, Callable[[], Parameter]] = {
        "x": lambda: trial.suggest_float("x", -1, 1),
        "y": lambda: trial.suggest_int("y", 0, 9),
        "z": lambda: trial.suggest_categorical("z", ["a", "b"]),
    }
    return {name: draw() for name, draw in found.items() if only is None or name in only}


def value(parameters: dict[str, Parameter], fold: int) -> float:
    """The score of a fold."""
    return -(float(parameters["x"]) ** 2) - 0.01 * float(parameters.get("y", 3)) + 0.001 * fold


def objective(attempt: Attempt) -> Result:
    """Fold by fold."""
    scores = []
    for fold in range(FOLDS):
        scores.append(value(attempt.parameters, fold))
        attempt.report(fold, scores[-1])
    return Result((sum(scores) / FOLDS,), {"folder": attempt.number})


def run(plan: Plan, objective: Objective = objective, **identity: Any) -> list[TrialRow]:
    """Opens the study, runs one worker, and reads the trials."""
    study = open_study(plan, identity, OWN)
    run_trials(plan, suggest, objective, lambda row, best: None)
    return read_trials(study)


def rows_of(plan: Plan) -> list[TrialRow]:
    """The trials of a study that is there."""
    import optuna

    return read_trials(optuna.load_study(study_name=plan.name, storage=open_storage(plan.storage)))


# ---------------------------------------------------------------- in processes of their own


def work(plan: Plan, objective: Objective, number: int) -> None:
    """A worker, as run_workers starts it."""
    run_trials(plan, suggest, functools.partial(marked, plan.folder, objective), lambda row, best: None)


def work_with_short_heartbeats(plan: Plan, objective: Objective, number: int) -> None:
    """A worker that is given up after three seconds."""
    pipeline.tuning.storage.HEARTBEAT, pipeline.tuning.storage.GRACE = 1, 3
    work(plan, objective, number)


def marked(folder: Path, objective: Objective, attempt: Attempt) -> Result:
    """Leaves a line for every attempt: the trial's number and the process."""
    with (folder / "attempts.txt").open("a") as file:
        file.write(f"{attempt.number} {os.getpid()}\n")
    return objective(attempt)


def attempts_of(folder: Path) -> list[tuple[int, int]]:
    """Number and process of every attempt, in order."""
    path = folder / "attempts.txt"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(number), int(process)) for number, process in map(str.split, lines)]


def slow_objective(attempt: Attempt) -> Result:
    """A tenth of a second, so that workers meet."""
    time.sleep(0.1)
    return objective(attempt)


def killing_objective(kills: int, attempt: Attempt) -> Result:
    """Kills its process in the third trial, after its first fold, so many times."""
    if attempt.number == 3:
        attempt.report(0, value(attempt.parameters, 0))
        before = attempt._trial.user_attrs["attempts"]
        if before <= kills:
            os.kill(os.getpid(), signal.SIGKILL)
    return slow_objective(attempt)


def work_that_may_die_often(plan: Plan, number: int) -> None:
    """A worker that does not count how often a trial's process was killed."""
    pipeline.tuning.study.MOST_DEATHS = 10**6
    work(plan, slow_objective, number)


def failing_work(number: int) -> None:
    """Worker 1 meets a fault of the user's, the other waits for ever."""
    from pipeline.errors import UserError

    if number == 1:
        raise UserError("the disk is write-protected")
    waiting_work(number)


def waiting_work(number: int) -> None:
    """Ends by Ctrl-C alone."""
    from pipeline.runtime import CtrlC

    while True:
        CtrlC().stop_if_asked()
        time.sleep(0.02)
