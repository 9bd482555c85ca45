import getpass
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundles import CLASSES, Wish, write_by_hand
from conftest import small_settings
from miniatures import MINIATURES

from pipeline.cli import Arguments, predict_all
from pipeline.config import Config
from pipeline.config_files import load_config
from pipeline.data.targets import Target
from pipeline.ensembling.schemes import Blend
from pipeline.errors import UserError
from pipeline.kaggle import kernel
from pipeline.kaggle.bundle import MARKER, Regressed, damaged, read_bundle
from pipeline.kaggle.kernel import Outcome, predict
from pipeline.predictions import Predictions
from pipeline.stages.bundle import portable, write_bundle
from pipeline.stages.ensemble import ensemble
from pipeline.stages.kernel import require_ready
from pipeline.stages.networks import manifest_of
from pipeline.stages.predicted import Predicted
from pipeline.stages.submit import submit

CONFIGS = Path(__file__).resolve().parent.parent.parent / "configs"
TINY = ["images.size=32", "images.cache_size=32", "images.preprocess=[]", "images.fit=stretch", "augment.train=[]", "folds.n_splits=2", "train.epochs=1"]
TINY += ["schedule.warmup=0", "train.batch_size=16", "train.ema=null", "model.backbone=test_resnet", "model.weights=null", "optimizer.layer_decay=null"]
TINY += ["predict.tta=none", "runtime.device=cpu", "runtime.workers=0", "runtime.threads=1", "runtime.jobs_per_device=1"]


@dataclass(frozen=True)
class Local:
    """A run on this machine, and its bundle."""

    experiments: list[Predicted]
    ensemble: Path
    submission: Path
    bundle: Path


def run_here(configs: Sequence[Config]) -> Local:
    experiments = predict_all(Arguments(list(configs), frozenset()))
    folder = ensemble(experiments)
    dataset = configs[0].outputs / configs[0].competition.name / "kernel" / "dataset"
    return Local(experiments, folder, submit(experiments, folder), write_bundle(experiments, folder, dataset).parent)


def as_mounted(config: Config, folder: Path) -> Path:
    """A copy of the competition without its train table and answers."""
    shutil.copytree(config.competition.root, folder)
    for name in (config.competition.train_table, config.competition.solution or ""):
        if (folder / name).is_file():
            (folder / name).unlink()
    return folder


# ---------------------------------------------------------------- the format


@pytest.mark.parametrize(
    "wish",
    [
        Wish((2, 1), blend=Blend("stacked", "multiclass", None, tuple((0.1,) * 20 for _ in range(10)), (0.25,) * 10), max_hours=8.5),
        Wish((1,), "regression", Target("regression", ("label",)), "score", regressed=Regressed(0.1, 1 / 3, -1e-30, 2e30, True)),
        Wish((1,), "ordinal", Target("ordinal", CLASSES, cut_points=tuple(np.linspace(0.1, 9, 9).tolist())), "label"),
        Wish((1,), "multilabel", Target("multilabel", CLASSES, True, thresholds=(0.3,) * 10), "label", competition={"metric": "macro_f1"}),
    ],
)
def test_a_bundle_is_read_as_it_was_written(wish: Wish, tmp_path: Path) -> None:
    bundle = write_by_hand(tmp_path, wish)
    assert read_bundle(tmp_path) == bundle
    assert damaged(bundle) == {}
    assert bundle.experiments[0].read_config(tmp_path).experiment == "hand-0"


def test_what_is_wrong_with_a_file_is_said_of_that_file(tmp_path: Path) -> None:
    bundle = write_by_hand(tmp_path)
    first, second, third = (network.file for network in bundle.experiments[0].networks)
    (tmp_path / first).unlink()
    (tmp_path / second).write_bytes((tmp_path / second).read_bytes()[:-100])
    (tmp_path / third).touch()
    assert damaged(bundle).keys() == {first, second}


class TestPortable:
    def config(self, **changes: Any) -> Config:
        settings = small_settings(Path.home() / "somewhere" / "digits", Path.home() / "outputs")
        settings["model"]["weights"] = str(Path.home() / "weights.pth")
        settings["competition"]["extra_train"] = [{"table": "more.csv", "root": str(Path.home() / "more")}, {"table": "own.csv"}]
        settings["tune"] = {"space": {"model.weights": {"choices": [str(Path.home() / "one.pth"), None]}}}
        for section, values in changes.items():
            settings[section] = {**settings.get(section, {}), **values}
        return Config.model_validate(settings)

    def test_no_place_of_this_machine_is_left(self) -> None:
        moved = portable(self.config())
        text = moved.model_dump_json()
        assert str(Path.home()) not in text
        assert moved.competition.extra_train[1].root is None
        assert moved.images == self.config().images

    def test_a_place_that_cannot_be_replaced_is_refused_with_its_key(self) -> None:
        with pytest.raises(UserError, match=r"competition\.test_table"):
            portable(self.config(competition={"test_table": str(Path.home() / "test.csv")}))

    def test_whole_parts_of_a_path_are_looked_at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Path, "home", lambda: Path("/somebody"))
        for path in ("plants/somebodys/{id}.png", "plants/somebody/{id}.png", "{split}/somebody/{id}.png"):
            assert portable(self.config(competition={"image_path": path})).competition.image_path == path
        for path in ("/somebody/plants/{id}.png", "/somebody"):
            with pytest.raises(UserError, match="lies in /somebody, which"):
                portable(self.config(augment={"train": [{"name": "FDA", "reference_images": [path]}]}))

    @pytest.mark.parametrize("key", ["train_table", "test_table", "sample_submission", "image_path", "extra_train.1.table", "extra_train.1.image_path"])
    def test_an_absolute_path_anywhere_is_refused_and_answers_stay_at_home(self, key: str) -> None:
        name = key.rpartition(".")[2]
        changes: dict[str, Any] = {name: "/mnt/large/{id}"}
        if key.startswith("extra"):
            changes = {"extra_train": [{"table": "own.csv"}, {"table": "more.csv", **changes}]}
        with pytest.raises(UserError, match=f"competition.{key}: /mnt/large/.* lies in /mnt/large, which is not there"):
            portable(self.config(competition=changes))
        assert portable(self.config(competition={"solution": "/mnt/large/answers.csv", "bundled": "digits"})).competition.solution is None


@pytest.mark.parametrize(
    "changes",
    [{"image_path": "crops/{id}.png"}, {"root": "elsewhere"}, {"test_table": "other.csv"}, {"sample_submission": None}, {"pixel_shape": [8, 8]}, {"id": "row"}],
)
def test_experiments_that_find_their_pictures_differently_are_refused_by_name(changes: dict[str, Any], digits: Path, tmp_path: Path) -> None:
    settings = small_settings(digits, tmp_path)
    first = Config.model_validate(settings)
    require_ready([first, first.model_copy(update={"experiment": "same"})])
    other = Config.model_validate({**settings, "experiment": "other", "competition": {**settings["competition"], **changes}})
    with pytest.raises(UserError, match=rf"competition\.{next(iter(changes))}: small has .* and other has .*"):
        require_ready([first, other])


# ---------------------------------------------------------------- a trained run


@pytest.fixture(scope="module")
def local(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Local:
    """Two experiments with inputs of their own, views, temperatures and fitted weights; one also has a network on all rows."""
    outputs = tmp_path_factory.mktemp("outputs")
    first, second = small_settings(digits, outputs), small_settings(digits, outputs)
    for settings in (first, second):
        settings |= {"predict": {"tta": "flips"}, "ensemble": {"models": "geometric", "temperature": "per_fold", "folds": "score"}}
        settings["train"] |= {"epochs": 2}
    second |= {"experiment": "other", "images": {**first["images"], "size": 20}, "predict": {"tta": "horizontal", "merge": "logits", "batch_size": 50}}
    second["train"] |= {"full_data": True}
    return run_here([Config.model_validate(first), Config.model_validate(second)])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[Predictions]:
    """What kernels predict, before it becomes cells of a file."""
    found: list[Predictions] = []
    written = kernel._written
    monkeypatch.setattr(kernel, "_written", lambda predictions, *rest: found.append(predictions) or written(predictions, *rest))
    return found


def assert_equal(outcome: Outcome, seen: list[Predictions], local: Local) -> None:
    expected = Predictions.load(local.ensemble)
    assert np.array_equal(seen[0].of(expected.ids).in_classes(expected.classes).values, expected.values)
    assert outcome.path.read_bytes() == local.submission.read_bytes()


@pytest.mark.slow
class TestTrained:
    def test_the_kernel_predicts_to_the_last_bit_what_was_predicted_here(self, local: Local, tmp_path: Path, seen: list[Predictions]) -> None:
        outcome = predict(local.bundle, as_mounted(local.experiments[0].config, tmp_path / "mounted"), tmp_path / "out.csv", devices=["cpu"], workers=0)
        assert len(outcome.networks) == 5
        assert_equal(outcome, seen, local)

    def test_nothing_leads_back_to_this_machine(self, local: Local, digits: Path) -> None:
        names = [name for name in (getpass.getuser(), os.uname().nodename) if len(name) > 4]  # shorter ones are anywhere
        words = [str(Path.home()), str(Path.cwd()), str(digits), str(local.ensemble.parents[1]), *names]
        for path in local.bundle.iterdir():
            data = path.read_bytes()
            assert not [word for word in words if word.encode() in data], path

    def test_what_is_up_to_date_is_not_written_again_and_what_is_gone_comes_back(self, local: Local) -> None:
        def write() -> dict[str, int]:
            write_bundle(local.experiments, local.ensemble, local.bundle)
            return {path.name: path.stat().st_mtime_ns for path in local.bundle.iterdir()}

        first = write()
        assert write() == first
        (local.bundle / "dataset-metadata.json").write_text("{}")
        (local.bundle / "gone--seed_0_fold_0.safetensors").write_bytes(b"")
        weights = next(local.bundle.glob("small--*"))
        weights.unlink()
        again = write()
        assert weights.name in again
        assert "dataset-metadata.json" in again
        assert "gone--seed_0_fold_0.safetensors" not in again
        assert damaged(read_bundle(local.bundle)) == {}
        (local.bundle / "dataset-metadata.json").unlink()

    def test_a_bundle_that_is_cut_off_is_none(self, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "kernel" / "dataset"
        write_bundle(local.experiments, local.ensemble, folder)
        (folder / "other.yaml").write_text("changed")
        monkeypatch.setattr("pipeline.stages.bundle._describe", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_bundle(local.experiments, local.ensemble, folder)
        assert not (folder / MARKER).exists()
        monkeypatch.undo()
        write_bundle(local.experiments, local.ensemble, folder)
        assert damaged(read_bundle(folder)) == {}

    def test_networks_that_are_not_those_that_were_trained_are_refused(self, local: Local, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        folder = tmp_path / "dataset"
        write_bundle(local.experiments, local.ensemble, folder)
        monkeypatch.setattr("pipeline.stages.bundle.manifest_of", lambda task: replace(manifest_of(task), digest="0" * 64))
        with pytest.raises(UserError, match=r"last\.pt is damaged"):
            write_bundle(local.experiments, local.ensemble, folder)

    def test_one_experiment_alone_leaves_the_others_files_out(self, local: Local, tmp_path: Path) -> None:
        folder = tmp_path / "dataset"
        write_bundle(local.experiments, local.ensemble, folder)
        alone = local.experiments[:1]
        write_bundle(alone, ensemble(alone), folder)
        assert {path.name for path in folder.iterdir()} == {MARKER, "small.yaml", *(f"small--seed_0_fold_{fold}.safetensors" for fold in (0, 1))}


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


CASES: dict[str, tuple[str, list[str], str]] = {
    "labels in a cell": ("plant-pathology-2021", ["ensemble.decisions=fitted"], ""),
    "grades, an unreadable picture": ("aptos2019", ["ensemble.decisions=fitted", "images.corrupt=skip"], "test_images/*.png"),
    "numbers": ("petfinder-pawpularity", ["loss.name=log_mse"], ""),
    "ranks, an unreadable picture": ("siim-isic-melanoma", ["predict.merge=ranks", "predict.tta=horizontal", "images.corrupt=skip"], "jpeg/test/*.jpg"),
    "pixel columns without ids": ("digit-recognizer", [], ""),
    "files without a table, JPEGs in the cache": ("plant-seedlings", ["cache.mode=jpeg"], ""),
    "five in a cell": ("hotel-id-2021", [], ""),
    "a column per class": ("dog-breed", ["ensemble.temperature=per_fold"], ""),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_competition_gives_the_bytes_that_it_gave_here(case: str, tmp_path: Path, seen: list[Predictions]) -> None:
    name, changes, unreadable = CASES[case]
    root = tmp_path / "input" / name
    MINIATURES[name](root)
    if unreadable:
        damage(sorted(root.glob(unreadable))[2])
    config = load_config(CONFIGS / f"{name}.yaml", [f"competition.root={root}", f"outputs={tmp_path / 'outputs'}", *TINY, *changes])
    local = run_here([config])
    outcome = predict(local.bundle, as_mounted(config, tmp_path / "mounted"), tmp_path / "submission.csv", devices=["cpu"], workers=0)
    assert_equal(outcome, seen, local)
    assert len(outcome.networks) == 2
    assert (len(outcome.notes) == 1) == bool(unreadable)
