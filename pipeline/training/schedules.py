"""Learning rate schedules and durations, in optimiser updates."""

import math
from typing import Any

import torch
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler
from timm.scheduler.step_lr import StepLRScheduler

from pipeline.config_training import Schedule, Train, in_epochs
from pipeline.errors import UserError

ONE_CYCLE_START = 1 / 25  # share of the peak that one_cycle rises from, as in torch.optim.lr_scheduler.OneCycleLR


def in_updates(duration: float | str, epochs: int, updates_per_epoch: int) -> int:
    """A duration in whole updates of a run of `epochs`; it may be longer than the run."""
    if (number := in_epochs(duration, epochs)) is None:
        return round(float(str(duration).partition("s")[0]))
    return round(number * updates_per_epoch)


def check_durations(schedule: Schedule, train: Train, updates_per_epoch: int) -> None:
    """UserError for a warm-up or freezing that is given in steps and lasts the whole run; in epochs and shares the config refuses it."""
    total = train.epochs * updates_per_epoch
    for key, duration in (("schedule.warmup", schedule.warmup), ("train.freeze", train.freeze)):
        if in_epochs(duration, train.epochs) is None and in_updates(duration, train.epochs, updates_per_epoch) >= total:
            raise UserError(f"{key}: {duration} last as long as the run, which has {total} updates; write fewer, or a share such as 10%")


class LearningRate:
    """The schedule in updates; a function of the update's number alone, but for plateau, which also hears each epoch's score."""

    def __init__(self, section: Schedule, peak: float, optimizer: torch.optim.Optimizer, epochs: int, updates_per_epoch: int) -> None:
        self._section, self._optimizer, self._updates_per_epoch = section, optimizer, updates_per_epoch
        total = epochs * updates_per_epoch
        self._warmup = min(in_updates(section.warmup, epochs, updates_per_epoch), total - 1)
        every = max(1, in_updates(section.every, epochs, updates_per_epoch))
        self._schedule = _build(section, peak, optimizer, total, self._warmup, every)
        self._epochs = 0
        self._best = -math.inf
        self._waited = 0  # epochs in a row without a better score
        self._lowered = 0  # how often plateau has multiplied

    def set(self, update: int) -> float:
        """Sets the rates of all groups for update number `update`, from 0; returns the highest."""
        self._schedule.step_update(update)
        for group in self._optimizer.param_groups:
            group["lr"] *= self._section.factor**self._lowered
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    def note(self, score: float) -> None:
        """Hears the score of the epoch that has ended, more is better; plateau counts those that end after the warm-up."""
        if self._section.name != "plateau":
            return
        self._epochs += 1
        if not math.isfinite(score):
            return  # nothing was measured, so nothing is waited for
        if score > self._best:
            self._best, self._waited = score, 0
        elif self._epochs * self._updates_per_epoch > self._warmup:
            self._waited += 1
        if self._waited >= self._section.patience:
            self._waited, self._lowered = 0, self._lowered + 1

    def state(self) -> dict[str, float | int]:
        """What a checkpoint keeps of the scores heard."""
        return {"epochs": self._epochs, "best": self._best, "waited": self._waited, "lowered": self._lowered}

    def restore(self, state: dict[str, float | int]) -> None:
        """Goes on from a checkpoint's `state`."""
        self._epochs, self._waited, self._lowered = int(state["epochs"]), int(state["waited"]), int(state["lowered"])
        self._best = float(state["best"])


class _OneCycle(CosineLRScheduler):
    """Up along half a cosine, down along half a cosine (arXiv:1708.07120); momentum stays."""

    def _get_lr(self, t: int) -> list[float]:
        if t < self.warmup_t:
            share = (1 - math.cos(math.pi * t / self.warmup_t)) / 2
            return [peak * (ONE_CYCLE_START + (1 - ONE_CYCLE_START) * share) for peak in self.base_values]
        rates: list[float] = super()._get_lr(t)
        return rates


def _build(section: Schedule, peak: float, optimizer: torch.optim.Optimizer, total: int, warmup: int, every: int) -> Scheduler:
    """timm's schedule; the linear warm-up is a line through zero just before the first update and the peak just after the last."""
    rise: dict[str, Any] = {"warmup_t": warmup, "warmup_lr_init": peak / (warmup + 1), "warmup_prefix": True, "t_in_epochs": False}
    if section.name in ("cosine", "one_cycle"):
        kind = CosineLRScheduler if section.name == "cosine" else _OneCycle
        return kind(optimizer, t_initial=total - warmup, lr_min=section.final_share * peak, **rise)
    rate = section.factor if section.name == "step" else 1.0
    return StepLRScheduler(optimizer, decay_t=every, decay_rate=rate, **rise)
