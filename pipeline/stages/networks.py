"""Trained networks, and what each of them predicted, one folder a piece."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.artifacts import Manifest, Stage, finished
from pipeline.config import Config
from pipeline.ensembling.weights import blend
from pipeline.errors import UserError
from pipeline.executor import Task
from pipeline.files import atomic
from pipeline.predictions import TEST, Predictions, align
from pipeline.stages.learning import held_out_rows, learned_rows, outputs_of
from pipeline.stages.prepare import Prepared
from pipeline.stages.train import fold_folder

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from pipeline.inference.predict import Member, Reader
    from pipeline.inference.tta import Merge
    from pipeline.training.datasets import Batch


@dataclass(frozen=True)
class Trained:
    """An experiment, and those of its networks that are trained."""

    config: Config
    prepared: Prepared
    tasks: list[Task]


def manifest_of(task: Task) -> Manifest:
    """Of a trained network."""
    manifest = Manifest.read(fold_folder(task) / "manifest.json")
    assert manifest is not None, f"{task} is trained before it predicts"
    return manifest


# ---------------------------------------------------------------- networks


def reader_of(config: Config) -> "Reader":
    """How pictures reach networks: what those that look at them together must share."""
    import torch

    from pipeline.inference.predict import Reader
    from pipeline.runtime import devices, start_torch

    device = torch.device(devices(config.runtime.device)[0])
    start_torch(config.runtime.threads, str(device))
    return Reader(config.images, config.predict.batch_size, config.runtime.workers, device)


class Network:
    """A trained network, ready to predict."""

    def __init__(self, config: Config, prepared: Prepared, task: Task) -> None:
        from pipeline.runtime import autocast_dtype
        from pipeline.training.checkpoint import digest_weights, final_weights, load_checkpoint
        from pipeline.training.models import build_model

        self.config, self.prepared, self.task, self.reader = config, prepared, task, reader_of(config)
        weights = final_weights(load_checkpoint(fold_folder(task)) or {"model": {}})
        if digest_weights(weights) != manifest_of(task).digest:
            advice = "delete its manifest.json, to go on from the checkpoint before it, or write --force train"
            raise UserError(f"{fold_folder(task)}: last.pt is damaged or not the one that training ended with; {advice}")
        model = build_model(task.config.model.model_copy(update={"weights": None}), len(prepared.classes), seed=0)
        model.load_state_dict(weights)
        self.model, self.outputs = model.to(self.reader.device), outputs_of(prepared, task)
        self.autocast = autocast_dtype(config.train.precision, self.reader.device)

    def member(self, views: Sequence[str], merge: "Merge | None" = None) -> "Member":
        """It, looking at these views, merged as the config says unless otherwise."""
        from pipeline.inference.predict import Member

        return Member(self.model, self.outputs, self.autocast, tuple(views), merge or self.config.predict.merge)

    def held_out(self, views: Sequence[str]) -> Predictions:
        """Of the rows that it did not see, each with its fold."""
        from pipeline.inference.predict import predict_merged

        rows = held_out_rows(self.prepared, self.task)
        [values] = predict_merged(self.reader, [self.member(views)], cached(self.config, self.prepared, "train", rows["id"].tolist()))
        return Predictions(tuple(rows["id"]), self.prepared.classes, values, rows["fold"].to_numpy(dtype=np.int16))


def cached(config: Config, prepared: Prepared, split: str, ids: Sequence[str]) -> "Dataset[Batch]":
    """Pictures of the cache, fitted to the experiment's input."""
    from pipeline.data.cache import ImageCache
    from pipeline.training.datasets import PlainImages

    return PlainImages(ImageCache(prepared.cache, prepared.pictures), split, ids, config.images)


def every_test_row(prepared: Prepared, task: Task, values: npt.NDArray[np.float32]) -> Predictions:
    """Predictions of the test rows that can be read [rows, outputs], and the mean of the training targets for the others."""
    from pipeline.inference.predict import with_shares

    readable, rows = prepared.ids("test"), prepared.rows
    found = Predictions(tuple(readable), prepared.classes, values, np.full(len(readable), TEST, dtype=np.int16))
    every = rows.loc[rows["split"] == "test", "id"].tolist()
    if len(readable) == len(every):
        return found.of(every)
    shares = prepared.target.shares(learned_rows(prepared, task)["target"].tolist())
    if task.config.predict.merge == "ranks":
        shares = np.full(len(shares), 0.5)  # the middle of the ranks
    return with_shares(found, every, shares)


# ---------------------------------------------------------------- pieces


@dataclass(frozen=True)
class Piece:
    """What one network said of some rows: `values.npy`, `rows.parquet`, and a manifest that proves them."""

    folder: Path
    stage: Stage

    @property
    def done(self) -> bool:
        """Whether it is there, of these weights, pictures, rows and views."""
        return finished(self.stage, self.folder / "manifest.json") is not None

    def load(self, mapped: bool = False) -> Predictions:
        """The predictions."""
        return Predictions.load(self.folder, mapped)

    def save(self, predictions: Predictions) -> Predictions:
        """Writes the predictions, the manifest last."""
        self._open()
        predictions.save(self.folder)
        self._close(predictions.digest())
        return predictions

    def load_views(self) -> npt.NDArray[np.float32]:
        """What each view says, [views, rows, outputs], mapped."""
        found: npt.NDArray[np.float32] = np.load(self.folder / "views.npy", mmap_mode="r", allow_pickle=False)
        return found

    def save_views(self, values: npt.NDArray[np.float32]) -> None:
        """Writes what each view says, the manifest last."""
        self._open()
        with atomic(self.folder / "views.npy") as temporary, temporary.open("wb") as file:
            np.save(file, values, allow_pickle=False)
        self._close("")

    def _open(self) -> None:
        (self.folder / "manifest.json").unlink(missing_ok=True)

    def _close(self, digest: str) -> None:
        stage = self.stage
        Manifest(stage.name, stage.version, stage.fingerprint, stage.settings, stage.inputs, digest).write(self.folder / "manifest.json")


def seed_mean(parts: Sequence[Predictions]) -> Predictions:
    """All out-of-fold rows of an experiment, sorted by id; a row that several seeds predicted gets their mean."""
    names = sorted({name for part in parts for name in part.ids})
    row = {name: number for number, name in enumerate(names)}
    total = np.zeros((len(names), len(parts[0].classes)), dtype=np.float64)
    count, fold = np.zeros(len(names)), np.full(len(names), TEST, dtype=np.int16)
    for part in parts:
        rows = np.array([row[name] for name in part.ids], dtype=np.int64)
        assert (fold[rows][count[rows] > 0] == part.fold[count[rows] > 0]).all(), "a row is held out in one fold"
        total[rows] += part.in_classes(parts[0].classes).values
        count[rows] += 1
        fold[rows] = part.fold
    return Predictions(tuple(names), parts[0].classes, (total / count[:, None]).astype(np.float32), fold)


def mean(parts: Sequence[Predictions]) -> Predictions:
    """Of several predictions of the same rows."""
    joined = align(parts)
    return replace(joined[0], values=blend([part.values for part in joined], np.full(len(joined), 1 / len(joined))))
