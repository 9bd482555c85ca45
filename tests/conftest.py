"""What every test may use: the digits as a competition, a small config on them, real data where it is there."""

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.config import Config
from pipeline.data.digits import write_digits
from pipeline.runtime import start_torch


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Two threads on two busy cores wait for each other more than they work."""
    if "torch" in sys.modules:
        start_torch(1)


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits competition; read it, do not write to it."""
    root = tmp_path_factory.mktemp("input") / "digits"
    write_digits(root)
    return root


@pytest.fixture
def own_digits(digits: Path, tmp_path: Path) -> Path:
    """A copy of the digits competition that the test may damage."""
    return Path(shutil.copytree(digits, tmp_path / "digits"))


def small_settings(root: Path, outputs: Path) -> dict[str, Any]:
    """A whole experiment on the digits in seconds: two folds, one epoch, 16 pixels."""
    return {
        "experiment": "small",
        "outputs": str(outputs),
        "competition": {
            "name": "digits",
            "root": str(root),
            "id": "id",
            "target": "label",
            "image_path": "images/{id}.png",
            "metric": "accuracy",
            "solution": "solution.csv",
        },
        "folds": {"n_splits": 2},
        "images": {"cache_size": 16, "size": 16, "fit": "stretch", "mean": [0.5] * 3, "std": [0.5] * 3},
        "model": {"backbone": "test_resnet", "weights": None},
        "schedule": {"warmup": 0},
        "train": {"epochs": 1, "batch_size": 64, "ema": 0.9},
        "runtime": {"device": "cpu", "workers": 0, "threads": 1},
    }


@pytest.fixture
def small(digits: Path, tmp_path: Path) -> Config:
    """The small experiment, writing below the test's own folder."""
    return Config.model_validate(small_settings(digits, tmp_path / "outputs"))


@pytest.fixture(scope="session")
def trash() -> Path:
    """A real competition of photographs, where PODIUM_DATA names the folder that holds it."""
    return _real("PODIUM_DATA", "trash")


@pytest.fixture(scope="session")
def leaf99() -> Path:
    """A real competition of 99 species, where PODIUM_DATA names the folder that holds it."""
    return _real("PODIUM_DATA", "leaf99")


@pytest.fixture(scope="session")
def mobilenet_weights() -> Path:
    """ImageNet weights of mobilenetv2_100, where PODIUM_WEIGHTS names the folder that holds them."""
    return _real("PODIUM_WEIGHTS", "mobilenetv2_100.pth")


def _real(variable: str, name: str) -> Path:
    folder = os.environ.get(variable)
    if folder is None or not (Path(folder) / name).exists():
        pytest.skip(f"{name} is not here: set {variable} to the folder that holds it")
    return Path(folder) / name
