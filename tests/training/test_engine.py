import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import small_settings
from torch.utils.data import DataLoader

from pipeline.augment.transforms import Transforms
from pipeline.config import Augment, Component, Config, Loss, Mixing, Model, Optimizer, Schedule, Task, Train
from pipeline.data.cache import ImageCache
from pipeline.data.targets import Target
from pipeline.errors import RunFailed, UserError
from pipeline.runtime import CtrlC, Interrupted, start_torch
from pipeline.stages.prepare import Prepared, prepare
from pipeline.training.checkpoint import LAST, digest_weights, final_weights, load_checkpoint
from pipeline.training.datasets import Batch, EpochBatches, Normalise, PlainImages, TrainingImages, plain_loader, training_loader
from pipeline.training.engine import Trainer
from pipeline.training.fold import FoldData, Place, Recipe
from pipeline.training.held_out import HeldOut
from pipeline.training.metrics import METRICS
from pipeline.training.models import build_model
from pipeline.training.outputs import Outputs

CPU = torch.device("cpu")
EPOCHS, BATCHES, BATCH_SIZE = 3, 5, 8
AFTER_EVERY_UPDATE, AFTER_EVERY_EPOCH = 1e-9, 10.0  # minutes between checkpoints
EVERYTHING = Recipe(
    augment=Augment(train=(Component.model_validate({"name": "HorizontalFlip", "p": 0.5}),), mixing=Mixing(mixup=0.4, cutmix=1.0, prob=0.8, off_epochs=1)),
    loss=Loss(smoothing=0.1),
    optimizer=Optimizer(learning_rate=1e-2),
    schedule=Schedule(warmup=1),
    train=Train(epochs=EPOCHS, batch_size=BATCH_SIZE, accumulation=2, ema=0.9),
)
PLAIN = Recipe(Augment(), Loss(), Optimizer(learning_rate=1e-2), Schedule(warmup=0), Train(epochs=EPOCHS, batch_size=BATCH_SIZE, ema=None))


class Killed(Exception):
    """Stands for whatever ends the process."""


class DyingLoader:
    """A loader that ends the process instead of giving batch number `after` of the run."""

    def __init__(self, loader: DataLoader[Batch], after: int) -> None:
        self._loader, self._left = loader, after

    def __iter__(self) -> Iterator[Batch]:
        for batch in self._loader:
            if self._left == 0:
                raise Killed
            self._left -= 1
            yield batch


class TinyNetwork(torch.nn.Module):
    """Convolution, dropout and head, in milliseconds; its loss is not finite at forward pass number `breaks_at` of training."""

    def __init__(self, norm: bool = True, breaks_at: int | None = None, gain: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = torch.nn.Conv2d(3, 6, 3, stride=2)
        self.norm = torch.nn.BatchNorm2d(6) if norm else torch.nn.Identity()
        self.drop = torch.nn.Dropout(0.3 if norm else 0.0)
        self.head = torch.nn.Linear(6, 10)
        self._breaks_at, self._passes, self._gain = breaks_at, 0, gain

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.drop(self.norm(self.body(self._gain * images)).relu().mean((2, 3))))
        if self.training:
            self._passes += 1
            if self._passes - 1 == self._breaks_at:
                return logits * float("nan")
        return logits


@pytest.fixture(autouse=True)
def one_thread() -> None:
    start_torch(1)


@pytest.fixture(scope="module")
def config(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return Config.model_validate(small_settings(digits, tmp_path_factory.mktemp("outputs")))


@pytest.fixture(scope="module")
def prepared(config: Config) -> Prepared:
    return prepare(config)


@pytest.fixture(scope="module")
def whole(config: Config, prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a run that nothing disturbed."""
    start_torch(1)
    bench = Bench(config, prepared, tmp_path_factory.mktemp("whole"))
    bench.trainer("fold", EVERYTHING).run()
    return str(bench.root / "fold")


@pytest.fixture
def bench(config: Config, prepared: Prepared, tmp_path: Path) -> "Bench":
    return Bench(config, prepared, tmp_path)


class Bench:
    """Builds trainers on a few of the digits."""

    def __init__(self, config: Config, prepared: Prepared, root: Path) -> None:
        self.config, self.prepared, self.root = config, prepared, root

    def data(self, recipe: Recipe, seed: int, fold: int, workers: int, rows: int) -> FoldData:
        inside = self.prepared.folds["fold"] == fold
        learned = self.prepared.folds[~inside].head(rows)
        held_out = self.prepared.folds[inside].head(30)
        cache, target = ImageCache(self.prepared.cache, self.prepared.pictures), self.prepared.target
        batches = EpochBatches(len(learned), recipe.train.batch_size, seed, fold)
        shown = TrainingImages(cache, [("train", name) for name in learned["id"]], Transforms(recipe.augment.train), self.config.images, seed, fold)
        plain = PlainImages(cache, "train", held_out["id"].tolist(), self.config.images)
        return FoldData(
            batches=batches,
            train=training_loader(shown, batches, workers, CPU),
            train_targets=target.numbers(learned["target"].tolist()),
            valid=plain_loader(plain, 64, 0, CPU),
            valid_targets=target.numbers(held_out["target"].tolist()),
            target=target,
            outputs=Outputs.of(target.task, target.numbers(learned["target"].tolist())),
            metric="accuracy",
        )

    def trainer(
        self,
        folder: str,
        recipe: Recipe,
        minutes: float = AFTER_EVERY_EPOCH,
        dies_at: int | None = None,
        model: torch.nn.Module | None = None,
        workers: int = 0,
        rows: int = BATCHES * BATCH_SIZE + 3,
        **place: Any,
    ) -> Trainer:
        data = self.data(recipe, place.get("seed", 0), place.get("fold", 0), workers, rows)
        if dies_at is not None:
            data = replace(data, train=DyingLoader(data.train, dies_at))  # type: ignore[arg-type]
        where = Place(**{"seed": 0, "fold": 0, "folder": self.root / folder, "fingerprint": "a", "settings": {}, "checkpoint_minutes": minutes} | place)
        return Trainer(model or TinyNetwork(), data, recipe, Normalise(self.config.images, CPU), where, CPU)

    def history(self, folder: str) -> bytes:
        return (self.root / folder / "history.csv").read_bytes()

    def weights(self, folder: str) -> dict[str, torch.Tensor]:
        state = load_checkpoint(self.root / folder)
        assert state is not None
        return {**state["model"], **{f"ema.{name}": value for name, value in (state["ema"] or {}).items()}}


class TestResume:
    """A run killed anywhere and started again ends with the bits of one that nothing disturbed."""

    def resume(self, bench: Bench, whole: str, recipe: Recipe = EVERYTHING, **arguments: Any) -> None:
        """Runs to the end and compares what it returned and left on disk with the undisturbed run."""
        returned = bench.trainer("resumed", recipe, **arguments).run()
        state = load_checkpoint(bench.root / whole)
        assert state is not None
        assert digest_weights(returned) == digest_weights(state["ema"])
        assert digest_weights(bench.weights("resumed")) == digest_weights(bench.weights(whole))
        assert bench.history("resumed") == bench.history(whole)

    def kill(self, bench: Bench, recipe: Recipe, minutes: float, dies_at: int, **arguments: Any) -> None:
        with pytest.raises(Killed):
            bench.trainer("resumed", recipe, minutes, dies_at, **arguments).run()

    @pytest.mark.parametrize("minutes", [AFTER_EVERY_UPDATE, AFTER_EVERY_EPOCH], ids=["after_every_update", "after_every_epoch"])
    @pytest.mark.parametrize("dies_at", [at if at % 4 == 0 else pytest.param(at, marks=pytest.mark.slow) for at in range(EPOCHS * BATCHES)])
    def test_killed_at_any_batch(self, bench: Bench, whole: str, dies_at: int, minutes: float) -> None:
        self.kill(bench, EVERYTHING, minutes, dies_at)
        self.resume(bench, whole)

    def test_killed_again_and_again(self, bench: Bench, whole: str) -> None:
        for _ in range(4):
            self.kill(bench, EVERYTHING, AFTER_EVERY_UPDATE, 3)
        self.resume(bench, whole)

    def test_a_kill_with_frequent_checkpoints_costs_no_more_than_one_update(self, bench: Bench) -> None:
        self.kill(bench, EVERYTHING, AFTER_EVERY_UPDATE, 9)
        state = load_checkpoint(bench.root / "resumed")
        assert state is not None
        assert 9 - (state["epoch"] * BATCHES + state["batch"]) <= EVERYTHING.train.accumulation

    def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(self, bench: Bench, whole: str) -> None:
        self.kill(bench, EVERYTHING, AFTER_EVERY_UPDATE, 8)
        last = bench.root / "resumed" / LAST
        last.write_bytes(last.read_bytes()[:5000])
        self.resume(bench, whole)

    def test_killed_between_the_last_checkpoint_and_its_history(self, bench: Bench, whole: str) -> None:
        bench.trainer("resumed", EVERYTHING).run()
        path = bench.root / "resumed" / "history.csv"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
        self.resume(bench, whole)

    def test_a_finished_run_started_again_changes_nothing(self, bench: Bench, whole: str) -> None:
        bench.trainer("resumed", EVERYTHING).run()
        self.resume(bench, whole)

    @pytest.mark.parametrize("precision", ["fp16", "bf16"])
    @pytest.mark.parametrize("dies_at", [3, 6, 14])
    def test_killed_in_half_precision(self, bench: Bench, whole: str, precision: str, dies_at: int) -> None:
        recipe = replace(EVERYTHING, train=EVERYTHING.train.model_copy(update={"precision": precision}))
        gain = 50.0 if precision == "fp16" else 1.0
        undisturbed = bench.trainer("undisturbed", recipe, model=TinyNetwork(norm=False, gain=gain))
        undisturbed.run()
        if precision == "fp16":
            assert undisturbed.scaler.get_scale() < 2**16, "an update was left out and the scale halved"
        assert digest_weights(bench.weights("undisturbed")) != digest_weights(bench.weights(whole)), "the precision has an effect"
        self.kill(bench, recipe, AFTER_EVERY_UPDATE, dies_at, model=TinyNetwork(norm=False, gain=gain))
        self.resume(bench, "undisturbed", recipe, model=TinyNetwork(norm=False, gain=gain))

    @pytest.mark.parametrize("dies_at", [3, 8])
    def test_killed_with_a_backbone_of_timm_and_workers(self, bench: Bench, dies_at: int) -> None:
        def backbone() -> torch.nn.Module:
            return build_model(Model(backbone="test_resnet", weights=None, arguments={"drop_rate": 0.3}), 10, seed=0)

        bench.trainer("undisturbed", EVERYTHING, model=backbone()).run()
        self.kill(bench, EVERYTHING, AFTER_EVERY_UPDATE, dies_at, model=backbone(), workers=2)
        self.resume(bench, "undisturbed", model=backbone(), workers=1)

    def test_a_checkpoint_of_other_settings_is_refused_with_what_differs(self, bench: Bench) -> None:
        self.kill(bench, EVERYTHING, AFTER_EVERY_UPDATE, 4, settings={"train": {"epochs": 3, "ema": 0.9}, "loss": {"smoothing": 0.1}})
        before = digest_weights(bench.weights("resumed"))
        other = bench.trainer("resumed", EVERYTHING, fingerprint="b", settings={"train": {"epochs": 3, "ema": 0.5}, "loss": {"smoothing": 0.2}})
        with pytest.raises(UserError, match=r"loss\.smoothing: 0\.1 -> 0\.2; train\.ema: 0\.9 -> 0\.5") as raised:
            other.run()
        assert "epochs" not in str(raised.value)
        assert digest_weights(bench.weights("resumed")) == before

    def test_a_checkpoint_of_other_data_is_refused_although_no_setting_differs(self, bench: Bench) -> None:
        self.kill(bench, EVERYTHING, AFTER_EVERY_UPDATE, 4)
        with pytest.raises(UserError, match="the folds, the pictures"):
            bench.trainer("resumed", EVERYTHING, fingerprint="b").run()


class TestDraws:
    """What is random follows from seed and fold and nothing else."""

    def test_the_same_place_gives_the_same_bits_whatever_was_drawn_before(self, bench: Bench) -> None:
        first = bench.trainer("a", EVERYTHING).run()
        torch.rand(7)
        np.random.default_rng(0).random(7)
        assert digest_weights(bench.trainer("b", EVERYTHING).run()) == digest_weights(first)

    @pytest.mark.parametrize("place", [{"seed": 1}, {"fold": 1}])
    def test_mixing_and_dropout_depend_on_seed_and_fold(self, bench: Bench, place: dict[str, int]) -> None:
        assert digest_weights(bench.trainer("a", EVERYTHING).run()) != digest_weights(bench.trainer("b", EVERYTHING, **place).run())

    def test_dropout_is_on_in_training(self, bench: Bench) -> None:
        without = TinyNetwork()
        without.drop.p = 0.0
        assert digest_weights(bench.trainer("a", PLAIN).run()) != digest_weights(bench.trainer("b", PLAIN, model=without).run())

    def test_the_last_epochs_train_without_mixing(self, bench: Bench) -> None:
        mixing = Mixing(mixup=0.4, cutmix=1.0)
        off = replace(PLAIN, augment=Augment(mixing=mixing.model_copy(update={"off_epochs": EPOCHS})))
        on = replace(PLAIN, augment=Augment(mixing=mixing))
        plain = digest_weights(bench.trainer("plain", PLAIN).run())
        assert digest_weights(bench.trainer("off", off).run()) == plain
        assert digest_weights(bench.trainer("on", on).run()) != plain


class TestUpdates:
    def test_accumulated_batches_equal_one_large_batch(self, bench: Bench) -> None:
        optimizer = Optimizer(name="sgd", learning_rate=0.5, weight_decay=0.0)
        train = Train(epochs=EPOCHS, batch_size=8, accumulation=2, ema=None, clip_norm=None)
        small = replace(PLAIN, optimizer=optimizer, train=train)
        large = replace(small, train=train.model_copy(update={"batch_size": 16, "accumulation": 1}))
        found = bench.trainer("small", small, model=TinyNetwork(norm=False), rows=64).run()
        expected = bench.trainer("large", large, model=TinyNetwork(norm=False), rows=64).run()
        start = TinyNetwork(norm=False).state_dict()
        assert all((expected[name] - start[name]).abs().max() > 1e-3 for name in start), "the weights did move"
        assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in start)

    def test_a_last_group_that_is_not_full_is_averaged_over_its_own_batches(self, bench: Bench) -> None:
        """Five batches in groups of five and of eight: both are one update from the mean of five."""
        optimizer = Optimizer(name="sgd", learning_rate=0.5, weight_decay=0.0)
        results = []
        for accumulation in (BATCHES, BATCHES + 3):
            train = Train(epochs=EPOCHS, batch_size=BATCH_SIZE, accumulation=accumulation, ema=None, clip_norm=None)
            results.append(digest_weights(bench.trainer(f"by_{accumulation}", replace(PLAIN, optimizer=optimizer, train=train)).run()))
        assert results[0] == results[1]

    @pytest.mark.parametrize("precision", ["fp32", "fp16"])
    def test_a_small_clip_norm_is_the_length_of_the_step(self, bench: Bench, precision: str) -> None:
        optimizer = Optimizer(name="sgd", learning_rate=1.0, weight_decay=0.0, arguments={"momentum": 0.0, "nesterov": False})
        train = Train.model_validate({"epochs": 1, "batch_size": BATCH_SIZE, "ema": None, "clip_norm": 0.01, "precision": precision})
        found = bench.trainer("clipped", replace(PLAIN, optimizer=optimizer, train=train), rows=BATCH_SIZE).run()
        start = TinyNetwork().state_dict()
        moved = torch.cat([(found[name] - start[name]).flatten() for name, _ in TinyNetwork().named_parameters()])
        assert float(moved.norm()) == pytest.approx(0.01, rel=0.01)

    def test_a_slow_moving_average_is_warmed_up(self, bench: Bench) -> None:
        bench.trainer("slow", replace(PLAIN, train=PLAIN.train.model_copy(update={"ema": 0.99999}))).run()
        state, start = load_checkpoint(bench.root / "slow"), TinyNetwork().state_dict()
        assert state is not None
        moved = (state["model"]["head.weight"] - start["head.weight"]).norm()
        followed = (state["ema"]["head.weight"] - start["head.weight"]).norm()
        assert followed > 0.3 * moved

    def test_the_moving_average_is_what_is_returned_and_looked_at(self, bench: Bench) -> None:
        returned = bench.trainer("averaged", EVERYTHING).run()
        state = load_checkpoint(bench.root / "averaged")
        assert state is not None
        assert digest_weights(returned) == digest_weights(state["ema"])
        assert digest_weights(returned) != digest_weights(state["model"])

    def test_without_an_average_the_weights_themselves_are_returned(self, bench: Bench) -> None:
        returned = bench.trainer("plain", PLAIN).run()
        state = load_checkpoint(bench.root / "plain")
        assert state is not None
        assert state["ema"] is None
        assert digest_weights(returned) == digest_weights(state["model"])

    def test_training_lowers_the_loss(self, bench: Bench) -> None:
        recipe = replace(PLAIN, train=Train(epochs=12, batch_size=BATCH_SIZE, ema=0.5))
        bench.trainer("longer", recipe, model=build_model(Model(backbone="test_resnet", weights=None), 10, seed=0)).run()
        history = pd.read_csv(bench.root / "longer" / "history.csv")
        assert history["train_loss"].iloc[-1] < 0.5 * history["train_loss"].iloc[0]

    def test_history_has_every_epoch_once_with_all_that_was_measured(self, whole: str) -> None:
        history = pd.read_csv(Path(whole) / "history.csv")
        assert history.columns.tolist() == ["epoch", "learning_rate", "train_loss", "valid_loss", "accuracy"]
        assert history["epoch"].tolist() == [1, 2, 3]
        assert np.isfinite(history.to_numpy()).all()
        assert history["accuracy"].between(0, 1).all()


class TestOtherTasks:
    """The same training on targets of other kinds: what a digit looks like, and how much it is."""

    OUTPUTS: ClassVar[dict[Task, int]] = {"multilabel": 3, "regression": 1, "ordinal": 10}

    def trainer(self, bench: Bench, task: Task, recipe: Recipe, folder: str = "fold", dies_at: int | None = None) -> Trainer:
        data = bench.data(recipe, 0, 0, 0, 200)
        digits, held_out = data.train_targets, data.valid_targets
        if task == "multilabel":
            target = Target("multilabel", ("even", "large", "prime"), may_be_empty=True)
            train, valid = (np.stack([of % 2 == 0, of > 4, np.isin(of, [2, 3, 5, 7])], axis=1).astype(np.float32) for of in (digits, held_out))
        elif task == "regression":
            target = Target("regression", ("price",))
            train, valid = (1000 + 2.5 * of[:, None].astype(np.float32) for of in (digits, held_out))
        else:
            target, train, valid = Target("ordinal", tuple("0123456789")), digits, held_out
        metric = {"multilabel": "samples_f1", "regression": "rmse", "ordinal": "quadratic_kappa"}[task]
        data = replace(data, train_targets=train, valid_targets=valid, target=target, outputs=Outputs.of(task, train), metric=metric)
        if dies_at is not None:
            data = replace(data, train=DyingLoader(data.train, dies_at))  # type: ignore[arg-type]
        model = build_model(Model(backbone="test_resnet", weights=None), self.OUTPUTS[task], seed=0)
        place = Place(0, 0, bench.root / folder, "a", {}, AFTER_EVERY_UPDATE if dies_at else AFTER_EVERY_EPOCH)
        return Trainer(model, data, recipe, Normalise(bench.config.images, CPU), place, CPU)

    @pytest.mark.parametrize("task", OUTPUTS)
    def test_it_learns_and_scores_in_the_unit_of_the_task(self, bench: Bench, task: Task) -> None:
        recipe = replace(PLAIN, optimizer=Optimizer(learning_rate=5e-3), train=Train(epochs=8, batch_size=BATCH_SIZE, ema=0.5))
        trainer = self.trainer(bench, task, recipe)
        trainer.run()
        history = pd.read_csv(bench.root / "fold" / "history.csv")
        assert history["train_loss"].iloc[-1] < 0.7 * history["train_loss"].iloc[0]
        assert np.isfinite(history.to_numpy()).all()
        first, last = history[trainer.data.metric].iloc[[0, -1]]
        assert METRICS[trainer.data.metric].sign * (last - first) > 0
        if task == "regression":
            assert last < 7.2, "less than the deviation of the targets, which is 2.5 times that of the digits"
            assert history["valid_loss"].iloc[-1] == pytest.approx(last**2, rel=1e-4)

    @pytest.mark.parametrize("task", OUTPUTS)
    def test_mixed_batches_are_learned_from_and_a_killed_run_ends_in_the_same_bits(self, bench: Bench, task: Task) -> None:
        recipe = replace(EVERYTHING, loss=Loss())
        whole = digest_weights(self.trainer(bench, task, recipe, "whole").run())
        with pytest.raises(Killed):
            self.trainer(bench, task, recipe, "killed", dies_at=30).run()
        assert digest_weights(self.trainer(bench, task, recipe, "killed").run()) == whole


def changed(recipe: Recipe, **train: Any) -> Recipe:
    return replace(recipe, train=recipe.train.model_copy(update=train))


def final(bench: Bench, folder: str) -> str:
    """Digest of the weights that the fold predicts with."""
    state = load_checkpoint(bench.root / folder)
    assert state is not None
    return digest_weights(final_weights(state))


class TestChoiceOfWeights:
    @pytest.mark.parametrize("dies_at", [pytest.param(4, marks=pytest.mark.slow), 8, pytest.param(13, marks=pytest.mark.slow), 15, 17])
    @pytest.mark.parametrize("checkpoint", ["average", "best", "soup"])
    def test_a_killed_run_chooses_the_same_weights(self, bench: Bench, checkpoint: str, dies_at: int) -> None:
        """After batch 15 the loader is read again, to measure BatchNorm's statistics."""
        recipe = changed(EVERYTHING, checkpoint=checkpoint, keep=2)
        bench.trainer("calm", recipe).run()
        killed = bench.trainer("killed", recipe, AFTER_EVERY_UPDATE, dies_at)
        if checkpoint == "best" and dies_at >= EPOCHS * BATCHES:
            killed.run()
        else:
            with pytest.raises(Killed):
                killed.run()
        again = bench.trainer("killed", recipe, AFTER_EVERY_UPDATE)
        assert digest_weights(again.run()) == final(bench, "killed") == final(bench, "calm")

    def test_the_best_epoch_predicts_and_its_score_is_recorded(self, bench: Bench) -> None:
        trainer = bench.trainer("fold", changed(EVERYTHING, checkpoint="best"))
        weights = trainer.run()
        best = int(np.argmax(trainer.scores))
        assert trainer.record["epochs_chosen"] == [best + 1]
        assert trainer.record["epochs"] == best + 1
        assert trainer.record["score"] == max(trainer.scores)
        trainer.averaged.load_state_dict(weights)
        assert trainer.held_out.look_at(trainer.averaged)[0] == max(trainer.scores)

    def test_the_score_of_an_average_is_that_of_the_weights_returned(self, bench: Bench) -> None:
        trainer = bench.trainer("fold", changed(EVERYTHING, checkpoint="average", keep=2))
        weights = trainer.run()
        assert trainer.record["epochs_chosen"] == [EPOCHS - 1, EPOCHS]
        trainer.averaged.load_state_dict(weights)
        assert trainer.held_out.look_at(trainer.averaged)[0] == trainer.record["score"]

    def test_patience_ends_training_before_its_last_epoch(self, bench: Bench) -> None:
        recipe = replace(changed(PLAIN, epochs=40, patience=2), optimizer=Optimizer(learning_rate=1e-9))
        trainer = bench.trainer("fold", recipe)
        trainer.run()
        assert trainer.record["epochs"] == 1 + 2 + int(np.argmax(trainer.scores)) < 40
        assert bench.trainer("fold", recipe).run() is not None, "a run that stopped early is done when it is started again"

    @pytest.mark.parametrize("checkpoint", ["last", "average", "best", "soup"])
    def test_without_held_out_rows_it_trains_for_as_many_epochs_as_it_is_told(self, bench: Bench, checkpoint: str) -> None:
        recipe = changed(EVERYTHING, checkpoint=checkpoint, keep=2, patience=1)
        data = replace(bench.data(recipe, 0, 0, 0, 43), valid=None, valid_targets=np.zeros(0, dtype=np.int64))
        place = Place(0, -1, bench.root / "all", "a", {})
        trainer = Trainer(TinyNetwork(), data, recipe, Normalise(bench.config.images, CPU), place, CPU, stop_after=2)
        trainer.run()
        assert [row["epoch"] for row in trainer.history.rows] == [1, 2]
        assert trainer.record["epochs"] == 2
        assert trainer.record["score"] is None
        assert "nan" not in trainer.history.last_line()


class TestFreezing:
    @pytest.mark.parametrize("change", [{"train": {"freeze": "15 steps"}}, {"schedule": Schedule(warmup="15 steps")}])
    def test_steps_that_last_the_whole_run_are_refused(self, bench: Bench, change: dict[str, Any]) -> None:
        recipe = changed(PLAIN, **change["train"]) if "train" in change else replace(PLAIN, **change)
        with pytest.raises(UserError, match="15 steps last as long as the run, which has 15 updates"):
            bench.trainer("fold", recipe, model=build_model(Model(backbone="test_resnet", weights=None), 10, seed=0))

    def test_the_head_alone_learns_until_the_whole_network_does(self, bench: Bench) -> None:
        recipe = changed(PLAIN, freeze="7 steps")
        model = build_model(Model(backbone="test_resnet", weights=None), 10, seed=0)
        start = {name: value.clone() for name, value in model.state_dict().items()}
        trainer = bench.trainer("fold", recipe, model=model)
        moved: list[set[str]] = []
        step = trainer._step

        def watched(update: int, batches: Any) -> None:
            step(update, batches)
            now = trainer.model.state_dict()
            moved.append({name for name in start if not torch.equal(now[name], start[name])})

        trainer._step = watched  # type: ignore[method-assign]
        trainer.run()
        assert moved[6] == {name for name in start if name in trainer.head}, "statistics of BatchNorm stand still, too"
        assert moved[7] > moved[6]

    def test_a_network_without_a_known_head_is_refused(self, bench: Bench) -> None:
        with pytest.raises(UserError, match=r"train.freeze: .* write train.freeze=0"):
            bench.trainer("fold", changed(PLAIN, freeze=1.0), model=torch.nn.Sequential(torch.nn.Conv2d(3, 10, 16), torch.nn.Flatten()))


class TestMemory:
    def test_a_run_that_runs_out_of_memory_goes_on_in_halves_and_records_it(self, bench: Bench) -> None:
        class Tight(TinyNetwork):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                if self.training and len(images) > 3:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return super().forward(images)

        recipe = changed(PLAIN, epochs=1)
        roomy, tight = bench.trainer("roomy", recipe, model=TinyNetwork(norm=False)), bench.trainer("tight", recipe, model=Tight(norm=False))
        expected, found = roomy.run(), tight.run()
        assert tight.record["micro_batch"] == 2
        assert tight.record["out_of_memory"] == [8, 4]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        again = bench.trainer("tight", recipe, model=TinyNetwork(norm=False))
        again.run()
        assert again.record["micro_batch"] == 2, "a resumed run starts with what fitted"

    def test_weights_are_mixed_with_the_memory_that_training_had(self, bench: Bench) -> None:
        class Tight(TinyNetwork):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                if len(images) > 4:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return super().forward(images)

        trainer = bench.trainer("tight", changed(PLAIN, epochs=2, checkpoint="average", keep=2), model=Tight())
        trainer.run()
        assert trainer.record["epochs_chosen"] == [1, 2]

    def test_a_look_at_the_held_out_rows_goes_on_in_halves(self, bench: Bench) -> None:
        class Tight(TinyNetwork):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                if not self.training and len(images) > 7:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                return super().forward(images)

        bench.trainer("roomy", PLAIN).run()
        bench.trainer("tight", PLAIN, model=Tight()).run()
        roomy, tight = (pd.read_csv(bench.root / name / "history.csv") for name in ("roomy", "tight"))
        pd.testing.assert_frame_equal(tight, roomy, rtol=1e-5)


class TestCtrlC:
    @pytest.mark.parametrize("at", [1, 5, 6, 12])
    def test_what_was_trained_is_saved_and_nothing_is_lost(self, bench: Bench, whole: str, at: int) -> None:
        trainer = bench.trainer("stopped", EVERYTHING)
        forward = trainer.gradients.forward
        passes = 0

        def interrupted(images: torch.Tensor) -> torch.Tensor:
            nonlocal passes
            passes += 1
            if passes == at:
                trainer.ctrl_c.asked = True
            return forward(images)

        trainer.gradients.forward = interrupted
        with pytest.raises(Interrupted):
            trainer.run()
        state = load_checkpoint(bench.root / "stopped")
        assert state is not None
        done = state["epoch"] * BATCHES + state["batch"]
        assert at <= done < at + EVERYTHING.train.accumulation
        bench.trainer("stopped", EVERYTHING).run()
        assert digest_weights(bench.weights("stopped")) == digest_weights(bench.weights(whole))
        assert bench.history("stopped") == bench.history(whole)

    def test_it_is_heard_between_two_looks_at_held_out_rows(self, bench: Bench, whole: str) -> None:
        trainer = bench.trainer("stopped", EVERYTHING)
        look = trainer.held_out.look_at

        class Asked(HeldOut):
            def look_at(self, network: torch.nn.Module) -> tuple[float, float]:
                self.ctrl_c.asked = True
                return look(network)

        trainer.held_out = Asked(**vars(trainer.held_out))
        with pytest.raises(Interrupted):
            trainer.run()
        state = load_checkpoint(bench.root / "stopped")
        assert state is not None
        assert (state["epoch"], state["batch"]) == (0, BATCHES)
        bench.trainer("stopped", EVERYTHING).run()
        assert digest_weights(bench.weights("stopped")) == digest_weights(bench.weights(whole))
        assert bench.history("stopped") == bench.history(whole)

    def test_a_signal_is_a_question_first_and_an_end_the_second_time(self) -> None:
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            with CtrlC() as ctrl_c:
                os.kill(os.getpid(), signal.SIGINT)
                assert ctrl_c.asked
                with pytest.raises(Interrupted):
                    ctrl_c.stop_if_asked()
                with pytest.raises(KeyboardInterrupt):
                    os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
            with pytest.raises(Interrupted):
                CtrlC().stop_if_asked()
        finally:
            CtrlC.asked = False
            signal.signal(signal.SIGINT, before)

    def test_where_the_shell_ignores_it_so_does_the_run(self) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with CtrlC() as ctrl_c:
                os.kill(os.getpid(), signal.SIGINT)
                assert not ctrl_c.asked
        finally:
            signal.signal(signal.SIGINT, before)


class TestLossThatIsNotFinite:
    BROKEN_BATCH = 2  # of the second epoch, from 0
    BREAKS_AT = BATCHES + BROKEN_BATCH

    def fail(self, bench: Bench, minutes: float, recipe: Recipe = EVERYTHING) -> str:
        with pytest.raises(RunFailed) as raised:
            bench.trainer("broken", recipe, minutes, model=TinyNetwork(breaks_at=self.BREAKS_AT)).run()
        return str(raised.value)

    def test_the_run_fails_naming_epoch_and_batch_from_one(self, bench: Bench) -> None:
        message = self.fail(bench, AFTER_EVERY_EPOCH)
        assert "epoch 2, batch 3" in message
        assert "\n" not in message

    def test_the_learning_rate_named_is_that_of_the_batch_named(self, bench: Bench) -> None:
        recipe = replace(EVERYTHING, schedule=Schedule(warmup=2))
        message = self.fail(bench, AFTER_EVERY_EPOCH, recipe)
        trainer = bench.trainer("other", recipe)
        expected = trainer.learning_rate.set(trainer.updates_per_epoch + self.BROKEN_BATCH // recipe.train.accumulation)
        found = re.search(r"learning rate ([\d.e-]+\d)", message)
        assert found is not None, message
        assert float(found[1]) == pytest.approx(expected, rel=0.01)

    @pytest.mark.parametrize("minutes", [AFTER_EVERY_UPDATE, AFTER_EVERY_EPOCH], ids=["after_every_update", "after_every_epoch"])
    def test_the_checkpoint_that_is_kept_is_finite(self, bench: Bench, minutes: float) -> None:
        self.fail(bench, minutes)
        state = load_checkpoint(bench.root / "broken")
        assert state is not None
        assert state["epoch"] == 1
        assert state["batch"] <= self.BROKEN_BATCH
        assert all(torch.isfinite(value).all() for value in bench.weights("broken").values())

    @pytest.mark.parametrize("minutes", [AFTER_EVERY_UPDATE, AFTER_EVERY_EPOCH], ids=["after_every_update", "after_every_epoch"])
    def test_the_run_goes_on_once_its_cause_is_gone(self, bench: Bench, whole: str, minutes: float) -> None:
        self.fail(bench, minutes)
        bench.trainer("broken", EVERYTHING).run()
        assert digest_weights(bench.weights("broken")) == digest_weights(bench.weights(whole))

    def test_weights_that_are_not_finite_after_the_last_update_are_never_saved(self, bench: Bench) -> None:
        recipe = replace(changed(PLAIN, epochs=1, clip_norm=None, batch_size=40), optimizer=Optimizer(name="sgd", learning_rate=1e30))
        with pytest.raises(RunFailed, match=r"a weight is not finite at epoch 1, batch 1.* Lower optimizer.learning_rate$"):
            bench.trainer("broken", recipe).run()
        assert load_checkpoint(bench.root / "broken") is None

    def test_ctrl_c_stays_ctrl_c_where_the_loss_is_not_finite(self, bench: Bench) -> None:
        trainer = bench.trainer("broken", EVERYTHING, model=TinyNetwork(breaks_at=0))
        trainer.ctrl_c.asked = True
        with pytest.raises(Interrupted):
            trainer.run()
        assert load_checkpoint(bench.root / "broken") is None

    def test_a_rate_far_too_high_is_found_out(self, bench: Bench) -> None:
        recipe = replace(PLAIN, optimizer=Optimizer(name="sgd", learning_rate=1e38), train=PLAIN.train.model_copy(update={"clip_norm": None}))
        with pytest.raises(RunFailed, match=r"epoch 1, batch \d, learning rate \d"):
            bench.trainer("broken", recipe).run()
