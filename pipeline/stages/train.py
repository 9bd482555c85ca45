"""The train stage: every seed and fold of an experiment, each a task with its own folder and manifest."""

import functools
import logging
import math
import shutil
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.artifacts import Manifest, Stage, build_stage, finished, refuse_changed
from pipeline.config import Config, Images, Model, Train
from pipeline.config_files import write_config
from pipeline.data.targets import Numbers
from pipeline.errors import RunFailed, UserError
from pipeline.executor import Task, run_tasks
from pipeline.files import DigestMemory, digest_table, lock, write_text
from pipeline.stages.prepare import Prepared, workspace
from pipeline.stages.versions import define_stage

if TYPE_CHECKING:
    import torch

    from pipeline.training.engine import FoldData

log = logging.getLogger(__name__)


def train(config: Config, prepared: Prepared, force: Collection[str] = ()) -> list[Task]:
    """Trains what is not trained yet; returns every task of the experiment. RunFailed lists what is missing."""
    tasks = [Task(config, seed, fold) for seed in config.train.seeds for fold in range(config.folds.n_splits)]
    stages = {(task.seed, task.fold): train_stage(task, prepared) for task in tasks}
    again = "train" in force
    for task in tasks:
        if not again:
            _refuse_changed(task, stages[task.seed, task.fold])
    open_tasks = [task for task in tasks if again or not finished(stages[task.seed, task.fold], fold_folder(task) / "manifest.json")]
    folder = workspace(config).experiment(config.experiment)
    if not open_tasks:
        log.info("train     up to date: %d networks in %s", len(tasks), folder)
        return tasks
    _check_before(config, prepared)
    for task in tasks if again else []:
        _remove(task)
    if again or not (folder / "config.yaml").exists():
        write_text(folder / "config.yaml", write_config(config))
    started = time.monotonic()
    failed = _run_all(config, prepared, open_tasks)
    if failed:
        raise RunFailed("; ".join(f"{task}: {reason}" for task, reason in failed) + ". The other folds are kept; the same command goes on")
    write_text(folder / "config.yaml", write_config(config))
    log.info("train     %d networks in %.0f s -> %s", len(open_tasks), time.monotonic() - started, folder)
    return tasks


def _run_all(config: Config, prepared: Prepared, tasks: list[Task]) -> list[tuple[Task, str]]:
    """First every fold that is free, then those that another process had claimed."""
    from pipeline.runtime import devices

    found, jobs = devices(config.runtime.device), config.runtime.jobs_per_device
    outcome = run_tasks(tasks, functools.partial(train_fold, prepared, wait=False), found, jobs)
    failed = outcome.failed
    if outcome.claimed:
        failed += run_tasks(outcome.claimed, functools.partial(train_fold, prepared, wait=True), found, jobs).failed
    return failed


def fold_folder(task: Task) -> Path:
    """Where a task's network is kept."""
    return workspace(task.config).fold(task.config.experiment, task.seed, task.fold)


def train_stage(task: Task, prepared: Prepared) -> Stage:
    """What decides the weights of one fold."""
    weights = task.config.model.weights
    if weights not in (None, "hub"):
        weights = _weights_digest(task, Path(weights))
    stage = define_stage(
        "train",
        _training_settings(task.config),
        target=[prepared.target.task, prepared.classes],
        folds=prepared.folds_digest,
        pixels=prepared.cache_digest["train"],
        extra=[prepared.cache_digest["extra"], digest_table(prepared.extra_of(task.fold))] if len(prepared.extra) else None,
        weights=weights,
        seed=task.seed,
        fold=task.fold,
    )
    return replace(stage, decisive=_training_settings(task.config, exclude_defaults=True))


def _training_settings(config: Config, exclude_defaults: bool = False) -> dict[str, Any]:
    """The sections that decide a network's weights, without the keys that do not.

    Only what differs from its default enters the fingerprint, so that a key added to the program leaves
    trained networks valid. Whoever changes a default raises STAGE_VERSION["train"].
    """
    keys: dict[str, Any] = dict.fromkeys(("augment", "loss", "optimizer", "schedule"), True)
    keys |= {
        "images": set(Images.model_fields) - {"cache_size", "corrupt"},
        "model": set(Model.model_fields) - {"weights"},
        "train": set(Train.model_fields) - {"seeds"},
    }
    return config.model_dump(mode="json", include=keys, exclude_defaults=exclude_defaults)


def _weights_digest(task: Task, path: Path) -> str:
    """Of the weights file's content; of a trained fold, what it was trained from, should the file be gone since."""
    found = DigestMemory(workspace(task.config).digests).digests([path])[0]
    manifest = Manifest.read(fold_folder(task) / "manifest.json") if found is None else None
    if manifest is not None and manifest.inputs.get("weights"):
        return str(manifest.inputs["weights"])
    if found is None:
        raise UserError(f"model.weights: no such file: {path}; write a path, hub, or null for random weights")
    return found


def _remove(task: Task) -> None:
    folder = fold_folder(task)
    with lock(folder / ".lock", wait=f"train: waiting for another process in {folder}"):
        (folder / "manifest.json").unlink(missing_ok=True)
        for name in ("last.pt", "previous.pt", "history.csv"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def _refuse_changed(task: Task, stage: Stage) -> None:
    """A changed config never overwrites a trained fold."""
    folder = fold_folder(task)
    manifest = Manifest.read(folder / "manifest.json")
    if manifest is None or manifest.fingerprint == stage.fingerprint:
        return
    refuse_changed(folder, {**manifest.settings, **manifest.inputs}, {**stage.settings, **stage.inputs})


def _check_before(config: Config, prepared: Prepared) -> None:
    """Faults that every fold would meet, found once before the first one starts; downloads weights from the hub."""
    from pipeline.runtime import devices, stay_offline_without_network

    if config.model.weights == "hub":
        stay_offline_without_network()
    from pipeline.augment.transforms import Transforms
    from pipeline.training.models import build_model, check_output
    from pipeline.training.optim import build_optimizer

    devices(config.runtime.device)
    Transforms(config.augment.train).check(_extreme_shapes(prepared.rows, config.images.cache_size))
    model = build_model(config.model, len(prepared.classes), seed=0)
    check_output(model, config.images.shape, len(prepared.classes))
    build_optimizer(config.optimizer, model)


def _extreme_shapes(rows: pd.DataFrame, size: int) -> list[tuple[int, int]]:
    """Height and width, in the cache, of the lowest, narrowest, and largest training pictures."""
    from pipeline.data.images import cached_shape

    readable = rows[(rows["split"] == "train") & (rows["problem"] == "")]
    shapes = {cached_shape(height, width, size) for height, width in zip(readable["height"], readable["width"], strict=True)}
    return [min(shapes), min(shapes, key=lambda shape: shape[1]), max(shapes, key=lambda shape: shape[0] * shape[1])]


def train_fold(prepared: Prepared, task: Task, device: str, *, wait: bool) -> bool:
    """Trains one fold on a device; False if another process has claimed it and `wait` is false."""
    folder, stage = fold_folder(task), train_stage(task, prepared)
    with lock(folder / ".lock", wait=f"train: waiting for another process in {folder}" if wait else None) as held:
        if not held:
            return False
        if finished(stage, folder / "manifest.json") is None:
            _refuse_changed(task, stage)
            manifest = build_stage(stage, folder / "manifest.json", functools.partial(_fit, prepared, task, device, stage))
            record = manifest.record
            log.info("train     seed %d fold %d: %s %.4f, %.0f s", task.seed, task.fold, task.config.competition.metric, record["score"], record["seconds"])
    return True


def _fit(prepared: Prepared, task: Task, device_name: str, stage: Stage) -> tuple[str, dict[str, Any]]:
    """Builds model, loaders and trainer of a fold; returns the digest of the weights and how it went."""
    import torch

    from pipeline.runtime import integer_seed, start_torch
    from pipeline.training.checkpoint import digest_weights
    from pipeline.training.datasets import Normalise
    from pipeline.training.engine import Place, Recipe, Trainer
    from pipeline.training.models import build_model

    config, device = task.config, torch.device(device_name)
    start_torch(config.runtime.threads, device.type)
    model = build_model(config.model, len(prepared.classes), integer_seed("initialise", task.seed, task.fold))
    recipe = Recipe(config.augment, config.loss, config.optimizer, config.schedule, config.train)
    place = Place(task.seed, task.fold, fold_folder(task), stage.fingerprint, {**stage.settings, **stage.inputs}, config.runtime.checkpoint_minutes)
    normalise = Normalise(config.images, device, config.train.channels_last)
    trainer = Trainer(model, _fold_data(prepared, task, device), recipe, normalise, place, device)
    weights = trainer.run()
    return digest_weights(weights), {
        "score": trainer.history.rows[-1].get(config.competition.metric, math.nan),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "epochs": config.train.epochs,
        "device": device_name,
        "threads": config.runtime.threads,
        "precision": str(trainer.autocast or torch.float32),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
    }


def learned_targets(prepared: Prepared, task: Task) -> Numbers:
    """Targets of what a fold's network learns from: the train rows of the other folds, then the extra rows."""
    learned = prepared.folds.loc[prepared.folds["fold"] != task.fold, "target"]
    return prepared.target.numbers([*learned, *prepared.extra_of(task.fold)["target"]])


def _fold_data(prepared: Prepared, task: Task, device: "torch.device") -> "FoldData":
    from pipeline.augment.transforms import Transforms
    from pipeline.data.cache import ImageCache
    from pipeline.training.datasets import EpochBatches, PlainImages, TrainingImages, plain_loader, training_loader
    from pipeline.training.engine import FoldData
    from pipeline.training.outputs import Outputs

    config, target = task.config, prepared.target
    inside = prepared.folds["fold"] == task.fold
    learned, held_out = prepared.folds[~inside], prepared.folds[inside]
    places = [("train", name) for name in learned["id"]] + [("extra", name) for name in prepared.extra_of(task.fold)["id"]]
    train_targets = learned_targets(prepared, task)
    images = ImageCache(prepared.cache, prepared.pictures)
    batches = EpochBatches(len(places), config.train.batch_size, task.seed, task.fold)
    dataset = TrainingImages(images, places, Transforms(config.augment.train), config.images, task.seed, task.fold)
    plain = PlainImages(images, "train", held_out["id"].tolist(), config.images)
    return FoldData(
        batches=batches,
        train=training_loader(dataset, batches, config.runtime.workers, device),
        train_targets=train_targets,
        valid=plain_loader(plain, config.predict.batch_size, config.runtime.workers, device),
        valid_targets=target.numbers(held_out["target"].tolist()),
        target=target,
        outputs=Outputs.of(target.task, train_targets),
        metric=config.competition.metric,
    )
