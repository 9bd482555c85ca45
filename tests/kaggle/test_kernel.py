import contextlib
import io
import logging
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from bundles import CLASSES, SHARES, Wish, mount, rewrite, seal, write_by_hand
from safetensors.torch import load_file, save_file

from pipeline.data.targets import Target
from pipeline.ensembling.schemes import Blend
from pipeline.errors import UserError
from pipeline.kaggle import kernel, limit, models
from pipeline.kaggle.bundle import MARKER, Bundle, Regressed
from pipeline.kaggle.kernel import Outcome, predict
from pipeline.kaggle.notebook import FAILED

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def mounted(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The competition as the kernel finds it, with 60 test rows."""
    return mount(digits, tmp_path_factory.mktemp("input") / "digits", 60)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One experiment of three networks; read it, do not write to it."""
    return write_by_hand(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def own(three: Bundle, tmp_path: Path) -> Bundle:
    """A copy that the test may damage."""
    return replace(three, folder=Path(shutil.copytree(three.folder, tmp_path / "bundle")))


@pytest.fixture
def run(mounted: Path, tmp_path: Path) -> Callable[..., tuple[Outcome, pd.DataFrame]]:
    """What a bundle predicts of a competition, on the CPU."""

    def run(bundle: Bundle, competition: Path = mounted, **options: Any) -> tuple[Outcome, pd.DataFrame]:
        outcome = predict(bundle.folder, competition, tmp_path / "working" / "submission.csv", **({"devices": ["cpu"], "workers": 0} | options))
        return outcome, pd.read_csv(outcome.path, dtype={"id": str}, keep_default_na=False).set_index("id")

    return run


Run = Callable[..., tuple[Outcome, pd.DataFrame]]


def check(outcome: Outcome, competition: Path) -> None:
    """The file has the sample's header, ids and order."""
    sample, made = (pd.read_csv(path, dtype=str) for path in (competition / "sample_submission.csv", outcome.path))
    assert list(made.columns) == list(sample.columns)
    assert made["id"].tolist() == sample["id"].tolist()
    assert outcome.rows == len(sample)


def without(bundle: Bundle, folder: Path, *lost: int) -> Bundle:
    """A bundle in which these networks of the one experiment never were, the weights of the others scaled."""
    shutil.copytree(bundle.folder, folder)
    networks = [network for number, network in enumerate(bundle.experiments[0].networks) if number not in lost]
    total = sum(network.weight for network in networks)
    scaled = tuple(replace(network, weight=network.weight / total) for network in networks)
    return rewrite(replace(bundle, folder=folder), experiments=(replace(bundle.experiments[0], networks=scaled),))


class TestTestSets:
    def test_the_same_rows_say_the_same_in_whatever_test_set_they_are(self, three: Bundle, mounted: Path, digits: Path, tmp_path: Path, run: Run) -> None:
        _, whole = run(three)
        assert whole.to_numpy().std(axis=0).mean() > 1e-2, "pictures differ"
        more = mount(digits, tmp_path / "more", 200)
        for rows, folder in ((3, mount(digits, tmp_path / "three", 3)), (17, mount(digits, tmp_path / "fewer", 17)), (200, more)):
            outcome, found = run(three, folder)
            check(outcome, folder)
            assert len(found) == rows
            shared = found.index.intersection(whole.index)
            assert len(shared) == min(rows, 60)
            np.testing.assert_allclose(found.loc[shared], whole.loc[shared], atol=1e-6)
            assert not outcome.failed

    def test_an_empty_test_set_is_a_header_alone(self, three: Bundle, digits: Path, tmp_path: Path, run: Run) -> None:
        folder = mount(digits, tmp_path / "empty", 0)
        for competition in ({}, {"test_table": None}):
            bundle = rewrite(
                replace(three, folder=Path(shutil.copytree(three.folder, tmp_path / f"b{len(competition)}"))),
                competition=three.competition.model_copy(update=competition),
            )
            outcome, _ = run(bundle, folder)
            assert outcome.path.read_text() == (folder / "sample_submission.csv").read_text()
            assert outcome.rows == 0
            assert outcome.examples == ()

    def test_ids_come_from_the_sample_where_there_is_no_test_table(self, own: Bundle, digits: Path, tmp_path: Path, run: Run, three: Bundle) -> None:
        folder = mount(digits, tmp_path / "mounted", 60)
        (folder / "test.csv").unlink()
        _, expected = run(three)
        outcome, found = run(rewrite(own, competition=own.competition.model_copy(update={"test_table": None})), folder)
        check(outcome, folder)
        np.testing.assert_allclose(found, expected.loc[found.index], atol=1e-6)

    def test_without_a_sample_the_test_table_is_what_is_asked_for(self, own: Bundle, mounted: Path, run: Run, three: Bundle) -> None:
        _, expected = run(three)
        _, found = run(rewrite(own, competition=own.competition.model_copy(update={"sample_submission": None})))
        assert found.index.tolist() == pd.read_csv(mounted / "test.csv", dtype=str)["id"].tolist()
        np.testing.assert_array_equal(found, expected.loc[found.index])

    def test_unreadable_pictures_get_the_shares_and_nobody_elses_numbers_move(self, three: Bundle, digits: Path, tmp_path: Path, run: Run) -> None:
        _, whole = run(three)
        folder = mount(digits, tmp_path / "mounted", 60)
        bad = whole.index[[5, 40]].tolist()
        (folder / "images" / f"{bad[0]}.png").write_bytes(b"")
        (folder / "images" / f"{bad[1]}.png").unlink()
        outcome, found = run(three, folder)
        check(outcome, folder)
        np.testing.assert_allclose(found.loc[bad], [SHARES, SHARES], atol=1e-6)
        np.testing.assert_allclose(found.drop(index=bad), whole.drop(index=bad), atol=1e-6)
        assert any(note.startswith("2 of 60 test pictures cannot be read") for note in outcome.notes)

    def test_a_test_set_that_cannot_be_read_at_all_gets_the_shares(self, three: Bundle, digits: Path, tmp_path: Path, run: Run) -> None:
        folder = mount(digits, tmp_path / "mounted", 4)
        shutil.rmtree(folder / "images")
        outcome, found = run(three, folder)
        np.testing.assert_allclose(found, np.tile(SHARES, (4, 1)), atol=1e-6)
        assert outcome.networks == ()
        assert outcome.notes[0].startswith("NOT ONE OF 4 TEST PICTURES CAN BE READ, AND EVERY ROW GETS THE TRAINING SHARES: e.g. images/")
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(FAILED, {"outcome": outcome})
        assert f"{'!' * 100}\nFAILED: NO NETWORK IS IN submission.csv" in said.getvalue()

    def test_a_sample_that_does_not_fit_is_said_in_one_line(self, three: Bundle, digits: Path, tmp_path: Path, run: Run) -> None:
        folder = mount(digits, tmp_path / "mounted", 5)
        pd.read_csv(folder / "sample_submission.csv", dtype=str)[:4].to_csv(folder / "sample_submission.csv", index=False)
        with pytest.raises(UserError, match="1 ids differ"):
            run(three, folder)
        sample = pd.read_csv(mount(digits, tmp_path / "other", 5) / "sample_submission.csv", dtype=str)
        sample.rename(columns={"9": "nine"}).to_csv(tmp_path / "other" / "sample_submission.csv", index=False)
        with pytest.raises(UserError, match='"9"'):
            run(three, tmp_path / "other")

    @pytest.mark.parametrize("zipped", [("images", "test.csv"), ("test.csv",)])
    def test_a_zipped_test_set_is_unpacked_and_the_mounted_folder_stays_as_it_was(
        self, zipped: tuple[str, ...], three: Bundle, mounted: Path, tmp_path: Path, run: Run
    ) -> None:
        _, expected = run(three)
        folder = Path(shutil.copytree(mounted, tmp_path / "zipped"))
        for name in zipped:
            shutil.make_archive(str(folder / name), "zip", mounted, name)
            shutil.rmtree(folder / name) if name == "images" else (folder / name).unlink()
        before = sorted(folder.rglob("*"))
        outcome, found = run(three, folder)
        np.testing.assert_array_equal(found, expected)
        assert sorted(folder.rglob("*")) == before
        assert (outcome.examples[0].path is None) == ("images" in zipped)
        assert outcome.examples[0].pixels.shape == (8, 8, 3)


class TestLosses:
    @pytest.mark.parametrize("how", ["missing", "damaged", "other", "bare"])
    def test_a_lost_network_leaves_its_weight_to_the_others(self, own: Bundle, three: Bundle, how: str, tmp_path: Path, run: Run) -> None:
        path = own.folder / own.experiments[0].networks[1].file
        if how == "missing":
            path.unlink()
        elif how == "damaged":
            data = bytearray(path.read_bytes())
            data[-1] ^= 1
            path.write_bytes(data)
        else:  # of another network, or not finite
            weights = load_file(path)
            last = sorted(weights)[-1]
            weights = {"other": torch.zeros(2)} if how == "other" else {**weights, last: torch.full_like(weights[last], torch.nan)}
            save_file(weights, path)
            own = seal(own)
        outcome, found = run(own)
        _, expected = run(without(three, tmp_path / "expected", 1))
        np.testing.assert_allclose(found, expected, atol=1e-7)
        assert [name for name, _ in outcome.failed] == ["hand-0 seed 0 fold 1"]
        assert outcome.networks == ("hand-0 seed 0 fold 0", "hand-0 seed 0 fold 2")
        assert path.name in outcome.failed[0][1] or how in ("other", "bare")

    def test_a_network_that_breaks_amid_the_pictures_is_left_out(self, three: Bundle, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        load, seen = models.load_network, []

        def breaking(bundle: Bundle, experiment: Any, network: Any, *rest: Any) -> torch.nn.Module:
            model = load(bundle, experiment, network, *rest)
            if network.name.endswith("2"):
                model.register_forward_hook(
                    lambda *_: seen.append(1) or (_ for _ in ()).throw(RuntimeError("a kernel failed")) if len(seen) else seen.append(1)
                )
            return model

        small = write_by_hand(tmp_path / "small", Wish(settings=({"predict": {"batch_size": 8}},)))
        _, expected = run(without(small, tmp_path / "expected", 2))
        monkeypatch.setattr(models, "load_network", breaking)
        outcome, found = run(small)
        np.testing.assert_allclose(found, expected, atol=1e-7)
        assert outcome.failed == (("hand-0 seed 0 fold 2", "RuntimeError: a kernel failed"),)

    def test_what_overflows_in_half_precision_is_computed_in_single(self, tmp_path: Path, run: Run) -> None:
        found = {}
        for precision in ("fp16", "fp32"):
            bundle = write_by_hand(tmp_path / precision, Wish((2,), settings=({"train": {"precision": precision}},)))
            path = bundle.folder / bundle.experiments[0].networks[0].file
            weights = load_file(path)
            weights["fc.weight"] *= 1e6
            save_file(weights, path)
            outcome, found[precision] = run(seal(bundle))
            assert not outcome.failed
        np.testing.assert_allclose(found["fp16"], found["fp32"], atol=0.01)

    def test_networks_that_break_together_are_tried_one_by_one(self, three: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        _, expected = run(three)
        whole = models.Group.predict

        def crowded(group: models.Group, watch: Any, keys: Any, halved: bool = True) -> Any:
            if len(keys) > 1 or keys == [(0, 0)]:
                raise RuntimeError("the device is broken")
            return whole(group, watch, keys, halved)

        monkeypatch.setattr(models.Group, "predict", crowded)
        outcome, found = run(three)
        assert outcome.failed == (("hand-0 seed 0 fold 0", "RuntimeError: the device is broken"),)
        assert len(outcome.networks) == 2
        assert not np.allclose(found, expected, atol=1e-4)

    def test_networks_that_found_no_memory_together_are_tried_alone(self, three: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        _, expected = run(three)
        load, loaded = models.load_network, []

        def scarce(*given: Any) -> torch.nn.Module:
            loaded.append(given[2].name)
            if len(loaded) == 2:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return load(*given)

        monkeypatch.setattr(models, "load_network", scarce)
        outcome, found = run(three)
        assert not outcome.failed
        np.testing.assert_array_equal(found, expected)
        assert len(loaded) == 4

    def test_where_every_network_is_lost_a_valid_file_has_the_shares(
        self, own: Bundle, mounted: Path, run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for network in own.experiments[0].networks:
            (own.folder / network.file).unlink()
        monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
        with caplog.at_level(logging.INFO, "pipeline"):
            outcome, found = run(own)
        check(outcome, mounted)
        np.testing.assert_allclose(found, np.tile(SHARES, (60, 1)), atol=1e-6)
        assert outcome.networks == ()
        assert len(outcome.failed) == 3
        assert any("NO NETWORK PREDICTED" in note for note in outcome.notes)
        assert caplog.text.count("NOT IN THE SUBMISSION") == 3

    def test_what_a_gpu_left_out_is_forgotten_when_the_cpu_predicts(self, three: Bundle, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        attempt = kernel._Run._attempt

        def broken(self: Any, test: Any, keys: Any, devices: Any, *rest: Any) -> Any:
            if devices == ["cpu"]:
                return attempt(self, test, keys, devices, *rest)
            self.left_out.append("a view")
            self.failed[keys[0]] = "the GPU is broken"
            return None

        monkeypatch.setattr(kernel._Run, "_attempt", broken)
        outcome, _ = run(three, devices=["cuda:7"])
        assert (outcome.left_out, outcome.failed, len(outcome.networks)) == ((), (), 3)
        assert outcome.notes == ("NO NETWORK PREDICTED ON A GPU (the GPU is broken); they are tried on the CPU",)

    def test_where_no_network_can_be_loaded_no_gpu_is_blamed(self, own: Bundle, run: Run) -> None:
        for network in own.experiments[0].networks:
            (own.folder / network.file).unlink()
        assert run(own, devices=["cuda:7"])[0].notes == ("NO NETWORK PREDICTED: every row gets the training shares",)

    def test_a_damaged_config_loses_its_experiment_alone(self, tmp_path: Path, run: Run) -> None:
        bundle = write_by_hand(tmp_path / "two", Wish((2, 2)))
        _, expected = run(write_by_hand(tmp_path / "one", Wish((2,))))
        with (bundle.folder / "hand-1.yaml").open("a") as file:
            file.write("#")
        outcome, found = run(bundle)
        np.testing.assert_allclose(found, expected, atol=1e-7)
        assert [name for name, _ in outcome.failed] == ["hand-1 seed 0 fold 0", "hand-1 seed 0 fold 1"]

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 2}'])
    def test_a_damaged_bundle_is_refused_in_one_line_that_names_it(self, own: Bundle, text: str, run: Run) -> None:
        (own.folder / MARKER).write_text(text)
        with pytest.raises(UserError, match=MARKER) as refused:
            run(own)
        assert "\n" not in str(refused.value)


class TestBlends:
    def blends(self, tmp_path: Path, run: Run, blend: Blend, lost: int, looked: int = 2) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
        """What is left of a blend of three experiments without one, and what each says alone; looked: how many networks predict."""
        bundle = write_by_hand(tmp_path / "three", Wish((1, 1, 1), blend=blend))
        alone = []
        for number, experiment in enumerate(bundle.experiments):
            folder = Path(shutil.copytree(bundle.folder, tmp_path / f"alone-{number}"))
            single = rewrite(replace(bundle, folder=folder), experiments=(experiment,), blend=Blend.equal("multiclass", 1))
            alone.append(run(single)[1])
        (bundle.folder / bundle.experiments[lost].networks[0].file).unlink()
        outcome, found = run(bundle)
        assert len(outcome.networks) == looked
        return found, alone

    def test_fitted_weights_are_scaled_when_an_experiment_is_lost(self, tmp_path: Path, run: Run) -> None:
        found, alone = self.blends(tmp_path, run, Blend("simplex", "multiclass", (0.5, 0.2, 0.3)), lost=0)
        np.testing.assert_allclose(found, 0.4 * alone[1] + 0.6 * alone[2], atol=1e-6)

    def test_a_regression_on_all_experiments_becomes_their_equal_mean(self, tmp_path: Path, run: Run) -> None:
        stacked = Blend("stacked", "multiclass", None, tuple((0.1,) * 30 for _ in range(10)), (0.0,) * 10)
        found, alone = self.blends(tmp_path, run, stacked, lost=1)
        np.testing.assert_allclose(found, (alone[0] + alone[2]) / 2, atol=1e-6)

    def test_what_weighs_nothing_is_not_looked_at_unless_nothing_else_is_left(self, tmp_path: Path, run: Run) -> None:
        found, alone = self.blends(tmp_path, run, Blend("greedy", "multiclass", (0.0, 1.0, 0.0)), lost=0, looked=1)
        np.testing.assert_allclose(found, alone[1], atol=1e-7)
        found, alone = self.blends(tmp_path / "x", run, Blend("greedy", "multiclass", (0.0, 1.0, 0.0)), lost=1)
        np.testing.assert_allclose(found, (alone[0] + alone[2]) / 2, atol=1e-6)

    def test_temperatures_flatten_before_networks_are_averaged(self, own: Bundle, three: Bundle, run: Run) -> None:
        first = own.experiments[0]
        hot = replace(first, networks=tuple(replace(network, temperature=20.0) for network in first.networks))
        _, flat = run(rewrite(own, experiments=(hot,)))
        _, sharp = run(three)
        assert (flat.max(axis=1) < sharp.max(axis=1)).all()
        np.testing.assert_allclose(flat.sum(axis=1), 1, atol=1e-6)


class TestTasks:
    def test_numbers_come_out_in_their_unit_and_range(self, digits: Path, tmp_path: Path, run: Run) -> None:
        regressed = Regressed(mean=3.0, std=0.1, lowest=1.0, highest=60.0, logarithm=True)
        wish = Wish((2,), "regression", Target("regression", ("label",)), "score", regressed=regressed)
        folder = mount(digits, tmp_path / "mounted", 50, "label")
        outcome, found = run(write_by_hand(tmp_path / "bundle", wish), folder)
        check(outcome, folder)
        assert found["label"].between(1, 60).all()
        assert found["label"].nunique() > 10
        assert outcome.examples[0].probability is None
        plain = replace(regressed, logarithm=False, lowest=-1000.0, highest=1000.0)
        bundle = write_by_hand(tmp_path / "plain", replace(wish, regressed=plain))
        _, numbers = run(bundle, folder)
        twice = rewrite(
            bundle,
            experiments=(
                replace(
                    bundle.experiments[0], networks=tuple(replace(one, regressed=replace(plain, mean=6.0, std=0.2)) for one in bundle.experiments[0].networks)
                ),
            ),
        )
        np.testing.assert_allclose(run(twice, folder)[1], 2 * numbers, rtol=1e-5)

    def test_numbers_keep_their_size_when_a_network_is_lost(self, digits: Path, tmp_path: Path, run: Run) -> None:
        wish = Wish((2,), "regression", Target("regression", ("label",)), "score", regressed=Regressed(50.0, 1.0, 0.0, 100.0, False))
        folder = mount(digits, tmp_path / "mounted", 20, "label")
        bundle = write_by_hand(tmp_path / "bundle", wish)
        _, expected = run(without(bundle, tmp_path / "expected", 0), folder)
        (bundle.folder / bundle.experiments[0].networks[0].file).unlink()
        np.testing.assert_allclose(run(bundle, folder)[1], expected, rtol=1e-6)
        assert expected["label"].between(40, 80).all()

    def test_several_labels_go_by_their_thresholds(self, digits: Path, tmp_path: Path, run: Run) -> None:
        folder = mount(digits, tmp_path / "mounted", 50, "label")
        for thresholds, expected in (((0.0,) * 10, " ".join(CLASSES)), ((2.0,) * 10, "")):
            target = Target("multilabel", CLASSES, may_be_empty=True, thresholds=thresholds)
            name = f"bundle{len(expected)}"
            _, found = run(write_by_hand(tmp_path / name, Wish((1,), "multilabel", target, "label", competition={"metric": "macro_f1"})), folder)
            assert set(found["label"]) == {expected}

    def test_grades_go_by_their_cut_points(self, digits: Path, tmp_path: Path, run: Run) -> None:
        folder = mount(digits, tmp_path / "mounted", 50, "label")
        wish = Wish((1,), "ordinal", Target("ordinal", CLASSES, cut_points=(-1.0,) * 4 + (99.0,) * 5), "label")
        _, found = run(write_by_hand(tmp_path / "bundle", wish), folder)
        assert set(found["label"].astype(str)) == {"4"}


class TestTime:
    def test_a_tiny_limit_keeps_the_best_network_with_its_first_view(self, tmp_path: Path, run: Run) -> None:
        bundle = write_by_hand(tmp_path / "bundle", Wish((2, 2), views=("identity", "horizontal_flip", "rotate_180")))
        outcome, found = run(bundle, max_hours=1e-9)
        assert outcome.networks == ("hand-0 seed 0 fold 0",)
        assert not outcome.failed
        assert outcome.left_out[-1] == "hand-1 seed 0 fold 0"
        assert next(name for name in outcome.left_out if "view" in name).startswith("view rotate_180 of")
        alone = rewrite(
            bundle,
            experiments=(replace(bundle.experiments[0], views=("identity",), networks=bundle.experiments[0].networks[:1]),),
            blend=Blend.equal("multiclass", 1),
        )
        np.testing.assert_allclose(found, run(alone)[1], atol=1e-6)

    def test_the_config_says_the_limit_where_nobody_else_does(self, tmp_path: Path, run: Run) -> None:
        bundle = write_by_hand(tmp_path / "bundle", Wish(max_hours=1e-9))
        assert len(run(bundle)[0].networks) == 1
        assert len(run(bundle, max_hours=10)[0].networks) == 3
        with pytest.raises(UserError, match="max_hours"):
            run(bundle, max_hours=0)

    def test_where_the_estimate_was_wrong_the_worst_leave_amid_the_pictures(self, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        bundle = write_by_hand(tmp_path / "bundle", Wish(settings=({"predict": {"batch_size": 4}},)))
        monkeypatch.setattr(kernel, "measure_part", lambda *_: {})
        load = models.load_network

        def slow(*given: Any) -> torch.nn.Module:
            model = load(*given)
            model.register_forward_hook(lambda *_: time.sleep(0.05))
            return model

        monkeypatch.setattr(models, "load_network", slow)
        outcome, found = run(bundle, max_hours=1.2 / 3600)
        assert outcome.networks[0] == "hand-0 seed 0 fold 0"
        assert len(outcome.networks) < 3
        assert "hand-0 seed 0 fold 2" in outcome.left_out
        assert not outcome.failed
        assert len(found) == 60

    def test_a_slow_start_is_not_taken_for_the_speed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for pace, fits in ((0.05, True), (2.0, False)):  # seconds of a batch; an hour for 3,125 of them
            now = [0.0]
            monkeypatch.setattr(models.time, "monotonic", lambda now=now: now[0])
            clock = models.Clock(5, 50_000, 3600.0, 1, lambda message: None)
            now[0] = 12.0
            clock.advance(16)
            for _ in range(3124):
                now[0] += pace
                clock.advance(16)
            assert (not clock.left) == fits

    def test_views_are_left_out_before_networks_and_those_that_save_most_first(self, tmp_path: Path) -> None:
        bundle = write_by_hand(tmp_path / "bundle", Wish((1, 2), views=("identity", "horizontal_flip")))
        keys = limit.best_first(bundle, [(0, 0), (1, 0), (1, 1)])
        assert keys[-1] == (1, 1)
        plan = limit.Plan(tuple(keys), {0: ("identity", "horizontal_flip"), 1: ("identity", "horizontal_flip")})
        costs = {0: {"loading": 0.1, "identity": 1.5, "horizontal_flip": 1.5}, 1: {"loading": 0.1, "identity": 1.0, "horizontal_flip": 1.0}}

        def left(seconds: float) -> tuple[str, ...]:
            return limit.fit(plan, bundle, {0: "a", 1: "a"}, costs, 10, seconds).left_out

        assert left(71) == ()
        assert left(70.9) == ("view horizontal_flip of hand-1",)
        assert left(50.9) == ("view horizontal_flip of hand-1", "view horizontal_flip of hand-0")
        assert left(35.9)[2:] == ("hand-1 seed 0 fold 1",)
        assert len(left(0)) == 4
        assert limit.fit(plan, bundle, {0: "a", 1: "b"}, costs, 10, 71).left_out, "two inputs are read twice"


def test_lower_scores_are_better_where_the_metric_says_so(three: Bundle) -> None:
    keys = [(0, 0), (0, 1), (0, 2)]
    assert limit.best_first(three, keys) == keys
    assert limit.best_first(replace(three, greater_is_better=False), keys) == keys[::-1]


def test_networks_of_one_input_read_each_picture_once(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_by_hand(tmp_path / "bundle", Wish((2, 2, 1), settings=({}, {"train": {"epochs": 9}}, {"images": {"size": 20}})))
    read, seen = models.BundledImages.__getitem__, []
    monkeypatch.setattr(models.BundledImages, "__getitem__", lambda self, row: seen.append(self.images.size) or read(self, row))
    run(bundle)
    assert sorted(seen) == [16] * 60 + [20] * 60


@pytest.mark.slow
class TestProcesses:
    def test_two_devices_say_what_one_says(self, digits: Path, tmp_path: Path, run: Run) -> None:
        """Ranks too, which are taken among all rows."""
        folder = mount(digits, tmp_path / "mounted", 100)
        ranks = {"predict": {"merge": "ranks", "batch_size": 16}, "competition": {"metric": "roc_auc"}}
        plain = {"predict": {"batch_size": 16}, "competition": {"metric": "roc_auc"}}
        wish = Wish((2, 1), settings=(plain, ranks), competition={"metric": "roc_auc"}, views=("identity", "horizontal_flip"))
        bundle = write_by_hand(tmp_path / "bundle", wish)
        bundle = rewrite(bundle, form=replace(bundle.form, any_scale=True))
        _, one = run(bundle, folder)
        outcome, two = run(bundle, folder, devices=["cpu", "cpu"])
        assert len(outcome.networks) == 3
        np.testing.assert_allclose(two, one, atol=1e-6)

    def test_a_device_that_is_not_there_leaves_its_rows_to_another(self, three: Bundle, digits: Path, tmp_path: Path, run: Run) -> None:
        folder = mount(digits, tmp_path / "mounted", 100)
        _, expected = run(three, folder)
        outcome, found = run(three, folder, devices=["cpu", "cuda:7"])
        assert not outcome.failed
        assert len(outcome.networks) == 3
        np.testing.assert_allclose(found, expected, atol=1e-6)

    def test_where_no_gpu_can_be_used_the_cpu_predicts(self, three: Bundle, run: Run) -> None:
        outcome, found = run(three, devices=["cuda:7"])
        assert any("CPU" in note for note in outcome.notes)
        assert len(outcome.networks) == 3
        np.testing.assert_array_equal(found, run(three)[1])

    def test_a_process_that_is_killed_costs_the_network_that_kills_it_alone(self, own: Bundle, three: Bundle, digits: Path, tmp_path: Path, run: Run) -> None:
        folder = mount(digits, tmp_path / "mounted", 100)
        killer = tmp_path / "package"
        shutil.copytree(ROOT / "pipeline", killer / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
        path = killer / "pipeline" / "kaggle" / "models.py"
        text = path.read_text()
        assert "    model.load_state_dict(" in text
        path.write_text(
            text.replace(
                "    model.load_state_dict(",
                '    if network.name.endswith("1"):\n        __import__("os").kill(__import__("os").getpid(), 9)\n    model.load_state_dict(',
            )
        )
        _, expected = run(without(three, tmp_path / "expected", 1), folder)
        before = sys.path[:]
        sys.path.insert(0, str(killer))
        try:
            outcome, found = run(three, folder, devices=["cpu", "cpu"])
        finally:
            sys.path[:] = before
        assert [name for name, _ in outcome.failed] == ["hand-0 seed 0 fold 1"]
        assert "perhaps for lack of memory" in outcome.failed[0][1]
        np.testing.assert_allclose(found, expected, atol=1e-6)
