"""The last stages: ensemble, which blends experiments, and submit, which writes the checked file."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import Manifest, build_stage, finished, run_stage
from pipeline.config import Config
from pipeline.data.index import read_table
from pipeline.ensembling.scores import cross_validation, describe, target_numbers
from pipeline.ensembling.weights import blend, cross_fitted, fit_weights, fold_weights
from pipeline.errors import UserError
from pipeline.executor import Task
from pipeline.files import digest, digest_file, lock, read_json, write_json, write_table
from pipeline.predictions import Predictions, align
from pipeline.stages.predict import load_piece, seed_mean
from pipeline.stages.prepare import Prepared, workspace
from pipeline.stages.versions import define_stage
from pipeline.submission.formats import require_valid, to_table
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

    def out_of_fold(self) -> Predictions:
        """One row per training row, the mean over seeds."""
        return seed_mean([load_piece(self.folder, task, "oof") for task in self.tasks])

    def test(self, how: str) -> Predictions:
        """One row per test row: folds weighted as `how` says within each seed, then the mean over seeds."""
        metric = METRICS[self.config.competition.metric]
        seeds = sorted({task.seed for task in self.tasks})
        parts: list[Predictions] = []
        weights: list[npt.NDArray[np.float64]] = []
        for seed in seeds:
            tasks = [task for task in self.tasks if task.seed == seed]
            scores = []
            for task in tasks:
                held_out = load_piece(self.folder, task, "oof")
                scores.append(metric(target_numbers(held_out, self.prepared.truth), held_out.values))
                parts.append(load_piece(self.folder, task, "test"))
            weights.append(fold_weights(how, scores, metric.sign) / len(seeds))
        joined = align(parts)
        return replace(joined[0], values=blend([part.values for part in joined], np.concatenate(weights)))


def ensemble(experiments: Sequence[Predicted], force: bool = False) -> Path:
    """Blends one or more experiments of a competition; returns the folder with the blended test predictions."""
    first = experiments[0].config
    names = [experiment.config.experiment for experiment in experiments]
    if len(set(names)) != len(names):
        raise UserError(f"two configs have the same experiment name: {', '.join(names)}; write experiment=NAME in one")
    settings = {"names": names, **first.ensemble.model_dump(mode="json")}
    inputs = {"predictions": [experiment.digest for experiment in experiments], "metric": first.competition.metric}
    stage = define_stage("ensemble", settings, **inputs)
    folder = workspace(first).ensemble(names)

    def build() -> tuple[str, dict[str, Any]]:
        blended, test, weights, scores = _blend(experiments)
        blended.save(folder / "oof")
        test.save(folder)
        write_json(folder / "weights.json", dict(zip(names, weights.tolist(), strict=True)))
        write_json(folder / "cv.json", scores)
        for name, score in scores.items():
            if len(experiments) > 1 or name == "chosen":
                log.info("ensemble  %-24s %s", name, describe(score))
        return digest([blended.digest(), test.digest()]), {"cv": scores["chosen"]["cv"]}

    run_stage(stage, folder, build, force)
    return folder


def _blend(experiments: Sequence[Predicted]) -> tuple[Predictions, Predictions, npt.NDArray[np.float64], dict[str, Any]]:
    """Out-of-fold and test blend, the weights, and the CV of every single model and scheme."""
    first = experiments[0]
    section, metric, truth = first.config.ensemble, first.config.competition.metric, first.prepared.truth
    parts = align([experiment.out_of_fold() for experiment in experiments])
    values, equal = [part.values for part in parts], np.full(len(parts), 1 / len(parts))
    scores = {e.config.experiment: cross_validation(p, truth, metric) for e, p in zip(experiments, parts, strict=True)}
    blended = replace(parts[0], values=blend(values, equal))
    weights = equal
    if len(parts) > 1:
        scores["equal mean"] = cross_validation(blended, truth, metric)
    same_folds = all((part.fold == parts[0].fold).all() for part in parts)
    if len(parts) > 1 and same_folds:
        targets = target_numbers(parts[0], truth)
        fitted = replace(parts[0], values=cross_fitted(values, targets, parts[0].fold))
        scores["fitted, cross-fitted"] = cross_validation(fitted, truth, metric)
        if section.models == "fitted":
            given = np.stack([part[np.arange(len(targets)), targets] for part in values], axis=1)
            blended, weights = fitted, fit_weights(given.astype(np.float64))
    elif section.models == "fitted" and len(parts) > 1:
        raise UserError("ensemble.models=fitted: the experiments use different folds; give them the same folds, or write equal")
    scores["chosen"] = cross_validation(blended, truth, metric)
    tests = align([experiment.test(section.folds) for experiment in experiments])
    test = replace(tests[0], values=blend([part.values for part in tests], weights))
    return blended, test, weights, scores


def submit(experiments: Sequence[Predicted], folder: Path, force: bool = False) -> Path:
    """Writes submission.csv from an ensemble's test predictions, after every check; returns its path."""
    first = experiments[0]
    work, prepared = workspace(first.config), first.prepared
    source = Manifest.read(folder / "manifest.json")
    assert source is not None, f"{folder} is finished"
    name = "+".join(experiment.config.experiment for experiment in experiments)
    sample = digest_file(first.config.competition.root / first.config.competition.sample_submission)
    stage = define_stage("submit", {"name": name, "format": prepared.form}, predictions=source.digest, sample=sample)
    path, manifest_path = work.submission, work.submission_manifest
    with lock(work.root / ".submission.lock", wait="submit: waiting for another process"):
        done = None if force else finished(stage, manifest_path)
        if done and path.exists() and digest_file(path) == done.digest:
            log.info("submit    up to date: %s", path)
            return path

        def build() -> tuple[str, dict[str, Any]]:
            table = to_table(Predictions.load(folder), prepared.sample, prepared.form)
            require_valid(table, prepared.sample, prepared.form, prepared.classes)
            kept = work.kept_submission(time.strftime("%Y%m%dT%H%M%S"), name)
            write_table(kept, table)
            write_table(path, table)
            log.info("submit    %s rows, checked against the sample -> %s", f"{len(table):,}", path)
            return digest_file(path), {"kept": kept.name, "cv": read_json(folder / "cv.json")["chosen"]}

        build_stage(stage, manifest_path, build)
    return path


def true_score(config: Config, folder: Path) -> float | None:
    """The metric on the test answers, where the competition's folder holds them; nothing is chosen by it."""
    if config.competition.solution is None:
        return None
    path = config.competition.root / config.competition.solution
    solution = read_table(path)
    if config.competition.target not in solution.columns:
        raise UserError(f'{path}: there is no column "{config.competition.target}"')
    truth = dict(zip(solution[solution.columns[0]], solution[config.competition.target], strict=True))
    test = Predictions.load(folder).of(list(truth))
    return METRICS[config.competition.metric](target_numbers(test, truth), test.values)
