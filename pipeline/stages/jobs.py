"""One experiment on its way to predictions: what they depend on, and where they lie."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.artifacts import Stage, finished
from pipeline.config import Config
from pipeline.executor import FULL, Task
from pipeline.files import digest_table
from pipeline.inference.tta import candidates, view_names
from pipeline.predictions import Predictions
from pipeline.stages.networks import Piece, Trained, manifest_of
from pipeline.stages.prepare import optimistic, workspace
from pipeline.stages.versions import define_stage


@dataclass
class Job:
    """An experiment, the stage that its predictions are, and what is decided on the way."""

    trained: Trained
    stage: Stage
    folder: Path
    looked: tuple[str, ...]
    """Views that the held-out rows are looked at with: those that predict, or those that auto chooses from; identity to compare with."""
    views: tuple[str, ...] = ()
    """Those that predict the test rows."""
    views_of_fold: dict[int, tuple[str, ...]] = field(default_factory=dict)
    """Those that predict the rows of a fold, where it had no say in the choice."""
    table: list[dict[str, Any]] = field(default_factory=list)
    """What each view alone is worth."""
    dropped: tuple[str, ...] = ()
    """Names of networks that `predict.max_hours` leaves no time for."""
    left_out: tuple[str, ...] = ()
    """What of it was left out for want of time, in words."""
    hurried: bool = False
    """Whether `predict.max_hours` chose by out-of-fold loss what predicts."""

    @property
    def config(self) -> Config:
        """Of the experiment."""
        return self.trained.config

    @property
    def name(self) -> str:
        """Of the experiment."""
        return self.trained.config.experiment

    @property
    def done(self) -> bool:
        """Whether it has predicted."""
        return finished(self.stage, self.folder / "manifest.json") is not None

    @property
    def folds(self) -> list[Task]:
        """The networks that hold rows out."""
        return [task for task in self.trained.tasks if task.fold != FULL]

    @property
    def planned(self) -> int:
        """How many networks hold rows out when all are trained."""
        return len(self.config.train.seeds) * self.config.folds.n_splits

    @property
    def whole(self) -> bool:
        """Whether every such network is trained."""
        return len(self.folds) == self.planned

    @property
    def predicting(self) -> list[Task]:
        """The networks that predict the test rows."""
        return [task for task in self.trained.tasks if task.name not in self.dropped]

    def piece(self, task: Task, part: str, views: Sequence[str]) -> Piece:
        """What one network says; part: oof, test, or views, which is of the rows of oof, view by view."""
        split = "test" if part == "test" else "train"
        rows = test_rows(self.trained) if part == "test" else self.trained.prepared.folds_digest
        network, pixels = manifest_of(task).digest, self.trained.prepared.cache_digest[split]
        stage = define_stage("predict", {**_settings(self.config), "views": list(views)}, part=part, network=network, pixels=pixels, rows=rows)
        return Piece(piece_folder(self.folder, task, part), stage)


def make_job(trained: Trained, together: Sequence[Trained]) -> Job:
    """What is to be done for one of the experiments that are predicted together."""
    config, prepared = trained.config, trained.prepared
    views = views_setting(config)
    settings = {**_settings(config), "views": views}
    inputs: dict[str, Any] = {"pixels": prepared.cache_digest, "folds": prepared.folds_digest, "test": test_rows(trained)}
    inputs["metric"] = config.competition.metric
    if (hours := config.predict.max_hours) is not None:
        settings["max_hours"] = hours
        inputs["together"] = {other.config.experiment: _networks(other) for other in together}
    if reasons := optimistic(config, prepared.lessons):
        inputs["optimistic"] = list(reasons)
    words = config.predict.tta if isinstance(config.predict.tta, str) else f"{len(config.predict.tta)}views"
    alone = {**inputs, "together": sorted(inputs["together"])} if "together" in inputs else inputs
    folder = workspace(config).predictions(config.experiment, define_stage("predict", settings, **alone).key(words))
    auto = config.predict.tta == "auto"
    looked = tuple(views[1:]) if auto else tuple(views) if len(views) == 1 else view_names({"identity", *views})
    return Job(trained, define_stage("predict", settings, networks=_networks(trained), **inputs), folder, looked, views=() if auto else tuple(views))


def _networks(trained: Trained) -> dict[str, str]:
    """Digest of each network's weights."""
    return {f"seed_{task.seed}_{task.folder}": manifest_of(task).digest for task in trained.tasks}


def _settings(config: Config) -> dict[str, Any]:
    """What changes how a network's predictions come out, but for its views."""
    images = config.images.model_dump(mode="json", exclude={"cache_size", "corrupt"})
    return {"images": images, "precision": config.train.precision, "merge": config.predict.merge}


def views_setting(config: Config) -> list[str]:
    """The views; or auto, and then what it chooses from. In an order that does not depend on how they are written."""
    section = config.predict
    if section.tta == "auto":
        return ["auto", *candidates(section.views, config.images.shape)]
    return list(view_names(section.tta))


def test_rows(trained: Trained) -> str:
    """Digest of the rows to predict."""
    rows = trained.prepared.rows
    return digest_table(rows.loc[rows["split"] == "test", ["id", "problem"]])


def piece_folder(folder: Path, task: Task, part: str) -> Path:
    """Where one network's predictions lie; part: oof, test, or views."""
    return folder / f"seed_{task.seed}_{task.folder}_{part}"


def load_piece(folder: Path, task: Task, part: str) -> Predictions:
    """Predictions of one network; part: oof or test."""
    return Predictions.load(piece_folder(folder, task, part))
