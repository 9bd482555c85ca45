"""Predictions of trained networks: all that share an input read each picture once, and what a forward pass of theirs costs."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence, Sized
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm

from pipeline.config import Images
from pipeline.inference.tta import Floats, Merge, View, build_views, merge_views
from pipeline.predictions import TEST, Predictions
from pipeline.training.datasets import Batch, Normalise, plain_loader
from pipeline.training.evaluate import Network, forward_passes
from pipeline.training.outputs import Outputs

Values = npt.NDArray[np.float32]
Reduce = Callable[["Member", list[torch.Tensor]], torch.Tensor]
LONGEST_REASON = 300  # characters of what a library says of a failure


@dataclass(frozen=True)
class Reader:
    """How pictures reach a network; networks that agree in this read them together.

    It reads any dataset with a length whose items are a picture as it is fitted to the input, uint8 [H, W, 3], and its row number.
    """

    images: Images
    batch_size: int
    """Pictures per forward pass."""
    workers: int
    device: torch.device

    def load(self, dataset: Dataset[Batch]) -> DataLoader[Batch]:
        """Batches in order."""
        return plain_loader(dataset, self.batch_size, self.workers, self.device)

    def normalise(self) -> Normalise:
        """From bytes to the networks' input."""
        return Normalise(self.images, self.device)

    def views(self, members: "Sequence[Member]") -> dict[str, View]:
        """Those that any of the networks looks at."""
        return build_views([name for member in members for name in member.views], self.images, self.device)


@dataclass(frozen=True)
class Member:
    """A trained network on the reader's device, what its logits mean, and how it is shown a picture."""

    model: torch.nn.Module
    outputs: Outputs
    autocast: torch.dtype | None = None
    views: tuple[str, ...] = ("identity",)
    """In any order; they are looked at, summed and returned in that of `view_names`."""
    merge: Merge = "probabilities"


def predict_merged(reader: Reader, members: Sequence[Member], dataset: Dataset[Batch], description: str = "predict") -> list[Values]:
    """Per network its prediction of every row [rows, outputs], the views merged: probabilities, numbers, or ranks among these rows."""
    found = _predict(
        reader, members, dataset, description, lambda member, logits: _kept(member, logits) if member.merge == "ranks" else _merged(member, logits)
    )
    return [
        merge_views(values, member.merge, member.outputs.task) if member.merge == "ranks" else values[0] for member, values in zip(members, found, strict=True)
    ]


def predict_views(reader: Reader, members: Sequence[Member], dataset: Dataset[Batch], description: str = "predict") -> list[Values]:
    """Per network what `merge_views` merges [views, rows, outputs]: logits where the network merges logits, else probabilities or numbers."""
    return _predict(reader, members, dataset, description, _kept)


class Watch:
    """The networks of a long prediction that are still in it: one that fails, or for which there is no time, leaves it alone."""

    def __init__(self) -> None:
        self.left: dict[int, str] = {}
        """By number of a network why it left."""

    def leave(self, number: int, reason: str) -> None:
        """Takes a network out; its predictions are lost."""
        self.left.setdefault(number, reason)

    def advance(self, rows: int) -> None:
        """Called after each batch of so many rows."""


def predict_watched(reader: Reader, members: Sequence[Member], dataset: Dataset[Batch], watch: Watch) -> list[Values | None]:
    """Per network what `predict_merged` gives, as [1, rows, outputs], or where ranks are merged each view's predictions [views, rows, outputs],
    which compare once all rows are there; None of a network that left. Rows whose logits are not finite are nan. What breaks a GPU itself is raised:
    it concerns all of its networks."""

    def reduce(member: Member, logits: list[torch.Tensor]) -> torch.Tensor:
        marked = [_marked(found) for found in logits]
        return _kept(member, marked) if member.merge == "ranks" else _merged(member, marked)

    found = _predict(reader, members, dataset, "", reduce, watch)
    return [None if number in watch.left else values for number, values in enumerate(found)] if found else [None] * len(members)


@dataclass(frozen=True)
class _Guarded(Network):
    """A network that says nothing more [B, 0] once it has left."""

    number: int = 0
    watch: Watch | None = None

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        assert self.watch is not None
        if self.number not in self.watch.left:
            try:
                return super().logits(images)
            except Exception as error:  # whatever breaks one network is its own
                _wait_for(images.device)  # raises where not the network is broken but the GPU
                self.watch.leave(self.number, f"{type(error).__name__}: {' '.join(str(error).split())[:LONGEST_REASON]}")
        return images.new_empty((len(images), 0))


def _marked(logits: torch.Tensor) -> torch.Tensor:
    """Rows that are not finite [B, K] as nan: a sigmoid, or a number's range, would make something of an overflow that looks sound."""
    return logits.where(logits.isfinite().all(dim=1, keepdim=True), torch.nan)


def _kept(member: Member, logits: list[torch.Tensor]) -> torch.Tensor:
    """Of one batch [views, B, K]. Logits are kept as they are: of probabilities in single precision those near 0 and 1 were lost."""
    return torch.stack([found if member.merge == "logits" else member.outputs.predict(found) for found in logits])


def _merged(member: Member, logits: list[torch.Tensor]) -> torch.Tensor:
    """Of one batch [1, B, K]; summed in double precision, view by view."""
    parts = [found.double() if member.merge == "logits" else member.outputs.predict(found) for found in logits]
    mean = sum(parts[1:], start=parts[0]) / len(parts)
    return (member.outputs.predict(mean) if member.merge == "logits" else mean)[None]


@torch.inference_mode()
def _predict(reader: Reader, members: Sequence[Member], dataset: Dataset[Batch], description: str, reduce: Reduce, watch: Watch | None = None) -> list[Values]:
    """Per network what `reduce` makes of each batch's logits by view, one batch after the other [N, rows, K]; empty where every network left."""
    rows = _length(dataset)
    if rows == 0:  # one black picture says how many outputs there are
        height, width = reader.images.shape
        black = torch.zeros((1, height, width, 3), dtype=torch.uint8)
        dataset = cast(Dataset[Batch], [(black[0], torch.tensor(0))])
    loader = reader.load(dataset)
    guarded = [
        _Guarded(member.model, member.autocast, number, watch) if watch else Network(member.model, member.autocast) for number, member in enumerate(members)
    ]
    networks = [(network, set(member.views)) for network, member in zip(guarded, members, strict=True)]
    passes = forward_passes(loader, reader.device, reader.normalise(), reader.views(members), networks)
    left: Collection[int] = watch.left if watch else ()
    reduced = (
        {number: reduce(member, logits).float() for number, (member, logits) in enumerate(zip(members, batch, strict=True)) if number not in left}
        for batch in passes
    )
    found: dict[int, Values] = {}
    start = 0
    for parts in tqdm(_one_later(reduced), total=len(loader), desc=description, unit="batch", leave=False, delay=2, disable=True if watch else None):
        if not parts:
            break
        found = found or {number: np.empty((part.shape[0], rows, part.shape[2]), dtype=np.float32) for number, part in parts.items()}
        stop = start + next(iter(parts.values())).shape[1]
        for number, part in parts.items():
            found[number][:, start:stop] = part[:, : rows - start].cpu().numpy()
        if watch:
            watch.advance(stop - start)
        start = stop
    return [found.get(number, np.empty((0, 0, 0), dtype=np.float32)) for number in range(len(members))] if found else []


def _one_later(batches: Iterator[dict[int, torch.Tensor]]) -> Iterator[dict[int, torch.Tensor]]:
    """The same, each when the one after it is under way, so that a GPU does not wait while results are copied from it."""
    before: dict[int, torch.Tensor] | None = None
    for batch in batches:
        if before is not None:
            yield before
        before = batch
    if before is not None:
        yield before


def _length(dataset: Dataset[Batch]) -> int:
    return len(cast(Sized, dataset))


@dataclass(frozen=True)
class Costs:
    """Seconds per picture."""

    loading: float
    """Reading it and fitting it to the input, by all workers side by side."""
    networks: Floats
    """A forward pass [members]."""
    making: dict[str, float]
    """Making a view, once for all networks."""

    @property
    def passes(self) -> Floats:
        """A forward pass with the view made for it alone [members, views]."""
        return np.asarray(self.networks[:, None] + np.array(list(self.making.values())))


@torch.inference_mode()
def measure_costs(reader: Reader, members: Sequence[Member], dataset: Dataset[Batch], pictures: int = 64) -> Costs:
    """What the first so many pictures cost, after a warm-up; views are those of any member.

    A view has the shape of the picture, so that a network's forward pass is measured on the picture alone. 0 for an empty dataset.
    """
    rows = min(pictures, _length(dataset))
    views, networks = reader.views(members), [Network(member.model.eval(), member.autocast) for member in members]
    if rows == 0:
        return Costs(0.0, np.zeros(len(members)), dict.fromkeys(views, 0.0))
    dataset[0]  # opens the files
    started = time.perf_counter()
    pixels = torch.stack([dataset[row][0] for row in range(rows)])
    loading = (time.perf_counter() - started) / rows / max(1, reader.workers)
    normalise = reader.normalise()
    batches = [normalise(part) for part in torch.split(pixels, reader.batch_size)]
    forward = [_seconds(network.logits, batches) / rows for network in networks]
    return Costs(loading, np.array(forward), {name: _seconds(view, batches) / rows for name, view in views.items()})


def _seconds(function: Callable[[torch.Tensor], object], batches: Sequence[torch.Tensor]) -> float:
    """For all batches, the first of which warms up."""
    function(batches[0])
    _wait_for(batches[0].device)
    started = time.perf_counter()
    for batch in batches:
        function(batch)
    _wait_for(batches[0].device)
    return time.perf_counter() - started


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def with_shares(predictions: Predictions, ids: Sequence[str], shares: npt.NDArray[np.float64]) -> Predictions:
    """All of `ids`, in order: those without a prediction get `shares` [outputs], e.g. the training class shares."""
    known = set(predictions.ids)
    missing = tuple(name for name in ids if name not in known)
    values = np.concatenate([predictions.values, np.tile(shares.astype(np.float32), (len(missing), 1))])
    fold = np.full(len(values), TEST, dtype=np.int16)
    return Predictions(predictions.ids + missing, predictions.classes, values, fold).of(ids)
