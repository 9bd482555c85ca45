"""The predict stage: what an experiment's networks say of the rows they did not see."""

import logging
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm.auto import tqdm

from pipeline.artifacts import Manifest, run_stage
from pipeline.config import Config
from pipeline.ensembling.scores import cross_validation, describe
from pipeline.ensembling.weights import blend
from pipeline.errors import UserError
from pipeline.executor import Task
from pipeline.files import digest, digest_table, write_json
from pipeline.inference.tta import view_names
from pipeline.predictions import TEST, Predictions, align, concatenate
from pipeline.stages.prepare import Prepared, workspace
from pipeline.stages.train import fold_folder, learned_targets
from pipeline.stages.versions import define_stage

if TYPE_CHECKING:
    from pipeline.inference.predict import Predictor

log = logging.getLogger(__name__)


def predict(config: Config, prepared: Prepared, tasks: list[Task], force: bool = False) -> Path:
    """Out-of-fold and test predictions of every trained network, and their CV; returns the folder."""
    networks = {f"seed_{task.seed}_fold_{task.fold}": _trained(task).digest for task in tasks}
    images = config.images.model_dump(mode="json", exclude={"cache_size", "corrupt"})
    settings = {"views": view_names(config.predict.tta), "images": images, "precision": config.train.precision}
    test_rows = prepared.rows.loc[prepared.rows["split"] == "test", ["id", "problem"]]
    inputs = {"pixels": prepared.cache_digest, "test": digest_table(test_rows), "metric": config.competition.metric}
    stage = define_stage("predict", settings, networks=networks, **inputs)
    words = config.predict.tta if isinstance(config.predict.tta, str) else f"{len(config.predict.tta)}views"
    folder = workspace(config).predictions(config.experiment, stage.key(words))

    def build() -> tuple[str, dict[str, Any]]:
        for task in tasks if force else []:
            for part in ("oof", "test"):
                shutil.rmtree(piece_folder(folder, task, part), ignore_errors=True)
        bar = tqdm(tasks, desc="predict", unit="network", leave=False, delay=2, disable=None)
        pieces = [_predict_or_load(config, prepared, task, folder) for task in bar]
        score = cross_validation(seed_mean([piece for piece, _ in pieces]), prepared.target, prepared.truth, config.competition.metric)
        write_json(folder / "cv.json", score)
        log.info("predict   %s: CV %s -> %s", config.experiment, describe(score), folder)
        return digest([part.digest() for pair in pieces for part in pair]), {"cv": score["cv"]}

    run_stage(stage, folder, build, force)
    return folder


def _trained(task: Task) -> Manifest:
    manifest = Manifest.read(fold_folder(task) / "manifest.json")
    assert manifest is not None, f"{task} is trained before it predicts"
    return manifest


def _predict_or_load(config: Config, prepared: Prepared, task: Task, folder: Path) -> tuple[Predictions, Predictions]:
    """A network's out-of-fold and test predictions; what an earlier, killed run finished is taken as it is."""
    try:
        return load_piece(folder, task, "oof"), load_piece(folder, task, "test")
    except FileNotFoundError:
        return _predict_task(_predictor(config, prepared), prepared, task, folder)


def load_piece(folder: Path, task: Task, part: str) -> Predictions:
    """Predictions of one network; part: oof or test. FileNotFoundError where they are not complete."""
    return Predictions.load(piece_folder(folder, task, part))


def piece_folder(folder: Path, task: Task, part: str) -> Path:
    """Where one network's predictions lie."""
    return folder / f"seed_{task.seed}_fold_{task.fold}_{part}"


def seed_mean(parts: list[Predictions]) -> Predictions:
    """All out-of-fold rows of an experiment; a row that several seeds predicted gets their mean."""
    seeds: dict[int, list[Predictions]] = {}
    for part in parts:
        fold = int(part.fold[0])
        seeds.setdefault(fold, []).append(part)
    folds = [align(group) for _, group in sorted(seeds.items())]
    weights = np.full(len(folds[0]), 1 / len(folds[0]))
    return concatenate([replace(group[0], values=blend([part.values for part in group], weights)) for group in folds])


def _predictor(config: Config, prepared: Prepared) -> "Predictor":
    import torch

    from pipeline.data.cache import ImageCache
    from pipeline.inference.predict import Predictor
    from pipeline.runtime import autocast_dtype, devices, start_torch

    device = torch.device(devices(config.runtime.device)[0])
    start_torch(config.runtime.threads, device.type)
    return Predictor(
        cache=ImageCache(prepared.cache, prepared.pictures),
        images=config.images,
        section=config.predict,
        classes=prepared.classes,
        device=device,
        autocast=autocast_dtype(config.train.precision, device),
        workers=config.runtime.workers,
    )


def _predict_task(predictor: "Predictor", prepared: Prepared, task: Task, folder: Path) -> tuple[Predictions, Predictions]:
    from pipeline.inference.predict import with_shares
    from pipeline.training.checkpoint import digest_weights, load_checkpoint
    from pipeline.training.models import build_model
    from pipeline.training.outputs import Outputs

    state = load_checkpoint(fold_folder(task)) or {"model": {}, "ema": None}
    weights = state["model"] if state["ema"] is None else state["ema"]
    if digest_weights(weights) != _trained(task).digest:
        raise UserError(f"{fold_folder(task)}: last.pt is damaged or not the one that training ended with; write --force train")
    model = build_model(task.config.model.model_copy(update={"weights": None}), len(prepared.classes), seed=0)
    model.load_state_dict(weights)
    model = model.to(predictor.device)
    held_out = prepared.folds.loc[prepared.folds["fold"] == task.fold, "id"].tolist()
    outputs = Outputs.of(prepared.target.task, learned_targets(prepared, task))
    out_of_fold = predictor(model, outputs, "train", held_out, task.fold)
    readable = prepared.ids("test")
    every = prepared.rows.loc[prepared.rows["split"] == "test", "id"].tolist()
    test = predictor(model, outputs, "test", readable, TEST)
    if len(readable) < len(every):
        test = with_shares(test, every, prepared.target.shares(prepared.folds.loc[prepared.folds["fold"] != task.fold, "target"].tolist()))
        log.warning("predict   %d test pictures cannot be read and get the mean of the training targets", len(every) - len(readable))
    out_of_fold.save(piece_folder(folder, task, "oof"))
    test.save(piece_folder(folder, task, "test"))
    return out_of_fold, test
