"""A study from its config to its tuned config: whatever happens between, the trials are the same, and what is said of them holds."""

import contextlib
import importlib.util
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from conftest import small_settings

from pipeline.artifacts import Manifest
from pipeline.cli import run_script
from pipeline.config_files import load_config
from pipeline.files import read_json
from pipeline.predictions import Predictions
from pipeline.tuning.storage import locate
from pipeline.tuning.study import find_study
from pipeline.tuning.trials import TrialRow, ranked, read_trials

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
FOLDS, ROWS = 4, 320
NETS = {"few_steps": {"train.batch_size": 16}, "many_steps": {"train.batch_size": 8, "train.clip_norm": 1.0}}
SPACE = {
    "optimizer.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True},
    "loss.smoothing": {"low": 0.0, "high": 0.2, "step": 0.05},
    "net": {"settings": NETS},
}
TUNE = {"space": SPACE, "seed": 617, "startup": 5, "keep": 2, "top": 2}
"""With this seed trials 1, 3 and 5 learn, and 2 and 4, at a learning rate near 1e-5, do not: they are pruned."""
CUT, FIRST, ALL = 4, 5, 8
NO_SECOND_SPLIT = "tune.unseen_seed=null"


# ---------------------------------------------------------------- a place for studies


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


def script(name: str) -> Any:
    """A script as a module."""
    specification = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def ran(work: Callable[[], int]) -> Ran:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = work()
    return Ran(code, out.getvalue(), err.getvalue())


class Lab:
    """A folder with one config and the outputs of all that is run with it."""

    def __init__(self, folder: Path, root: Path, **sections: Any) -> None:
        folder.mkdir()
        self.folder, self.path, self.outputs = folder, folder / "small.yaml", folder / "outputs"
        settings = small_settings(root, self.outputs)
        settings |= {"folds": {"n_splits": FOLDS}, "optimizer": {"learning_rate": 1e-5}, "tune": TUNE}
        settings["train"] = {"epochs": 1, "batch_size": 16, "ema": None}
        for name, section in sections.items():
            settings[name] = {**settings.get(name, {}), **section} if name != "tune" else section
        self.path.write_text(yaml.safe_dump(settings))

    def tune(self, *words: str) -> Ran:
        """The study in this process."""
        return ran(lambda: script("tune").main([str(self.path), *words]))

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """The study in a process of its own, which can be stopped."""
        command = [sys.executable, str(ROOT / "scripts" / "tune.py"), str(self.path), *words]
        return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)

    def run(self, name: str, *words: str) -> Ran:
        """Another script."""
        return ran(lambda: run_script("", script(name).main, list(words)))

    @property
    def experiments(self) -> Path:
        return self.outputs / "digits" / "experiments"

    def study(self, name: str = "small") -> Path:
        return self.outputs / "digits" / "studies" / name

    def optuna_study(self, name: str = "small") -> Any:
        return find_study(locate(None, self.study().parent, name, 1), name)

    def rows(self, name: str = "small") -> list[TrialRow]:
        return read_trials(self.optuna_study(name))

    def result(self, name: str = "small") -> dict[str, Any]:
        found: dict[str, Any] = read_json(self.study(name) / "result.json")
        return found

    def trained(self, experiment: str) -> list[str]:
        """The folds that an experiment has begun to train, or taken over."""
        return sorted(path.parent.name for path in self.experiments.glob(f"{experiment}/seed_0/*/history.csv"))

    def manifests(self, experiment: str) -> list[Manifest]:
        """Of the networks that are there."""
        found = [Manifest.read(path) for path in sorted(self.experiments.glob(f"{experiment}/seed_0/*/manifest.json"))]
        return [manifest for manifest in found if manifest is not None]

    def cv(self, experiment: str) -> dict[str, Any]:
        """What a run of the usual scripts says of an experiment."""
        found: dict[str, Any] = read_json(next(self.experiments.glob(f"{experiment}/predictions/*/cv.json")))
        return found

    def untouched(self) -> dict[Path, int]:
        """When each file of a network was written."""
        names = ("last.pt", "history.csv", "manifest.json", "config.yaml")
        return {path: path.stat().st_mtime_ns for path in self.experiments.rglob("*") if path.name in names and "predictions" not in path.parts}


def said(rows: Sequence[TrialRow]) -> list[Any]:
    """All of trials but the time that they took."""
    return [(row.number, row.state, row.values, row.parameters, row.steps, row.reason, row.record.get("cv")) for row in rows]


def wait_until(there: Callable[[], Any], process: "subprocess.Popen[str]") -> Any:
    """What a look gives, as soon as it gives anything."""
    ended = time.monotonic() + 120
    while not (found := there()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < ended
        time.sleep(0.005)
    return found


@pytest.fixture(scope="module")
def few_digits(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fewer rows, so that a trial takes a second or two; part: folds of its own."""
    root = tmp_path_factory.mktemp("few") / "digits"
    shutil.copytree(digits / "images", root / "images")
    for name, count in (("train", ROWS), ("test", 40), ("sample_submission", 40), ("solution", 40)):
        table = pd.read_csv(digits / f"{name}.csv", dtype=str).head(count)
        (table.assign(part=[str(row % 2) for row in range(count)]) if name == "train" else table).to_csv(root / f"{name}.csv", index=False)
    return root


@dataclass(frozen=True)
class Carried:
    """A study of a few trials, the same command again, and then of more trials."""

    lab: Lab
    first: list[TrialRow]
    texts: tuple[bytes, bytes]
    files: tuple[dict[Path, int], dict[Path, int]]
    rows: list[TrialRow]
    result: dict[str, Any]
    out: str

    @property
    def best(self) -> TrialRow:
        return ranked(self.rows, 1)[0]


@pytest.fixture(scope="module")
def carried(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Carried:
    lab = Lab(tmp_path_factory.mktemp("studies") / "carried", few_digits)
    texts, files = [], []
    for _ in range(2):
        first = lab.tune("--trials", str(FIRST))
        assert first.code == 0, first.err
        texts.append((lab.study() / "result.json").read_bytes())
        files.append(lab.untouched())
        rows = lab.rows()
    last = lab.tune("--trials", str(ALL))
    assert last.code == 0, last.err
    return Carried(lab, rows, (texts[0], texts[1]), (files[0], files[1]), lab.rows(), lab.result(), last.out)


@pytest.fixture(scope="module")
def calm(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> list[TrialRow]:
    """The trials of an undisturbed study."""
    lab = Lab(tmp_path_factory.mktemp("studies") / "calm", few_digits)
    found = lab.tune("--trials", str(ALL), NO_SECOND_SPLIT)
    assert found.code == 0, found.err
    return lab.rows()


# ---------------------------------------------------------------- what a study ends in


def test_the_tuned_config_is_the_base_with_the_best_trials_changes_and_the_mark_and_nothing_else(carried: Carried) -> None:
    best, path = carried.best, carried.lab.folder / "small-tuned.yaml"
    assert best.number > 0, "else nothing is shown"
    expected = load_config(carried.lab.path).model_dump(mode="json")
    expected["experiment"] = "small-tuned"
    expected["optimizer"]["learning_rate"] = float(f"{best.parameters['optimizer.learning_rate']:.4g}")
    expected["loss"]["smoothing"] = round(float(best.parameters["loss.smoothing"]), 2)
    for key, value in NETS[str(best.parameters["net"])].items():
        expected["train"][key.removeprefix("train.")] = value
    expected["tuned"] = {"study": "small", "trial": best.number, "trials": ALL, "split_seeds": [42]}
    assert load_config(path).model_dump(mode="json") == expected
    assert set(yaml.safe_load(path.read_text())) <= {"_base_", "experiment", "optimizer", "loss", "train", "tuned"}
    assert f"config      {path}" in carried.out


def test_the_tuned_config_takes_its_networks_over_and_scores_as_the_best_trial_which_is_called_optimistic(carried: Carried) -> None:
    lab, path = carried.lab, str(carried.lab.folder / "small-tuned.yaml")
    again = lab.run("run_folds", path)
    assert again.code == 0, again.err
    assert [bool(manifest.record.get("taken_from")) for manifest in lab.manifests("small-tuned")] == [True] * FOLDS
    assert again.err.count("taken over") == FOLDS
    cv = lab.cv("small-tuned")
    assert (cv["cv"],) == carried.best.values
    assert cv["optimistic"] == [f"chosen on these folds among {ALL} trials of study small"]
    assert f"optimistic: {cv['optimistic'][0]}" in again.err


def test_on_the_split_that_the_search_never_saw_its_score_is_not_called_optimistic(carried: Carried) -> None:
    lab = carried.lab
    again = lab.run("run_folds", str(lab.folder / "small-tuned.yaml"), "folds.seed=43", "experiment=unseen")
    assert again.code == 0, again.err
    assert [bool(manifest.record.get("taken_from")) for manifest in lab.manifests("unseen")] == [True] * FOLDS
    cv = lab.cv("unseen")
    assert (cv["cv"], cv["folds"]) == (carried.result["unseen"]["tuned"]["cv"], carried.result["unseen"]["tuned"]["folds"])
    assert cv["optimistic"] == []
    assert "optimistic" not in again.err


def test_the_unseen_comparison_is_of_folds_that_no_trial_had_and_adds_up(carried: Carried) -> None:
    lab, unseen, best = carried.lab, carried.result["unseen"], carried.best.number
    seen = {manifest.inputs["folds"] for row in carried.rows for manifest in lab.manifests(f"small-trial-{row.number:03d}")}
    pair = [f"small-trial-{number:03d}-seed43" for number in (0, best)]
    fresh = {manifest.inputs["folds"] for name in pair for manifest in lab.manifests(name)}
    assert len(seen) == len(fresh) == 1
    assert not seen & fresh
    assert not any(manifest.record.get("taken_from") for name in pair for manifest in lab.manifests(name)), "there was nobody to take them from"
    splits = [pd.read_csv(path, dtype=str).set_index("id")["fold"] for path in sorted(lab.outputs.glob("digits/folds/*/folds.csv"))]
    assert len(splits) == 2
    assert 0.2 < (splits[0] == splits[1]).mean() < 0.3, "of four folds a quarter agrees by chance"
    truth = pd.read_csv(Path(load_config(lab.path).competition.root) / "train.csv", dtype=str).set_index("id")["label"]
    for name, score in zip(pair, (unseen["base"], unseen["tuned"]), strict=True):
        parts = [Predictions.load(path) for path in sorted(lab.experiments.glob(f"{name}/predictions/*/seed_0_fold_*_oof"))]
        right = [[part.classes[row.argmax()] == truth[one] for one, row in zip(part.ids, part.values, strict=True)] for part in parts]
        assert score["folds"] == pytest.approx([sum(fold) / len(fold) for fold in right])
        assert score["cv"] == pytest.approx(sum(map(sum, right)) / ROWS)
    assert unseen["difference"] == pytest.approx(unseen["tuned"]["cv"] - unseen["base"]["cv"])
    assert unseen["folds"] == pytest.approx([after - before for before, after in zip(unseen["base"]["folds"], unseen["tuned"]["folds"], strict=True)])
    assert unseen["interval"][0] <= unseen["difference"] <= unseen["interval"][1]
    assert f"on split seed {carried.result['unseen_seed']}, which the search never saw" in carried.out


def test_the_best_trials_blend_and_the_blend_is_called_optimistic(carried: Carried) -> None:
    lab = carried.lab
    top = sorted((lab.study() / "top").glob("*.yaml"))
    assert [path.name for path in top] == [f"{place:02d}-small-trial-{row.number:03d}.yaml" for place, row in enumerate(ranked(carried.rows, 1)[:2], start=1)]
    blended = lab.run("ensemble", *map(str, top))
    assert blended.code == 0, blended.err
    assert ": accuracy " not in "".join(line for line in blended.err.splitlines() if "  train  " in line), "every network was there"
    lines = [line for line in blended.err.splitlines() if "  ensemble  " in line and "accuracy 0." in line]
    assert len(lines) > 2
    assert [line for line in lines if "optimistic: chosen on these folds" not in line] == []


def test_trial_0_is_the_config_as_it_is_to_the_bit(carried: Carried, tmp_path: Path) -> None:
    lab = carried.lab
    assert lab.run("run_folds", str(lab.path), f"outputs={tmp_path / 'plain'}").code == 0
    cv = read_json(next((tmp_path / "plain").glob("digits/experiments/small/predictions/*/cv.json")))
    assert ((cv["cv"],), cv["folds"]) == (carried.rows[0].values, carried.rows[0].record["cv"]["folds"])
    plain = next((tmp_path / "plain").glob("digits/experiments/small/predictions/*/seed_0_fold_2_oof"))
    trial = next(lab.experiments.glob("small-trial-000/predictions/*/seed_0_fold_2_oof"))
    assert (Predictions.load(plain).values == Predictions.load(trial).values).all()


# ---------------------------------------------------------------- carried on, stopped, killed


def test_the_same_command_again_tries_trains_and_changes_nothing(carried: Carried) -> None:
    assert carried.texts[0] == carried.texts[1]
    assert carried.files[0] == carried.files[1]


def test_a_study_carried_on_is_one_study_of_the_larger_number(carried: Carried, calm: list[TrialRow]) -> None:
    assert said(carried.rows[:FIRST]) == said(carried.first)
    assert said(carried.rows) == said(calm)
    assert len(calm) == ALL


@pytest.mark.parametrize(("blow", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)], ids=["ctrl-c", "kill"])
def test_a_study_stopped_in_mid_trial_carries_on_to_the_undisturbed_one(
    blow: signal.Signals, code: int, calm: list[TrialRow], few_digits: Path, tmp_path: Path
) -> None:
    lab = Lab(tmp_path / "stopped", few_digits)
    words = ("--trials", str(CUT), NO_SECOND_SPLIT)
    process = lab.start(*words)
    wait_until(lambda: (lab.experiments / "small-trial-002" / "seed_0" / "fold_1").exists(), process)
    process.send_signal(blow)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert ("interrupted; the same command goes on" in errors) == (blow == signal.SIGINT)
    assert [row.state for row in lab.rows()] == ["complete", "complete", "running"]
    before = lab.untouched()
    again = lab.tune(*words)
    assert again.code == 0, again.err
    assert said(lab.rows()) == said(calm[:CUT])
    kept = [path for path in before if path.name == "history.csv" and "trial-001" in str(path)]
    assert len(kept) == FOLDS
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)


def test_a_killed_workers_trial_is_finished_by_another_and_no_trial_is_lost_or_tried_twice(few_digits: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "workers", few_digits)
    process = lab.start("--trials", str(CUT), "--workers", "2", NO_SECOND_SPLIT)
    worker, number = wait_until(lambda: worker_in_mid_trial(lab, process.pid), process)
    os.kill(worker, signal.SIGKILL)
    out, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    assert "was killed by signal 9" in errors
    rows = lab.rows()
    assert [row.number for row in rows] == list(range(CUT))
    assert {row.state for row in rows} <= {"complete", "pruned"}
    attempts = {trial.number: trial.user_attrs["attempts"] for trial in lab.optuna_study().get_trials()}
    assert attempts == {row.number: 2 if row.number == number else 1 for row in rows}
    assert sorted(row.record["experiment"] for row in rows) == [f"small-trial-{row.number:03d}" for row in rows]
    for row in rows:
        assert errors.count(f"tune      trial {row.number}: ") == 1
    assert len({tuple(sorted(row.parameters.items())) for row in rows}) == CUT, "two workers do not draw the same"
    assert "best        trial" in out


def worker_in_mid_trial(lab: Lab, parent: int) -> tuple[int, int] | None:
    """A child that holds the lock of a trial, after the first one, whose second fold is being trained."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    for child in children:
        with contextlib.suppress(OSError):
            for descriptor in Path(f"/proc/{child}/fd").iterdir():
                held = Path(os.readlink(descriptor))
                number = int(held.stem.removeprefix("trial_")) if held.name.startswith("trial_") and held.suffix == ".lock" else 0
                if number and (lab.experiments / f"small-trial-{number:03d}" / "seed_0" / "fold_1").exists():
                    return int(child), number
    return None


def test_a_limit_of_time_ends_the_search_with_what_is_complete_and_the_cut_trial_is_finished_later(few_digits: Path, tmp_path: Path) -> None:
    long = {"epochs": 8, "batch_size": 8, "ema": None}
    lab = Lab(tmp_path / "limited", few_digits, folds={"n_splits": 2}, train=long, tune={"space": {"optimizer.learning_rate": {"low": 1e-4, "high": 1e-3}}})
    assert lab.tune("--trials", "1").code == 0
    process = lab.start("--trials", "9", "--timeout", "0.05", NO_SECOND_SPLIT)
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert "the time is up" in errors
    assert [row.state for row in lab.rows()] == ["complete", "running"]
    assert "trials      1 complete, 1 running" in out
    again = lab.tune("--trials", "2", NO_SECOND_SPLIT)
    assert again.code == 0, again.err
    assert [(row.number, row.state, row.record["experiment"]) for row in lab.rows()] == [
        (0, "complete", "small-trial-000"),
        (1, "complete", "small-trial-001"),
    ]


# ---------------------------------------------------------------- trials


def test_a_trial_that_fails_is_recorded_with_its_reason_and_does_not_count(few_digits: Path, tmp_path: Path) -> None:
    space = {
        "optimizer.learning_rate": {"choices": {"good": 1e-3, "endless": 1e30}},
        "schedule.warmup": {"choices": {"none": 0, "long": 1}},
        "train.epochs": {"choices": {"one": 1, "two": 2}},
    }
    lab = Lab(tmp_path / "failing", few_digits, folds={"n_splits": 2}, train={"epochs": 2}, tune={"space": space, "sampler": "random", "seed": 0})
    found = lab.tune("--trials", "3", NO_SECOND_SPLIT)
    assert found.code == 0, found.err
    rows = lab.rows()
    assert sum(row.finished for row in rows) == 3
    assert {row.state for row in rows} == {"complete", "failed"}
    for row in rows[1:]:
        endless = row.parameters["optimizer.learning_rate"] == "endless"
        refused = row.parameters["schedule.warmup"] == "long" and row.parameters["train.epochs"] == "one"
        assert (row.state == "failed") == (endless or refused)
        if refused:
            assert "schedule.warmup must be below train.epochs" in row.reason
        elif endless:
            assert "is not finite at epoch" in row.reason
    assert any("is not finite" in row.reason for row in rows)
    assert any("must be below" in row.reason for row in rows)
    assert f"3 complete, {len(rows) - 3} failed" in found.out
    assert f"tune      trial {rows[-1].number}: " in found.err
    assert "Traceback" not in found.err


def test_a_search_of_views_trains_its_folds_once(few_digits: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "views", few_digits, folds={"n_splits": 2}, tune={"space": {"predict.tta": ["none", "horizontal", "crops", "zooms"]}})
    found = lab.tune("--trials", "4", NO_SECOND_SPLIT)
    assert found.code == 0, found.err
    assert len({row.parameters["predict.tta"] for row in lab.rows()}) > 1, "else nothing is shown"
    for row in lab.rows():
        taken = [manifest.record.get("taken_from") for manifest in lab.manifests(f"small-trial-{row.number:03d}")]
        assert taken == [None, None] if row.number == 0 else len(taken) == 2 and all(taken)


def test_a_pruned_trial_says_why_and_has_no_later_folds(carried: Carried) -> None:
    pruned = [row for row in carried.rows if row.state == "pruned"]
    assert {2, 4} <= {row.number for row in pruned}
    for row in pruned:
        assert "worse than trial" in row.reason
        assert carried.lab.trained(f"small-trial-{row.number:03d}") == [f"fold_{fold}" for fold in range(row.record["folds_trained"])]
        assert row.record["folds_trained"] < FOLDS
        assert not row.values
    assert carried.result["saved"]["folds"] == sum(FOLDS - row.record["folds_trained"] for row in pruned)
    assert f"{len(pruned)} pruned" in carried.out


def test_networks_of_the_best_trials_stay_and_of_the_others_their_history(carried: Carried) -> None:
    kept = {0, *(row.number for row in ranked(carried.rows, 1)[: TUNE["keep"]])}  # the config as it is is wanted at the end
    for row in carried.rows:
        folder = carried.lab.experiments / f"small-trial-{row.number:03d}"
        assert len(list(folder.rglob("last.pt"))) == (FOLDS if row.number in kept else 0), row.number
        assert len(list(folder.rglob("history.csv"))) == row.record["folds_trained"]


def test_trials_of_three_folds_end_in_a_config_that_is_scored_on_all_four(carried: Carried) -> None:
    lab = carried.lab
    found = lab.tune("--trials", "4", "experiment=three", "tune.folds=3", "tune.pruner=none", NO_SECOND_SPLIT)
    assert found.code == 0, found.err
    for row in lab.rows("three"):
        assert row.state == "complete"
        assert lab.trained(f"three-trial-{row.number:03d}") == ["fold_0", "fold_1", "fold_2"]
        assert len(row.record["cv"]["folds"]) == 3
        assert row.record["cv"]["rows"] == 0.75 * ROWS
    assert any("each trained in full" in note for note in lab.result("three")["notes"])
    whole = [path.name for path in lab.experiments.glob("three-trial-*-whole")]
    assert "three-trial-000-whole" in whole  # the config itself stands for election, too
    assert len(whole) > 1
    search = lab.result("three")["search"]
    assert search["difference"] > 0  # or there were no tuned config
    assert [(len(search[name]["folds"]), search[name]["rows"]) for name in ("base", "tuned")] == [(4, ROWS), (4, ROWS)]
    assert lab.run("run_folds", str(lab.folder / "three-tuned.yaml")).code == 0
    cv = lab.cv("three-tuned")
    assert (cv["cv"], cv["folds"]) == (search["tuned"]["cv"], search["tuned"]["folds"])


def test_a_trial_pruned_between_epochs_has_part_of_its_first_fold_and_no_other(few_digits: Path, tmp_path: Path) -> None:
    tune = {"space": {"optimizer.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}, "sampler": "random", "pruner": "epochs", "seed": 1249}
    lab = Lab(tmp_path / "epochs", few_digits, folds={"n_splits": 2}, optimizer={"learning_rate": 5e-3}, train={"epochs": 3}, tune=tune)
    found = lab.tune("--trials", "5", NO_SECOND_SPLIT)
    assert found.code == 0, found.err
    rows = lab.rows()
    assert [row.state for row in rows[:4]] == ["complete"] * 4, "there is no median before"
    pruned = [row for row in rows if row.state == "pruned"]
    assert pruned
    for row in rows:
        name = f"small-trial-{row.number:03d}"
        epochs = len(pd.read_csv(lab.experiments / name / "seed_0" / "fold_0" / "history.csv"))
        assert lab.trained(name) == ["fold_0"] if row in pruned else ["fold_0", "fold_1"]
        assert epochs == len(row.steps)
        assert epochs == (2 if row in pruned else 3), "the first epoch is not held against a trial"
        assert ("the median of" in row.reason) == (row in pruned)


def test_two_objectives_give_every_trial_two_values_and_prune_none(carried: Carried) -> None:
    found = carried.lab.tune("--trials", "3", "experiment=timed", "tune.objectives=score_and_seconds", NO_SECOND_SPLIT)
    assert found.code == 0, found.err
    rows = carried.lab.rows("timed")
    assert [(row.state, len(row.values)) for row in rows] == [("complete", 2)] * 3
    for row, alone in zip(rows, carried.rows, strict=False):
        assert row.parameters == alone.parameters
        assert alone.state == "pruned" or row.values[0] == alone.values[0]
        assert row.values[1] == row.record["training_seconds"] > 0
    assert carried.rows[2].state == "pruned", "else nothing is shown"


def test_the_trials_of_an_earlier_study_are_tried_first_and_cost_nothing(carried: Carried) -> None:
    lab, earlier = carried.lab, [row for row in ranked(carried.rows, 1) if row.number > 0]
    found = lab.tune("--trials", "3", "--add", "small", "experiment=later", "tune.keep=null", NO_SECOND_SPLIT)
    assert found.code == 0, found.err
    rows = lab.rows("later")
    assert said(rows[:1]) == said(carried.rows[:1])
    assert rows[1].values == earlier[0].values
    assert [(row.parameters, row.finished) for row in rows[1:3]] == [(row.parameters, True) for row in earlier[:2]]
    assert [row.state for row in rows[3:]] == ["waiting"] * len(earlier[2:])
    for row in rows[1:3]:
        taken = [manifest.record.get("taken_from", "") for manifest in lab.manifests(f"later-trial-{row.number:03d}")]
        assert len(taken) == row.record["folds_trained"] > 0
        assert all(taken)


# ---------------------------------------------------------------- notes and mistakes


def test_without_a_second_split_the_study_says_so(few_digits: Path, tmp_path: Path) -> None:
    folds = {"strategy": "column", "column": "part", "n_splits": 2}
    lab = Lab(tmp_path / "column", few_digits, folds=folds, tune={**TUNE, "pruner": "none"})
    found = lab.tune("--trials", "2")
    assert found.code == 0, found.err
    result = lab.result()
    assert result["tuned_config"]
    assert (result["unseen"], result["unseen_seed"]) == (None, None)
    assert "note        folds.strategy is column: there is no second split" in found.out
    assert "unseen      " not in found.out
    assert not list(lab.experiments.glob("*-seed*"))


@pytest.fixture(scope="module")
def untried(few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("studies") / "untried", few_digits)
    plain = yaml.safe_load(lab.path.read_text())
    del plain["tune"]
    (lab.folder / "plain.yaml").write_text(yaml.safe_dump({**plain, "experiment": "plain"}))
    return lab


def mistake(found: Ran) -> str:
    """The only line about a mistake."""
    assert found.code == 2, found.err
    assert found.out == ""
    assert "Traceback" not in found.err
    lines = found.err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True]
    return lines[-1]


MISTAKES = {
    "unknown key": (("tune.space={optimizer.learning_rat: {low: 1e-4, high: 1e-2}}",), 'unknown key "learning_rat"; did you mean "learning_rate"?'),
    "value": (("tune.space={loss.smoothing: {low: 0.0, high: 2.0, step: null}}",), "tune.space: loss.smoothing: high 2.0 is refused"),
    "folds": (("tune.folds=5",), "tune.folds: there are 4 folds, but got 5"),
    "pruner": (("tune.pruner=folds", "tune.folds=2"), "tune.pruner: folds can end no trial of 2 folds"),
    "threshold": (("tune.pruner=folds", "tune.threshold=0.1"), "tune.pruner: folds can end no trial of 4 folds at a threshold of 0.1"),
    "backbone": (("tune.space={model.backbone: [test_resnet, no_such_net]}",), "no_such_net"),
    "added": (("--add", "nothing"), "there is no study nothing"),
    "no trials": (("--trials", "0", "experiment=none"), "--trials"),
    "no workers": (("--workers", "0", "experiment=none"), "--workers"),
    "storage": (("--storage", "sqlit"), "did you mean"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_said_in_one_line_before_anything_is_trained(name: str, untried: Lab) -> None:
    words, message = MISTAKES[name]
    assert message in mistake(untried.tune("--trials", "3", *words))
    assert not list(untried.outputs.rglob("history.csv"))


def test_an_empty_space_two_configs_and_a_damaged_storage_are_mistakes_too(untried: Lab) -> None:
    main, plain = script("tune").main, str(untried.folder / "plain.yaml")
    assert "there is nothing to search" in mistake(ran(lambda: main([plain, "--trials", "3"])))
    assert "write one CONFIG, but got" in mistake(ran(lambda: main([str(untried.path), plain, "--trials", "3"])))
    damaged = untried.study("damaged").with_suffix(".db")
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_bytes(b"no database\n" * 500)
    line = mistake(untried.tune("--trials", "3", "experiment=damaged"))
    assert str(damaged) in line
    assert not list(untried.outputs.rglob("history.csv"))


def test_the_split_of_the_search_is_not_called_unseen(few_digits: Path, tmp_path: Path) -> None:
    lab = Lab(tmp_path / "same", few_digits)
    assert "tune.unseen_seed" in mistake(lab.tune("--trials", "1", "tune.unseen_seed=42"))
    assert not list(lab.outputs.rglob("history.csv"))


def test_a_study_is_not_carried_on_with_another_space(carried: Carried) -> None:
    before = carried.lab.untouched()
    line = mistake(carried.lab.tune("--trials", "20", "tune.space={loss.smoothing: {high: 0.3}}"))
    assert "loss.smoothing" in line
    assert "0.2 -> 0.3" in line
    assert "experiment=NEW" in line
    assert len(carried.lab.rows()) == ALL
    assert carried.lab.untouched() == before
