"""Optimiser, schedule and moving average: timm's, built from the config."""

import torch
from timm.optim._optim_factory import create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.utils.model_ema import ModelEmaV3

from pipeline.config import Optimizer, Schedule, call_arguments
from pipeline.errors import UserError, did_you_mean


def build_optimizer(section: Optimizer, model: torch.nn.Module) -> torch.optim.Optimizer:
    """timm's optimiser by name; weight decay spares norms and biases. UserError for a bad name or argument."""
    known = [str(name) for name in list_optimizers()]
    if section.name not in known:
        raise UserError(f'optimizer.name: timm has no "{section.name}"{did_you_mean(section.name, known)}')
    if get_optimizer_info(section.name).second_order:
        raise UserError(f'optimizer.name: "{section.name}" needs second derivatives, which the training loop does not take; write e.g. adamw')
    try:
        return create_optimizer_v2(
            model,
            opt=section.name,
            lr=section.learning_rate,
            weight_decay=section.weight_decay,
            layer_decay=section.layer_decay,
            **call_arguments(section.arguments),
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"optimizer: {section.name}: {' '.join(str(error).split())}") from None


class LearningRate:
    """The schedule in updates; a function of the update's number alone, so that a resume needs no state."""

    def __init__(self, section: Schedule, peak: float, optimizer: torch.optim.Optimizer, epochs: int, updates_per_epoch: int) -> None:
        total = epochs * updates_per_epoch
        warmup = min(round(section.warmup_epochs * updates_per_epoch), total - 1)
        self._optimizer = optimizer
        self._schedule = CosineLRScheduler(
            optimizer,
            t_initial=total - warmup,
            lr_min=section.final_share * peak,
            warmup_t=warmup,
            warmup_lr_init=peak / (warmup + 1),
            warmup_prefix=True,
            t_in_epochs=False,
        )

    def set(self, update: int) -> float:
        """Sets the rates for update number `update`, from 0; returns the highest."""
        self._schedule.step_update(update)
        return max(float(group["lr"]) for group in self._optimizer.param_groups)


def build_ema(decay: float | None, model: torch.nn.Module) -> ModelEmaV3 | None:
    """Moving average of weights and BatchNorm statistics, its decay rising towards `decay`."""
    return None if decay is None else ModelEmaV3(model, decay=decay, use_warmup=True)
