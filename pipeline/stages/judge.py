"""What an experiment is worth by the rows that its networks did not see, before any test row is predicted: what a study asks of a trial."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.targets import Numbers
from pipeline.ensembling.bootstrap import Resampler, interval, share_better
from pipeline.ensembling.deciding import decide
from pipeline.ensembling.decisions import decides
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.scores import problem_of, score_of, validation
from pipeline.files import lock
from pipeline.predictions import Predictions
from pipeline.stages.jobs import Job, make_job
from pipeline.stages.learning import held_out_rows
from pipeline.stages.looking import held_out, look, looking
from pipeline.stages.networks import Trained, seed_mean
from pipeline.stages.predicted import calibrated
from pipeline.stages.prepare import optimistic
from pipeline.stages.views import choose, load_looked


@dataclass(frozen=True)
class Judged:
    """The CV of what an experiment would submit; score: as cv.json has it; ids, problem, scored: the rows behind it, by id."""

    score: dict[str, Any]
    ids: tuple[str, ...]
    problem: Problem
    scored: Numbers


def judge(trained: Trained) -> Judged:
    """The CV of an experiment's networks with the views, temperatures and decisions that its config asks for, no test row predicted.

    What is looked at here is not looked at again by the predict stage.
    """
    config, prepared = trained.config, trained.prepared
    section, metric = config.ensemble, config.competition.metric
    job = make_job(trained, [trained])
    with _looked(job):
        if config.predict.tta == "auto":
            choose(job, load_looked(job), {})
        parts = [(task, held_out(job, task)) for task in job.folds]
    if section.temperature != "none":
        parts = [(task, calibrated(part, prepared, metric, section.seed, task.fold)) for task, part in parts]
    found = seed_mean([part for _, part in parts]).in_classes(prepared.target.classes)
    problem = problem_of(found, prepared.target, prepared.truth, metric, prepared.groups)
    scored = problem.scored(found.values)
    if decides(problem):
        scored = decide(section.decisions, found.values, dict.fromkeys(problem.folds, found.values), problem, section.draws, section.seed).labels
    return Judged(validation(problem, scored, optimistic(config, prepared.lessons)), found.ids, problem, scored)


def fold_score(trained: Trained, plain: bool) -> float:
    """The metric of the rows that one fold's networks did not see; nan where it is not defined.

    plain: of the pictures as they are, for trials that choose their views when all folds are there.
    """
    from pipeline.inference.tta import merge_views

    config, prepared = trained.config, trained.prepared
    job = make_job(trained, [trained])
    views = job.looked[:1] if plain else job.views
    parts = []
    with _looked(job):
        for task in job.folds:
            rows, told = held_out_rows(prepared, task), job.piece(task, "views", job.looked).load_views()
            values = merge_views(told[[job.looked.index(view) for view in views]], config.predict.merge, prepared.target.task)
            parts.append(Predictions(tuple(rows["id"]), prepared.classes, values, rows["fold"].to_numpy(dtype=np.int16)))
    return score_of(seed_mean(parts), prepared.target, prepared.truth, config.competition.metric)


@contextlib.contextmanager
def _looked(job: Job) -> Iterator[None]:
    """Its networks have looked at their held-out rows; nobody else writes there meanwhile."""
    with lock(job.folder / ".lock", wait=f"predict: waiting for another process in {job.folder}"):
        for group in looking([job]):
            look(group)
        yield


def compare(base: Judged, other: Judged, draws: int, seed: int) -> dict[str, Any]:
    """How another experiment does on the rows of the base: both scores, their difference, its 95 % interval over paired bootstrap draws, the
    share of draws in which the other is better, and the difference fold by fold."""
    assert base.ids == other.ids, "one split of the same rows"
    resample = Resampler(base.problem, draws, seed)
    before, after = resample(base.scored), resample(other.scored)
    return {
        "base": base.score | {"interval": list(interval(before))},
        "tuned": other.score | {"interval": list(interval(after))},
        "difference": other.score["cv"] - base.score["cv"],
        "interval": list(interval(after - before)),
        "better": share_better(after, before, base.problem.metric.sign),
        "folds": [after - before for before, after in zip(base.score["folds"], other.score["folds"], strict=True)],
    }
