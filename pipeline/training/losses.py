"""Losses by name: each takes logits [B, K] and soft targets [B, K] and returns the batch's mean."""

from collections.abc import Callable

import torch

from pipeline.config import Loss


def cross_entropy(section: Loss) -> torch.nn.Module:
    """Cross entropy with label smoothing (arXiv:1512.00567, section 7)."""
    return torch.nn.CrossEntropyLoss(label_smoothing=section.smoothing)


LOSSES: dict[str, Callable[[Loss], torch.nn.Module]] = {"cross_entropy": cross_entropy}


def build_loss(section: Loss) -> torch.nn.Module:
    """The loss that the config names."""
    return LOSSES[section.name](section)
