"""What one network learns from and is looked at with: its rows, their targets, the lessons of its teacher."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.data.targets import Numbers
from pipeline.errors import UserError
from pipeline.executor import Task
from pipeline.files import digest
from pipeline.predictions import Predictions
from pipeline.stages.prepare import Prepared
from pipeline.training.teaching import Lessons, soft

if TYPE_CHECKING:
    import torch

    from pipeline.training.fold import FoldData
    from pipeline.training.outputs import Outputs

Place = tuple[str, str]
"""Split and id of a row."""
Lesson = dict[str, Predictions]
"""What one network learns from its teacher; train: a target for each of its train rows; test: further rows with theirs. One may be missing."""


def learned_rows(prepared: Prepared, task: Task) -> pd.DataFrame:
    """The train rows that a network learns from: id, target, group, fold."""
    return prepared.folds[~prepared.folds["fold"].isin(task.hidden)]


def held_out_rows(prepared: Prepared, task: Task) -> pd.DataFrame:
    """The train rows that a network must not see."""
    return prepared.folds[prepared.folds["fold"].isin(task.hidden)]


def learned_targets(prepared: Prepared, task: Task) -> Numbers:
    """The true targets of the train rows that a network learns from, then of the extra rows."""
    return prepared.target.numbers([*learned_rows(prepared, task)["target"], *prepared.extra_without(task.hidden)["target"]])


def outputs_of(prepared: Prepared, task: Task) -> "Outputs":
    """What a network's logits mean."""
    from pipeline.training.outputs import Outputs

    return Outputs.of(prepared.target.task, learned_targets(prepared, task), logarithm=task.config.loss.name == "log_mse")


def learned(prepared: Prepared, task: Task) -> tuple[list[Place], Numbers]:
    """Every row that a network learns from, with its target; soft, float32 [rows, outputs], where it has a teacher."""
    rows, extra = learned_rows(prepared, task), prepared.extra_without(task.hidden)
    places = [("train", name) for name in rows["id"]] + [("extra", name) for name in extra["id"]]
    targets = learned_targets(prepared, task)
    if prepared.lessons is None:
        return places, targets
    lesson = load_lesson(prepared.lessons, task.folder)
    targets = soft(prepared.target, targets)
    if "train" in lesson:
        targets[: len(rows)] = lesson["train"].in_classes(prepared.classes).of(rows["id"].tolist()).values
    if "test" in lesson:
        places += [("test", name) for name in lesson["test"].ids]
        targets = np.concatenate([targets, lesson["test"].in_classes(prepared.classes).values])
    return places, targets


def save_lesson(lessons: Lessons, network: str, lesson: Lesson) -> None:
    """Writes what a network learns from its teacher; network: fold_0, fold_1, ... or all."""
    for split, part in lesson.items():
        part.save(lessons.folder / f"{network}_{split}")


def load_lesson(lessons: Lessons, network: str) -> Lesson:
    """What `save_lesson` wrote; UserError where it is not that any more."""
    folders = {split: lessons.folder / f"{network}_{split}" for split in ("train", "test")}
    try:
        lesson = {split: Predictions.load(folder) for split, folder in folders.items() if folder.exists()}
    except (OSError, ValueError):
        lesson = {}
    if digest_lesson(lesson) != lessons.digests[network]:
        raise UserError(f"{lessons.folder}: {network} is damaged or was changed; write --force teach")
    return lesson


def digest_lesson(lesson: Lesson) -> str:
    """Of its content."""
    return digest({split: part.digest() for split, part in lesson.items()})


def fold_data(prepared: Prepared, task: Task, device: "torch.device") -> "FoldData":
    """Loaders and targets of one network."""
    from pipeline.augment.transforms import Transforms
    from pipeline.data.cache import ImageCache
    from pipeline.training.datasets import EpochBatches, PlainImages, TrainingImages, plain_loader, training_loader
    from pipeline.training.fold import FoldData

    config = task.config
    images = ImageCache(prepared.cache, prepared.pictures)
    places, targets = learned(prepared, task)
    batches = EpochBatches(len(places), config.train.batch_size, task.seed, task.number, targets if config.train.sampler == "balanced" else None)
    dataset = TrainingImages(images, places, Transforms(config.augment.train), config.images, task.seed, task.number)
    held_out = held_out_rows(prepared, task)
    plain = PlainImages(images, "train", held_out["id"].tolist(), config.images)
    return FoldData(
        batches=batches,
        train=training_loader(dataset, batches, config.runtime.workers, device),
        train_targets=targets,
        valid=plain_loader(plain, config.predict.batch_size, config.runtime.workers, device) if task.hidden else None,
        valid_targets=prepared.target.numbers(held_out["target"].tolist()),
        target=prepared.target,
        outputs=outputs_of(prepared, task),
        metric=config.competition.metric,
    )
