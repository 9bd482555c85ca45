"""The tune stage: a study of an experiment's settings, from its space to a tuned config."""

import contextlib
import functools
import logging
import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Config, Tune
from pipeline.config_files import change_config
from pipeline.config_tuning import AnyDimension, Range
from pipeline.errors import RunFailed, UserError
from pipeline.executor import keep_processes
from pipeline.files import digest
from pipeline.runtime import CtrlC
from pipeline.stages.prepare import Prepared, prepare, workspace
from pipeline.stages.teach import teach
from pipeline.stages.train import check_before, fold_tasks, train_stage
from pipeline.stages.trial import Runner, Search, forget
from pipeline.stages.tuned import Searched, conclude
from pipeline.stages.versions import STAGE_VERSION
from pipeline.training.metrics import METRICS
from pipeline.tuning.building import build_space
from pipeline.tuning.pruning import resolve_pruner
from pipeline.tuning.space import Space, keys_of, labels_of
from pipeline.tuning.storage import is_local_file, locate, without_password
from pipeline.tuning.study import Plan, find_study, open_study, run_trials
from pipeline.tuning.trials import Parameter, TrialRow, ranked, read_trials
from pipeline.tuning.workers import run_workers

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)
MOST_ADDED = 5  # best trials of an earlier study of other settings or folds that are tried again


@dataclass(frozen=True)
class Wanted:
    """What a study is asked for; trials: finished ones in all; minutes: after which no trial goes on; added: names of earlier studies;
    command: what was typed, for the page."""

    trials: int
    workers: int = 1
    storage: str | None = None
    minutes: float | None = None
    added: Sequence[str] = ()
    command: str = ""


def tune(config: Config, path: Path, wanted: Wanted) -> dict[str, Any]:
    """Searches until the trials are there or the time is up, and writes all that a study ends in.

    config: with its overrides; path: its file. Returns what result.json says, with `counts` of trials by state and the `page` beside it.
    RunFailed where no trial is complete yet.
    """
    found = search(config, wanted)
    if not found.searched.best:
        raise RunFailed(f"study {config.experiment}: no trial is complete yet; the same command goes on")
    result = conclude(found.searched, path)
    page = write_page(found, wanted, result)
    return result | {"counts": dict(Counter(row.state for row in found.searched.rows)), "page": str(page)}


@dataclass(frozen=True)
class Found:
    """A study that was searched, as far as it went."""

    study: "optuna.study.Study"
    plan: Plan
    searched: Searched


def search(config: Config, wanted: Wanted) -> Found:
    """The trials alone, until they are there or the time is up, and the page about them."""
    space, folds = build_space(_for_trials(config)), _folds(config)
    common = _search(config, space, folds)
    prepared = teach(space.base, prepare(space.base))
    _check_choices(space, prepared)
    plan = _plan(config, wanted, common)
    study = open_study(plan, _identity(config, space, prepared, common), space.own())
    _add_earlier(study, plan, space, wanted.added)
    log.info("tune      study %s of %d dimensions, pruner %s -> %s", config.experiment, len(space.dimensions), common.pruner, without_password(plan.storage))
    work = functools.partial(_work, plan, common, config.tune)
    try:
        if wanted.workers == 1:
            with keep_processes():
                work(0, alone=True)
        else:
            run_workers(wanted.workers, work, plan.deadline)
    finally:
        found = Found(study, plan, Searched(config, space, read_trials(study), folds, common.pruner))
        with contextlib.suppress(Exception):  # whatever ended the trials is what is to be said
            write_page(found, wanted, None)
    return found


# ---------------------------------------------------------------- what is searched, and how


def _for_trials(config: Config) -> Config:
    """The config with as many epochs as a trial has."""
    return config if config.tune.epochs is None else change_config(config, {"train.epochs": config.tune.epochs}, "tune.epochs")


def _search(config: Config, space: Space, folds: int) -> Search:
    section, objectives = config.tune, 1 if config.tune.objectives == "score" else 2
    epochs_differ = any("train.epochs" in keys_of(name, dimension) for name, dimension in space.dimensions.items())
    pruner = resolve_pruner(section.pruner, section.threshold, folds, objectives, epochs_differ)
    return Search(space, folds, pruner, objectives == 2, config.runtime.device, config.runtime.jobs_per_device)


def _folds(config: Config) -> int:
    """How many folds a trial trains."""
    folds = config.tune.folds or config.folds.n_splits
    if folds > config.folds.n_splits:
        raise UserError(f"tune.folds: there are {config.folds.n_splits} folds, but got {folds}; write fewer, or null for all")
    return folds


def _check_choices(space: Space, prepared: Prepared) -> None:
    """Builds, once, what each choice of a component means: an unknown backbone or augmentation is better known before the first trial."""
    count, reason = space.refused()
    if count:
        log.warning("tune      %d of 64 random draws are refused by the config, and would be trials that fail: %s", count, reason)
    seen: set[str] = set()
    for name, dimension in space.dimensions.items():
        conditions: dict[str, Parameter] = {other: labels[0] for other, labels in dimension.condition().items()}
        for value in _ends(name, dimension):
            source = f"tune.space: {name}: {value}"
            config = space.config_of({**conditions, name: value}, source)
            built = digest(config.model_dump(mode="json", include={"augment", "model", "optimizer", "loss", "images"}))
            if built in seen:
                continue
            seen.add(built)
            try:
                check_before(config, replace(prepared, lessons=None), fold_tasks(config)[:1])
            except UserError as error:
                raise UserError(f"{source}: {error}") from None


def _ends(name: str, dimension: AnyDimension) -> Sequence[Parameter]:
    """Every label of a dimension, or the ends of a range that a library is handed; the schema knows the other ranges."""
    if isinstance(dimension, Range):
        return [dimension.low, dimension.high] if re.match(r"augment\.train|(model|optimizer|loss)\.arguments", name) else []
    return labels_of(dimension)


def _plan(config: Config, wanted: Wanted, search: Search) -> Plan:
    section, work = config.tune, workspace(config)
    sign = METRICS[config.competition.metric].sign
    return Plan(
        storage=locate(wanted.storage, work.studies, config.experiment, wanted.workers),
        name=config.experiment,
        folder=work.study(config.experiment),
        directions=("maximize" if sign > 0 else "minimize", *(["minimize"] if search.timed else [])),
        sampler=section.sampler,
        startup=section.startup,
        seed=section.seed,
        pruner=search.pruner,
        threshold=section.threshold,
        trials=wanted.trials,
        deadline=None if wanted.minutes is None else time.time() + 60 * wanted.minutes,
    )


def _identity(config: Config, space: Space, prepared: Prepared, search: Search) -> dict[str, Any]:
    """What makes the scores of two trials comparable, and a study the same when it is carried on."""
    base = space.base
    inputs = train_stage(fold_tasks(base)[0], prepared).inputs
    sections = {"images", "augment", "model", "loss", "optimizer", "schedule", "train", "teacher", "predict", "ensemble"}
    settings = base.model_dump(mode="json", include=sections)
    settings["model"]["weights"] = inputs["weights"]
    settings["train"].pop("full_data")
    for key in ("max_hours", "batch_size"):
        settings["predict"].pop(key)
    return {
        "settings": settings,
        "space": space.to_json(),
        "tune": config.tune.model_dump(mode="json", include={"sampler", "startup", "seed", "threshold"}),
        "objectives": config.tune.objectives,
        "trial_folds": search.folds,
        "metric": config.competition.metric,
        "data": {key: inputs[key] for key in ("target", "folds", "pixels", "extra")},
        "program": [STAGE_VERSION[name] for name in ("train", "predict", "ensemble")],
    }


def _add_earlier(study: "optuna.study.Study", plan: Plan, space: Space, names: Sequence[str]) -> None:
    """Queues the complete trials of earlier studies, the best first: those of the same folds and settings all, of others the best few.

    None of their scores is taken over; a network that is still there with the same settings is, so that a comparable trial costs nothing.
    """
    known = list(study.user_attrs.get("added", []))
    for name in names:
        if name in known:
            continue
        other = find_study(plan.storage if not is_local_file(plan.storage) else locate(None, plan.folder.parent, name, 1), name)
        rows = [row for row in ranked(read_trials(other), 1 if plan.directions[0] == "maximize" else -1) if space.fits(row.parameters)]
        alike = all(study.user_attrs["identity"][key] == other.user_attrs["identity"][key] for key in ("settings", "data", "metric", "trial_folds"))
        for row in rows if alike else rows[:MOST_ADDED]:
            study.enqueue_trial(dict(row.parameters), user_attrs={"added_from": f"{name}, trial {row.number}"}, skip_if_exists=True)
        known.append(name)
        study.set_user_attr("added", known)
        log.info("tune      %d trials of study %s are tried first", len(rows if alike else rows[:MOST_ADDED]), name)


# ---------------------------------------------------------------- a worker


def _work(plan: Plan, search: Search, section: Tune, number: int, alone: bool = False) -> None:
    """One worker's trials, on a device of its own where there are several."""
    from pipeline.runtime import devices

    if not alone:
        found = devices(search.device)
        search = replace(search, device=found[number % len(found)], jobs=1)
    config, study = search.space.base, find_study(plan.storage, plan.name)

    def say(row: TrialRow, best: TrialRow | None) -> None:
        log.info("tune      %s", _in_words(row, best, search.space))
        _make_room(config, read_trials(study), plan, section)

    with _stop_at(plan.deadline):
        run_trials(plan, search.space.suggest, Runner(search), say)


def _make_room(config: Config, rows: Sequence[TrialRow], plan: Plan, section: Tune) -> None:
    """Deletes the networks of trials that have ended and are not among the best that are kept."""
    if section.keep is None:
        return
    best = ranked(rows, 1 if plan.directions[0] == "maximize" else -1)[: max(section.keep, section.top)]
    open_rows = [row for row in rows if row.state in ("running", "waiting")]  # one that is tried again has the experiment of the one that failed
    kept = {row.record.get("experiment") for row in (*best, *open_rows)}
    for name in {str(row.record["experiment"]) for row in rows if row.record.get("experiment") not in (None, *kept)}:
        forget(config, name)


def _in_words(row: TrialRow, best: TrialRow | None, space: Space) -> str:
    """A trial that has ended, in one line."""
    took = "" if row.seconds is None else f" in {row.seconds:.0f} s"
    said = f"{row.values[0]:.4f}{took}" if row.values else f"{row.state}{took}, {row.reason}"
    leader = f" (best {best.values[0]:.4f}, trial {best.number})" if best else ""
    settings = "the config as it is" if row.number == 0 else space.words(row.parameters)
    return f"trial {row.number}: {said}{leader}: {settings}"


@contextlib.contextmanager
def _stop_at(deadline: float | None) -> Iterator[None]:
    """After the deadline the trial that runs is saved as by Ctrl-C, and the study goes to its end with those that are done."""
    if deadline is None:
        yield
        return
    timer = threading.Timer(max(0.0, deadline - time.time()), _time_is_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except KeyboardInterrupt:
        if time.time() < deadline:
            raise
    finally:
        timer.cancel()
        if time.time() >= deadline:
            CtrlC.asked = False


def _time_is_up() -> None:
    log.info("tune      the time is up: the trial that runs is saved, and goes on with the same command")
    os.kill(os.getpid(), signal.SIGINT)


# ---------------------------------------------------------------- the page


def write_page(found: Found, wanted: Wanted, result: Mapping[str, Any] | None) -> Path:
    """The page of a study; result: what it ended in, None before."""
    from pipeline.tuning.importances import importances
    from pipeline.tuning.page import StudyPage, write_study_page

    searched, config = found.searched, found.searched.config
    path = workspace(config).study(config.experiment) / "report.html"
    sign = METRICS[config.competition.metric].sign
    page = StudyPage(
        study=config.experiment,
        competition=config.competition.name,
        metric=config.competition.metric,
        signs=(sign,) if config.tune.objectives == "score" else (sign, -1),
        trials=searched.rows,
        dimensions=searched.space.dimensions,
        own=searched.space.own(),
        importances=importances(found.study),
        pruner=searched.pruner,
        wanted=wanted.trials,
        folds=searched.folds,
        epochs=searched.space.base.train.epochs,
        result=result,
        storage=without_password(found.plan.storage),
        command=wanted.command,
    )
    write_study_page(path, page)
    return path
