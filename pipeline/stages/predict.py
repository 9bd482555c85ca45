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
from pipeline.stages.learning import held_out_rows, learned_rows, outputs_of
from pipeline.stages.prepare import Prepared, optimistic, workspace
from pipeline.stages.train import fold_folder
from pipeline.stages.versions import define_stage

if TYPE_CHECKING:
    from pipeline.inference.predict import Predictor

log = logging.getLogger(__name__)


def predict(config: Config, prepared: Prepared, tasks: list[Task], force: bool = False) -> Path:
    """Out-of-fold and test predictions of every trained network, and their CV; returns the folder."""
    networks = {f"seed_{task.seed}_{task.folder}": _trained(task).digest for task in tasks}
    images = config.images.model_dump(mode="json", exclude={"cache_size", "corrupt"})
    settings = {"views": view_names(config.predict.tta), "images": images, "precision": config.train.precision}
    test_rows = prepared.rows.loc[prepared.rows["split"] == "test", ["id", "problem"]]
    inputs = {"pixels": prepared.cache_digest, "test": digest_table(test_rows), "metric": config.competition.metric}
    reasons = optimistic(config, prepared.lessons)
    inputs |= {"optimistic": reasons} if reasons else {}
    stage = define_stage("predict", settings, networks=networks, **inputs)
    words = config.predict.tta if isinstance(config.predict.tta, str) else f"{len(config.predict.tta)}views"
    folder = workspace(config).predictions(config.experiment, stage.key(words))

    def build() -> tuple[str, dict[str, Any]]:
        for task in tasks if force else []:
            for part in ("oof", "test"):
                shutil.rmtree(piece_folder(folder, task, part), ignore_errors=True)
        bar = tqdm(tasks, desc="predict", unit="network", leave=False, delay=2, disable=None)
        pieces = [_predict_or_load(config, prepared, task, folder) for task in bar]
        out_of_fold = seed_mean([piece["oof"] for piece in pieces if "oof" in piece])
        score = cross_validation(out_of_fold, prepared.target, prepared.truth, config.competition.metric, reasons)
        write_json(folder / "cv.json", score)
        log.info("predict   %s: CV %s -> %s", config.experiment, describe(score), folder)
        return digest([part.digest() for piece in pieces for part in piece.values()]), {"cv": score["cv"]}

    run_stage(stage, folder, build, force)
    return folder


def _trained(task: Task) -> Manifest:
    manifest = Manifest.read(fold_folder(task) / "manifest.json")
    assert manifest is not None, f"{task} is trained before it predicts"
    return manifest


def _predict_or_load(config: Config, prepared: Prepared, task: Task, folder: Path) -> dict[str, Predictions]:
    """A network's predictions by part, oof (where it has held-out rows) and test; what an earlier, killed run finished is taken as it is."""
    try:
        return {part: load_piece(folder, task, part) for part in (("oof", "test") if task.hidden else ("test",))}
    except FileNotFoundError:
        pieces = _predict_task(Network(config, prepared, task), folder)
    return pieces


def load_piece(folder: Path, task: Task, part: str) -> Predictions:
    """Predictions of one network; part: oof or test. FileNotFoundError where they are not complete."""
    return Predictions.load(piece_folder(folder, task, part))


def piece_folder(folder: Path, task: Task, part: str) -> Path:
    """Where one network's predictions lie."""
    return folder / f"seed_{task.seed}_{task.folder}_{part}"


def seed_mean(parts: list[Predictions]) -> Predictions:
    """All out-of-fold rows of an experiment; a row that several seeds predicted gets their mean."""
    seeds: dict[int, list[Predictions]] = {}
    for part in parts:
        seeds.setdefault(int(part.fold[0]), []).append(part)
    return concatenate([mean(group) for _, group in sorted(seeds.items())])


def mean(parts: list[Predictions]) -> Predictions:
    """Of several predictions of the same rows."""
    joined = align(parts)
    return replace(joined[0], values=blend([part.values for part in joined], np.full(len(joined), 1 / len(joined))))


class Network:
    """A trained network, ready to predict."""

    def __init__(self, config: Config, prepared: Prepared, task: Task) -> None:
        from pipeline.training.checkpoint import digest_weights, final_weights, load_checkpoint
        from pipeline.training.models import build_model

        self.prepared, self.task, self.predictor = prepared, task, _predictor(config, prepared)
        state = load_checkpoint(fold_folder(task)) or {"model": {}}
        weights = final_weights(state)
        if digest_weights(weights) != _trained(task).digest:
            advice = "delete its manifest.json, to go on from the checkpoint before it, or write --force train"
            raise UserError(f"{fold_folder(task)}: last.pt is damaged or not the one that training ended with; {advice}")
        model = build_model(task.config.model.model_copy(update={"weights": None}), len(prepared.classes), seed=0)
        model.load_state_dict(weights)
        self.model, self.outputs = model.to(self.predictor.device), outputs_of(prepared, task)

    def held_out(self) -> Predictions:
        """Of the rows that it did not see, each with its fold."""
        rows = held_out_rows(self.prepared, self.task)
        found = self.predictor(self.model, self.outputs, "train", rows["id"].tolist(), self.task.fold)
        return replace(found, fold=rows["fold"].to_numpy(dtype=np.int16))

    def test(self) -> Predictions:
        """Of every test row; those whose pictures cannot be read get the mean of the training targets."""
        from pipeline.inference.predict import with_shares

        readable, rows = self.prepared.ids("test"), self.prepared.rows
        every = rows.loc[rows["split"] == "test", "id"].tolist()
        found = self.predictor(self.model, self.outputs, "test", readable, TEST)
        if len(readable) == len(every):
            return found
        log.warning("predict   %d test pictures cannot be read and get the mean of the training targets", len(every) - len(readable))
        return with_shares(found, every, self.prepared.target.shares(learned_rows(self.prepared, self.task)["target"].tolist()))


def _predictor(config: Config, prepared: Prepared) -> "Predictor":
    import torch

    from pipeline.data.cache import ImageCache
    from pipeline.inference.predict import Predictor
    from pipeline.runtime import autocast_dtype, devices, start_torch

    device = torch.device(devices(config.runtime.device)[0])
    start_torch(config.runtime.threads, str(device))
    return Predictor(
        cache=ImageCache(prepared.cache, prepared.pictures),
        images=config.images,
        section=config.predict,
        classes=prepared.classes,
        device=device,
        autocast=autocast_dtype(config.train.precision, device),
        workers=config.runtime.workers,
    )


def _predict_task(network: Network, folder: Path) -> dict[str, Predictions]:
    pieces = {"oof": network.held_out()} if network.task.hidden else {}
    pieces["test"] = network.test()
    for part, found in pieces.items():
        found.save(piece_folder(folder, network.task, part))
    return pieces
