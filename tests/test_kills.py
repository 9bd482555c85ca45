"""Killed at any moment, the same command ends with the same bytes as an undisturbed run."""

import hashlib
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import small_settings

ROOT = Path(__file__).resolve().parent.parent


def start(script: str, config: Path, outputs: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(ROOT / "scripts" / script), str(config), f"outputs={outputs}", *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def finish(script: str, config: Path, outputs: Path, *words: str) -> float:
    started = time.monotonic()
    process = start(script, config, outputs, *words)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors
    return time.monotonic() - started


def results(outputs: Path) -> dict[str, str]:
    files = [*outputs.rglob("values.npy"), *outputs.rglob("submission.csv"), *outputs.rglob("history.csv")]
    found = {str(path.relative_to(outputs)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert len([name for name in found if name.endswith("values.npy")]) == 9  # 3 folds x (oof, test), the three oof as one, the blend's oof and test
    assert not list(outputs.rglob("views.npy")), "what the views said is gone when all networks have predicted"
    return found


@pytest.fixture
def config(digits: Path, tmp_path: Path) -> Path:
    settings = small_settings(digits, tmp_path / "outputs")
    settings["folds"] = {"n_splits": 3}
    settings["train"] |= {"epochs": 3, "accumulation": 2, "batch_size": 32}
    settings["augment"] = {"train": [{"name": "Affine", "rotate": [-10, 10], "p": 0.7}], "mixing": {"mixup": 0.4, "cutmix": 1.0}}
    settings["model"] |= {"arguments": {"drop_rate": 0.2}}
    settings["runtime"] |= {"checkpoint_minutes": 0.001, "workers": 1}  # also save in mid-epoch, about every 0.06 s
    settings["predict"] = {"tta": "horizontal"}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("jobs", "kills"), [(1, 10), (2, 4)])
def test_kills_at_random_moments_change_no_byte(config: Path, tmp_path: Path, jobs: int, kills: int) -> None:
    words = (f"runtime.jobs_per_device={jobs}",)
    duration = finish("submit.py", config, tmp_path / "calm", *words)
    moments = random.Random(jobs)
    left, rounds = kills, 0
    while left:
        rounds += 1
        outputs = tmp_path / f"killed{rounds}"
        while left:
            process = start("run_folds.py", config, outputs, *words)
            try:
                process.communicate(timeout=moments.uniform(0.3, 0.9 * duration))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                left -= 1
            else:  # it came to its end before the kill: disturb a new run
                assert process.returncode == 0
                break
        finish("submit.py", config, outputs, *words)
        assert results(outputs) == results(tmp_path / "calm")
        assert not list(outputs.rglob("*.tmp"))


@pytest.mark.slow
def test_two_processes_on_one_experiment_share_its_folds(config: Path, tmp_path: Path) -> None:
    finish("submit.py", config, tmp_path / "alone")
    pair = [start("submit.py", config, tmp_path / "together") for _ in range(2)]
    errors = [process.communicate(timeout=600)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], errors
    trained = [line.split("train     ")[1].split(":")[0] for text in errors for line in text.splitlines() if ": accuracy" in line]
    assert sorted(trained) == [f"seed 0 fold {fold}" for fold in range(3)], "each fold is trained once"
    assert results(tmp_path / "together") == results(tmp_path / "alone")
