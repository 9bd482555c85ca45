"""What a person can get wrong: one line, exit code 2, no traceback, nothing written is lost."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import small_settings

from pipeline.cli import predict_all, run_script

ROOT = Path(__file__).resolve().parent.parent


def script(name: str, *words: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / name), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False)


def hear_ctrl_c() -> None:
    """A shell that starts the tests in the background has them, and what they start, ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """The one line that a refused run ends with."""
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    *_, last = result.stderr.strip().splitlines()
    assert [line for line in result.stderr.splitlines() if "error" in line] == [last]
    return last


def config(root: Path, tmp_path: Path, **changes: Any) -> Path:
    settings = small_settings(root, tmp_path / "outputs")
    for section, values in changes.items():
        settings[section] = settings.get(section, {}) | values
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_help_of_every_script_answers_without_heavy_imports() -> None:
    for path in sorted((ROOT / "scripts").glob("*.py")):
        command = [sys.executable, "-X", "importtime", str(path), "--help"]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert "usage" in result.stdout
        loaded = {line.rsplit("|", 1)[-1].strip() for line in result.stderr.splitlines()}
        assert not loaded & {"torch", "timm", "albumentations", "pandas", "sklearn", "cv2"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train.epoch=3"], 'unknown key "epoch"; did you mean "epochs"?'),
        (["train.epochs=many"], "train.epochs"),
        (["competition.target=lable"], 'there is no column "lable"'),
        (["competition.train_table=trian.csv"], "no such table"),
        (["competition.root=input/nowhere"], "no such folder"),
        (["model.backbone=resnt18"], 'did you mean "resnet18"'),
        (["model.weights=nowhere.pth"], "no such file: nowhere.pth"),
        (["optimizer.name=adamm"], 'did you mean "adam'),
        (["augment.train=[{name: HorizontalFlop}]"], 'did you mean "HorizontalFlip"?'),
        (["augment.train=[{name: HorizontalFlip, probability: 1}]"], "probability"),
        (["runtime.device=cuda:7"], "is not there"),
        (["folds.n_splits=2000"], "2000 folds need as many rows"),
        (["competition.metric=acuracy"], "competition.metric"),
        (["competition.solution=answers.csv"], "no such table"),
        (["augment.train=[{name: RandomCrop, height: 12, width: 12}]"], "a picture of 8x8"),
        (["model.arguments={in_chans: 1}"], "takes no RGB pictures of 16x16"),
        (["model.arguments={global_pool: ''}"], "model"),
    ],
)
def test_a_mistake_in_the_config_is_one_line_that_says_what_to_do(
    digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], expected: str
) -> None:
    code = run_script("", lambda arguments: predict_all(arguments) and None, [str(config(digits, tmp_path)), *words])
    errors = capsys.readouterr().err.splitlines()
    assert code == 2
    assert errors[-1].startswith("error: ")
    assert expected in errors[-1]
    assert not list((tmp_path / "outputs").rglob("last.pt"))


def test_a_config_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    assert 'did you mean "digits.yaml"?' in refused(script("submit.py", "configs/digit.yaml"))


def test_an_unreadable_picture_is_named_with_its_reason(own_digits: Path, tmp_path: Path) -> None:
    (own_digits / "images" / "0003.png").write_bytes(b"GIF, honestly")
    line = refused(script("run_folds.py", config(own_digits, tmp_path)))
    assert "images/0003.png" in line
    assert "not an image" in line
    assert "images.corrupt=skip" in line


def test_a_sample_that_asks_for_other_ids_is_refused_before_training(own_digits: Path, tmp_path: Path) -> None:
    sample = own_digits / "sample_submission.csv"
    sample.write_text(sample.read_text() + "9999,0\n")
    assert '"9999" is asked for' in refused(script("run_folds.py", config(own_digits, tmp_path)))


def test_labels_for_a_sample_of_many_columns_are_refused_before_training(own_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = own_digits / "sample_submission.csv"
    first, *rows = sample.read_text().splitlines()
    sample.write_text("\n".join([first + ",more", *(row + ",0" for row in rows)]))
    words = [str(config(own_digits, tmp_path)), "submission.format=label"]
    assert run_script("", lambda arguments: predict_all(arguments) and None, words) == 2
    assert "label writes one column" in capsys.readouterr().err
    assert not list(tmp_path.rglob("last.pt"))


def test_one_experiment_given_twice_is_refused(digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(config(digits, tmp_path))
    assert run_script("", lambda arguments: None, [path, path]) == 2
    assert '"small"' in capsys.readouterr().err


@pytest.mark.slow
def test_a_full_disk_stops_with_one_line_and_what_was_finished_stays(digits: Path, tmp_path: Path) -> None:
    small_disk = tmp_path / "disk"
    small_disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", str(small_disk)], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip("a small disk cannot be mounted here: needs root")
    try:
        path = config(digits, tmp_path, train={"epochs": 1, "batch_size": 64, "ema": 0.9, "seeds": [0, 1, 2]})
        assert "No space left" in refused(script("run_folds.py", path, f"outputs={small_disk}"))
        finished = sorted(small_disk.rglob("manifest.json"))
        assert any("fold_0" in str(manifest) for manifest in finished), "the first fold fits"
        assert not list(small_disk.rglob("*.tmp"))
        before = {manifest: manifest.read_bytes() for manifest in finished}
        subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
        assert script("run_folds.py", path, f"outputs={small_disk}").returncode == 0
        assert {manifest: manifest.read_bytes() for manifest in finished} == before
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)


def test_a_cache_that_does_not_fit_is_refused_before_it_is_started(digits: Path, tmp_path: Path) -> None:
    small_disk = tmp_path / "disk"
    small_disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(small_disk)], capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here: needs root")
    try:
        line = refused(script("run_folds.py", config(digits, tmp_path), "cache.mode=raw", f"outputs={small_disk}"))
        assert "cache.mode=auto" in line
        assert not list(small_disk.rglob("*.bin"))
    finally:
        subprocess.run(["umount", str(small_disk)], check=True)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_saves_ends_with_130_and_the_same_command_goes_on(digits: Path, tmp_path: Path, jobs: int) -> None:
    path = config(digits, tmp_path, train={"epochs": 200, "batch_size": 8, "ema": 0.9})
    words = [f"runtime.jobs_per_device={jobs}", "runtime.workers=1"]
    command = [sys.executable, str(ROOT / "scripts" / "run_folds.py"), str(path), *words]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=ROOT, preexec_fn=hear_ctrl_c)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("last.pt"))) < jobs and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    saved = re.findall(r"saved in epoch (\d+) after (\d+) of \d+ batches", errors)
    assert len(saved) == jobs, errors
    again = script("run_folds.py", path, "train.epochs=201", *words)
    assert "train.epochs: 200 -> 201" in refused(again)
