"""Real photographs and real weights, where they are there; PODIUM_DATA and PODIUM_WEIGHTS say where."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.cli import run_script, submit_all
from pipeline.config import Config
from pipeline.config_files import write_config
from pipeline.data.images import decode
from pipeline.stages.ensemble import chosen_score
from pipeline.training.models import build_model

ROOT = Path(__file__).resolve().parent.parent


def run(*words: object) -> int:
    return run_script("", submit_all, [str(word) for word in words])


def test_the_weights_file_fits_the_backbone_and_only_the_head_is_new(mobilenet_weights: Path) -> None:
    import torch

    section = Config.model_validate(
        {
            "experiment": "x",
            "competition": {"name": "x", "root": "x", "id": "x", "target": "x", "image_path": "x", "metric": "accuracy"},
            "model": {"backbone": "mobilenetv2_100", "weights": str(mobilenet_weights), "arguments": {"pad_type": "same"}},
        }
    ).model
    loaded = build_model(section, 6, seed=0).state_dict()
    stored = torch.load(mobilenet_weights, weights_only=True)
    differing = {name for name in loaded if not torch.equal(loaded[name], stored[name])}
    assert differing == {"classifier.weight", "classifier.bias"}


def test_every_photograph_of_trash_decodes(trash: Path) -> None:
    pictures = sorted((trash / "images").iterdir())[::50]
    assert len(pictures) > 40
    assert {decode(picture.read_bytes()).shape for picture in pictures} == {(192, 256, 3)}


@pytest.mark.slow
def test_trash_learns_from_real_weights_and_its_labels_make_a_valid_submission(trash: Path, mobilenet_weights: Path, tmp_path: Path) -> None:
    changes = ["folds.n_splits=2", "train.epochs=2", "images.size=[96, 128]", "images.cache_size=96", "predict.tta=horizontal"]
    augment = "augment.train=[{name: RandomResizedCrop, size: [96, 128], scale: [0.6, 1.0]}, {name: HorizontalFlip}]"
    places = [f"competition.root={trash}", f"model.weights={mobilenet_weights}", f"outputs={tmp_path}"]
    assert run(ROOT / "configs" / "trash.yaml", *changes, augment, *places) == 0
    submission = pd.read_csv(tmp_path / "trash" / "submission.csv", dtype=str)
    sample = pd.read_csv(trash / "sample_submission.csv", dtype=str)
    assert submission["image"].tolist() == sample["image"].tolist()
    assert set(submission["label"]) <= {"cardboard", "glass", "metal", "paper", "plastic", "trash"}
    score = chosen_score(tmp_path / "trash" / "ensembles" / "trash")
    assert score["cv"] > 0.6, "a third of the rows are of the largest classes; fine-tuning learns more than that"


@pytest.mark.slow
def test_leaf99_makes_a_valid_submission_of_probabilities(leaf99: Path, mobilenet_weights: Path, tmp_path: Path) -> None:
    config = Config.model_validate(
        {
            "experiment": "leaf99",
            "outputs": str(tmp_path / "outputs"),
            "competition": {"name": "leaf99", "root": str(leaf99), "id": "id", "target": "species", "image_path": "images/{id}.jpg", "metric": "log_loss"},
            "folds": {"n_splits": 2},
            "images": {"cache_size": 96, "size": 96, "fit": "pad", "mean": [0.5] * 3, "std": [0.5] * 3},
            "model": {"backbone": "mobilenetv2_100", "weights": str(mobilenet_weights), "arguments": {"pad_type": "same"}},
            "optimizer": {"learning_rate": 4e-3, "layer_decay": 0.75},
            "train": {"epochs": 3, "batch_size": 32},
            "runtime": {"workers": 0, "threads": 1, "jobs_per_device": 2},
        }
    )
    path = tmp_path / "leaf99.yaml"
    path.write_text(write_config(config))
    assert run(path) == 0
    submission = pd.read_csv(tmp_path / "outputs" / "leaf99" / "submission.csv", dtype={"id": str})
    sample = pd.read_csv(leaf99 / "sample_submission.csv", dtype={"id": str})
    assert list(submission.columns) == list(sample.columns)
    assert submission["id"].tolist() == sample["id"].tolist()
    np.testing.assert_allclose(submission.iloc[:, 1:].sum(axis=1), 1, atol=1e-6)
    score = chosen_score(tmp_path / "outputs" / "leaf99" / "ensembles" / "leaf99")
    assert score["cv"] < np.log(99), "better than saying 1/99 of every species"
