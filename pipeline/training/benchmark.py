"""How much of the hardware training uses: the pipeline's rate beside random tensors, and beside timm's own loader."""

import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pandas as pd
import torch

from pipeline.augment.transforms import Transforms
from pipeline.config import Augment, Component, Images, Loss, Model, Optimizer, Schedule, Train
from pipeline.config_data import Competition
from pipeline.data.cache import ImageCache, build_cache
from pipeline.data.images import Pixels, read
from pipeline.data.pictures import Pictures
from pipeline.data.targets import Target
from pipeline.errors import UserError
from pipeline.runtime import devices, start_torch
from pipeline.training.datasets import Batch, EpochBatches, Normalise, TrainingImages, training_loader
from pipeline.training.engine import Trainer
from pipeline.training.fold import FoldData, Place, Recipe
from pipeline.training.models import build_model, check_backbone
from pipeline.training.outputs import Outputs

if TYPE_CHECKING:
    from timm.data.loader import PrefetchLoader

CLASSES = tuple("abcdefgh")
SHAPES = {"1024x768": (768, 1024), "256x192": (192, 256)}  # name: height, width of the JPEGs
CROP = {"name": "RandomResizedCrop", "scale": [0.08, 1.0], "ratio": [0.75, 4 / 3]}  # timm's defaults
FLIP = {"name": "HorizontalFlip", "p": 0.5}


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    backbones: list[str]
    precisions: list[str]
    size: int
    batch_size: int
    batches: int
    rounds: int
    workers: int
    threads: int
    device: str
    compile: bool

    @property
    def pictures(self) -> int:
        """In one measurement."""
        return self.batch_size * self.batches


def measure(folder: Path | None, plan: Plan) -> None:
    """Prints the tables."""
    if plan.rounds < 1 or plan.batches < 1:
        raise UserError("--rounds and --batches: at least 1")
    for backbone in plan.backbones:
        check_backbone(Model(backbone=backbone, weights=None))
    device = torch.device(devices(plan.device)[0])
    start_torch(plan.threads, str(device))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {plan.threads} threads"
    print(f"{name}; torch {torch.__version__}; {plan.size} px, batches of {plan.batch_size}, {plan.workers} workers, {plan.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as place:
        files = {words: write_pictures(folder, Path(place) / words, shape, plan.pictures) for words, shape in SHAPES.items()}
        print(f"{'loader alone, one process':32} {'pipeline':>12} {'timm':>12} {'ratio':>7}   (pictures per second)")
        for words, root in files.items():
            ours = our_loader(root, plan, 0, torch.device("cpu")).train
            theirs = timm_loader(root, plan, 0, torch.device("cpu")).loader  # bytes, as ours: neither normalises here
            rates = alternate({"pipeline": functools.partial(drain, ours), "timm": functools.partial(drain, theirs)}, plan)
            print(f"{words + ' JPEGs':32} {rates['pipeline']:12,.1f} {rates['timm']:12,.1f} {rates['pipeline'] / rates['timm']:7.2f}")
        if plan.backbones:
            print(f"\n{'training':32} {'tensors':>12} {'pipeline':>12} {'ratio':>7} {'timm loader':>12} {'ratio':>7}")
        for backbone in plan.backbones:
            for precision in plan.precisions:
                training_line(files["1024x768"], plan, backbone, precision, device)


def training_line(root: Path, plan: Plan, backbone: str, precision: str, device: torch.device) -> None:
    """Measures one network in one precision, with each of the three sources of pictures."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    trainer = build_trainer(root, plan, backbone, precision, device)
    pipeline, timm = trainer.data.train, timm_loader(root, plan, plan.workers, device)
    tensors = RandomTensors(plan, device)
    sources: dict[str, Iterable[Batch]] = {"tensors": tensors, "pipeline": pipeline, "timm": timm}

    def epoch(words: str) -> Callable[[], int]:
        def run() -> int:
            trainer.normalise = normalised if words != "pipeline" else normalise
            trainer.batch, trainer.source = 0, sources[words]
            trainer.train_epoch()
            trainer.epoch += 1
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            return plan.pictures

        return run

    normalise, normalised = trainer.normalise, AlreadyNormalised()
    rates = alternate({words: epoch(words) for words in sources}, plan)
    own, other = rates["pipeline"] / rates["tensors"], rates["timm"] / rates["tensors"]
    memory = f"  {torch.cuda.max_memory_allocated(device) / 1e9:.1f} GB" if device.type == "cuda" else ""
    print(f"{backbone + ' ' + precision:32} {rates['tensors']:12,.1f} {rates['pipeline']:12,.1f} {own:7.3f} {rates['timm']:12,.1f} {other:7.3f}{memory}")


def alternate(measurements: Mapping[str, Callable[[], int]], plan: Plan) -> dict[str, float]:
    """Pictures per second of each, the median over rounds in which they take turns; one round before them warms up."""
    rates: dict[str, list[float]] = {words: [] for words in measurements}
    for number in range(plan.rounds + 1):
        for words, run in measurements.items():
            started = time.perf_counter()
            pictures = run()
            if number:
                rates[words].append(pictures / (time.perf_counter() - started))
    return {words: statistics.median(found) for words, found in rates.items()}


def drain(batches: Iterable[Batch]) -> int:
    """Loads everything; returns how many pictures there were."""
    return sum(len(pixels) for pixels, _ in batches)


class RandomTensors:
    """The same normalised batch again and again, on the device."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        images = torch.randn(plan.batch_size, 3, plan.size, plan.size, device=device).contiguous(memory_format=torch.channels_last)
        self._batch, self._batches = (images, torch.arange(plan.batch_size, device=device)), plan.batches

    def __iter__(self) -> Iterator[Batch]:
        return iter([self._batch] * self._batches)


class AlreadyNormalised(Normalise):
    """Stands where the pipeline normalises, for batches that are."""

    def __init__(self) -> None:
        """Needs nothing."""

    def __call__(self, pixels: torch.Tensor) -> torch.Tensor:
        """The batch as it is."""
        return pixels.contiguous(memory_format=torch.channels_last)


def write_pictures(source: Path | None, folder: Path, shape: tuple[int, int], number: int) -> Path:
    """Writes so many JPEGs of this height and width, made of photographs; returns the folder, as timm reads one."""
    photographs = list(some_photographs(source, number))
    (folder / "all").mkdir(parents=True)
    random = np.random.default_rng(0)
    for row in range(number):
        pixels = cut(photographs[row % len(photographs)], shape, random)
        cv2.imwrite(str(folder / "all" / f"{row}.jpg"), pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
    return folder


def some_photographs(source: Path | None, number: int) -> Iterator[Pixels]:
    """The first pictures below a folder, or scikit-learn's two."""
    if source is None:
        from sklearn.datasets import load_sample_images

        yield from load_sample_images().images
        return
    paths = sorted(path for path in source.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise UserError(f"--pictures: no .jpg, .jpeg or .png below {source}")
    for path in paths[:number]:
        yield read(path)


def cut(pixels: Pixels, shape: tuple[int, int], random: np.random.Generator) -> Pixels:
    """A random crop of the shape's proportions, 60 to 100 % of what fits, resized to it."""
    height, width = pixels.shape[:2]
    scale = min(height / shape[0], width / shape[1]) * random.uniform(0.6, 1.0)
    rows, columns = int(shape[0] * scale), int(shape[1] * scale)
    top, left = random.integers(height - rows + 1), random.integers(width - columns + 1)
    return np.asarray(cv2.resize(pixels[top : top + rows, left : left + columns], shape[::-1], interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def our_loader(root: Path, plan: Plan, workers: int, device: torch.device) -> FoldData:
    """The pipeline's way: a raw cache of 256 pixels, made once, and albumentations; uint8 to the device."""
    images = Images(cache_size=round(plan.size * 256 / 224), size=plan.size)
    competition = Competition(name="benchmark", root=root, id="id", target="label", metric="accuracy", image_path="all/{id}.jpg")
    pictures, names = Pictures(competition, images), [str(row) for row in range(plan.pictures)]
    cache = root / "cache"
    if not cache.exists():
        rows = pd.DataFrame({"split": "train", "id": names, "path": [f"all/{name}.jpg" for name in names]})
        build_cache(rows, pictures, cache, "raw", images.cache_size, 95)
    target = Target("multiclass", CLASSES)
    transforms = Transforms([Component.model_validate(CROP | {"size": [plan.size, plan.size]}), Component.model_validate(FLIP)])
    batches = EpochBatches(len(names), plan.batch_size, seed=0, fold=0)
    dataset = TrainingImages(ImageCache(cache, pictures), [("train", name) for name in names], transforms, images, 0, 0)
    numbers = target.numbers([CLASSES[row % len(CLASSES)] for row in range(len(names))])
    loader = training_loader(dataset, batches, workers, device)
    return FoldData(batches, loader, numbers, None, numbers[:0], target, Outputs.of("multiclass", numbers), "accuracy")


def timm_loader(root: Path, plan: Plan, workers: int, device: torch.device) -> "PrefetchLoader":
    """timm's way: files decoded by PIL, its default training transforms without colour jitter, normalised on the device."""
    from timm.data.dataset_factory import create_dataset
    from timm.data.loader import PrefetchLoader, create_loader

    dataset = create_dataset("", root=str(root), split="", is_training=True)
    shape = (3, plan.size, plan.size)
    loader = create_loader(dataset, shape, plan.batch_size, is_training=True, color_jitter=0.0, num_workers=workers, device=device)
    assert isinstance(loader, PrefetchLoader)
    return loader


def build_trainer(root: Path, plan: Plan, backbone: str, precision: str, device: torch.device) -> Trainer:
    """The project's own training loop: AdamW, clipping, no moving average."""
    data = our_loader(root, plan, plan.workers, device)
    model = build_model(Model(backbone=backbone, weights=None), len(CLASSES), seed=0)
    train = Train.model_validate({"epochs": 1000, "batch_size": plan.batch_size, "precision": precision, "ema": None})
    recipe = Recipe(Augment(), Loss(), Optimizer(learning_rate=1e-4), Schedule(name="constant"), train)
    place = Place(0, 0, root / "fold", "", {}, checkpoint_minutes=1e9, compile=plan.compile)
    return Trainer(model, data, recipe, Normalise(Images(size=plan.size), device), place, device)
