"""Checkpoints: the last one and the one before it, read without pickle, damaged ones passed over."""

import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from pipeline.files import atomic

log = logging.getLogger(__name__)
LAST, PREVIOUS = "last.pt", "previous.pt"


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Writes `last.pt`; what was `last.pt` becomes `previous.pt`. At any moment one of the two is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / LAST) as temporary:
        with temporary.open("wb") as file:
            write_state(state, file)
        if (folder / LAST).exists():
            os.replace(folder / LAST, folder / PREVIOUS)


class _Witness:
    """A file to write to that remembers why a write failed: torch reports a full disk as an enforce failure."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def write_state(state: Mapping[str, Any], file: BinaryIO) -> None:
    """torch.save, but a full disk is an OSError."""
    witness = _Witness(file)
    try:
        torch.save(dict(state), witness)  # type: ignore[arg-type]
    except Exception:
        if witness.error is not None:
            raise witness.error from None
        raise


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


def final_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights that a finished fold predicts with: those chosen, else the moving average, else the network's own."""
    weights: dict[str, torch.Tensor] = next(state[key] for key in ("chosen", "ema", "model") if state.get(key) is not None)
    return weights


def digest_weights(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 over names, shapes and values: the weights themselves, not the bytes of a file."""
    total = hashlib.sha256()
    for name in sorted(weights):
        tensor = weights[name].detach().cpu().contiguous()
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        total.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
