"""Training one fold, resumable at any moment with the same result.

How a run resumes, in four cases:
1. A manifest with today's fingerprint: the fold is done and this module is not called.
2. A checkpoint with today's fingerprint: training goes on after the batch that it was saved at.
3. A checkpoint with another fingerprint: refused, with the settings that differ.
4. No readable checkpoint: training starts at the first batch.
Every random draw follows from (seed, fold, epoch, batch), so that cases 2 and 4 end in the same bits.
"""

import itertools
import json
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from pipeline.artifacts import refuse_changed
from pipeline.augment.mixing import mix
from pipeline.config import Augment, Loss, Optimizer, Schedule, Train
from pipeline.data.targets import Numbers, Target
from pipeline.errors import RunFailed
from pipeline.runtime import autocast_dtype, integer_seed, stream
from pipeline.training.checkpoint import load_checkpoint, save_checkpoint
from pipeline.training.datasets import Batch, EpochBatches, Normalise
from pipeline.training.evaluate import mean_predictions
from pipeline.training.history import History
from pipeline.training.losses import build_loss
from pipeline.training.metrics import METRICS, general_loss
from pipeline.training.optim import LearningRate, build_ema, build_optimizer
from pipeline.training.outputs import Outputs, soft_targets

log = logging.getLogger(__name__)
CHECK_EVERY = 50  # batches between looks at the device for a loss that is not finite
SAY_EVERY = 30.0  # seconds between lines of progress


@dataclass(frozen=True)
class Recipe:
    """The config's sections that decide how the weights move."""

    augment: Augment
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    train: Train


@dataclass(frozen=True)
class FoldData:
    """What a fold is trained and looked at with. Targets are as `Target.numbers` gives them, one per row of its loader."""

    batches: EpochBatches
    train: DataLoader[Batch]
    train_targets: Numbers
    valid: DataLoader[Batch]
    valid_targets: Numbers
    target: Target
    outputs: Outputs
    metric: str


@dataclass(frozen=True)
class Place:
    """Which fold this is and where it is kept; fingerprint and settings guard the checkpoint."""

    seed: int
    fold: int
    folder: Path
    fingerprint: str
    settings: Mapping[str, Any]
    checkpoint_minutes: float = 10.0

    @property
    def name(self) -> str:
        """The fold in words."""
        return f"seed {self.seed} fold {self.fold}"


class Trainer:
    """Trains one fold from its start or from its checkpoint; `run` returns the weights to predict with."""

    def __init__(self, model: torch.nn.Module, data: FoldData, recipe: Recipe, normalise: Normalise, place: Place, device: torch.device) -> None:
        memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
        self.model = model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        self.data, self.recipe, self.normalise, self.place, self.device = data, recipe, normalise, place, device
        self.targets = data.outputs.learn(data.train_targets).to(device)
        self.loss = build_loss(recipe.loss, data.target.task)
        self.optimizer = build_optimizer(recipe.optimizer, self.model)
        self.ema = build_ema(recipe.train.ema, self.model)
        self.autocast = autocast_dtype(recipe.train.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast == torch.float16)
        self.updates_per_epoch = math.ceil(len(data.batches) / recipe.train.accumulation)
        self.learning_rate = LearningRate(recipe.schedule, recipe.optimizer.learning_rate, self.optimizer, recipe.train.epochs, self.updates_per_epoch)
        self.history = History(place.folder, data.metric)
        self.epoch = 0
        self.batch = 0  # batches of this epoch that are done
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.bad_batch = torch.full((), -1, dtype=torch.int64, device=device)
        self.saved = time.monotonic()

    @property
    def averaged(self) -> torch.nn.Module:
        """The network to predict with: the moving average if there is one."""
        model: torch.nn.Module = self.model if self.ema is None else self.ema.module
        return model

    def run(self) -> dict[str, torch.Tensor]:
        """Trains to the last epoch; the weights are those of the last checkpoint, chosen by nothing."""
        self._resume()
        total = self.recipe.train.epochs * len(self.data.batches)
        done = self.epoch * len(self.data.batches) + self.batch
        said = time.monotonic()
        with tqdm(total=total, initial=done, desc=self.place.name, unit="batch", leave=False, delay=2, disable=None) as bar:
            while self.epoch < self.recipe.train.epochs:
                self._train_epoch(bar)
                row = self._finish_epoch()
                bar.set_postfix({"loss": f"{row['train_loss']:.3f}", self.data.metric: f"{row[self.data.metric]:.4f}"})
                if time.monotonic() - said > SAY_EVERY and self.epoch < self.recipe.train.epochs:
                    said = time.monotonic()
                    log.info("train     %s: epoch %d of %d, %s", self.place.name, self.epoch, self.recipe.train.epochs, self.history.last_line())
        self.history.write_table()
        return dict(self.averaged.state_dict())

    def _train_epoch(self, bar: "tqdm[Any]") -> None:
        self.model.train()
        self.data.batches.epoch, self.data.batches.first_batch = self.epoch, self.batch
        groups = itertools.groupby(enumerate(self.data.train, start=self.batch), lambda pair: pair[0] // self.recipe.train.accumulation)
        for update, group in groups:
            first = update * self.recipe.train.accumulation
            size = min(self.recipe.train.accumulation, len(self.data.batches) - first)
            self.learning_rate.set(self.epoch * self.updates_per_epoch + update)
            for number, (pixels, rows) in group:
                self._backward(pixels, rows, number, size)
                bar.update()
            self._update(self.epoch * self.updates_per_epoch + update)
            self.batch = first + size
            if self.batch % CHECK_EVERY < size:
                self._refuse_non_finite()
            if time.monotonic() - self.saved > 60 * self.place.checkpoint_minutes:
                self._refuse_non_finite()
                self._save()

    def _backward(self, pixels: torch.Tensor, rows: torch.Tensor, number: int, group_size: int) -> None:
        place = (self.place.seed, self.place.fold, self.epoch, number)
        images = self.normalise(pixels)
        targets = soft_targets(self.targets[rows.to(self.device)], len(self.data.target.classes))
        if self.epoch < self.recipe.train.epochs - self.recipe.augment.mixing.off_epochs:
            images, targets = mix(images, targets, self.recipe.augment.mixing, stream("mix", *place))
        torch.manual_seed(integer_seed("dropout", *place))
        with torch.autocast(self.device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None):
            logits = self.model(images)
        loss = self.loss(logits.float(), targets)
        self.scaler.scale(loss / group_size).backward()
        found = loss.detach()
        self.loss_sum += found.double()
        self.bad_batch = torch.where((self.bad_batch < 0) & ~torch.isfinite(found), number, self.bad_batch)

    def _update(self, number: int) -> None:
        self.scaler.unscale_(self.optimizer)
        if self.recipe.train.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=number + 1)

    def _finish_epoch(self) -> dict[str, float]:
        self._refuse_non_finite()
        data = self.data
        values = mean_predictions(self.averaged, data.valid, self.normalise, data.outputs, self.autocast)
        row = {
            "epoch": self.epoch + 1,
            "learning_rate": max(float(group["lr"]) for group in self.optimizer.param_groups),
            "train_loss": float(self.loss_sum) / len(self.data.batches),
            "valid_loss": general_loss(data.target.task)(data.valid_targets, values),
            data.metric: METRICS[data.metric](data.target, data.valid_targets, values),
        }
        self.history.add(row)
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum.zero_()
        self._save()
        self.history.write()
        return row

    def _refuse_non_finite(self) -> None:
        if (batch := int(self.bad_batch)) >= 0:
            rate = self.learning_rate.set(self.epoch * self.updates_per_epoch + batch // self.recipe.train.accumulation)
            raise RunFailed(
                f"{self.place.name}: the loss is not finite at epoch {self.epoch + 1}, batch {batch + 1}, learning rate {rate:.3g};"
                " the last good checkpoint is kept. Lower optimizer.learning_rate, or write train.precision=fp32"
            )

    def _save(self) -> None:
        state = {
            "fingerprint": self.place.fingerprint,
            "settings": json.dumps(self.place.settings),
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "history": self.history.rows,
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        save_checkpoint(self.place.folder, state)
        self.saved = time.monotonic()

    def _resume(self) -> None:
        state = load_checkpoint(self.place.folder)
        if state is None:
            return
        if state["fingerprint"] != self.place.fingerprint:
            refuse_changed(self.place.folder, json.loads(state["settings"]), self.place.settings)
        self.model.load_state_dict(state["model"])
        if self.ema is not None:
            self.ema.module.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.loss_sum.copy_(state["loss_sum"])
        self.history.restore(state["history"])
        log.info("train     %s: resumes after epoch %d, batch %d", self.place.name, self.epoch, self.batch)
