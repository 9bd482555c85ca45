"""Which epochs' weights predict: the last, a mean of the last, the best, or a greedy soup of the best."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.artifacts import EPOCH_FILES
from pipeline.config import Train
from pipeline.errors import RunFailed
from pipeline.files import atomic
from pipeline.training.checkpoint import write_state
from pipeline.training.surgery import average_weights

Weights = dict[str, torch.Tensor]
Scorer = Callable[[Weights], tuple[Weights, float]]
"""Mixed weights to the same with BatchNorm's statistics measured anew, and their score on the held-out fold; more is better."""


@dataclass(frozen=True)
class Candidates:
    """Epochs whose weights may still be chosen, one file each in the fold's folder."""

    folder: Path
    how: str
    keep: int

    @classmethod
    def of(cls, section: Train, folder: Path, scored: bool) -> "Candidates":
        """As the config says; without a held-out fold nothing can be scored: best means last, and soup average."""
        how = section.checkpoint if scored else {"best": "last", "soup": "average"}.get(section.checkpoint, section.checkpoint)
        return cls(folder, how, 1 if how == "best" else section.keep)

    def wanted(self, scores: Sequence[float]) -> list[int]:
        """Epochs, from 0, that may be chosen after epochs with these scores; the best first, else in order."""
        epochs = range(len(scores))
        if self.how == "average" or (self.how != "last" and not any(map(math.isfinite, scores))):
            return list(epochs[-self.keep :])
        return sorted(epochs, key=lambda epoch: -_comparable(scores[epoch]))[: self.keep] if self.how in ("best", "soup") else []

    def note(self, scores: Sequence[float], weights: Mapping[str, torch.Tensor]) -> None:
        """Keeps the epoch that has just ended, if it is wanted."""
        if len(scores) - 1 in self.wanted(scores):
            with atomic(self._path(len(scores) - 1)) as temporary, temporary.open("wb") as file:
                write_state(weights, file)

    def prune(self, scores: Sequence[float]) -> None:
        """Deletes what is no longer wanted; for when the checkpoint knows these scores."""
        wanted = {self._path(epoch) for epoch in self.wanted(scores)}
        for path in self.folder.glob(EPOCH_FILES):
            if path not in wanted:
                path.unlink()

    def choose(self, scores: Sequence[float], score: Scorer) -> tuple[Weights, list[int], float] | None:
        """The weights to predict with, the epochs that are in them, and their score; None: the last ones, as they are."""
        wanted = self.wanted(scores)
        if not wanted:
            return None
        parts = {epoch: self._load(epoch) for epoch in wanted}
        if self.how == "best":
            return parts[wanted[0]], wanted, scores[wanted[0]]
        if self.how == "soup" and any(map(math.isfinite, scores)):
            return greedy_soup(parts, score)
        weights, found = score(average_weights(list(parts.values())))
        return weights, wanted, found

    def _path(self, epoch: int) -> Path:
        return self.folder / f"epoch_{epoch + 1:04d}.pt"

    def _load(self, epoch: int) -> Weights:
        try:
            weights: Weights = torch.load(self._path(epoch), map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many kinds for a damaged file
            raise RunFailed(f"{self._path(epoch)} cannot be read ({type(error).__name__}); write --force train") from None
        return weights


def greedy_soup(parts: Mapping[int, Weights], score: Scorer) -> tuple[Weights, list[int], float]:
    """The mean of those weights that do not lower the score, tried in the order given, with its score (arXiv:2203.05482, recipe 1)."""
    (first, *others) = parts
    taken = [first]
    soup, best = score(parts[first])
    for epoch in others:
        tried, found = score(average_weights([parts[name] for name in [*taken, epoch]]))
        if found >= best:
            taken, soup, best = [*taken, epoch], tried, found
    return soup, taken, best


def best_epoch(scores: Sequence[float]) -> int:
    """The first epoch, from 0, with the highest score; one without a score counts as the lowest."""
    return max(range(len(scores)), key=lambda epoch: _comparable(scores[epoch]))


def out_of_patience(scores: Sequence[float], patience: int | None) -> bool:
    """Whether the last `patience` epochs brought no better score than one before them; never without any score."""
    return patience is not None and any(map(math.isfinite, scores)) and len(scores) - 1 - best_epoch(scores) >= patience


def _comparable(score: float) -> float:
    return score if math.isfinite(score) else -math.inf


def signed(rows: Sequence[Mapping[str, Any]], metric: str, sign: int) -> list[float]:
    """Scores by epoch, more is better, of a history's rows; nan where another metric was looked at."""
    return [sign * float(row.get(metric, math.nan)) for row in rows]
