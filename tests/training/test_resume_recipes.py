"""A contract over every optimiser that is accepted and every schedule: a run killed in the middle ends in the bits of an undisturbed one."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from pipeline.config import Augment, Images, Loss, Optimizer, Schedule, Train
from pipeline.data.targets import Target
from pipeline.runtime import start_torch
from pipeline.training.checkpoint import digest_weights, load_checkpoint
from pipeline.training.datasets import Batch, Draw, EpochBatches, Normalise
from pipeline.training.engine import Trainer
from pipeline.training.fold import FoldData, Place, Recipe
from pipeline.training.optim import accepted_optimizers
from pipeline.training.outputs import Outputs

CPU = torch.device("cpu")
EPOCHS, BATCHES, BATCH_SIZE, CLASSES = 2, 3, 4, 3
AFTER_EVERY_UPDATE = 1e-9  # minutes between checkpoints
NOTHING_HEARD = {"epochs": 0, "best": -math.inf, "waited": 0, "lowered": 0}


class Killed(Exception):
    """Stands for whatever ends the process."""


class TinyNetwork(torch.nn.Module):
    """Convolution, BatchNorm and a head that is known."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Conv2d(3, 4, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(4)
        self.head = torch.nn.Linear(4, CLASSES)
        self.pretrained_cfg = {"classifier": "head"}

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.norm(self.body(images)).relu().mean((2, 3)))
        return logits


class Noise(Dataset[Batch]):
    """Pictures [8, 8, 3] of noise, by row or by draw; the loader ends the process instead of giving the draw of (epoch, batch) `dies_at`."""

    def __init__(self, dies_at: tuple[int, int] | None = None) -> None:
        self._dies_at = dies_at
        self._pixels = torch.randint(256, (BATCHES * BATCH_SIZE, 8, 8, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, draw: Draw | int) -> Batch:
        if isinstance(draw, int):
            return self._pixels[draw], torch.tensor(draw)
        if (draw.epoch, draw.position // BATCH_SIZE) == self._dies_at:
            raise Killed
        return self._pixels[draw.row], torch.tensor(draw.row)


def trainer(folder: Path, optimizer: Optimizer, schedule: Schedule, epochs: int = EPOCHS, dies_at: tuple[int, int] | None = None, **train: Any) -> Trainer:
    recipe = Recipe(Augment(), Loss(), optimizer, schedule, Train(epochs=epochs, batch_size=BATCH_SIZE, ema=0.9, **train))
    batches = EpochBatches(BATCHES * BATCH_SIZE, BATCH_SIZE, seed=0, fold=0)
    targets = np.arange(BATCHES * BATCH_SIZE) % CLASSES
    data = FoldData(
        batches=batches,
        train=DataLoader(Noise(dies_at), batch_sampler=batches),
        train_targets=targets,
        valid=DataLoader(Noise(), batch_size=BATCHES * BATCH_SIZE),
        valid_targets=targets,
        target=Target("multiclass", ("a", "b", "c")),
        outputs=Outputs("multiclass"),
        metric="accuracy",
    )
    place = Place(0, 0, folder, "a", {}, checkpoint_minutes=AFTER_EVERY_UPDATE)
    return Trainer(TinyNetwork(), data, recipe, Normalise(Images(size=8), CPU), place, CPU)


def digests(folder: Path) -> dict[str, Any]:
    """What the checkpoint holds of weights, moving average and the optimiser's own state."""
    state = load_checkpoint(folder)
    assert state is not None
    tensors = {f"{number}.{name}": value for number, values in state["optimizer"]["state"].items() for name, value in values.items()}
    moments = {name: value for name, value in tensors.items() if isinstance(value, torch.Tensor)}
    return {
        "weights": digest_weights(state["model"]),
        "average": digest_weights(state["ema"]),
        "moments": digest_weights(moments),
        "numbers": {name: value for name, value in tensors.items() if name not in moments},
        "groups": state["optimizer"]["param_groups"],
        "learning_rate": state["learning_rate"],
        "history": (folder / "history.csv").read_bytes(),
    }


def check(folder: Path, optimizer: Optimizer, schedule: Schedule, dies_at: tuple[int, int], **train: Any) -> dict[str, Any]:
    """Trains undisturbed, killed, and resumed, and compares; returns the last checkpoint."""
    weights = trainer(folder / "whole", optimizer, schedule, **train).run()
    assert all(torch.isfinite(value).all() for value in weights.values())
    with pytest.raises(Killed):
        trainer(folder / "resumed", optimizer, schedule, dies_at=dies_at, **train).run()
    resumed = trainer(folder / "resumed", optimizer, schedule, **train).run()
    assert digest_weights(resumed) == digest_weights(weights)
    assert digests(folder / "resumed") == digests(folder / "whole")
    state = load_checkpoint(folder / "whole")
    assert state is not None
    return state


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and no waiting for the disk: a process that dies takes no written file with it."""
    monkeypatch.setattr("os.fsync", lambda _: None)
    start_torch(1)


USUAL = ("adamw", "adam", "sgd", "lamb", "lion", "rmsproptf", "lookahead_adamw")
EVERY = [*accepted_optimizers(), "lookahead_adamw", "lookahead_radam", "lookahead_sgd"]
OPTIMIZERS = [name if name in USUAL else pytest.param(name, marks=pytest.mark.slow) for name in EVERY]
"""Every one; the usual ones in the fast tests, too."""


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_resumes_in_the_same_bits_and_moves_every_weight(tmp_path: Path, name: str) -> None:
    """The head learns alone for one update, at three times the rate; then all do. Killed in the second epoch."""
    optimizer = Optimizer(name=name, learning_rate=1e-2, head_multiple=3.0)
    state = check(tmp_path, optimizer, Schedule(warmup="2 steps"), dies_at=(1, 1), freeze="1 step")
    start = TinyNetwork().state_dict()
    unmoved = [name for name, _ in TinyNetwork().named_parameters() if torch.equal(state["model"][name], start[name])]
    assert not unmoved
    assert all(math.isfinite(row["train_loss"]) for row in state["history"])


@pytest.mark.parametrize("dies_at", [(1, 0), (2, 2)])
@pytest.mark.parametrize("name", ["cosine", "one_cycle", "step", "plateau", "constant"])
def test_every_schedule_resumes_in_the_same_bits(tmp_path: Path, name: str, dies_at: tuple[int, int]) -> None:
    """The rates hardly move the weights, so that the score stands still and plateau lowers the rate."""
    schedule = Schedule.model_validate({"name": name, "warmup": "2 steps", "patience": 1})
    state = check(tmp_path, Optimizer(learning_rate=1e-7), schedule, dies_at, epochs=4)
    rates = [row["learning_rate"] for row in state["history"]]
    assert (len(set(rates)) == 1) == (name == "constant")
    assert (state["learning_rate"] == NOTHING_HEARD) == (name != "plateau")
    assert name != "plateau" or state["learning_rate"]["lowered"] >= 2
