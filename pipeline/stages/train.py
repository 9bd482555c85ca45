"""The train stage: every seed and fold of an experiment, and nested teachers, each a task with its own folder and manifest."""

import functools
import logging
import shutil
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from pipeline.artifacts import EPOCH_FILES, Manifest, Stage, build_stage, finished, refuse_changed
from pipeline.config import Config, Images, Model, Train
from pipeline.config_files import load_config, write_config
from pipeline.ensembling.scores import mark
from pipeline.errors import RunFailed, UserError
from pipeline.executor import FULL, Task, run_tasks
from pipeline.files import DigestMemory, digest_table, lock, write_text
from pipeline.stages.borrow import borrow
from pipeline.stages.learning import fold_data, learned, load_lesson
from pipeline.stages.prepare import Prepared, optimistic, workspace
from pipeline.stages.versions import define_stage

if TYPE_CHECKING:
    from pipeline.training.engine import Watch

log = logging.getLogger(__name__)
KEPT = ". The other networks are kept; the same command goes on"


def train(config: Config, prepared: Prepared, force: Collection[str] = ()) -> list[Task]:
    """Trains what is not trained yet; returns every task of the experiment, those on all rows last. RunFailed lists what is missing."""
    if config.train.full_data and not prepared.ids("test"):
        raise UserError("train.full_data: there is no test row for that network to predict; write false")
    for tasks in (fold_tasks(config), full_tasks(config)):
        if tasks:
            train_networks(tasks, prepared, "train" in force)
    return fold_tasks(config) + full_tasks(config)


def trained_tasks(config: Config, prepared: Prepared) -> list[Task]:
    """The experiment's networks that are trained already, as the config says; UserError where none is."""
    found = [task for task in fold_tasks(config) if is_trained(task, train_stage(task, prepared))]
    if not found:
        raise UserError(f"{workspace(config).experiment(config.experiment)}: no network is trained with these settings; leave --finished out to train")
    if len(found) == len(fold_tasks(config)):
        found += [task for task in full_tasks(config) if is_trained(task, train_stage(task, prepared))]
    return found


def fold_tasks(config: Config) -> list[Task]:
    """Every seed and fold of an experiment."""
    return [Task(config, seed, fold) for seed in config.train.seeds for fold in range(config.folds.n_splits)]


def full_tasks(config: Config) -> list[Task]:
    """Every seed on all rows, where `train.full_data` asks for that."""
    return [Task(config, seed, FULL) for seed in config.train.seeds if config.train.full_data]


def train_networks(tasks: Sequence[Task], prepared: Prepared, again: bool = False, watch: "Watch | None" = None) -> None:
    """Trains those of an experiment's networks that are not trained yet, or all of them `again`. RunFailed lists what is missing.

    What another experiment has trained with the same settings is taken over. watch: is told each epoch of the only task.
    """
    assert watch is None or len(tasks) == 1, "a watch stays in its process"
    config = tasks[0].config
    stages = [train_stage(task, prepared) for task in tasks]
    for task, stage in zip(tasks, stages, strict=True) if not again else ():
        _refuse_changed(task, stage)
    open_tasks = [task for task, stage in zip(tasks, stages, strict=True) if again or not is_trained(task, stage)]
    folder = workspace(config).experiment(config.experiment)
    own = all(task.also_hidden is None for task in tasks)
    if not open_tasks:
        if own and not says_how(folder / "config.yaml", config):
            write_text(folder / "config.yaml", write_config(config))  # a run was killed between its last network and this
        log.info("train     up to date: %s in %s", _counted(tasks), folder)
        _clear(tasks)
        return
    check_before(config, prepared, tasks)
    for old in _replaced(tasks) if again else []:
        remove_network(old)
    if own and (again or not (folder / "config.yaml").exists()):
        write_text(folder / "config.yaml", write_config(config))
    started = time.monotonic()
    failed = _run_all(config, open_tasks, functools.partial(train_fold, prepared, again=again, watch=watch))
    if failed:
        raise RunFailed("; ".join(f"{task}: {reason}" for task, reason in failed) + KEPT)
    _clear(tasks)
    if own:
        write_text(folder / "config.yaml", write_config(config))
    log.info("train     %s in %.0f s -> %s", _counted(open_tasks), time.monotonic() - started, folder)


def says_how(path: Path, config: Config) -> bool:
    """Whether a saved config trains the same networks."""
    return path.exists() and _training_settings(load_config(path)) == _training_settings(config)


def _clear(tasks: Sequence[Task]) -> None:
    """Deletes the epochs that finished networks have not chosen, also those that a kill left behind."""
    for task in tasks:
        for path in fold_folder(task).glob(EPOCH_FILES):
            path.unlink(missing_ok=True)


def _counted(tasks: Sequence[Task]) -> str:
    """How many networks of which kind, in words."""
    noun = "network" if tasks[0].also_hidden is None else "nested teacher"
    return f"{len(tasks)} {noun}{'s' if len(tasks) > 1 else ''}{' on all rows' if tasks[0].fold == FULL else ''}"


def _run_all(config: Config, tasks: list[Task], work: Callable[..., bool]) -> list[tuple[Task, str]]:
    """First every fold that is free, then those that another process had claimed."""
    from pipeline.runtime import devices

    found, jobs = devices(config.runtime.device), config.runtime.jobs_per_device
    outcome = run_tasks(tasks, functools.partial(work, wait=False), found, jobs)
    failed = outcome.failed
    if outcome.claimed:
        failed += run_tasks(outcome.claimed, functools.partial(work, wait=True), found, jobs).failed
    return failed


def fold_folder(task: Task) -> Path:
    """Where a task's network is kept."""
    return workspace(task.config).network(task.config.experiment, task.seed, task.folder)


def is_trained(task: Task, stage: Stage) -> bool:
    """Whether its network is there, trained as `stage` says."""
    return finished(stage, fold_folder(task) / "manifest.json") is not None


def train_stage(task: Task, prepared: Prepared) -> Stage:
    """What decides the weights of one network; of one on all rows it follows from the folds, which are trained before."""
    config, weights = task.config, task.config.model.weights
    if weights not in (None, "hub"):
        weights = _weights_digest(task, Path(weights))
    inputs = {
        "target": [prepared.target.task, prepared.classes],
        "folds": prepared.folds_digest,
        "pixels": prepared.cache_digest["train"],
        "extra": [prepared.cache_digest["extra"], digest_table(prepared.extra_without(task.hidden))] if len(prepared.extra) else None,
        "weights": weights,
        "seed": task.seed,
        "fold": task.fold,
    }
    if task.also_hidden is not None:
        inputs["also_hidden"] = task.also_hidden
    if task.fold == FULL:
        inputs["stop_after"] = _shown_epochs(task)
    if config.chooses_by_score:
        inputs["metric"] = config.competition.metric
    settings = _training_settings(config)
    if prepared.lessons is not None and config.teacher is not None:
        settings["teacher"] = config.teacher.model_dump(mode="json")
        inputs["lessons"] = prepared.lessons.digests[task.folder]
    return replace(define_stage("train", settings, **inputs), decisive=_training_settings(config, exclude_defaults=True))


def _shown_epochs(task: Task) -> int:
    """For how many epochs to train on all rows: the rounded mean of those that the folds of the same seed were trained for."""
    folds = [fold_folder(other) / "manifest.json" for other in fold_tasks(task.config) if other.seed == task.seed]
    manifests = [manifest for path in folds if (manifest := Manifest.read(path))]
    assert len(manifests) == len(folds), "the folds are trained before the network on all rows"
    epochs = [int(manifest.record["epochs"]) for manifest in manifests]
    return max(1, round(sum(epochs) / len(epochs)))


def _training_settings(config: Config, exclude_defaults: bool = False) -> dict[str, Any]:
    """The sections that decide a network's weights, without the keys that do not.

    Only what differs from its default enters the fingerprint, so that a key added to the program leaves
    trained networks valid. Whoever changes a default raises STAGE_VERSION["train"].
    """
    keys: dict[str, Any] = dict.fromkeys(("augment", "loss", "optimizer", "schedule"), True)
    keys |= {
        "images": set(Images.model_fields) - {"cache_size", "corrupt"},
        "model": set(Model.model_fields) - {"weights"},
        "train": set(Train.model_fields) - {"seeds", "full_data"},
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


def _replaced(tasks: Sequence[Task]) -> list[Path]:
    """Folders of the networks, and with an experiment's folds all that follows from them: its nested teachers, its networks on all rows."""
    folders = {fold_folder(task) for task in tasks}
    seeds = {fold_folder(task).parent for task in tasks if task.fold != FULL and task.also_hidden is None}
    return sorted(folders | {old for seed in seeds for pattern in ("folds_*", "all") for old in seed.glob(pattern)})


def remove_network(folder: Path) -> None:
    """Deletes a network, and how it was trained."""
    with lock(folder / ".lock", wait=f"train: waiting for another process in {folder}"):
        (folder / "manifest.json").unlink(missing_ok=True)
        for path in (*folder.glob("*.pt"), folder / "history.csv"):
            path.unlink(missing_ok=True)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)


def _refuse_changed(task: Task, stage: Stage) -> None:
    """A changed config never overwrites a trained fold."""
    folder = fold_folder(task)
    manifest = Manifest.read(folder / "manifest.json")
    if manifest is None or manifest.fingerprint == stage.fingerprint:
        return
    refuse_changed(folder, {**manifest.settings, **manifest.inputs}, {**stage.settings, **stage.inputs})


def check_before(config: Config, prepared: Prepared, tasks: Sequence[Task]) -> None:
    """Faults that every network would meet, and damaged lessons, found once before the first one starts; downloads weights from the hub."""
    from pipeline.runtime import devices, stay_offline_without_network

    if config.model.weights == "hub":
        stay_offline_without_network()
    from pipeline.augment.transforms import Transforms
    from pipeline.training.losses import build_loss
    from pipeline.training.models import build_model, check_output, head_names
    from pipeline.training.optim import build_optimizer

    devices(config.runtime.device)
    Transforms(config.augment.train).check(_extreme_shapes(prepared.rows, config.images.cache_size))
    model = build_model(config.model, len(prepared.classes), seed=0)
    check_output(model, config.images.shape, len(prepared.classes))
    build_optimizer(config.optimizer, model, head_names(model))
    build_loss(config.loss, prepared.target.task, learned(prepared, tasks[0])[1], len(prepared.classes))
    if prepared.lessons is not None:
        for network in {task.folder for task in tasks}:
            load_lesson(prepared.lessons, network)


def _extreme_shapes(rows: pd.DataFrame, size: int) -> list[tuple[int, int]]:
    """Height and width, in the cache, of the lowest, narrowest, and largest training pictures."""
    from pipeline.data.images import cached_shape

    readable = rows[(rows["split"] == "train") & (rows["problem"] == "")]
    shapes = {cached_shape(height, width, size) for height, width in zip(readable["height"], readable["width"], strict=True)}
    return [min(shapes), min(shapes, key=lambda shape: shape[1]), max(shapes, key=lambda shape: shape[0] * shape[1])]


def train_fold(prepared: Prepared, task: Task, device: str, *, wait: bool, again: bool = False, watch: "Watch | None" = None) -> bool:
    """Trains one fold on a device, or takes it over unless it is wanted `again`; False if another process has claimed it and `wait` is false."""
    folder, stage = fold_folder(task), train_stage(task, prepared)
    with lock(folder / ".lock", wait=f"train: waiting for another process in {folder}" if wait else None) as held:
        if not held:
            return False
        if finished(stage, folder / "manifest.json") is None:
            _refuse_changed(task, stage)
            if not again and (other := borrow(folder, stage, task.config.competition.metric, optimistic(task.config, prepared.lessons))):
                log.info("train     %s: the same as in experiment %s, taken over", task.name, other)
                return True
            manifest = build_stage(stage, folder / "manifest.json", functools.partial(_fit, prepared, task, device, stage, watch))
            log.info("train     %s: %s", task.name, _how_it_went(task, prepared, manifest.record))
    return True


def _how_it_went(task: Task, prepared: Prepared, record: Mapping[str, Any]) -> str:
    if task.fold == FULL:
        return f"{record['epochs']} epochs, as the folds, {record['seconds']:.0f} s"
    score = "not defined on its held-out rows" if record["score"] is None else f"{record['score']:.4f}"
    return f"{task.config.competition.metric} {score}, {record['seconds']:.0f} s{mark(optimistic(task.config, prepared.lessons))}"


def _fit(prepared: Prepared, task: Task, device_name: str, stage: Stage, watch: "Watch | None") -> tuple[str, dict[str, Any]]:
    """Builds model, loaders and trainer of a fold; returns the digest of the weights and how it went."""
    import torch

    from pipeline.runtime import integer_seed, start_torch
    from pipeline.training.checkpoint import digest_weights
    from pipeline.training.datasets import Normalise
    from pipeline.training.engine import Trainer
    from pipeline.training.fold import Place, Recipe
    from pipeline.training.models import build_model

    config, device = task.config, torch.device(device_name)
    start_torch(config.runtime.threads, device_name)
    model = build_model(config.model, len(prepared.classes), integer_seed("initialise", task.seed, task.number))
    recipe = Recipe(config.augment, config.loss, config.optimizer, config.schedule, config.train)
    place = Place(
        seed=task.seed,
        fold=task.number,
        folder=fold_folder(task),
        fingerprint=stage.fingerprint,
        settings={**stage.settings, **stage.inputs},
        checkpoint_minutes=config.runtime.checkpoint_minutes,
        compile=config.runtime.compile,
        title=task.name,
    )
    normalise = Normalise(config.images, device, config.train.channels_last)
    trainer = Trainer(model, fold_data(prepared, task, device), recipe, normalise, place, device, stage.inputs.get("stop_after"), watch)
    weights = trainer.run()
    return digest_weights(weights), {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": device_name,
        "threads": config.runtime.threads,
        "compile": config.runtime.compile,
        "precision": str(trainer.autocast or torch.float32),
        "metric": config.competition.metric,
        "optimistic": list(optimistic(config, prepared.lessons)),
        "versions": {"torch": torch.__version__, "numpy": np.__version__},
        **trainer.record,
    }
