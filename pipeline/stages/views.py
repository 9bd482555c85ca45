"""Which views predict: chosen out of fold for `predict.tta: auto`, and what `predict.max_hours` leaves time for."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.ensembling.problem import Problem
from pipeline.ensembling.scores import problem_of
from pipeline.errors import UserError
from pipeline.executor import FULL, Task
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
    costs: Mapping[str, float]
    """Seconds of one picture's forward pass, by view; and `loading`."""


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
    costs = job.piece(job.folds[0], "views", job.looked).record().get("costs", {})
    return Looked(tuple(names), ViewedRows(parts, job.looked, fold, prepared.target, job.config.predict.merge), problem, costs)


def _in_order(pieces: Sequence[npt.NDArray[np.float32]], names: Sequence[str]) -> npt.NDArray[np.float32]:
    """The folds' pieces [views, rows, outputs] as one, sorted by id."""
    joined: npt.NDArray[np.float32] = np.concatenate(pieces, axis=1)
    return joined[:, np.argsort(names)]


def choose(job: Job, looked: Looked) -> None:
    """Sets the job's views, and what each is worth."""
    found, problem = looked.found, looked.problem
    loss = view_loss(found, problem.numbers, problem.metric.name)
    if job.config.predict.tta == "auto":
        job.views = choose_views(found, loss)
        job.views_of_fold = cross_fitted_views(found, loss)[1]
        log.info("predict   %s: chosen of %d views: %s", job.name, len(job.looked), ", ".join(job.views))
    if len(job.looked) > 1:
        milliseconds = {view: 1000 * looked.costs.get(view, float("nan")) for view in job.looked}
        job.table = view_table(found, problem.numbers, loss, problem.score, milliseconds)


def views_json(job: Job, looked: Looked, out_of_fold: Predictions) -> dict[str, Any]:
    """What views.json says; out_of_fold: of the views that predict."""
    known, problem = set(looked.ids), looked.problem
    after = out_of_fold.take(np.array([row for row, name in enumerate(out_of_fold.ids) if name in known], dtype=np.int64))
    return {
        "metric": problem.metric.name,
        "chosen": list(job.views),
        "by_fold": {str(fold): list(views) for fold, views in job.views_of_fold.items()},
        "merge": job.config.predict.merge,
        "views": job.table,
        "before": problem.score(looked.found.merged(job.looked[:1])),
        "after": problem.score(after.values),
        "left_out": list(job.left_out),
    }


def fit_hours(jobs: Sequence[Job], looked: Mapping[str, Looked]) -> None:
    """Leaves out what `predict.max_hours` has no time for."""
    limits = {job.config.predict.max_hours for job in jobs}
    if limits == {None}:
        return
    if len(limits) > 1:
        raise UserError("predict.max_hours: the configs name different limits, but they are predicted together; write one on the command line")
    if len({len(found.problem) for found in looked.values()}) > 1:
        raise UserError("predict.max_hours: some experiments have not finished the folds that others have; leave it out until they have")
    [hours] = limits
    assert hours is not None
    first = jobs[0].trained.prepared
    wanted = {job.name: _candidate(job, looked[job.name]) for job in jobs}
    loading = max(found.costs["loading"] for found in looked.values())
    numbers = looked[jobs[0].name].problem.numbers
    plan = fit_budget(wanted, len(first.ids("test")), loading, 3600 * hours, lambda told: _loss_of_told(told, first.target.task, numbers))
    for job in jobs:
        kept = plan.kept.get(job.name)
        networks = {task.name for task in job.trained.tasks}
        job.dropped = tuple(sorted(networks - set(kept.networks if kept else ())))
        job.left_out = tuple(step for step in plan.steps if job.name in step.split())
        if kept is not None:
            job.views = kept.views
            job.views_of_fold = {fold: tuple(view for view in views if view in kept.views) or kept.views[:1] for fold, views in job.views_of_fold.items()}
    for step in plan.steps:
        log.warning("predict   predict.max_hours=%g leaves no time for %s", hours, step)
    log.info("predict   the test rows take about %.0f s of the %.0f s that predict.max_hours allows", plan.seconds, 3600 * hours)


def _candidate(job: Job, looked: Looked) -> Candidate:
    """The experiment with its views and networks, the folds with the worst scores last."""
    found, problem = looked.found, looked.problem
    told = {view: _told(found.merged([view]), problem) for view in job.views}
    networks = tuple(task.name for task in sorted(job.trained.tasks, key=lambda task: (-_good(task), task.seed, task.fold)))
    return Candidate(job.views, {view: looked.costs[view] for view in job.views}, networks, told)


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
