"""The kernel's notebook: executed as Kaggle does, on the digits; its dataset: flat, whole, and without a trace of this machine."""

import getpass
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from conftest import small_settings
from kernels import LAYOUTS, execute, lay_out
from safetensors.torch import save_file

from pipeline.cli import Arguments, predict_all
from pipeline.config import Config, Model
from pipeline.config_files import write_config
from pipeline.errors import RunFailed, UserError
from pipeline.kaggle.notebook import checked_slug, notebook, predicting_cells, slug_for, training_cells
from pipeline.kaggle.package import copy_weights, write_package
from pipeline.kaggle.train import Session, read_competition, read_configs, take_over, train
from pipeline.stages.ensemble import ensemble
from pipeline.stages.kernel import Kernel, require_ready, write_kernel, write_training_kernel
from pipeline.stages.submit import submit
from pipeline.training.models import build_model, head_names

ROOT = Path(__file__).parent.parent.parent
TOKEN = "KGAT_planted_0123456789"


@dataclass
class Local:
    """What this machine wrote."""

    kernel: Kernel
    submission: Path
    outputs: Path


def settings(digits: Path, outputs: Path, name: str, **changes: dict[str, Any]) -> Config:
    found = small_settings(digits, outputs) | {"experiment": name}
    for section, values in changes.items():
        found[section] = found[section] | values if section in found else values
    return Config.model_validate(found)


@pytest.fixture(scope="module")
def local(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Local:
    """Two experiments of two folds, blended, submitted here, and their kernel."""
    outputs = tmp_path_factory.mktemp("outputs")
    learning = {"train": {"epochs": 4}, "optimizer": {"learning_rate": 0.01}}
    configs = [settings(digits, outputs, "first", **learning), settings(digits, outputs, "second", images={"size": 12}, predict={"tta": "zooms"}, **learning)]
    experiments = predict_all(Arguments(configs, frozenset()))
    blended = ensemble(experiments)
    return Local(write_kernel(experiments, blended), submit(experiments, blended), outputs)


def hidden_set(digits: Path, place: Path, ids: list[str], renamed: dict[str, str]) -> Path:
    """The digits with another test set: these ids, and copies of pictures under new ones."""
    root = Path(shutil.copytree(digits, place / "competition"))
    for new, old in renamed.items():
        shutil.copyfile(root / "images" / f"{old}.png", root / "images" / f"{new}.png")
    every = [*ids, *renamed]
    sample = pd.read_csv(root / "sample_submission.csv", dtype=str)
    test = pd.read_csv(root / "test.csv", dtype=str)
    pd.DataFrame({"id": every}).reindex(columns=test.columns).to_csv(root / "test.csv", index=False)
    pd.DataFrame({"id": every, "label": sample["label"].iloc[0]}).to_csv(root / "sample_submission.csv", index=False)
    return root


# ---------------------------------------------------------------- the bundle is found


def find(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the notebook's first cell knows."""
    monkeypatch.setenv("PODIUM_INPUT", str(tmp_path / "input"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("HF_HUB_OFFLINE", "NO_ALBUMENTATIONS_UPDATE"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    code = next(text for kind, text in predicting_cells("digits", "digits") if kind == "code")
    known: dict[str, Any] = {}
    exec(code, known)
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert sys.path[0] == str(known["packages"][0].parent)
    return known


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset that is enough to be found."""
    folder = tmp_path / "dataset"
    folder.mkdir()
    (folder / "bundle.json").write_text("{}")
    write_package(folder)
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_bundle_and_package_are_found_in_every_layout(layout: str, dataset: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    competition = tmp_path / "competition"  # without its pictures, which the cell is not to look at
    shutil.copytree(digits, competition, ignore=shutil.ignore_patterns("images"))
    mounted = lay_out(layout, dataset, competition, tmp_path / "input")
    found = find(tmp_path, monkeypatch)
    assert found["bundle"] == mounted or layout == "zipped"
    assert (found["bundle"] / "bundle.json").read_text() == "{}"
    assert (found["packages"][0] / "kaggle" / "notebook.py").read_bytes() == (ROOT / "pipeline/kaggle/notebook.py").read_bytes()
    assert len(list(found["packages"][0].rglob("*.jinja"))) == len(list((ROOT / "pipeline").rglob("*.jinja")))


def test_one_dataset_at_two_places_is_one_and_two_datasets_are_refused_by_name(
    dataset: Path, digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = tmp_path / "input"
    for place in ("podium-digits", "datasets/somebody/podium-digits"):
        shutil.copytree(dataset, inputs / place)
    assert find(tmp_path, monkeypatch)["bundle"] == inputs / "podium-digits"
    (inputs / "datasets/somebody/podium-digits/bundle.json").write_text('{"another": 1}')
    with pytest.raises(AssertionError, match=r"one dataset .*datasets/somebody/podium-digits.*input/podium-digits"):
        find(tmp_path, monkeypatch)


def test_no_million_of_pictures_is_listed_to_find_the_bundle(dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = tmp_path / "input"
    read: list[Any] = []
    shutil.copytree(dataset, inputs / "zzz" / "podium")
    for folder in ("other/pictures", "digits/train"):
        (inputs / folder).mkdir(parents=True)
        for number in range(2000):
            (inputs / folder / f"{number}").touch()
    scandir = os.scandir

    class Counted:
        def __init__(self, place: Any = ".") -> None:
            self.entries = scandir(place)

        def __enter__(self) -> "Counted":
            return self

        def __exit__(self, *_: object) -> None:
            self.entries.close()

        def __iter__(self) -> "Counted":
            return self

        def __next__(self) -> Any:
            read.append(next(self.entries))
            return read[-1]

    monkeypatch.setattr(os, "scandir", Counted)
    assert find(tmp_path, monkeypatch)["bundle"] == inputs / "zzz" / "podium"
    assert len(read) < 400
    shutil.rmtree(inputs / "zzz" / "podium")
    with pytest.raises(AssertionError, match="but there are \\[\\]"):
        find(tmp_path, monkeypatch)
    assert len(read) < 1500


# ---------------------------------------------------------------- nothing of this machine


def pieces(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file's name and bytes, also of those inside zips."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith("."):
            yield str(path.relative_to(folder)), path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    for name in archive.namelist():
                        yield name, archive.read(name)


def assert_tells_nothing(kernel: Kernel, *places: Path) -> int:
    """Looks at every file for paths, users and tokens; names of users shorter than four letters are in any text."""
    users = {getpass.getuser(), os.environ.get("USER", "")} - {"root"}
    words = [str(ROOT), str(Path.home()) + "/", TOKEN, *map(str, places), *(user for user in users if len(user) > 3)]
    count = 0
    for folder in (kernel.dataset, kernel.notebook):
        for name, data in pieces(folder):
            count += 1
            told = [word for word in words if word.encode() in data or word in name]
            assert not told, f"{name} tells {told}"
    return count


def test_a_training_kernel_tells_nothing_of_this_machine_and_carries_its_weights(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    (tmp_path / "private").mkdir()
    weights = tmp_path / "private" / "backbone.safetensors"
    save_file({"layer": torch.arange(3.0)}, weights)
    extra = [{"table": "more.csv", "root": str(tmp_path / "private")}]
    config = settings(digits, tmp_path / "outputs", "small", model={"weights": str(weights)}, competition={"extra_train": extra})
    kernel = write_training_kernel([config])
    assert {path.name for path in kernel.dataset.iterdir()} == {"backbone.safetensors", "dataset-metadata.json", "podium.zip", "small.yaml", "training.json"}
    assert (kernel.dataset / "backbone.safetensors").read_bytes() == weights.read_bytes()
    assert assert_tells_nothing(kernel, tmp_path, digits, digits.parent) > 150
    named = settings(digits, tmp_path / "outputs", "named", augment={"train": [{"name": "FDA", "reference_images": [str(digits / "images")]}]})
    with pytest.raises(UserError, match="augment"):
        write_training_kernel([named])


@pytest.mark.slow
def test_a_predicting_kernel_tells_nothing_of_this_machine(local: Local, digits: Path) -> None:
    assert assert_tells_nothing(local.kernel, local.outputs, digits, digits.parent) > 150
    assert all(path.is_file() for path in local.kernel.dataset.iterdir()), "the client drops folders"


def test_what_an_earlier_kernel_left_is_not_uploaded_and_the_same_kernel_has_the_same_bytes(digits: Path, tmp_path: Path) -> None:
    kernel = write_training_kernel([settings(digits, tmp_path / "outputs", "old")])
    first = (kernel.dataset / "podium.zip").read_bytes()
    kernel = write_training_kernel([settings(digits, tmp_path / "outputs", "new")])
    assert sorted(path.name for path in kernel.dataset.iterdir()) == ["dataset-metadata.json", "new.yaml", "podium.zip", "training.json"]
    assert (kernel.dataset / "podium.zip").read_bytes() == first
    with zipfile.ZipFile(kernel.dataset / "podium.zip") as archive:
        assert {entry.date_time[0] for entry in archive.infolist()} == {1980}, "a time is no part of the source"


def test_weights_of_the_hub_are_carried_as_a_file_that_trains_from_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    import torch

    create = timm.create_model
    hub = create("test_resnet")
    section = Model(backbone="test_resnet", weights="hub")
    with monkeypatch.context() as patch:  # there is no hub here
        patch.setattr(timm, "create_model", lambda name, pretrained, **arguments: hub)
        name = copy_weights(section, tmp_path)
    assert name is not None
    model = build_model(section.model_copy(update={"weights": str(tmp_path / name)}), 7, seed=0)
    head = head_names(model)
    assert all(torch.equal(values, hub.state_dict()[key]) for key, values in model.state_dict().items() if key not in head)
    assert {path.name for path in tmp_path.iterdir()} == {name}


# ---------------------------------------------------------------- what Kaggle is told


def test_kaggle_is_told_no_internet_and_two_gpus_and_titles_that_lead_to_their_names(digits: Path, tmp_path: Path) -> None:
    slugify = pytest.importorskip("slugify").slugify
    config = settings(digits, tmp_path / "outputs", "small", competition={"slug": "Digit_Recognizer.2"})
    kernel = write_training_kernel([config])
    told = json.loads((kernel.notebook / "kernel-metadata.json").read_text())
    dataset = json.loads((kernel.dataset / "dataset-metadata.json").read_text())
    assert (told["enable_internet"], told["enable_gpu"], told["is_private"], told["machine_shape"]) == (False, True, True, "NvidiaTeslaT4")
    assert told["competition_sources"] == ["Digit_Recognizer.2"]
    assert told["dataset_sources"] == [dataset["id"]]
    for one in (told, dataset):
        assert slugify(one["title"]) == one["id"].partition("/")[2] == "podium-digit-recognizer-2-training"


@pytest.mark.parametrize("kind", ["predict", "train"])
@pytest.mark.parametrize("competition", ["a", "x" * 90, "a-" * 40, "Ünïcode._.", "2021"])
def test_the_name_that_is_made_is_one_that_kaggle_takes(competition: str, kind: Any) -> None:
    assert checked_slug(slug_for(competition, kind)) == slug_for(competition, kind)


@pytest.mark.parametrize("name", ["short", "x" * 51, "Capital-letters", "two--dashes", "-dash", "under_score", "owner/name"])
def test_a_name_that_kaggle_would_change_or_refuse_is_said(name: str) -> None:
    with pytest.raises(UserError, match="--name"):
        checked_slug(name)


def test_a_dataset_does_not_take_the_name_of_its_competition(digits: Path, tmp_path: Path) -> None:
    config = settings(digits, tmp_path / "outputs", "small", competition={"slug": "digit-recognizer"})
    with pytest.raises(UserError, match="--name: digit-recognizer is the competition's own name"):
        write_training_kernel([config], "digit-recognizer")


@pytest.mark.parametrize("cells", [predicting_cells("Digits", "digits"), training_cells("Digits", "digits", 11.5)])
def test_notebooks_are_valid_short_and_each_cell_has_its_sentence(cells: Any) -> None:
    nbformat = pytest.importorskip("nbformat")
    book = notebook(cells)
    nbformat.validate(nbformat.from_dict(book))
    kinds = [kind for kind, _ in cells]
    assert kinds.count("code") <= 6
    assert all(kinds[number - 1] == "markdown" for number, kind in enumerate(kinds) if kind == "code")
    for kind, text in cells:
        if kind == "code":
            compile(text, "cell", "exec")
            assert max(map(len, text.splitlines())) <= 160
            assert "SLUG" not in text
            assert "pip" not in text.replace("pipeline", "")


# ---------------------------------------------------------------- the notebook predicts


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_offline_with_read_only_inputs_the_submission_equals_the_local_one(layout: str, local: Local, digits: Path, tmp_path: Path) -> None:
    lay_out(layout, local.kernel.dataset, digits, tmp_path / "input")
    done = execute(local.kernel.notebook / "notebook.ipynb", tmp_path / "input", tmp_path / "working")
    assert (tmp_path / "working" / "submission.csv").read_bytes() == local.submission.read_bytes()
    assert sorted(path.name for path in (tmp_path / "working").iterdir()) == ["submission.csv"]
    assert (done.pictures, done.tables) == (1, 1)
    assert "FAILED" not in done.text
    assert pd.read_csv(local.submission)["label"].nunique() > 5, "a run that learned nothing would prove nothing"


@pytest.mark.slow
def test_the_test_set_is_the_one_that_is_mounted(local: Local, digits: Path, tmp_path: Path) -> None:
    known = pd.read_csv(local.submission, dtype=str).set_index("id")["label"]
    new = {f"hidden-{number}": name for number, name in enumerate(known.index)}
    cases: dict[str, tuple[list[str], dict[str, str]]] = {"larger": (list(known.index[100:]), new), "three": (list(known.index[:3]), {}), "none": ([], {})}
    for name, (ids, renamed) in cases.items():
        place = tmp_path / name
        place.mkdir()
        lay_out("flat", local.kernel.dataset, hidden_set(digits, place, ids, renamed), place / "input")
        execute(local.kernel.notebook / "notebook.ipynb", place / "input", place / "working", KAGGLE_IS_COMPETITION_RERUN="1")
        written = pd.read_csv(place / "working" / "submission.csv", dtype=str)
        assert list(written.columns) == ["id", "label"]
        assert list(written["id"]) == [*ids, *renamed]
        assert list(written["label"]) == [known[renamed.get(row, row)] for row in written["id"]], name


@pytest.mark.slow
def test_one_network_that_cannot_be_read_is_said_loudly_and_the_others_predict(local: Local, digits: Path, tmp_path: Path) -> None:
    mounted = lay_out("flat", local.kernel.dataset, digits, tmp_path / "input")
    broken = sorted(mounted.glob("first*.safetensors"))[0]
    broken.write_bytes(broken.read_bytes()[:1000])
    done = execute(local.kernel.notebook / "notebook.ipynb", tmp_path / "input", tmp_path / "working")
    assert "FAILED" in done.text
    assert "NOT in it" in done.text
    written, wanted = (pd.read_csv(path, dtype=str) for path in (tmp_path / "working" / "submission.csv", local.submission))
    assert list(written["id"]) == list(wanted["id"])
    assert (written["label"] == wanted["label"]).mean() > 0.8


# ---------------------------------------------------------------- the notebook trains


WHEN_SAVED = """
import os, pathlib, threading, time

class WhenSaved(threading.Thread):
    def __init__(self, seconds, ring):
        super().__init__(daemon=True)
        self.ring = ring

    def run(self):
        while not list(pathlib.Path(os.environ["PODIUM_WORKING"]).rglob("last.pt")):
            time.sleep(0.05)
        self.ring()

    def cancel(self):
        pass

threading.Timer = WhenSaved
"""
"""The alarm of a session rings when something is saved, however fast the machine is."""


@pytest.mark.slow
def test_a_session_that_runs_out_of_time_is_carried_on_and_ends_as_one_that_did_not(digits: Path, tmp_path: Path, submit_here: Callable[..., Path]) -> None:
    long = {"train": {"epochs": 12}, "runtime": {"jobs_per_device": 2}, "optimizer": {"learning_rate": 0.01}}
    config = settings(digits, tmp_path / "outputs", "small", **long)
    kernel = write_training_kernel([config], hours=1e-6)
    first, second = tmp_path / "first", tmp_path / "second"
    lay_out("by kind", kernel.dataset, digits, first / "input")
    done = execute(kernel.notebook / "notebook.ipynb", first / "input", first / "working", WHEN_SAVED)
    assert "NOT DONE: the session's 1e-06 hours are over; 0 networks are trained, and everything is saved" in done.text
    assert "Add Input" in done.text
    kept = sorted(path.relative_to(first / "working") for path in (first / "working").rglob("*") if path.is_file())
    assert [path.name for path in kept if path.suffix == ".pt"], "nothing was saved"
    assert not [path for path in kept if "cache" in path.parts or path.name == "submission.csv"]

    kernel = write_training_kernel([config])
    lay_out("flat", kernel.dataset, digits, second / "input")
    shutil.copytree(first / "working", second / "input" / "notebooks" / "somebody" / "podium-digits-training")
    done = execute(kernel.notebook / "notebook.ipynb", second / "input", second / "working")
    assert "of an earlier session taken over" in done.text
    assert "resumes after epoch" in done.text
    assert (second / "working" / "submission.csv").read_bytes() == submit_here(config).read_bytes()


@pytest.fixture
def submit_here(digits: Path) -> Callable[[Config], Path]:
    def run(config: Config) -> Path:
        experiments = predict_all(Arguments([config], frozenset()))
        return submit(experiments, ensemble(experiments))

    return run


def test_a_config_of_the_training_kernel_is_the_local_one_but_for_its_places(digits: Path, tmp_path: Path) -> None:
    config = settings(digits, tmp_path / "outputs", "small", train={"epochs": 3}, augment={"train": [{"name": "HorizontalFlip", "p": 0.25}]})
    kernel = write_training_kernel([config])
    [read] = read_configs(kernel.dataset, digits, tmp_path, tmp_path / "outputs")
    same = {"competition": config.competition.model_copy(update={"solution": None}), "runtime": config.runtime.model_copy(update={"device": "auto"})}
    assert write_config(read) == write_config(config.model_copy(update=same))
    assert read_competition(kernel.dataset).name == "digits"


# ---------------------------------------------------------------- a session


@pytest.fixture
def session(digits: Path, tmp_path: Path) -> Callable[[Callable[[Path], None]], Session]:
    """A training session in which this happens instead of training; the folder of a network is given to it."""
    kernel = write_training_kernel([settings(digits, tmp_path / "outputs", "small")])

    def run(happens: Callable[[Path], None]) -> Session:
        folder = tmp_path / "working" / "outputs" / "digits" / "experiments" / "small" / "seed_0" / "fold_0"
        return train(kernel.dataset, digits, tmp_path / "working", lambda configs: happens(folder), inputs=tmp_path / "input")

    return run


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), UserError("the disk is full"), RunFailed("a fold failed")])
def test_what_was_trained_is_kept_whatever_ends_a_session(error: Exception, session: Callable[..., Session]) -> None:
    def fails(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}")
        raise error

    ended = session(fails)
    assert (ended.submission, ended.networks) == (None, 1)
    assert str(error) in str(ended)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), UserError("a wrong key")])
def test_where_nothing_is_trained_an_error_is_raised_at_once(error: Exception, session: Callable[..., Session]) -> None:
    def fails(folder: Path) -> None:
        raise error

    with pytest.raises(type(error)):
        session(fails)


def test_an_earlier_session_is_found_beside_a_large_competition_and_taken_over_without_what_nobody_needs(tmp_path: Path, monkeypatch: Any) -> None:
    competition = tmp_path / "input" / "competitions" / "digits"
    for number in range(30):
        (competition / "train" / str(number)).mkdir(parents=True)
    monkeypatch.setattr("pipeline.kaggle.mounts.FOLDERS", 20)
    folds = tmp_path / "input" / "notebooks" / "me" / "training" / "outputs" / "digits" / "experiments" / "small" / "seed_0"
    for name in ("fold_0/manifest.json", "fold_0/last.pt", "fold_0/previous.pt", "fold_1/last.pt", "fold_1/previous.pt"):
        (folds / name).parent.mkdir(parents=True, exist_ok=True)
        (folds / name).write_text("{}")
    root = tmp_path / "working" / "digits"
    take_over(tmp_path / "input", root, competition)
    found = sorted(str(path.relative_to(root / "experiments/small/seed_0")) for path in root.rglob("*") if path.is_file())
    assert found == ["fold_0/last.pt", "fold_0/manifest.json", "fold_1/last.pt", "fold_1/previous.pt"]


def test_a_further_table_is_found_by_its_folder_as_kaggle_spells_it(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "Old_Photos 2019").mkdir()
    config = settings(digits, tmp_path / "outputs", "small", competition={"extra_train": [{"table": "more.csv", "root": str(tmp_path / "Old_Photos 2019")}]})
    kernel = write_training_kernel([config])
    inputs = tmp_path / "input"
    competition = Path(shutil.copytree(digits, inputs / "competitions" / "digits", ignore=shutil.ignore_patterns("*.png")))
    for folder in (competition / "old-photos-2019", inputs / "a" / "old-photos-2019"):
        folder.mkdir(parents=True)
    (competition / "old-photos-2019" / "more.csv").touch()

    def read() -> Path | None:
        return read_configs(kernel.dataset, competition, inputs, tmp_path)[0].competition.extra_train[0].root

    with pytest.raises(UserError, match=r"no folder Old_Photos 2019 with more\.csv among the inputs"):
        read()
    for place in ("datasets/me/old-photos-2019", "datasets/you/old-photos-2019"):
        (inputs / place).mkdir(parents=True)
    (inputs / "datasets/me/old-photos-2019/more.csv").touch()
    assert read() == inputs / "datasets/me/old-photos-2019"
    (inputs / "datasets/you/old-photos-2019/more.csv").touch()
    with pytest.raises(UserError, match=r"me/old-photos-2019, .*you/old-photos-2019 each hold"):
        read()


# ---------------------------------------------------------------- what is refused before anything is written


def test_kernels_that_cannot_end_in_a_submission_are_refused_before_anything_is_written(digits: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    cv_only = settings(digits, outputs, "small", competition={"test_table": None, "sample_submission": None})
    student = settings(digits, outputs, "student", teacher={"experiment": "small", "pseudo_labels": {"confidence": 0.9}})
    extra = [{"table": "more.csv", "root": str(tmp_path / year / "Train")} for year in ("2019", "2020")]
    twice = settings(digits, outputs, "small", competition={"extra_train": extra})
    for config, words in ((cv_only, "a kernel predicts test rows"), (student, "its teacher small is not there on Kaggle"), (twice, "have one name")):
        with pytest.raises(UserError, match=words):
            write_training_kernel([config])
    with pytest.raises(UserError, match="a kernel predicts test rows"):
        require_ready([cv_only])
    with pytest.raises(UserError, match=r"--hours: .*at most 12"):
        write_training_kernel([settings(digits, outputs, "small")], hours=12.5)
    assert not outputs.exists()
    require_ready([settings(digits, outputs, "small"), student], training=True)


@pytest.mark.parametrize("name", ["notes.txt", "more.yaml", "folder"])
def test_what_somebody_put_into_the_dataset_is_neither_deleted_nor_uploaded(name: str, digits: Path, tmp_path: Path) -> None:
    kernel = write_training_kernel([settings(digits, tmp_path / "outputs", "old")])
    own = kernel.dataset / name
    own.mkdir() if name == "folder" else own.write_text("mine")
    with pytest.raises(UserError, match=f"{name} is no part of the kernel"):
        write_training_kernel([settings(digits, tmp_path / "outputs", "new")])
    assert own.exists()


def test_the_versions_of_kaggles_image_are_not_tried_on_a_python_that_has_none_of_them(tmp_path: Path) -> None:
    newer = tmp_path / "newer"
    newer.write_text(
        f'#!/bin/sh\n[ "$1" = -V ] && echo Python 3.13.1 && exit\nshift\nexec {sys.executable} -c "import sys; sys.version_info = (3, 13, 1); $*"\n'
    )
    newer.chmod(0o755)
    for python, words in ((tmp_path / "gone", "there is no"), (newer, "Python 3.13.1, which")):
        command = ["bash", str(ROOT / "scripts" / "test_on_kaggle_versions.sh"), "--version"]
        done = subprocess.run(command, env=os.environ | {"PYTHON": str(python)}, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (2, "")
        assert words in done.stderr
