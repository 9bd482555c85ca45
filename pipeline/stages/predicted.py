"""An experiment that has predicted: its out-of-fold rows, and its test rows with every network weighed."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from pipeline.artifacts import Manifest
from pipeline.config import Config
from pipeline.ensembling.scores import problem_of, score_of
from pipeline.ensembling.temperature import cross_fitted_temperature, fit_temperature, with_temperature
from pipeline.ensembling.weights import blend, fold_weights, with_mean_weight
from pipeline.errors import UserError
from pipeline.executor import FULL, Task
from pipeline.files import read_json
from pipeline.predictions import Predictions, align
from pipeline.stages.jobs import load_piece
from pipeline.stages.networks import Trained, seed_mean
from pipeline.stages.prepare import Prepared
from pipeline.training.metrics import METRICS


def calibrated(part: Predictions, prepared: Prepared, metric: str, seed: int, fold: int) -> Predictions:
    """A fold's rows, sorted by id, each half with the temperature that was fitted on the other half; seed: of the halves."""
    part, target = part.by_id(), prepared.target
    problem = problem_of(part, target, prepared.truth, metric, prepared.groups)
    return replace(part, values=cross_fitted_temperature(part.values, problem.numbers, problem.group, target.task, seed, fold))


@dataclass(frozen=True)
class Predicted:
    """What an experiment predicts."""

    config: Config
    prepared: Prepared
    tasks: list[Task]
    """Its trained networks, those on all rows last."""
    folder: Path
    manifest: Manifest

    @classmethod
    def read(cls, trained: Trained, folder: Path) -> "Predicted":
        """From a folder that the predict stage has finished."""
        manifest = Manifest.read(folder / "manifest.json")
        if manifest is None:
            raise UserError(f"{folder}: another process is predicting this experiment again; run again when it is done")
        return cls(trained.config, trained.prepared, trained.tasks, folder, manifest)

    @property
    def digest(self) -> str:
        """Of its predictions."""
        return self.manifest.digest

    @property
    def optimistic(self) -> tuple[str, ...]:
        """Why its CV flatters it."""
        return tuple(self.manifest.record["optimistic"])

    @property
    def views(self) -> tuple[str, ...]:
        """Those that predict the test rows."""
        return tuple(self.manifest.record["views"])

    @property
    def predicting(self) -> list[Task]:
        """The networks that predict the test rows; none where `predict.max_hours` leaves no time for the experiment."""
        return [task for task in self.tasks if task.name in self.manifest.record["networks"]]

    @property
    def missing(self) -> int:
        """How many of its folds' networks are not trained yet."""
        return len(self.config.train.seeds) * self.config.folds.n_splits - len(self._folds())

    def _folds(self) -> list[Task]:
        return [task for task in self.tasks if task.fold != FULL]

    def out_of_fold(self, temperature: str = "none", seed: int = 0) -> Predictions:
        """One row per training row whose fold is trained, the mean over seeds, sorted by id and mapped from the disk.

        temperature: per_fold: each half of a fold with the temperature that was fitted on the other half; seed: of the halves.
        """
        if temperature == "none":
            return Predictions.load(self.folder / "oof", mapped=True)
        return seed_mean([self._calibrated(task, seed) for task in self._folds()])

    def _calibrated(self, task: Task, seed: int) -> Predictions:
        return calibrated(load_piece(self.folder, task, "oof"), self.prepared, self.config.competition.metric, seed, task.fold)

    def weights(self, how: str) -> dict[str, float]:
        """By name of a network: its weight on test rows, sum 1. Folds are weighed as `how` says within each seed; beside them a network on
        all rows has their mean weight; a seed counts as much as it has networks."""
        metric = METRICS[self.config.competition.metric]
        seeds = sorted({task.seed for task in self.predicting})
        found: dict[str, float] = {}
        for seed in seeds:
            tasks = sorted((task for task in self.predicting if task.seed == seed), key=lambda task: task.fold == FULL)
            held_out = [task for task in tasks if task.fold != FULL]
            scores = [score_of(load_piece(self.folder, task, "oof"), self.prepared.target, self.prepared.truth, metric.name) for task in held_out]
            weights = with_mean_weight(fold_weights(how, scores, metric.sign), len(tasks)) if held_out else np.full(len(tasks), 1 / len(tasks))
            share = len(tasks) / len(self.predicting)  # a seed that is half trained counts half
            found |= {task.name: float(weight) * share for task, weight in zip(tasks, weights, strict=True)}
        return found

    def temperatures(self, how: str) -> dict[str, float]:
        """By name of a network: what its probabilities are flattened by on test rows; a network on all rows takes the mean of the folds'."""
        if how == "none":
            return {task.name: 1.0 for task in self.predicting}
        found = {}
        for task in self._folds():
            part = load_piece(self.folder, task, "oof")
            numbers = self.prepared.target.numbers([self.prepared.truth[name] for name in part.ids])
            found[task.name] = fit_temperature(part.values, numbers, self.prepared.target.task)
        return {task.name: found.get(task.name, float(np.mean(list(found.values())))) for task in self.predicting}

    def test(self, how: str, temperature: str = "none") -> Predictions:
        """One row per test row: every network's predictions, weighed."""
        weights, temperatures, task_of = self.weights(how), self.temperatures(temperature), self.prepared.target.task
        parts = align([load_piece(self.folder, task, "test") for task in self.predicting])
        names = [task.name for task in self.predicting]
        if temperature != "none":
            read = np.isin(parts[0].ids, self.prepared.ids("test"))  # of the others the class shares are told, which nobody was too sure of
            for name, part in zip(names, parts, strict=True):
                part.values[read] = with_temperature(part.values[read], temperatures[name], task_of)
        return replace(parts[0], values=blend([part.values for part in parts], np.array([weights[name] for name in names])))

    def view_table(self) -> dict[str, object]:
        """What views.json says."""
        found: dict[str, object] = read_json(self.folder / "views.json")
        return found
