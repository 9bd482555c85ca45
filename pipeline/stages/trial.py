"""One trial of a study: an experiment, trained fold by fold, that says how it does while it can still be ended."""

import contextlib
import logging
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from pipeline.artifacts import Manifest, trial_name
from pipeline.config import Config, Tune, Tuned
from pipeline.errors import RunFailed, UserError
from pipeline.executor import Task
from pipeline.files import digest, lock
from pipeline.runtime import free_memory
from pipeline.stages.judge import fold_score, judge
from pipeline.stages.networks import Trained
from pipeline.stages.prepare import Prepared, prepare, workspace
from pipeline.stages.teach import teach
from pipeline.stages.train import KEPT, fold_folder, fold_tasks, remove_network, says_how, train_networks, train_stage
from pipeline.tuning.space import Space
from pipeline.tuning.study import Attempt, Result
from pipeline.tuning.trials import TrialRow

SAY_LESS = ("timm", "pipeline.artifacts", "pipeline.data", *(f"pipeline.stages.{stage}" for stage in ("prepare", "teach", "train", "predict", "views")))


@dataclass(frozen=True)
class Search:
    """What every trial of a study shares; plain data, for workers.

    space: around the config of a trial, with as many epochs as a trial has; folds: that a trial trains, the first ones; pruner: folds,
    epochs or none; plain: whether folds are compared by pictures as they are, since some trial chooses its views, which takes all folds;
    timed: whether the seconds of training are an objective, too; device, jobs: of this worker; rows: digest of the folds.
    """

    space: Space
    folds: int
    pruner: str
    plain: bool
    timed: bool
    device: str
    jobs: int
    rows: str

    def config(self, number: int, parameters: Mapping[str, Any]) -> Config:
        """The experiment that a trial is."""
        config = self.space.config_of(parameters, f"trial {number}")
        runtime = config.runtime.model_copy(update={"device": self.device, "jobs_per_device": self.jobs})
        config = as_trial(config, number).model_copy(update={"runtime": runtime})
        return mark_tuned(config, self.space.base.experiment, number, None) if number else config


def as_trial(config: Config, number: int) -> Config:
    """The same under a trial's name, without what only test rows need."""
    return config.model_copy(
        update={
            "experiment": trial_name(config.experiment, number),
            "tune": Tune(),
            "train": config.train.model_copy(update={"full_data": False}),
            "predict": config.predict.model_copy(update={"max_hours": None}),
        }
    )


def mark_tuned(config: Config, study: str, trial: int, trials: int | None) -> Config:
    """The config with the mark that its CV on these folds was chosen; splits that an earlier study chose on stay in it."""
    seeds = dict.fromkeys([*(config.tuned.split_seeds if config.tuned else ()), config.folds.seed])
    return config.model_copy(update={"tuned": Tuned(study=study, trial=trial, trials=trials, split_seeds=tuple(seeds))})


@dataclass
class Runner:
    """Runs trials in one process; remembers what was prepared for those before."""

    search: Search
    prepared: dict[str, Prepared] = field(default_factory=dict)

    def __call__(self, attempt: Attempt) -> Result:
        """Trains and judges a trial; Stopped where it is ended early."""
        config = self.search.config(attempt.number, attempt.parameters)
        attempt.note(experiment=config.experiment)
        with quiet():
            try:
                return self._run(config, attempt)
            except RunFailed as error:  # of a trial, which does not go on
                raise RunFailed(str(error).removesuffix(KEPT)) from None
            finally:
                free_memory()

    def _run(self, config: Config, attempt: Attempt) -> Result:
        prepared = teach(config, self._prepare(config))
        if prepared.folds_digest != self.search.rows:
            raise UserError("its settings change which rows are scored, or their folds; leave that out of tune.space")
        make_way(config, prepared)
        tasks = [task for task in fold_tasks(config) if task.fold < self.search.folds]
        batches = self._batches(config, tasks)
        for number, together in enumerate(batches):
            self._train(together, prepared, attempt, number == 0)
            attempt.note(folds_trained=len({task.fold for batch in batches[: number + 1] for task in batch}))
            folds = sorted({task.fold for task in together}) if self.search.pruner == "folds" else []
            for fold in folds:
                score = fold_score(Trained(config, prepared, [task for task in together if task.fold == fold]), self.search.plain)
                attempt.report(fold, score, ask=fold == folds[-1] and together is not batches[-1])
        judged = judge(Trained(config, prepared, tasks))
        seconds = training_seconds(tasks)
        kept = {key: judged.score[key] for key in ("folds", "mean", "spread", "rows")}
        values = (judged.score["cv"], seconds) if self.search.timed else (judged.score["cv"],)
        return Result(values, {"cv": kept, "training_seconds": seconds})

    def _prepare(self, config: Config) -> Prepared:
        sections = config.model_dump(mode="json", include={"competition", "folds", "images", "dedup", "cache", "submission"})
        key = digest([sections, config.loss.name])
        if key not in self.prepared:
            self.prepared[key] = prepare(config)
        return self.prepared[key]

    def _batches(self, config: Config, tasks: Sequence[Task]) -> list[list[Task]]:
        """Networks to train side by side: the seeds of as many folds as the machine trains at once; alone the one whose epochs are watched."""
        from pipeline.runtime import devices

        places = len(devices(config.runtime.device)) * config.runtime.jobs_per_device
        step = max(1, places // len(config.train.seeds))
        watched = [[tasks[0]]] if self.search.pruner == "epochs" else []
        rest = [task for task in tasks if task not in (watched[0] if watched else [])]
        if self.search.pruner == "none":
            return [*watched, rest]
        folds = sorted({task.fold for task in rest})
        first = len(folds) % step  # the smaller batch comes first, when nothing can be saved yet
        groups = [folds[max(0, start) : start + step] for start in range(first - step if first else 0, len(folds), step)]
        return [*watched, *([task for task in rest if task.fold in group] for group in groups)]

    def _train(self, tasks: Sequence[Task], prepared: Prepared, attempt: Attempt, first: bool) -> None:
        if not (first and self.search.pruner == "epochs"):
            train_networks(tasks, prepared)
            return
        metric = tasks[0].config.competition.metric

        def watch(row: Mapping[str, float]) -> None:
            attempt.report(int(row["epoch"]), row[metric])

        train_networks(tasks, prepared, watch=watch)
        for row in pd.read_csv(fold_folder(tasks[0]) / "history.csv").to_dict("records"):  # of a network that was there already
            watch({str(key): float(value) for key, value in row.items()})


def differing(rows: Sequence[TrialRow], space: Space) -> list[TrialRow]:
    """The trials without those that an earlier one among them is the same config as."""
    found: dict[str, TrialRow] = {}
    for row in rows:
        found.setdefault(digest(space.changes(row.parameters)), row)
    return list(found.values())


def make_way(config: Config, prepared: Prepared) -> None:
    """Deletes what an earlier study of the same name has left in a trial's folders: that one was deleted, or begun with other settings."""
    from pipeline.training.checkpoint import load_checkpoint

    for task in fold_tasks(config):
        folder, own = fold_folder(task), (train_stage(task, prepared).fingerprint, config.competition.metric)
        if (manifest := Manifest.read(folder / "manifest.json")) is not None:
            found = manifest.fingerprint, manifest.record.get("metric")
        elif (state := load_checkpoint(folder)) is not None:
            found = state["fingerprint"], next((name for row in state["history"] for name in row if name == own[1]), None if state["history"] else own[1])
        else:
            continue
        if found != own:
            remove_network(folder)
    path = workspace(config).experiment(config.experiment) / "config.yaml"
    if path.exists() and not says_how(path, config):
        path.unlink()


def forget(config: Config, name: str) -> None:
    """Deletes the networks of a trial's experiment, and what they said view by view; its histories, out-of-fold rows and scores stay."""
    folder = workspace(config).experiment(name)
    for network in folder.glob("seed_*/fold_*"):
        with lock(network / ".lock", wait=f"tune: waiting for another process in {network}"):
            (network / "manifest.json").unlink(missing_ok=True)
            for path in network.glob("*.pt"):
                path.unlink(missing_ok=True)
    for views in folder.glob("predictions/*/seed_*_views"):
        shutil.rmtree(views, ignore_errors=True)


def training_seconds(tasks: Sequence[Task]) -> float:
    """That the networks took, wherever they were trained."""
    manifests = [Manifest.read(fold_folder(task) / "manifest.json") for task in tasks]
    return round(math.fsum(float(manifest.record["seconds"]) for manifest in manifests if manifest), 2)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The lines of the stages before a score are left out: of many trials one line each is enough."""
    loggers = [logging.getLogger(name) for name in SAY_LESS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR if logger.name == "timm" else logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
