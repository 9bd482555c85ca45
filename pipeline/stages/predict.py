"""The predict stage: what networks say of the rows they did not see, and of the test rows.

Experiments that are given together are predicted together: a picture is read once for all networks that take the same input. First
the held-out rows, of which `predict.tta: auto` chooses its views, then the test rows, with those views alone.
"""

import functools
import logging
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from tqdm.auto import tqdm

from pipeline.artifacts import build_stage
from pipeline.ensembling.scores import cross_validation, describe
from pipeline.files import digest, lock, write_json
from pipeline.stages.jobs import Job, make_job, piece_folder
from pipeline.stages.learning import held_out_rows
from pipeline.stages.looking import Wanted, groups_of, held_out, look, looking
from pipeline.stages.networks import Network, Trained, cached, every_test_row, seed_mean
from pipeline.stages.predicted import Predicted
from pipeline.stages.prepare import optimistic
from pipeline.stages.views import Wish, choose, fit_hours, load_looked, require_one_limit, views_json, wish_of

log = logging.getLogger(__name__)


def predict(experiments: Sequence[Trained], force: bool = False) -> list[Predicted]:
    """Out-of-fold and test predictions of every trained network, their CVs, and what each view is worth."""
    require_one_limit([experiment.config for experiment in experiments])
    jobs = [make_job(experiment, experiments) for experiment in experiments]
    with ExitStack() as held:
        locked = sorted(_waiting(jobs, force), key=lambda job: str(job.folder))
        for job in locked:
            held.enter_context(lock(job.folder / ".lock", wait=f"predict: waiting for another process in {job.folder}"))
        waiting = [job for job in _waiting(jobs, force) if job in locked]
        for job in waiting:
            (job.folder / "manifest.json").unlink(missing_ok=True)  # before any piece is touched: what is done is whole
            for piece in job.folder.glob("seed_*") if force else ():
                shutil.rmtree(piece, ignore_errors=True)
        if waiting:
            _predict(waiting)
    for job in jobs:
        if job not in waiting:
            log.info("predict   up to date: %s", job.folder)
        if not job.whole:
            log.info("predict   %s: %d of %d networks are trained, the others take no part", job.name, len(job.folds), job.planned)
    return [Predicted.read(job.trained, job.folder) for job in jobs]


def _waiting(jobs: Sequence[Job], force: bool) -> list[Job]:
    """The experiments that have not predicted; with a limit of time, which they share, all of them if one has not."""
    waiting = [job for job in jobs if force or not job.done]
    return list(jobs) if waiting and jobs[0].config.predict.max_hours is not None else waiting


def _predict(jobs: Sequence[Job]) -> None:
    """Everything that is missing of these experiments."""
    for group in tqdm(looking(jobs), desc="predict", unit="fold", leave=False, delay=2, disable=None):
        look(group)
    wishes: dict[str, Wish] = {}
    for job in jobs:
        looked, costs = load_looked(job), _measure(job)
        choose(job, looked, costs)
        if job.config.predict.max_hours is not None:
            wishes[job.name] = wish_of(job, looked, costs)
    if wishes:
        fit_hours(jobs, wishes)
    wanted = [(job, task, piece) for job in jobs for task in job.predicting if not (piece := job.piece(task, "test", job.views)).done]
    for group in groups_of(wanted, "test"):
        _write_test(group)
    for job in jobs:
        build_stage(job.stage, job.folder / "manifest.json", functools.partial(_finish, job))
    for job in jobs:  # not before all are done: with a limit of time they are done together
        for task in job.folds if job.whole else ():
            shutil.rmtree(piece_folder(job.folder, task, "views"), ignore_errors=True)


def _finish(job: Job) -> tuple[str, dict[str, Any]]:
    """Writes the out-of-fold predictions of the views that predict, their CV, and what each view is worth."""
    config, prepared = job.config, job.trained.prepared
    pieces = [held_out(job, task) for task in job.folds]
    out_of_fold = seed_mean(pieces)
    out_of_fold.save(job.folder / "oof")
    reasons = [*optimistic(config, prepared.lessons), *(["predict.max_hours"] if job.hurried else [])]
    score = cross_validation(out_of_fold, prepared.target, prepared.truth, config.competition.metric, reasons)
    write_json(job.folder / "cv.json", score)
    write_json(job.folder / "views.json", views_json(job, load_looked(job)))
    log.info("predict   %s: CV %s -> %s", config.experiment, describe(score), job.folder)
    tests = [job.piece(task, "test", job.views).load(mapped=True) for task in job.predicting]
    record = {"cv": score["cv"], "views": list(job.views), "networks": [task.name for task in job.predicting], "optimistic": reasons}
    return digest([part.digest() for part in [*pieces, *tests]]), record


def _measure(job: Job) -> dict[str, float]:
    """Seconds of a picture's forward pass through one of its networks, by view, and of loading it; nothing where nobody asks."""
    from pipeline.inference.predict import measure_costs

    if len(job.looked) == 1 and job.config.predict.max_hours is None:
        return {}
    network, rows = Network(job.config, job.trained.prepared, job.folds[0]), held_out_rows(job.trained.prepared, job.folds[0])
    costs = measure_costs(network.reader, [network.member(job.looked)], cached(job.config, job.trained.prepared, "train", rows["id"].tolist()))
    return {"loading": costs.loading, **dict(zip(job.looked, costs.passes[0].tolist(), strict=True))}


def _write_test(group: Sequence[Wanted]) -> None:
    """What networks say of the test rows."""
    from pipeline.inference.predict import predict_merged

    job = group[0][0]
    networks = [Network(other.config, other.trained.prepared, task) for other, task, _ in group]
    members = [network.member(other.views) for network, (other, _, _) in zip(networks, group, strict=True)]
    pictures = cached(job.config, job.trained.prepared, "test", job.trained.prepared.ids("test"))
    for (other, task, piece), values in zip(group, predict_merged(networks[0].reader, members, pictures), strict=True):
        piece.save(every_test_row(other.trained.prepared, task, values))
