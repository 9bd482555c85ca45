"""Losses by name: each takes logits [B, K] and soft targets [B, K] and returns the batch's mean."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from pipeline.config import CLASS_TASKS, Loss, Task
from pipeline.data.targets import Numbers
from pipeline.errors import UserError, did_you_mean

Weights = torch.Tensor | None


class WeightedCrossEntropy(torch.nn.Module):
    """Cross entropy in which a row of class k, smoothed or not, weighs `weights[k]`; a mixed row what its shares weigh.

    torch weighs the smoothed target: with 10 classes, one of 0.1 % of the rows, balanced weights and a smoothing of 0.1, the share
    that every row spreads over the others would make that one class weigh ten times what each other does.
    """

    weights: torch.Tensor

    def __init__(self, weights: torch.Tensor, smoothing: float) -> None:
        super().__init__()
        self.register_buffer("weights", weights)
        self.smoothing = smoothing

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The batch's mean."""
        weighted = targets * self.weights
        spread = weighted.sum(dim=1, keepdim=True) / targets.shape[1]
        return functional.cross_entropy(logits, (1 - self.smoothing) * weighted + self.smoothing * spread)


class Focal(torch.nn.Module):
    """Cross entropy of which what is right already is left out: times |target - probability| ** gamma, per class.

    arXiv:1708.02002 for targets of 0 and 1; for soft ones in the form of arXiv:2006.04388, equation 3, which is least at the target itself.
    `sigmoid`: each output on its own, the mean over cells; else softmax, the mean over rows.
    """

    weights: torch.Tensor

    def __init__(self, weights: Weights, sigmoid: bool, gamma: float = 2.0) -> None:
        super().__init__()
        self.register_buffer("weights", torch.ones(1) if weights is None else weights)
        self.sigmoid, self.gamma = sigmoid, gamma

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The batch's mean."""
        if self.sigmoid:
            losses = functional.binary_cross_entropy_with_logits(logits, targets, pos_weight=self.weights, reduction="none")
            return (_power((targets - logits.sigmoid()).abs(), self.gamma) * losses).mean()
        losses = -targets * self.weights * logits.log_softmax(dim=1)
        return (_power((targets - logits.softmax(dim=1)).abs(), self.gamma) * losses).sum(dim=1).mean()


class Asymmetric(torch.nn.Module):
    """Focal loss with another gamma for each side; negatives less probable than `clip` count as right (arXiv:2009.14119, equation 7)."""

    weights: torch.Tensor
    log_clip: torch.Tensor

    def __init__(self, weights: Weights, gamma_negative: float = 4.0, gamma_positive: float = 1.0, clip: float = 0.05) -> None:
        super().__init__()
        self.register_buffer("weights", torch.ones(1) if weights is None else weights)
        self.register_buffer("log_clip", torch.tensor(clip).log())
        self.gamma_negative, self.gamma_positive = gamma_negative, gamma_positive

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The batch's mean over cells."""
        positive = _power((-logits).sigmoid(), self.gamma_positive) * functional.logsigmoid(logits)
        log_absent = torch.logaddexp(functional.logsigmoid(-logits), self.log_clip).clamp(max=0)  # log of 1 - max(probability - clip, 0)
        negative = _power(-torch.expm1(log_absent), self.gamma_negative) * log_absent
        return -(self.weights * targets * positive + (1 - targets) * negative).mean()


class LogCosh(torch.nn.Module):
    """Mean log(cosh(error)): half the square of small errors, the size of large ones less log 2."""

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The batch's mean, written such that no error overflows."""
        size = (logits - targets).abs()
        return (size + functional.softplus(-2 * size) - math.log(2)).mean()


def _power(base: torch.Tensor, exponent: float) -> torch.Tensor:
    """`base` of 0 to 1 to a power; its slope is finite at 0, too, where the exponent is below 1."""
    return base.clamp(min=1e-8) ** exponent


def _cross_entropy(section: Loss, _: Task, weights: Weights) -> torch.nn.Module:
    if weights is None:
        return torch.nn.CrossEntropyLoss(label_smoothing=section.smoothing)  # arXiv:1512.00567, section 7
    return WeightedCrossEntropy(weights, section.smoothing)


LOSSES: dict[str, Callable[[Loss, Task, Weights], torch.nn.Module]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": lambda section, task, weights: torch.nn.BCEWithLogitsLoss(pos_weight=weights),
    "focal": lambda section, task, weights: Focal(weights, task == "multilabel", **section.arguments),
    "asymmetric": lambda section, task, weights: Asymmetric(weights, **section.arguments),
    "mse": lambda section, task, weights: torch.nn.MSELoss(),
    "mae": lambda section, task, weights: torch.nn.L1Loss(),
    "huber": lambda section, task, weights: torch.nn.HuberLoss(delta=section.arguments.get("delta", 1.0)),
    "log_cosh": lambda section, task, weights: LogCosh(),
    "log_mse": lambda section, task, weights: torch.nn.MSELoss(),  # of the logarithms that `Outputs` makes of the targets
}
"""Those of numbers are in units of the training targets' standard deviation; those of labels are means over cells."""
AUTO = {"multilabel": "binary_cross_entropy", "regression": "mse"}
ARGUMENTS: dict[str, dict[str, tuple[float, float]]] = {
    "focal": {"gamma": (0, 100)},
    "asymmetric": {"gamma_negative": (0, 100), "gamma_positive": (0, 100), "clip": (0, 0.99)},
    "huber": {"delta": (1e-6, 1e6)},
}
"""What each loss may be told, from and to which value."""


def build_loss(section: Loss, task: Task, learned: Numbers, num_outputs: int) -> torch.nn.Module:
    """The loss that the config names; auto: what fits the task. UserError for arguments or weights that do not fit.

    learned: the targets of the training rows, hard or soft: class numbers [rows], or [rows, outputs].
    """
    name = AUTO.get(task, "cross_entropy") if section.name == "auto" else section.name
    _check_arguments(name, section.arguments)
    return LOSSES[name](section, task, class_weights(section, task, learned, num_outputs))


def _check_arguments(name: str, arguments: dict[str, float]) -> None:
    known = ARGUMENTS.get(name, {})
    for argument, value in arguments.items():
        if not known:
            raise UserError(f"loss.arguments.{argument}: {name} takes no arguments; write arguments: {{}}")
        if argument not in known:
            raise UserError(f"loss.arguments.{argument}: no argument of {name}{did_you_mean(argument, known)}")
        lowest, highest = known[argument]
        if not lowest <= value <= highest:
            raise UserError(f"loss.arguments.{argument}: must be from {lowest:g} to {highest:g}, but got {value:g}")


def class_weights(section: Loss, task: Task, learned: Numbers, num_outputs: int) -> Weights:
    """Weight of each class [outputs], 1 in the mean over the training rows; of several labels that of each one's positives; None: all alike.

    A class or label that less than one row has (or has not) counts as if one row did: every weight is finite.
    """
    if section.class_weights == "none" or task == "regression":
        return None
    if not isinstance(section.class_weights, str) and len(section.class_weights) != num_outputs:
        raise UserError(f"loss.class_weights: lists {len(section.class_weights)} weights, but there are {num_outputs} classes; write one for each, in order")
    rows = len(learned)
    counts = np.bincount(learned, minlength=num_outputs).astype(np.float64) if learned.ndim == 1 else learned.sum(axis=0, dtype=np.float64)
    if isinstance(section.class_weights, str):
        present = np.maximum(counts, 1.0)
        weights = (rows if task in CLASS_TASKS else np.maximum(rows - counts, 1.0)) / present
        weights = np.sqrt(weights) if section.class_weights == "square_root" else weights
    else:
        weights = np.array(section.class_weights)
    if task in CLASS_TASKS:
        weights = weights * counts.sum() / (weights * counts).sum()
    return torch.from_numpy(weights.astype(np.float32))
