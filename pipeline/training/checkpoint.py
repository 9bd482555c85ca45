"""Checkpoints: the last one and the one before it, read without pickle, damaged ones passed over."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import torch

from pipeline.files import atomic

log = logging.getLogger(__name__)
LAST, PREVIOUS = "last.pt", "previous.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes `last.pt`; what was `last.pt` becomes `previous.pt`. At any moment one of the two is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / LAST) as temporary:
        torch.save(state, temporary)
        if (folder / LAST).exists():
            os.replace(folder / LAST, folder / PREVIOUS)


def load_checkpoint(folder: Path, device: torch.device | str = "cpu") -> dict[str, Any] | None:
    """The newest readable checkpoint of a fold, or None."""
    for name in (LAST, PREVIOUS):
        path = folder / name
        if not path.exists():
            continue
        try:
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            log.warning("train     %s cannot be read (%s); trying an older checkpoint", path, type(error).__name__)
            continue
        return state
    return None


def digest_weights(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and values: the weights themselves, not the bytes of a file."""
    total = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
