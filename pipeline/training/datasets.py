"""Pictures for the model: which are drawn when, how they are loaded, how bytes become its input.

What a sample looks like depends on (seed, fold, epoch, position in the epoch's draw) alone. The
sampler carries all four, so neither the number of workers nor a resume can change it.
"""

import functools
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from pipeline.augment.transforms import Transforms
from pipeline.config import Images
from pipeline.data.cache import ImageCache
from pipeline.data.images import fit_to, shrink
from pipeline.data.pictures import Pictures
from pipeline.data.targets import Numbers
from pipeline.runtime import die_with, stream

Batch = tuple[torch.Tensor, torch.Tensor]


class Draw(NamedTuple):
    """One sample: the `position`-th of its epoch shows training row `row`."""

    epoch: int
    position: int
    row: int


class EpochBatches(Sampler[list[Draw]]):
    """Batches of one epoch in a shuffled order that follows from (seed, fold, epoch).

    balance: None, every row comes once; or the targets of the rows, as training learns them: as many draws, each class equally
    often, and within a class every row equally often, give or take one. A last batch that is not full is left out, unless it is the only one.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, fold: int, balance: Numbers | None = None) -> None:
        assert balance is None or len(balance) == rows, "one target per row"
        self._rows, self._batch_size, self._place = rows, batch_size, (seed, fold)
        self._groups = None if balance is None else _rows_of_classes(balance)
        self.epoch = 0
        self.first_batch = 0

    def __len__(self) -> int:
        return max(1, self._rows // self._batch_size)

    def __iter__(self) -> Iterator[list[Draw]]:
        generator = np.random.default_rng(stream("shuffle", *self._place, self.epoch))
        order = generator.permutation(self._rows) if self._groups is None else _balanced(self._groups, self._rows, generator)
        for batch in range(self.first_batch, len(self)):
            start = batch * self._batch_size
            rows = order[start : start + self._batch_size].tolist()
            yield [Draw(self.epoch, start + offset, row) for offset, row in enumerate(rows)]


def _rows_of_classes(targets: Numbers) -> list[Numbers]:
    """Row numbers of each class that occurs. Soft targets: the likeliest class; several labels: the row's rarest, or none of them."""
    if targets.ndim == 2 and np.allclose(targets.sum(axis=1), 1, atol=1e-3):
        targets = targets.argmax(axis=1)
    elif targets.ndim == 2:
        has = targets >= 0.5
        by_rarity = np.argsort(has.sum(axis=0), kind="stable")
        targets = np.where(has.any(axis=1), by_rarity[has[:, by_rarity].argmax(axis=1)], targets.shape[1])
    return [np.flatnonzero(targets == number) for number in np.unique(targets)]


def _balanced(groups: Sequence[Numbers], draws: int, generator: np.random.Generator) -> Numbers:
    """Rows [draws], as many of each group, shuffled; a group's rows come once more when all of them have come."""
    counts = np.full(len(groups), draws // len(groups))
    counts[generator.permutation(len(groups))[: draws % len(groups)]] += 1
    parts = []
    for rows, count in zip(groups, counts.tolist(), strict=True):
        parts += [generator.permutation(rows) for _ in range(count // len(rows))] + [generator.permutation(rows)[: count % len(rows)]]
    return generator.permutation(np.concatenate(parts))


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


@dataclass
class NewImages(Dataset[Batch]):
    """Pictures that are in no cache, read from their files as the cache would hold them, fitted to the input, with their row numbers."""

    pictures: Pictures
    paths: Sequence[str]
    images: Images

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> Batch:
        pixels = shrink(self.pictures.read(self.paths[row]), self.images.cache_size)
        return _tensor(fit_to(pixels, self.images.shape, self.images.fit)), torch.tensor(row)


def _tensor(pixels: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels, copy=True, order="C"))


def training_loader(dataset: TrainingImages, batches: EpochBatches, workers: int, device: torch.device) -> DataLoader[Batch]:
    """Loads what `batches` draws; workers stay between epochs."""
    return DataLoader(dataset, batch_sampler=batches, persistent_workers=workers > 0, **_loading(workers, device))


def plain_loader(dataset: Dataset[Batch], batch_size: int, workers: int, device: torch.device) -> DataLoader[Batch]:
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
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that trains, which ends this one when it has saved
    die_with(parent)
    cv2.setNumThreads(1)
    torch.set_num_threads(1)


def on_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches; for a GPU copied to it one ahead, on a stream of their own, so that a step waits for no copy."""
    if device.type != "cuda":
        yield from batches
        return
    copies, ahead = torch.cuda.Stream(device), None  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(copies):
            coming = tuple(tensor.to(device, non_blocking=True) for tensor in batch)
            copied = copies.record_event()
        if ahead is not None:
            yield _arrived(*ahead)
        ahead = coming, copied
    if ahead is not None:
        yield _arrived(*ahead)


def _arrived(batch: tuple[torch.Tensor, ...], copied: torch.cuda.Event) -> Batch:
    step = torch.cuda.current_stream(batch[0].device)
    step.wait_event(copied)
    for tensor in batch:
        tensor.record_stream(step)  # or its memory would be given to the next copy while the step still reads it
    return batch[0], batch[1]


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
