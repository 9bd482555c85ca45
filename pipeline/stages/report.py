"""The report of an ensemble: a page to look at after a run."""

import functools
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.artifacts import Manifest, run_stage
from pipeline.data.pictures import Pictures
from pipeline.data.targets import Numbers, Target
from pipeline.errors import UserError
from pipeline.files import digest_file, read_json
from pipeline.predictions import Predictions
from pipeline.stages.ensemble import taking_part
from pipeline.stages.networks import manifest_of
from pipeline.stages.predicted import Predicted
from pipeline.stages.train import fold_folder
from pipeline.stages.versions import define_stage
from pipeline.training.metrics import METRICS

if TYPE_CHECKING:
    from pipeline.data.images import Pixels
    from pipeline.report.run import Experiment

log = logging.getLogger(__name__)
SECTIONS = {"images", "augment", "model", "loss", "optimizer", "schedule", "train", "predict"}  # in which experiments differ
ALWAYS = ("model.backbone", "images.size", "train.epochs", "optimizer.learning_rate", "predict.tta")
MOST_KEYS = 24


def report(experiments: Sequence[Predicted], folder: Path, force: bool = False) -> Path:
    """Writes report.html into an ensemble's folder; returns its path."""
    members = taking_part(experiments)
    done = Manifest.read(folder / "manifest.json")
    if done is None:
        raise UserError(f"{folder}: another run is blending the same experiments; run again when it is done")
    path, competition = folder / "report.html", members[0].config.competition
    thresholds = None if competition.thresholds is None else competition.thresholds.model_dump(exclude_none=True)
    configs = [member.config.model_dump(mode="json", include=SECTIONS) for member in members]
    inputs = {"ensemble": done.digest, "scores": digest_file(folder / "cv.json"), "predictions": [member.digest for member in members]}
    stage = define_stage("report", {"configs": configs, "thresholds": thresholds}, truth=members[0].prepared.folds_digest, **inputs)

    def build() -> tuple[str, dict[str, Any]]:
        from pipeline.report.page import write_report
        from pipeline.report.run import Run

        first, scores = members[0], read_json(folder / "cv.json")
        prepared, metric = first.prepared, METRICS[competition.metric]
        run = Run(
            title=" + ".join(member.config.experiment for member in members),
            competition=competition.name,
            metric=metric.name,
            sign=metric.sign,
            target=prepared.target,
            truth=prepared.truth,
            out_of_fold=(out_of_fold := Predictions.load(folder / "oof")),
            decided=decided_labels(folder, prepared.target, out_of_fold),
            score=scores["submitted"],
            ensemble=scores,
            experiments=[_experiment(member, members, scores) for member in members],
            read=functools.partial(_read, first),
            thresholds=thresholds,
            notes=scores["notes"],
            groups={name: group for name, group in zip(prepared.folds["id"], prepared.folds["group"], strict=True) if group},
        )
        write_report(path, run)
        log.info("report    %.1f MB -> %s", path.stat().st_size / 1e6, path)
        return digest_file(path), {"bytes": path.stat().st_size}

    run_stage(stage, folder, build, force or not path.exists(), "report.json")
    return path


def decided_labels(folder: Path, target: Target, out_of_fold: Predictions) -> Numbers:
    """Out-of-fold labels of an ensemble: as it wrote them, or where nothing decides but the default, by that."""
    path = folder / "oof" / "labels.npy"
    return np.load(path, allow_pickle=False) if path.exists() else target.decide(out_of_fold.values)


def _read(member: Predicted, name: str) -> "Pixels":
    """The picture of a train row."""
    rows = member.prepared.rows
    [path] = rows.loc[(rows["split"] == "train") & (rows["id"] == name), "path"]
    return Pictures(member.config.competition, member.config.images).read(path)


def _experiment(member: Predicted, members: Sequence[Predicted], scores: dict[str, Any]) -> "Experiment":
    from pipeline.report.run import Experiment

    records = [manifest_of(task).record for task in member.tasks]
    return Experiment(
        name=member.config.experiment,
        out_of_fold=member.out_of_fold(),
        score=scores["experiments"][member.config.experiment],
        histories={task.name: pd.read_csv(path) for task in member.tasks if (path := fold_folder(task) / "history.csv").exists()},
        views=member.view_table(),
        seconds=sum(record["seconds"] for record in records),
        parameters=records[0]["parameters"],
        summary=_summary(member, members),
    )


def _summary(member: Predicted, members: Sequence[Predicted]) -> list[tuple[str, str]]:
    """The keys of the config that anybody asks for, and those in which the experiments differ."""
    settings = [dict(_flat(other.config.model_dump(mode="json", include=SECTIONS))) for other in members]
    own = settings[members.index(member)]
    differing = [key for key in own if any(other.get(key) != own[key] for other in settings)]
    return [(key, own[key]) for key in dict.fromkeys([*ALWAYS, *differing])][:MOST_KEYS]


def _flat(settings: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, str]]:
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", json.dumps(value) if not isinstance(value, str) else value
