"""What a fold is trained with: its recipe, its data, and the place where it is kept."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from pipeline.config import Augment, Loss, Optimizer, Schedule, Train
from pipeline.data.targets import Numbers, Target
from pipeline.training.datasets import Batch, EpochBatches
from pipeline.training.outputs import Outputs


@dataclass(frozen=True)
class Recipe:
    """The config's sections that decide how the weights move."""

    augment: Augment
    loss: Loss
    optimizer: Optimizer
    schedule: Schedule
    train: Train


@dataclass(frozen=True)
class FoldData:
    """What a fold is trained and looked at with. Targets are as `Target.numbers` gives them, one per row of its loader."""

    batches: EpochBatches
    train: DataLoader[Batch]
    train_targets: Numbers
    """May be soft: float [rows, K]."""
    valid: DataLoader[Batch] | None
    """None: every row is trained on, and nothing is looked at."""
    valid_targets: Numbers
    target: Target
    outputs: Outputs
    metric: str


@dataclass(frozen=True)
class Place:
    """Which fold this is and where it is kept; fingerprint and settings guard the checkpoint."""

    seed: int
    fold: int
    folder: Path
    fingerprint: str
    settings: Mapping[str, Any]
    checkpoint_minutes: float = 10.0
    compile: bool = False
    title: str = ""

    @property
    def name(self) -> str:
        """The fold in words."""
        return self.title or f"seed {self.seed} fold {self.fold}"
