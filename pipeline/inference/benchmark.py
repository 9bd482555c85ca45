"""How much of the hardware prediction uses: pictures through all views and folds beside the bare forward passes of them."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset

from pipeline.config import Images, Model
from pipeline.errors import UserError
from pipeline.inference.predict import Member, Reader, predict_merged
from pipeline.inference.tta import view_names
from pipeline.runtime import autocast_dtype, casting, devices, start_torch
from pipeline.training.benchmark import CLASSES, SHAPES, alternate, our_loader, write_pictures
from pipeline.training.benchmark import Plan as Loaded
from pipeline.training.datasets import Batch, PlainImages, TrainingImages
from pipeline.training.models import build_model, check_backbone
from pipeline.training.outputs import Outputs


@dataclass(frozen=True)
class Plan(Loaded):
    """What is measured, and for how long."""

    tta: list[str]
    folds: int


def measure(folder: Path | None, plan: Plan) -> None:
    """Prints the table."""
    if min(plan.rounds, plan.batches, plan.folds) < 1:
        raise UserError("--rounds, --batches and --folds: at least 1")
    for backbone in plan.backbones:
        check_backbone(Model(backbone=backbone, weights=None))
    device = torch.device(devices(plan.device)[0])
    start_torch(plan.threads, str(device))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {plan.threads} threads"
    amount = f"{plan.pictures} pictures in batches of {plan.batch_size}"
    print(f"{name}; torch {torch.__version__}; {plan.size} px, {amount}, {plan.workers} workers, {plan.rounds} rounds\n")
    print(f"{'pictures per second':40} {'bare passes':>12} {'predicting':>12} {'time':>7}")
    with tempfile.TemporaryDirectory() as place:
        root = write_pictures(folder, Path(place) / "pictures", SHAPES["256x192"], plan.pictures)
        for backbone in plan.backbones:
            for precision in plan.precisions:
                for tta in plan.tta:
                    prediction_line(root, plan, backbone, precision, tta, device)


def prediction_line(root: Path, plan: Plan, backbone: str, precision: str, tta: str, device: torch.device) -> None:
    """Measures the networks of all folds with the views of a preset."""
    reader, dataset = Reader(Images(size=plan.size), plan.batch_size, plan.workers, device), plain_pictures(root, plan)
    autocast = autocast_dtype(precision, device)
    models = [build_model(Model(backbone=backbone, weights=None), len(CLASSES), seed=fold).to(device).eval() for fold in range(plan.folds)]
    members = [Member(model, Outputs("multiclass"), autocast, view_names(tta)) for model in models]

    def predicting() -> int:
        predict_merged(reader, members, dataset)
        return plan.pictures

    rates = alternate({"bare": bare_passes(reader, members, dataset, plan), "predicting": predicting}, plan)
    title = f"{backbone} {precision}, {len(members[0].views)} views x {plan.folds} folds"
    print(f"{title:40} {rates['bare']:12,.2f} {rates['predicting']:12,.2f} {rates['bare'] / rates['predicting']:7.3f}")


def bare_passes(reader: Reader, members: list[Member], dataset: Dataset[Batch], plan: Plan) -> Callable[[], int]:
    """As many forward passes, of batches that lie on the device, normalised; nothing becomes of the logits."""
    normalise = reader.normalise()
    batches = [normalise(pixels) for pixels, _ in reader.load(dataset)]

    @torch.inference_mode()
    def run() -> int:
        for images in batches:
            for member in members:
                for _ in member.views:
                    with casting(reader.device, member.autocast):
                        member.model(images)
        if reader.device.type == "cuda":
            torch.cuda.synchronize(reader.device)
        return plan.pictures

    return run


def plain_pictures(root: Path, plan: Plan) -> PlainImages:
    """The pictures in a raw cache, as predicting reads them."""
    training = our_loader(root, plan, 0, torch.device("cpu")).train.dataset
    assert isinstance(training, TrainingImages)
    return PlainImages(training.cache, "train", [name for _, name in training.places], training.images)
