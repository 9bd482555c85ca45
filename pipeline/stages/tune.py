"""The tune stage: a study of an experiment's settings, from its space to a tuned config."""

import contextlib
import functools
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Config, Tune
from pipeline.errors import RunFailed, UserError, did_you_mean
from pipeline.executor import keep_processes
from pipeline.files import digest, read_json, write_json
from pipeline.runtime import stay_offline_without_network, stop_after
from pipeline.stages.full_length import Searched
from pipeline.stages.planning import Wanted, check_choices, check_wanted, folds_of, for_trials, identity_of, plan_of, pruner_of, search_of
from pipeline.stages.prepare import prepare, workspace
from pipeline.stages.teach import teach
from pipeline.stages.trial import Runner, Search, differing, forget
from pipeline.stages.tuned import conclude
from pipeline.training.metrics import METRICS
from pipeline.tuning.building import build_space
from pipeline.tuning.space import Space
from pipeline.tuning.storage import file_of, is_local_file, locate, without_password
from pipeline.tuning.study import Plan, find_study, open_study, run_trials
from pipeline.tuning.trials import TrialRow, ranked, read_trials
from pipeline.tuning.workers import run_workers

if TYPE_CHECKING:
    import optuna

log = logging.getLogger(__name__)
MOST_ADDED = 5  # best trials of an earlier study of other settings or folds that are tried again


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
    seconds: float
    """In trials, of this run."""


def search(config: Config, wanted: Wanted) -> Found:
    """The trials alone, until they are there or the time is up, and the page about them."""
    check_wanted(wanted)
    if config.model.weights == "hub" or "model." in str(config.tune.space):
        stay_offline_without_network()  # before timm is imported
    space, folds = build_space(for_trials(config)), folds_of(config)
    pruner = pruner_of(config, space, folds)
    plan = plan_of(config, wanted, pruner)
    earlier = {name: find_study(_earlier(plan, name), name) for name in wanted.added}
    prepared = teach(space.base, prepare(space.base))
    common = search_of(config, space, folds, pruner, prepared.folds_digest)
    identity = identity_of(config, space, prepared, common, check_choices(space, prepared))
    _refuse_another(plan, identity)
    study = open_study(plan, identity, space.own())
    _add_earlier(study, plan, space, earlier)
    log.info("tune      study %s of %d dimensions, pruner %s -> %s", config.experiment, len(space.dimensions), common.pruner, without_password(plan.storage))
    if wanted.minutes is not None:
        plan = replace(plan, deadline=time.time() + 60 * wanted.minutes)
    work = functools.partial(_work, plan, common, config.tune)
    started = time.monotonic()
    try:
        if wanted.workers == 1:
            with keep_processes():
                work(0, alone=True)
        else:
            run_workers(wanted.workers, work, plan.deadline)
    finally:
        found = Found(study, plan, Searched(config, space, read_trials(study), folds, pruner), time.monotonic() - started)
        with contextlib.suppress(Exception):  # whatever ended the trials is what is to be said
            write_page(found, wanted, None)
    return found


def _refuse_another(plan: Plan, identity: Mapping[str, Any]) -> None:
    """UserError where a study of this name lies in another storage: its trials have the same folders. Notes where this one lies."""
    path, own = plan.folder / "storage.json", {"storage": without_password(plan.storage), "identity": digest(identity)}
    with contextlib.suppress(OSError, ValueError, KeyError):
        other = read_json(path)
        gone = is_local_file(other["storage"]) and not file_of(other["storage"]).exists()
        if other["storage"] != own["storage"] and not gone:
            raise UserError(
                f"a study {plan.name} lies in {other['storage']}, and its trials have the same folders as this one's would;"
                " write experiment=NEW, or --storage as before"
            )
    write_json(path, own)


def _earlier(plan: Plan, name: str) -> str:
    """Where an earlier study lies: in the same database, or in a file of its own beside the studies of this competition."""
    if not is_local_file(plan.storage):
        return plan.storage
    located, folder = locate(None, plan.folder.parent, name, 1), plan.folder.parent
    if not file_of(located).exists():
        known = sorted(path.stem for path in folder.glob("*") if path.suffix in (".db", ".journal"))
        raise UserError(f"--add: there is no study {name} in {folder}{did_you_mean(name, known)}")
    return located


def _add_earlier(study: "optuna.study.Study", plan: Plan, space: Space, earlier: "Mapping[str, optuna.study.Study]") -> None:
    """Queues the complete trials of earlier studies, the best first: those of the same folds and settings all, of others the best few.

    None of their scores is taken over; a network that is still there with the same settings is, so that a comparable trial costs nothing.
    """
    known = list(study.user_attrs.get("added", []))
    for name, other in earlier.items():
        if name in known:
            continue
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
    study = find_study(plan.storage, plan.name)

    def say(row: TrialRow, best: TrialRow | None) -> None:
        log.info("tune      %s", _in_words(row, best, search.space))
        _make_room(search.space, read_trials(study), plan, section)

    left = None if plan.deadline is None else max(0.0, plan.deadline - time.time())
    with stop_after(left, "tune      the time is up: the trial that runs is saved, and goes on with the same command"):
        run_trials(plan, search.space.suggest, Runner(search), say)


def _make_room(space: Space, rows: Sequence[TrialRow], plan: Plan, section: Tune) -> None:
    """Deletes the networks of trials that have ended and are not among the best that are kept."""
    if section.keep is None:
        return
    best = differing(ranked(rows, 1 if plan.directions[0] == "maximize" else -1), space)[: max(section.keep, section.top)]
    # The config's own networks are wanted at the end; a trial that is tried again has the experiment of the one that failed.
    open_rows = [row for row in rows if row.state in ("running", "waiting") or row.number == 0]
    kept = {row.record.get("experiment") for row in (*best, *open_rows)}
    for name in {str(row.record["experiment"]) for row in rows if row.record.get("experiment") not in (None, *kept)}:
        forget(space.base, name)


def _in_words(row: TrialRow, best: TrialRow | None, space: Space) -> str:
    """A trial that has ended, in one line."""
    took = "" if row.seconds is None else f" in {row.seconds:.0f} s"
    said = f"{row.values[0]:.4f}{took}" if row.values else f"{row.state}{took}, {row.reason}"
    leader = f" (best {best.values[0]:.4f}, trial {best.number})" if best else ""
    settings = "the config as it is" if row.number == 0 else space.words(row.parameters)
    return f"trial {row.number}: {said}{leader}: {settings}"


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
