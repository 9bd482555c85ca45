"""Pictures for the model: which are drawn when, how they are loaded, how bytes become its input.

What a sample looks like depends on (seed, fold, epoch, position in the epoch's draw) alone. The
sampler carries all four, so neither the number of workers nor a resume can change it.
"""

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.augment.transforms import Transforms
from pipeline.config import Images
from pipeline.data.cache import ImageCache
from pipeline.data.images import fit_to
from pipeline.runtime import die_with, stream

Batch = tuple[torch.Tensor, torch.Tensor]


class Draw(NamedTuple):
    """One sample: the `position`-th of its epoch shows training row `row`."""

    epoch: int
    position: int
    row: int


class EpochBatches(Sampler[list[Draw]]):
    """Batches of one epoch in a shuffled order that follows from (seed, fold, epoch).

    A last batch that is not full is left out, unless it is the only one.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, fold: int) -> None:
        self._rows, self._batch_size, self._place = rows, batch_size, (seed, fold)
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        return max(1, self._rows // self._batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        order = np.random.default_rng(stream("shuffle", *self._place, self.epoch)).permutation(self._rows)
        for batch in range(self.first_batch, len(self)):
            start = batch * self._batch_size
            rows = order[start : start + self._batch_size].tolist()
            yield [Draw(self.epoch, start + offset, row) for offset, row in enumerate(rows)]


@dataclass
class TrainingImages(Dataset[Batch]):
    """Augmented pictures of the training rows, uint8 [H, W, 3], with their row numbers."""

    cache: ImageCache
    places: Sequence[tuple[str, str]]
    """Split and id of each row."""
    transforms: Transforms
    images: Images
    seed: int
    fold: int

    def __getitem__(self, draw: Draw) -> Batch:
        pixels = self.cache.read(*self.places[draw.row])
        pixels = self.transforms(pixels, stream("augment", self.seed, self.fold, draw.epoch, draw.position))
        return _tensor(fit_to(pixels, self.images.shape, self.images.fit)), torch.tensor(draw.row)


@dataclass
class PlainImages(Dataset[Batch]):
    """Pictures as they are, fitted to the input, uint8 [H, W, 3], with their row numbers."""

    cache: ImageCache
    split: str
    ids: Sequence[str]
    images: Images

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, row: int) -> Batch:
        pixels = self.cache.read(self.split, self.ids[row])
        return _tensor(fit_to(pixels, self.images.shape, self.images.fit)), torch.tensor(row)


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels, copy=True, order="C"))


def training_loader(dataset: TrainingImages, batches: EpochBatches, workers: int, device: torch.device) -> DataLoader[Batch]:
    """Loads what `batches` draws; workers stay between epochs."""
    return DataLoader(dataset, batch_sampler=batches, persistent_workers=workers > 0, **_loading(workers, device))


def plain_loader(dataset: PlainImages, batch_size: int, workers: int, device: torch.device) -> DataLoader[Batch]:
    """Loads the pictures in order."""
    return DataLoader(dataset, batch_size=batch_size, **_loading(workers, device))


def _loading(workers: int, device: torch.device) -> dict[str, Any]:
    """How workers start. On Linux they are forked, also where the training process itself was spawned."""
    return {
        "num_workers": workers,
        "pin_memory": device.type == "cuda",
        "worker_init_fn": functools.partial(_start_worker, os.getpid()),
        "multiprocessing_context": "fork" if workers and sys.platform == "linux" else None,
    }


def _start_worker(parent: int, _: int) -> None:
    die_with(parent)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


class Normalise:
    """uint8 [B, H, W, 3] from the loader to the model's float input [B, 3, H, W] on the device."""

    def __init__(self, images: Images, device: torch.device, channels_last: bool = True) -> None:
        self._mean = (torch.tensor(images.mean) * 255).to(device).view(1, 3, 1, 1)
        self._scale = 1 / (torch.tensor(images.std) * 255).to(device).view(1, 3, 1, 1)
        self._device = device
        self._format = torch.channels_last if channels_last else torch.contiguous_format

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The normalised batch in the memory format asked for."""
        on_device = pixels.to(self._device, non_blocking=True).permute(0, 3, 1, 2)
        return on_device.float().sub_(self._mean).mul_(self._scale).contiguous(memory_format=self._format)
