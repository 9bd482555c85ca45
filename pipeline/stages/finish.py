"""The last stages: ensemble, which blends experiments, and submit, which writes the checked file."""

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import Manifest, build_stage, finished, join_names, run_stage
from pipeline.config import Config
from pipeline.data.tables import read_solution
from pipeline.data.targets import Numbers
from pipeline.ensembling.scores import cross_validation, describe, score_of, target_numbers, union
from pipeline.ensembling.weights import blend, cross_fitted, fit_weights, fold_weights, given_truth, with_mean_weight
from pipeline.errors import UserError
from pipeline.executor import FULL, Task
from pipeline.files import digest, digest_file, digest_table, lock, read_json, remove_leftovers, write_json, write_table
from pipeline.predictions import Predictions, align
from pipeline.stages.predict import load_piece, seed_mean
from pipeline.stages.prepare import Prepared, optimistic, workspace
from pipeline.stages.versions import define_stage
from pipeline.submission.formats import Form, require_valid, to_table
from pipeline.training.metrics import METRICS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predicted:
    """An experiment that has predicted."""

    config: Config
    prepared: Prepared
    tasks: list[Task]
    folder: Path

    @property
    def digest(self) -> str:
        """Of its predictions."""
        manifest = Manifest.read(self.folder / "manifest.json")
        assert manifest is not None, f"{self.folder} is finished"
        return manifest.digest

    @property
    def optimistic(self) -> tuple[str, ...]:
        """Why its CV flatters it."""
        return optimistic(self.config, self.prepared.lessons)

    def out_of_fold(self) -> Predictions:
        """One row per training row, the mean over seeds."""
        return seed_mean([load_piece(self.folder, task, "oof") for task in self.tasks if task.fold != FULL])

    def test(self, how: str) -> Predictions:
        """One row per test row: folds weighted as `how` says within each seed, beside them a network on all rows with their mean
        weight; then the mean over seeds."""
        metric = METRICS[self.config.competition.metric]
        seeds = sorted({task.seed for task in self.tasks})
        parts: list[Predictions] = []
        weights: list[npt.NDArray[np.float64]] = []
        for seed in seeds:
            tasks = [task for task in self.tasks if task.seed == seed]
            held_out = [load_piece(self.folder, task, "oof") for task in tasks if task.fold != FULL]
            scores = [score_of(part, self.prepared.target, self.prepared.truth, metric.name) for part in held_out]
            parts += [load_piece(self.folder, task, "test") for task in sorted(tasks, key=lambda task: task.fold == FULL)]
            weights.append(with_mean_weight(fold_weights(how, scores, metric.sign), len(tasks)) / len(seeds))
        joined = align(parts)
        return replace(joined[0], values=blend([part.values for part in joined], np.concatenate(weights)))


def ensemble(experiments: Sequence[Predicted], force: bool = False) -> Path:
    """Blends one or more experiments of a competition; returns the folder with the blended test predictions."""
    first = experiments[0].config
    names = [experiment.config.experiment for experiment in experiments]
    if len({experiment.config.competition.metric for experiment in experiments}) > 1:
        raise UserError("the configs name different metrics; an ensemble is scored by one")
    settings = {"names": names, **first.ensemble.model_dump(mode="json")}
    inputs = {"predictions": [experiment.digest for experiment in experiments], "metric": first.competition.metric}
    reasons = union(experiment.optimistic for experiment in experiments)
    inputs |= {"optimistic": reasons} if reasons else {}
    stage = define_stage("ensemble", settings, **inputs)
    folder = workspace(first).ensemble(names)

    def build() -> tuple[str, dict[str, Any]]:
        blended, test, weights, scores = _blend(experiments)
        blended.save(folder / "oof")
        test.save(folder)
        write_json(folder / "weights.json", dict(zip(names, weights.tolist(), strict=True)))
        write_json(folder / "cv.json", scores)
        _say(scores)
        return digest([blended.digest(), test.digest()]), {"cv": chosen_score(folder)["cv"]}

    run_stage(stage, folder, build, force)
    return folder


def chosen_score(folder: Path) -> dict[str, Any]:
    """The CV of the scheme whose predictions an ensemble's folder holds."""
    scores = read_json(folder / "cv.json")
    score: dict[str, Any] = scores["schemes"][scores["chosen"]]
    return score


def _say(scores: dict[str, Any]) -> None:
    for name, score in scores["experiments"].items():
        log.info("ensemble  %-30s %s", name, describe(score))
    words = {"equal": "equal mean", "fitted": "fitted weights, cross-fitted"}
    for name, score in scores["schemes"].items() if len(scores["experiments"]) > 1 else ():
        mark = " <- chosen by ensemble.models" if name == scores["chosen"] else ""
        log.info("ensemble  %-30s %s%s", words[name], describe(score), mark)


def _blend(experiments: Sequence[Predicted]) -> tuple[Predictions, Predictions, npt.NDArray[np.float64], dict[str, Any]]:
    """Out-of-fold and test blend, the weights, and the CV of every single experiment and scheme."""
    section, metric = experiments[0].config.ensemble, experiments[0].config.competition.metric
    target, truth = experiments[0].prepared.target, experiments[0].prepared.truth
    parts = align([experiment.out_of_fold() for experiment in experiments])
    singles = {e.config.experiment: cross_validation(p, target, truth, metric, e.optimistic) for e, p in zip(experiments, parts, strict=True)}
    weights = {"equal": np.full(len(parts), 1 / len(parts))}
    blends = {"equal": replace(parts[0], values=blend([part.values for part in parts], weights["equal"]))}
    if target.task == "regression":
        if section.models == "fitted":
            raise UserError("ensemble.models=fitted minimises log loss, which a regression has not; write equal")
    elif all((part.fold == parts[0].fold).all() for part in parts):
        blends["fitted"], weights["fitted"] = _fit(parts, target_numbers(parts[0], target, truth))
    elif section.models == "fitted":
        raise UserError("ensemble.models=fitted: the experiments use different folds; give them the same folds, or write equal")
    reasons = union(experiment.optimistic for experiment in experiments)
    schemes = {name: cross_validation(blended, target, truth, metric, reasons) for name, blended in blends.items()}
    tests = align([experiment.test(section.folds) for experiment in experiments])
    test = replace(tests[0], values=blend([part.values for part in tests], weights[section.models]))
    scores = {"experiments": singles, "schemes": schemes, "chosen": section.models}
    return blends[section.models], test, weights[section.models], scores


def _fit(parts: list[Predictions], targets: Numbers) -> tuple[Predictions, npt.NDArray[np.float64]]:
    """The cross-fitted blend, to score; and weights fitted on all rows, for the test rows."""
    values = [part.values for part in parts]
    given = np.stack([given_truth(part, targets).ravel() for part in values], axis=1)
    return replace(parts[0], values=cross_fitted(values, targets, parts[0].fold)), fit_weights(given)


def _load_blend(folder: Path) -> tuple[Predictions, str]:
    """The blended test predictions and the digest of the ensemble that they are of."""
    manifest = Manifest.read(folder / "manifest.json")
    test = Predictions.load(folder) if manifest else None
    if manifest is None or test is None or digest([Predictions.load(folder / "oof").digest(), test.digest()]) != manifest.digest:
        raise UserError(f"{folder}: another run is blending the same experiments, or a file was changed; run again, or write --force ensemble")
    return test, manifest.digest


def submit(experiments: Sequence[Predicted], folder: Path, force: bool = False) -> Path:
    """Writes submission.csv from an ensemble's test predictions, after every check; returns its path."""
    first = experiments[0]
    work, prepared = workspace(first.config), first.prepared
    test, source = _load_blend(folder)
    name = join_names(experiment.config.experiment for experiment in experiments)
    form = Form(prepared.form, first.config.classes_in_a_cell, first.config.competition.label_separator)
    stage = define_stage("submit", {"name": name, "form": asdict(form)}, predictions=source, sample=digest_table(prepared.sample))
    path, manifest_path = work.submission, work.submission_manifest
    with lock(work.root / ".submission.lock", wait="submit: waiting for another process"):
        done = None if force else finished(stage, manifest_path)
        if done and path.exists() and digest_file(path) == done.digest:
            log.info("submit    up to date: %s", path)
            return path

        def build() -> tuple[str, dict[str, Any]]:
            table = to_table(test, prepared.sample, form, prepared.target)
            require_valid(table, prepared.sample, form, prepared.target)
            remove_leftovers(work.kept_submission("", "").parent)
            kept = work.kept_submission(time.strftime("%Y%m%dT%H%M%S"), name)
            write_table(kept, table)
            write_table(path, table)
            log.info("submit    %s rows, checked against the sample -> %s", f"{len(table):,}", path)
            return digest_file(path), {"kept": kept.name, "cv": chosen_score(folder)}

        build_stage(stage, manifest_path, build)
    return path


def true_score(experiment: Predicted, folder: Path) -> float | None:
    """The metric on the test answers, where the competition's folder holds them; nothing is chosen by it."""
    competition, prepared = experiment.config.competition, experiment.prepared
    if competition.solution is None:
        return None
    truth = read_solution(competition, prepared.sample.iloc[:, 0].tolist())
    return score_of(Predictions.load(folder).of(list(truth)), prepared.target, truth, competition.metric)
