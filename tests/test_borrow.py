"""A network that another experiment has trained with the same settings is taken over, and the two do not touch each other afterwards."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import small_settings

import pipeline.stages.train
from pipeline.artifacts import Manifest
from pipeline.config import Config
from pipeline.executor import Task
from pipeline.stages.borrow import borrow
from pipeline.stages.prepare import Prepared, prepare
from pipeline.stages.train import fold_folder, fold_tasks, is_trained, train_networks, train_stage
from pipeline.stages.trial import forget

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def make(digits: Path, outputs: Path) -> Callable[..., Config]:
    """A config by experiment and changed sections."""

    def config(experiment: str, **sections: dict[str, Any]) -> Config:
        settings = small_settings(digits, outputs) | {"experiment": experiment}
        for name, section in sections.items():
            settings[name] = {**settings.get(name, {}), **section}
        return Config.model_validate(settings)

    return config


@pytest.fixture(scope="module")
def prepared(make: Callable[..., Config]) -> Prepared:
    return prepare(make("first"))


@pytest.fixture(scope="module")
def first(make: Callable[..., Config], prepared: Prepared) -> Task:
    """The first fold of an experiment that is trained."""
    task = fold_tasks(make("first"))[0]
    train_networks([task], prepared)
    return task


def task_of(config: Config) -> Task:
    return fold_tasks(config)[0]


def contents(task: Task) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in fold_folder(task).iterdir() if path.is_file() and path.name != ".lock"}


def manifest_of(task: Task) -> Manifest:
    found = Manifest.read(fold_folder(task) / "manifest.json")
    assert found is not None
    return found


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this network was trained")

    monkeypatch.setattr(pipeline.stages.train, "_fit", refuse)


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize("linked", [True, False])
def test_a_network_of_the_same_settings_is_taken_over_with_its_history_and_says_from_whom(
    linked: bool, first: Task, make: Callable[..., Config], prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EXDEV, "another disk")

    if not linked:
        monkeypatch.setattr(os, "link", refuse)
    other = task_of(make(f"linked_{linked}".lower()))
    train_networks([other], prepared)
    found, source = contents(other), contents(first)
    assert {name: found[name] for name in ("last.pt", "history.csv")} == {name: source[name] for name in ("last.pt", "history.csv")}
    assert ((fold_folder(other) / "last.pt").stat().st_ino == (fold_folder(first) / "last.pt").stat().st_ino) == linked
    taken, own = manifest_of(other), manifest_of(first)
    assert (taken.fingerprint, taken.digest) == (own.fingerprint, own.digest)
    names = {path.name for path in fold_folder(first).parents[2].iterdir()} - {other.config.experiment}
    assert taken.record["taken_from"] in names
    assert {**taken.record, "taken_from": ""} == {**own.record, "taken_from": ""}
    assert "taken_from" not in own.record


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    "sections",
    [
        {"optimizer": {"learning_rate": 2e-3}},
        {"train": {"epochs": 2}},
        {"train": {"seeds": [1]}},
        {"augment": {"mixing": {"mixup": 0.4}}},
        {"images": {"size": 15}},
    ],
    ids=str,
)
def test_a_network_of_other_settings_is_not_taken_over(sections: dict[str, Any], first: Task, make: Callable[..., Config], prepared: Prepared) -> None:
    other = task_of(make("other", **sections))
    assert borrow(fold_folder(other), train_stage(other, prepared), "accuracy", ()) is None
    assert not contents(other) if fold_folder(other).exists() else True


def test_a_network_of_another_split_is_not_taken_over(first: Task, make: Callable[..., Config]) -> None:
    config = make("resplit", folds={"seed": 43})
    other = task_of(config)
    assert borrow(fold_folder(other), train_stage(other, prepare(config)), "accuracy", ()) is None


def test_another_fold_is_not_taken_for_this_one(first: Task, make: Callable[..., Config], prepared: Prepared) -> None:
    other = fold_tasks(make("second_fold"))[1]
    assert borrow(fold_folder(other), train_stage(other, prepared), "accuracy", ()) is None


@pytest.mark.parametrize("missing", ["manifest.json", "last.pt", "history.csv"])
def test_a_network_that_is_not_whole_is_left_where_it_is(missing: str, make: Callable[..., Config], prepared: Prepared, tmp_path: Path, first: Task) -> None:
    apart = {"outputs": tmp_path}
    source, other = (task_of(make(name).model_copy(update=apart)) for name in ("source", "other"))
    fold_folder(source).mkdir(parents=True)
    for name, content in contents(first).items():
        if name != missing:
            (fold_folder(source) / name).write_bytes(content)
    fold_folder(other).mkdir(parents=True)
    assert borrow(fold_folder(other), train_stage(other, prepared), "accuracy", ()) is None
    assert not is_trained(other, train_stage(other, prepared))
    assert not list(fold_folder(other).glob("*.tmp"))


def test_whoever_trains_again_or_is_forgotten_leaves_the_other_as_it_is(make: Callable[..., Config], prepared: Prepared, first: Task) -> None:
    pair = [task_of(make(name)) for name in ("again", "forgotten")]
    for task in pair:
        train_networks([task], prepared)
    before, number = contents(first), (fold_folder(first) / "last.pt").stat().st_ino
    train_networks([pair[0]], prepared, again=True)
    assert "taken_from" not in manifest_of(pair[0]).record, "what is wanted again is trained"
    assert (fold_folder(pair[0]) / "last.pt").stat().st_ino != number
    forget(pair[1].config, "forgotten")
    assert set(contents(pair[1])) == {"history.csv"}
    assert contents(first) == before
    assert (fold_folder(first) / "last.pt").stat().st_ino == number


def test_a_network_that_was_scored_by_another_metric_is_not_taken_over(make: Callable[..., Config], prepared: Prepared, first: Task) -> None:
    other = task_of(make("by_log_loss"))
    assert borrow(fold_folder(other), train_stage(other, prepared), "log_loss", ()) is None
    assert borrow(fold_folder(other), train_stage(other, prepared), "accuracy", ()) is not None


def test_the_borrower_keeps_its_own_reasons_why_a_score_flatters(make: Callable[..., Config], prepared: Prepared, first: Task) -> None:
    other = task_of(make("marked"))
    assert manifest_of(first).record["optimistic"] == []
    borrow(fold_folder(other), train_stage(other, prepared), "accuracy", ("chosen by a study",))
    assert manifest_of(other).record["optimistic"] == ["chosen by a study"]
