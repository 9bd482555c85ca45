"""Predictions of one experiment: rows held out by each fold's network, and test rows by all of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.config import Images, Predict
from pipeline.data.cache import ImageCache
from pipeline.inference.tta import view_names, views
from pipeline.predictions import TEST, Predictions
from pipeline.training.datasets import Normalise, PlainImages, plain_loader
from pipeline.training.evaluate import mean_predictions
from pipeline.training.outputs import Outputs


@dataclass(frozen=True)
class Predictor:
    """How pictures become predictions; the same for every fold of an experiment."""

    cache: ImageCache
    images: Images
    section: Predict
    classes: tuple[str, ...]
    device: torch.device
    autocast: torch.dtype | None
    workers: int

    def __call__(self, model: torch.nn.Module, outputs: Outputs, split: str, ids: Sequence[str], fold: int) -> Predictions:
        """Predictions of the rows `ids` of a split, the views averaged."""
        if not ids:
            return Predictions((), self.classes, np.zeros((0, len(self.classes)), dtype=np.float32), np.zeros(0, dtype=np.int16))
        loader = plain_loader(PlainImages(self.cache, split, ids, self.images), self.section.batch_size, self.workers, self.device)
        chosen = views(view_names(self.section.tta))
        values = mean_predictions(model, loader, Normalise(self.images, self.device), outputs, self.autocast, chosen)
        return Predictions(tuple(ids), self.classes, values, np.full(len(ids), fold, dtype=np.int16))


def with_shares(predictions: Predictions, ids: Sequence[str], shares: npt.NDArray[np.float64]) -> Predictions:
    """All of `ids`, in order: those without a prediction get `shares` [outputs], e.g. the training class shares."""
    known = set(predictions.ids)
    missing = tuple(name for name in ids if name not in known)
    values = np.concatenate([predictions.values, np.tile(shares.astype(np.float32), (len(missing), 1))])
    fold = np.full(len(values), TEST, dtype=np.int16)
    return Predictions(predictions.ids + missing, predictions.classes, values, fold).of(ids)
