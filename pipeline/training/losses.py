"""Losses by name: each takes logits [B, K] and soft targets [B, K] and returns the batch's mean."""

from collections.abc import Callable

import torch

from pipeline.config import Loss, Task


def cross_entropy(section: Loss) -> torch.nn.Module:
    """Cross entropy with label smoothing (arXiv:1512.00567, section 7)."""
    return torch.nn.CrossEntropyLoss(label_smoothing=section.smoothing)


def binary_cross_entropy(_: Loss) -> torch.nn.Module:
    """Binary cross entropy of each output on its own, the mean over outputs."""
    return torch.nn.BCEWithLogitsLoss()


def mse(_: Loss) -> torch.nn.Module:
    """Mean squared error, in units of the training targets' standard deviation."""
    return torch.nn.MSELoss()


def mae(_: Loss) -> torch.nn.Module:
    """Mean absolute error, in the same units."""
    return torch.nn.L1Loss()


def huber(_: Loss) -> torch.nn.Module:
    """Squared up to one standard deviation, absolute beyond it."""
    return torch.nn.HuberLoss()


LOSSES: dict[str, Callable[[Loss], torch.nn.Module]] = {
    "cross_entropy": cross_entropy,
    "binary_cross_entropy": binary_cross_entropy,
    "mse": mse,
    "mae": mae,
    "huber": huber,
}
AUTO = {"multilabel": "binary_cross_entropy", "regression": "mse"}


def build_loss(section: Loss, task: Task) -> torch.nn.Module:
    """The loss that the config names; auto: what fits the task."""
    return LOSSES[AUTO.get(task, "cross_entropy") if section.name == "auto" else section.name](section)
