"""Training one fold, resumable at any moment with the same result.

How a run resumes, in four cases:
1. A manifest with today's fingerprint: the fold is done and this module is not called.
2. A checkpoint with today's fingerprint: training goes on after the batch that it was saved at.
3. A checkpoint with another fingerprint: refused, with the settings that differ.
4. No readable checkpoint: training starts at the first batch.
Every random draw follows from (seed, fold, epoch, batch), so that cases 2 and 4 end in the same bits.
"""

import copy
import itertools
import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from tqdm.auto import tqdm

from pipeline.artifacts import refuse_changed
from pipeline.augment.mixing import mix
from pipeline.errors import RunFailed, UserError
from pipeline.runtime import CtrlC, Interrupted, autocast_dtype, integer_seed, is_out_of_memory, stream
from pipeline.training.checkpoint import LAST, load_checkpoint, save_checkpoint
from pipeline.training.datasets import Batch, Normalise, on_device
from pipeline.training.fold import FoldData, Place, Recipe
from pipeline.training.held_out import HeldOut
from pipeline.training.history import History
from pipeline.training.losses import build_loss
from pipeline.training.metrics import METRICS
from pipeline.training.models import head_names
from pipeline.training.optim import build_ema, build_optimizer
from pipeline.training.outputs import soft_targets
from pipeline.training.schedules import LearningRate, check_durations, in_updates
from pipeline.training.selection import Candidates, Weights, out_of_patience, signed
from pipeline.training.steps import Gradients
from pipeline.training.surgery import freeze_backbone, train_mode, use_gradient_checkpointing

log = logging.getLogger(__name__)
CHECK_EVERY = 50  # batches between looks at the device for a loss that is not finite
SAY_EVERY = 30.0  # seconds between lines of progress
Watch = Callable[[Mapping[str, float]], None]


class Trainer:
    """Trains one fold from its start or from its checkpoint; `run` returns the weights to predict with.

    stop_after: epochs of the schedule that are trained; None: all. watch: is told each epoch's row, of a resumed run every epoch once more,
    and may raise Stopped, whereupon the checkpoint stays.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        data: FoldData,
        recipe: Recipe,
        normalise: Normalise,
        place: Place,
        device: torch.device,
        stop_after: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        section = recipe.train
        memory_format = torch.channels_last if section.channels_last else torch.contiguous_format
        self.model = model.to(device, memory_format=memory_format)  # type: ignore[call-overload]
        if section.gradient_checkpointing:
            use_gradient_checkpointing(self.model)
        self.data, self.recipe, self.normalise, self.place, self.device = data, recipe, normalise, place, device
        self.watch: Watch = watch or (lambda row: None)
        self.head = head_names(self.model)
        self.epochs = section.epochs if stop_after is None else stop_after
        self.targets = data.outputs.learn(data.train_targets).to(device)
        self.optimizer = build_optimizer(recipe.optimizer, self.model, self.head, device.type)
        self.ema = build_ema(section.ema, self.model)
        self.autocast = autocast_dtype(section.precision, device)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.autocast == torch.float16)
        loss = build_loss(recipe.loss, data.target.task, data.train_targets, len(data.target.classes)).to(device)
        self.gradients = Gradients(self.model, loss, self.optimizer, self.scaler, device, self.autocast, section.batch_size)
        if place.compile:
            self.gradients.forward = torch.compile(self.model)
        self.updates_per_epoch = math.ceil(len(data.batches) / section.accumulation)
        self.learning_rate = LearningRate(recipe.schedule, recipe.optimizer.learning_rate, self.optimizer, section.epochs, self.updates_per_epoch)
        self.frozen_updates = in_updates(section.freeze, section.epochs, self.updates_per_epoch)
        check_durations(recipe.schedule, section, self.updates_per_epoch)
        if self.frozen_updates and not self.head:
            raise UserError("train.freeze: the network has no head that is known; write train.freeze=0")
        self.source: Iterable[Batch] = data.train
        self.history = History(place.folder, data.metric)
        self.candidates = Candidates.of(section, place.folder, scored=data.valid is not None)
        self.chosen: tuple[Weights, list[int], float] | None = None  # weights, their epochs, their score
        self.epoch = 0
        self.batch = 0  # batches of this epoch that are done
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.bad_batch = torch.full((), -1, dtype=torch.int64, device=device)
        self.saved = time.monotonic()
        self.ctrl_c = CtrlC()
        self.held_out = HeldOut(data, normalise, device, self.autocast, self.ctrl_c, self.gradients.parts)

    @property
    def averaged(self) -> torch.nn.Module:
        """The network to look at: the moving average if there is one."""
        model: torch.nn.Module = self.model if self.ema is None else self.ema.module
        return model

    @property
    def scores(self) -> list[float]:
        """The metric by epoch, more is better."""
        return signed(self.history.rows, self.data.metric, METRICS[self.data.metric].sign)

    @property
    def done(self) -> bool:
        """Whether the last epoch is trained."""
        return self.epoch >= self.epochs or (self.data.valid is not None and out_of_patience(self.scores, self.recipe.train.patience))

    @property
    def record(self) -> dict[str, Any]:
        """How it went: score of the weights returned, None where there is none; epochs they were trained for, which epochs are in them;
        the micro-batch, and those that memory did not suffice for."""
        score = self.history.rows[-1].get(self.data.metric, math.nan)
        record: dict[str, Any] = {"epochs": self.epoch, "micro_batch": self.gradients.micro_batch, "out_of_memory": self.gradients.halvings}
        if self.chosen is not None:
            _, epochs, score = self.chosen
            record |= {"epochs": max(epochs) + 1, "epochs_chosen": [epoch + 1 for epoch in epochs]}
        return {"score": score if math.isfinite(score) else None, **record}

    def run(self) -> Weights:
        """Trains to the last epoch and chooses the weights as `train.checkpoint` says."""
        self._resume()
        try:
            with self.ctrl_c:
                self._train()
                self._choose()
        except Interrupted:
            self._save_what_is_sound()
            raise
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise RunFailed("out of memory outside the training step; write a smaller images.size or model.backbone") from None
        self.history.write_table()
        return dict(self.averaged.state_dict()) if self.chosen is None else self.chosen[0]

    def _train(self) -> None:
        total = self.epochs * len(self.data.batches)
        position = self.epoch * len(self.data.batches) + self.batch
        said = time.monotonic()
        for row in self.history.rows:
            self.watch(row)
        with tqdm(total=total, initial=position, desc=self.place.name, unit="batch", leave=False, delay=2, disable=None) as bar:
            while not self.done:
                self.train_epoch(bar)
                row = self._finish_epoch()
                self.watch(row)
                bar.set_postfix({"loss": f"{row['train_loss']:.3f}", self.data.metric: f"{row[self.data.metric]:.4f}"})
                if time.monotonic() - said > SAY_EVERY and not self.done:
                    said = time.monotonic()
                    log.info("train     %s: epoch %d of %d, %s", self.place.name, self.epoch, self.epochs, self.history.last_line())

    def train_epoch(self, bar: "tqdm[Any] | None" = None) -> None:
        """Trains on what is left of the epoch `self.epoch` after `self.batch` batches."""
        first_update = self.epoch * self.updates_per_epoch
        self._set_frozen(first_update + self.batch // self.recipe.train.accumulation)
        for update, group in itertools.groupby(self._batches(), lambda pair: pair[0] // self.recipe.train.accumulation):
            batches = dict(group)
            self._step(first_update + update, batches)
            if bar is not None:
                bar.update(len(batches))
            self.batch = max(batches) + 1
            if self.batch % CHECK_EVERY < len(batches):
                self._refuse_non_finite()
            if time.monotonic() - self.saved > 60 * self.place.checkpoint_minutes:
                self._refuse_non_finite()
                self._save()
            self.ctrl_c.stop_if_asked()

    def _batches(self) -> Iterator[tuple[int, Batch]]:
        """What is left of this epoch, numbered."""
        self.data.batches.epoch, self.data.batches.first_batch = self.epoch, self.batch
        return enumerate(on_device(self.source, self.device), start=self.batch)

    def _set_frozen(self, update: int) -> None:
        frozen = update < self.frozen_updates
        freeze_backbone(self.model, self.head, frozen)
        train_mode(self.model, self.head, frozen)

    def _step(self, update: int, batches: Mapping[int, Batch]) -> None:
        if update == self.frozen_updates:
            self._set_frozen(update)
        self.learning_rate.set(update)
        losses = self.gradients.of(list(batches), lambda number: self._prepare(number, *batches[number]))
        for number, loss in zip(batches, losses, strict=True):
            self.loss_sum += loss.double()
            self.bad_batch = torch.where((self.bad_batch < 0) & ~torch.isfinite(loss), number, self.bad_batch)
        self.scaler.unscale_(self.optimizer)
        if self.recipe.train.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.train.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=update + 1)

    def _prepare(self, number: int, pixels: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        place = (self.place.seed, self.place.fold, self.epoch, number)
        images = self.normalise(pixels)
        targets = soft_targets(self.targets[rows.to(self.device)], len(self.data.target.classes))
        if self.epoch < self.recipe.train.epochs - self.recipe.augment.mixing.off_epochs:
            images, targets = mix(images, targets, self.recipe.augment.mixing, stream("mix", *place))
        torch.manual_seed(integer_seed("dropout", *place))
        return images, targets

    def _finish_epoch(self) -> dict[str, float]:
        self._refuse_non_finite()
        score, valid_loss = self.held_out.look_at(self.averaged)
        if self.data.valid is not None and not math.isfinite(valid_loss):
            raise RunFailed(self._not_finite("the prediction of a held-out row", len(self.data.batches) - 1))
        row = {
            "epoch": self.epoch + 1,
            "learning_rate": max(float(group["lr"]) for group in self.optimizer.param_groups),
            "train_loss": float(self.loss_sum) / len(self.data.batches),
            "valid_loss": valid_loss,
            self.data.metric: score,
        }
        self.history.add(row)
        self.learning_rate.note(-row["train_loss"] if self.data.valid is None else self.scores[-1])
        self.candidates.note(self.scores, self.averaged.state_dict())
        self.epoch, self.batch = self.epoch + 1, 0
        self.loss_sum.zero_()
        self._save()
        self.candidates.prune(self.scores)
        self.history.write()
        return row

    def _choose(self) -> None:
        """Fixes the weights to predict with, once, in the checkpoint."""
        if self.chosen is not None:
            return
        network = copy.deepcopy(self.averaged)
        found = self.candidates.choose(self.scores, lambda weights: self.held_out.score_of(network, weights, self.recipe.train.epochs))
        if found is None:
            return
        weights, epochs, score = found
        self.chosen = weights, epochs, METRICS[self.data.metric].sign * score
        self._save()
        log.info("train     %s: predicts with epochs %s", self.place.name, ", ".join(str(epoch + 1) for epoch in epochs))

    def _save_what_is_sound(self) -> None:
        """After Ctrl-C: a checkpoint, unless the loss or the weights are not finite."""
        try:
            self._refuse_non_finite()
        except RunFailed as problem:
            log.warning("train     %s: %s", self.place.name, problem)
            return
        self._save()
        where = "with the weights still to choose" if self.done else f"in epoch {self.epoch + 1} after {self.batch} of {len(self.data.batches)} batches"
        log.info("train     %s: saved %s", self.place.name, where)

    def _refuse_non_finite(self) -> None:
        """RunFailed if a loss since the last look was not finite, or a weight is not now."""
        if (batch := int(self.bad_batch)) >= 0:
            raise RunFailed(self._not_finite("the loss", batch))
        if not bool(torch.stack(torch._foreach_norm([weight.detach() for weight in self.model.parameters()])).isfinite().all()):
            raise RunFailed(self._not_finite("a weight", max(self.batch - 1, 0)))

    def _not_finite(self, what: str, batch: int) -> str:
        rate = self.learning_rate.set(self.epoch * self.updates_per_epoch + batch // self.recipe.train.accumulation)
        kept = "; the last good checkpoint is kept" if (self.place.folder / LAST).exists() else ""
        advice = "Lower optimizer.learning_rate" + (", or write train.precision=fp32" if self.autocast else "")
        return f"{what} is not finite at epoch {self.epoch + 1}, batch {batch + 1}, learning rate {rate:.3g}{kept}. {advice}"

    def _save(self) -> None:
        state = {
            "fingerprint": self.place.fingerprint,
            "settings": json.dumps(self.place.settings),
            "epoch": self.epoch,
            "batch": self.batch,
            "loss_sum": self.loss_sum,
            "history": self.history.rows,
            "learning_rate": self.learning_rate.state(),
            "micro_batch": self.gradients.micro_batch,
            "out_of_memory": self.gradients.halvings,
            "model": self.model.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "chosen": None if self.chosen is None else self.chosen[0],
            "chosen_epochs": None if self.chosen is None else self.chosen[1:],
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
        self.learning_rate.restore(state["learning_rate"])
        self.gradients.micro_batch, self.gradients.halvings = state["micro_batch"], state["out_of_memory"]
        if state["chosen"] is not None:
            self.chosen = (state["chosen"], *state["chosen_epochs"])
        log.info("train     %s: resumes after epoch %d, batch %d", self.place.name, self.epoch, self.batch)
