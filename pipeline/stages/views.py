"""Which views predict: chosen out of fold for `predict.tta: auto`, and what `predict.max_hours` leaves time for."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import Config
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.scores import problem_of
from pipeline.errors import UserError
from pipeline.executor import FULL, Task
from pipeline.files import digest
from pipeline.inference.budget import Candidate, fit_budget
from pipeline.inference.choose import ViewedRows, choose_views, cross_fitted_views, view_loss, view_table
from pipeline.predictions import Predictions
from pipeline.stages.jobs import Job
from pipeline.stages.learning import held_out_rows
from pipeline.stages.networks import manifest_of
from pipeline.training.metrics import METRICS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Looked:
    """What an experiment's networks say of the rows they did not see, view by view; rows sorted by id."""

    ids: tuple[str, ...]
    found: ViewedRows
    problem: Problem


def load_looked(job: Job) -> Looked:
    """The pieces of every network, put together; of several seeds those that hold out most rows."""
    prepared, seeds = job.trained.prepared, sorted({task.seed for task in job.folds})
    by_seed = {seed: [task for task in job.folds if task.seed == seed] for seed in seeds}
    rows_of: dict[int, list[str]] = {seed: [name for task in tasks for name in held_out_rows(prepared, task)["id"]] for seed, tasks in by_seed.items()}
    most = max((set(rows) for rows in rows_of.values()), key=len)
    taken = [seed for seed in seeds if set(rows_of[seed]) == most]
    names = sorted(rows_of[taken[0]])
    parts = [_in_order([job.piece(task, "views", job.looked).load_views() for task in by_seed[seed]], rows_of[seed]) for seed in taken]
    fold_of = dict(zip(prepared.folds["id"], prepared.folds["fold"], strict=True))
    fold = np.array([fold_of[name] for name in names], dtype=np.int16)
    shape = (len(names), len(prepared.classes))
    empty = Predictions(tuple(names), prepared.classes, np.zeros(shape, dtype=np.float32), fold)
    problem = problem_of(empty, prepared.target, prepared.truth, job.config.competition.metric)
    return Looked(tuple(names), ViewedRows(parts, job.looked, fold, prepared.target, job.config.predict.merge), problem)


def _in_order(pieces: Sequence[npt.NDArray[np.float32]], names: Sequence[str]) -> npt.NDArray[np.float32]:
    """The folds' pieces [views, rows, outputs] as one, sorted by id."""
    joined: npt.NDArray[np.float32] = np.concatenate(pieces, axis=1)
    return joined[:, np.argsort(names)]


def choose(job: Job, looked: Looked, costs: Mapping[str, float]) -> None:
    """Sets the job's views, and what each is worth; costs: seconds of a picture's forward pass, by view; empty: what views are worth is not asked."""
    found, problem = looked.found, looked.problem
    loss = view_loss(found, problem.numbers, problem.metric.name)
    if job.config.predict.tta == "auto":
        job.views = choose_views(found, loss)
        job.views_of_fold = cross_fitted_views(found, loss)[1]
        log.info("predict   %s: chosen of %d views: %s", job.name, len(job.looked), ", ".join(job.views))
    if costs and len(job.looked) > 1:
        milliseconds = {view: 1000 * costs[view] for view in job.looked}
        job.table = view_table(found, problem.numbers, loss, problem.score, milliseconds)


def views_json(job: Job, looked: Looked) -> dict[str, Any]:
    """What views.json says, when the views that predict are known."""
    problem, after = looked.problem, looked.found.merged(job.views)
    for fold, views in job.views_of_fold.items():
        inside = np.flatnonzero(problem.fold == fold)
        after[inside] = looked.found.merged(views, inside)
    return {
        "metric": problem.metric.name,
        "chosen": list(job.views),
        "by_fold": {str(fold): list(views) for fold, views in job.views_of_fold.items()},
        "merge": job.config.predict.merge,
        "views": job.table,
        "before": problem.score(looked.found.merged(job.looked[:1])),
        "after": problem.score(after),
        "left_out": list(job.left_out),
    }


# ---------------------------------------------------------------- the limit of time


@dataclass(frozen=True)
class Wish:
    """What the limit of time is divided by: an experiment's candidate, and what it is measured on."""

    candidate: Candidate
    rows: str
    """Digest of the ids and classes behind what is told."""
    numbers: npt.NDArray[Any]
    loading: tuple[str, float]
    """Digest of how its pictures are read, and the seconds of one."""


def wish_of(job: Job, looked: Looked, costs: Mapping[str, float]) -> Wish:
    """The experiment with its views and networks, the folds with the worst scores last."""
    told = {view: _told(looked.found.merged([view]), looked.problem) for view in job.views}
    networks = tuple(task.name for task in sorted(job.trained.tasks, key=lambda task: (-_good(task), task.seed, task.fold)))
    candidate = Candidate(job.views, {view: costs[view] for view in job.views}, networks, told)
    reading = digest([job.config.images.model_dump(mode="json"), job.config.predict.batch_size])
    return Wish(candidate, digest([looked.ids, looked.problem.target.classes]), looked.problem.numbers, (reading, costs["loading"]))


def require_one_limit(configs: Sequence[Config]) -> None:
    """UserError where experiments that are predicted together name different limits of time."""
    if len({config.predict.max_hours for config in configs}) > 1:
        raise UserError("predict.max_hours: the configs name different limits, but they are predicted together; write one on the command line")


def fit_hours(jobs: Sequence[Job], wishes: Mapping[str, Wish]) -> None:
    """Leaves out what `predict.max_hours` has no time for."""
    hours = jobs[0].config.predict.max_hours
    assert hours is not None
    if len({wish.rows for wish in wishes.values()}) > 1:
        raise UserError("predict.max_hours: the experiments have not held out the same rows, or have other classes; leave it out, or wait for all folds")
    prepared, loading = jobs[0].trained.prepared, sum(dict(wish.loading for wish in wishes.values()).values())
    task, numbers = prepared.target.task, next(iter(wishes.values())).numbers
    wanted = {name: wish.candidate for name, wish in wishes.items()}
    plan = fit_budget(wanted, len(prepared.ids("test")), loading, 3600 * hours, lambda told: _loss_of_told(told, task, numbers))
    for job in jobs:
        kept = plan.kept.get(job.name)
        job.dropped = tuple(sorted({one.name for one in job.trained.tasks} - set(kept.networks if kept else ())))
        job.left_out = tuple(step.words for step in plan.steps if step.experiment == job.name)
        job.hurried = any(step.by_loss for step in plan.steps)
        if kept is not None:
            job.views = kept.views
            job.views_of_fold = {fold: tuple(view for view in views if view in kept.views) or kept.views[:1] for fold, views in job.views_of_fold.items()}
    for step in plan.steps:
        log.warning("predict   predict.max_hours=%g leaves no time for %s", hours, step.words)
    log.info("predict   the test rows take about %.0f s of the %.0f s that predict.max_hours allows", plan.seconds, 3600 * hours)


def _good(task: Task) -> float:
    """How well a network scored on its held-out rows, more is better; one on all rows is taken for the best."""
    score = manifest_of(task).record.get("score")
    return METRICS[task.config.competition.metric].sign * score if score is not None else float("inf") if task.fold == FULL else float("-inf")


def _told(values: npt.NDArray[np.float32], problem: Problem) -> npt.NDArray[np.float64]:
    """The probability of each truth [cells], or the number itself."""
    if problem.target.task == "regression":
        return values[:, 0].astype(np.float64)
    if problem.numbers.ndim == 2:
        return np.where(problem.numbers == 1, values, 1 - values).astype(np.float64).ravel()
    return values[np.arange(len(values)), problem.numbers].astype(np.float64)


def _loss_of_told(told: npt.NDArray[np.float64], task: str, numbers: npt.NDArray[Any]) -> float:
    if task == "regression":
        return float(((told - numbers[:, 0]) ** 2).mean() / (numbers.var() or 1.0))
    return float(-np.log(np.clip(told, 1e-15, 1)).mean())
