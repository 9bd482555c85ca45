"""The bundle's networks on one device: built, run together in groups that share their pictures, those that fail left behind."""

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from pipeline.config import Config
from pipeline.config_data import Competition
from pipeline.data.cache import encode
from pipeline.data.images import decode, fit_to, shrink
from pipeline.data.pictures import Pictures
from pipeline.errors import UserError
from pipeline.files import digest
from pipeline.inference.predict import LONGEST_REASON, Member, Reader, Watch, measure_costs, predict_watched
from pipeline.inference.tta import view_names
from pipeline.kaggle.bundle import Bundle, BundledExperiment, BundledNetwork
from pipeline.runtime import autocast_dtype, start_torch
from pipeline.training.datasets import Batch, NewImages
from pipeline.training.models import build_model

log = logging.getLogger(__name__)
MOST_BYTES = 4e9  # of networks that look at a picture together, and of what they say; more take turns
FEWEST_BATCHES = 3  # after which the time that a pass will take is believed
NO_TIME = "no time was left for it"
Key = tuple[int, int]
"""A network: the numbers of its experiment and of itself therein."""
Report = Callable[[dict[str, Any]], None]
"""Hears of progress: {"rows": n}, each of one network; {"log": a line}."""


@dataclass(frozen=True)
class Part:
    """What one device does: some rows, looked at by groups of networks, in order. Plain data."""

    bundle: Path
    competition: Competition
    paths: tuple[str, ...]
    """Of the rows' pictures, all of which can be read."""
    device: str
    workers: int
    groups: tuple[tuple[Key, ...], ...]
    """Best networks first, also within a group."""
    views: Mapping[int, tuple[str, ...]]
    """By number of an experiment."""
    folder: Path
    """Where predictions go."""
    deadline: float | None = None
    """On the monotonic clock, which all processes of a machine share."""
    needed: bool = True
    """Whether the first network is to predict, whatever the time."""

    def file(self, key: Key) -> Path:
        """A network's predictions: [1, rows, outputs], or where ranks are merged [views, rows, outputs]."""
        return self.folder / f"{key[0]}-{key[1]}.npy"


@dataclass
class Done:
    """How far a part came."""

    groups: int = 0
    """That are done; the next one broke, if there is one."""
    failed: dict[Key, str] = field(default_factory=dict)
    late: dict[Key, str] = field(default_factory=dict)
    """Left out for want of time."""
    reason: str = ""
    """Why a group broke."""

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"groups": self.groups, "reason": self.reason} | {
            name: [[*key, why] for key, why in reasons.items()] for name, reasons in (("failed", self.failed), ("late", self.late))
        }

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> "Done":
        """What `to_json` gave."""
        failed, late = ({(experiment, network): why for experiment, network, why in read[name]} for name in ("failed", "late"))
        return cls(read["groups"], failed, late, read["reason"])


def in_words(error: BaseException) -> str:
    """An error on one line, not too long."""
    text = " ".join(str(error).split())[:LONGEST_REASON]
    return text if isinstance(error, UserError) else f"{type(error).__name__}: {text}"


# ---------------------------------------------------------------- pictures and networks


@dataclass
class BundledImages(NewImages):
    """Pictures read from their files as the cache held those that were trained on."""

    jpeg_quality: int | None = None

    def __getitem__(self, row: int) -> Batch:
        if self.jpeg_quality is None:
            return super().__getitem__(row)
        pixels = decode(encode(shrink(self.pictures.read(self.paths[row]), self.images.cache_size), self.jpeg_quality))
        return torch.from_numpy(np.array(fit_to(pixels, self.images.shape, self.images.fit), order="C")), torch.tensor(row)


def input_of(experiment: BundledExperiment, config: Config) -> str:
    """What experiments have in common whose networks can look at a picture together."""
    images = config.images.model_dump(mode="json", exclude={"corrupt"})
    return digest([images, config.predict.batch_size, config.runtime.threads, experiment.jpeg_quality])


def group(bundle: Bundle, keys: Iterable[Key], configs: Mapping[int, Config], rows: int) -> list[tuple[Key, ...]]:
    """Networks that look at the same pictures in the same form and fit into memory together, in the order of `keys`."""
    found: dict[str, list[list[Key]]] = {}
    sizes: dict[Key, float] = {}
    for key in keys:
        experiment = bundle.experiments[key[0]]
        views = len(experiment.views) if configs[key[0]].predict.merge == "ranks" else 1
        sizes[key] = 4.0 * (experiment.networks[key[1]].parameters + views * rows * len(experiment.classes))
        groups = found.setdefault(input_of(experiment, configs[key[0]]), [[]])
        if groups[-1] and sum(sizes[other] for other in groups[-1]) + sizes[key] > MOST_BYTES:
            groups.append([])
        groups[-1].append(key)
    return [tuple(one) for groups in found.values() for one in groups]


def load_network(bundle: Bundle, experiment: BundledExperiment, network: BundledNetwork, config: Config, device: torch.device) -> torch.nn.Module:
    """A network with its weights, on a device. Raises what its library raises."""
    from safetensors.torch import load_file

    model = build_model(config.model.model_copy(update={"weights": None}), len(experiment.classes), seed=0)
    model.load_state_dict(load_file(bundle.folder / network.file))
    return model.to(device).eval()


def cast_for(config: Config, device: torch.device) -> torch.dtype | None:
    """As the network was trained; bf16 becomes fp16 on a GPU that has none."""
    dtype = autocast_dtype(config.train.precision, device)
    if dtype == torch.bfloat16 and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return dtype


class Group:
    """Networks that share their pictures, on a device; those that cannot be loaded are in `failed`."""

    def __init__(self, part: Part, bundle: Bundle, keys: Sequence[Key]) -> None:
        experiment = bundle.experiments[keys[0][0]]
        configs = {number: bundle.experiments[number].read_config(bundle.folder) for number in {key[0] for key in keys}}
        config, device = configs[keys[0][0]], torch.device(part.device)
        start_torch(config.runtime.threads, part.device)
        self.part, self.failed = part, dict[Key, str]()
        self.reader = Reader(config.images, config.predict.batch_size, part.workers, device)
        self.pictures = BundledImages(Pictures(part.competition, config.images), part.paths, config.images, experiment.jpeg_quality)
        self.members: dict[Key, Member] = {}
        for key in keys:
            own, task = bundle.experiments[key[0]], bundle.target.task
            network = own.networks[key[1]]
            try:
                model = load_network(bundle, own, network, configs[key[0]], device)
            except Exception as error:  # backbones, files and GPUs each fail in their own way
                if device.type == "cuda":
                    torch.cuda.synchronize(device)  # raises where not the network is broken but the GPU
                self.failed[key] = f"could not be loaded: {in_words(error)}"
                continue
            views, merge = view_names(part.views[key[0]]), configs[key[0]].predict.merge
            self.members[key] = Member(model, network.outputs(task), cast_for(configs[key[0]], device), views, merge)

    def predict(self, watch: Watch, keys: Sequence[Key], halved: bool = True) -> dict[Key, np.ndarray[Any, Any]]:
        """Predictions by network; those that fail are in `failed`. halved: False computes in float32 throughout."""
        members = [self.members[key] if halved else Member(*_single(self.members[key])) for key in keys]
        dataset: Dataset[Batch] = self.pictures
        found = dict(zip(keys, predict_watched(self.reader, members, dataset, watch), strict=True))
        return {key: values for key, values in found.items() if values is not None}


def _single(member: Member) -> tuple[Any, ...]:
    return member.model, member.outputs, None, member.views, member.merge


# ---------------------------------------------------------------- a part of the rows


class Clock(Watch):
    """Takes the last networks out of a pass that would not end in time; one stays where none has predicted yet."""

    def __init__(self, networks: int, rows: int, deadline: float | None, keep: int, report: Report) -> None:
        super().__init__()
        self.networks, self.rows, self.deadline, self.keep, self.report = networks, rows, deadline, keep, report
        self.late: set[int] = set()
        self._done, self._batches, self._since, self._from = 0, 0, time.monotonic(), 0

    @property
    def staying(self) -> list[int]:
        """Networks that are still in it."""
        return [number for number in range(self.networks) if number not in self.left]

    def advance(self, rows: int) -> None:
        """Called after each batch of so many rows."""
        self.report({"rows": rows * len(self.staying)})
        self._done, self._batches = self._done + rows, self._batches + 1
        staying, now = self.staying, time.monotonic()
        if self._done == rows:
            self._start(now)  # the first batch waits for workers, and for a GPU to choose its kernels
        if self.deadline is None or self._done >= self.rows or len(staying) <= self.keep:
            return
        if now > self.deadline or (self._batches >= FEWEST_BATCHES and now + self._ahead(now) > self.deadline):
            self.late.add(staying[-1])
            self.leave(staying[-1], NO_TIME)
            self._start(now)

    def _start(self, now: float) -> None:
        """From here on the pass is as fast as it will be."""
        self._since, self._from, self._batches = now, self._done, 0

    def _ahead(self, now: float) -> float:
        """Seconds that the rest will take."""
        return (now - self._since) / (self._done - self._from) * (self.rows - self._done)


def run_part(part: Part, bundle: Bundle, report: Report) -> Done:
    """Predicts group after group and writes what each network says; ends at a group that breaks as a whole."""
    done, finished = Done(), 0
    for keys in part.groups:
        try:
            keep = int(part.needed and not finished)
            if not keep and part.deadline is not None and time.monotonic() > part.deadline:
                done.late |= dict.fromkeys(keys, NO_TIME)
            else:
                finished += _run_group(part, bundle, keys, done, keep, report)
        except Exception as error:  # of the pictures or the device; whoever called decides what becomes of the rest
            done.reason = in_words(error)
            return done
        done.groups += 1
        report({"done": done.to_json()})
    return done


def _run_group(part: Part, bundle: Bundle, keys: Sequence[Key], done: Done, keep: int, report: Report) -> int:
    """How many networks of it have predicted."""
    started = time.monotonic()
    together = Group(part, bundle, keys)
    done.failed |= together.failed
    loaded = list(together.members)
    if not loaded:
        return 0
    clock = Clock(len(loaded), len(part.paths), part.deadline, keep, report)
    found = together.predict(clock, loaded)
    for number, reason in clock.left.items():
        (done.late if number in clock.late else done.failed)[loaded[number]] = reason
    written = 0
    for key, values in found.items():
        if not np.isfinite(values).all() and together.members[key].autocast is not None:
            alone = Watch()  # half precision ends at 65,504, where bf16 and float32 go on
            values = together.predict(alone, [key], halved=False).get(key, values)
        if not np.isfinite(values).all():
            done.failed[key] = "its predictions are not finite"
            continue
        np.save(part.file(key), values, allow_pickle=False)
        written += 1
    spent = time.monotonic() - started
    report({"log": f"{part.device}: {written} of {len(keys)} networks predicted {len(part.paths):,} pictures in {spent:.0f} s"})
    return written


Costs = dict[int, dict[str, float]]
"""Seconds of a picture, by number of an experiment: "loading", and each view's forward pass through one network."""


def measure(part: Part, bundle: Bundle) -> Costs:
    """What the first pictures cost; nothing of an experiment of which no network can be loaded."""
    found = {}
    for number in sorted({key[0] for keys in part.groups for key in keys}):
        for key in [key for keys in part.groups for key in keys if key[0] == number]:
            try:
                together = Group(part, bundle, [key])
                if not together.members:
                    continue
                costs = measure_costs(together.reader, list(together.members.values()), together.pictures)
            except Exception as error:
                log.warning("kernel    the time of %s could not be measured: %s", bundle.experiments[number].name, in_words(error))
                continue
            names = view_names(part.views[number])
            found[number] = {"loading": costs.loading, **dict(zip(names, costs.passes[0].tolist(), strict=True))}
            break
    return found
