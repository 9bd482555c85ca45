"""Second rounds: no network learns, by any way, from the truth of the rows that it is scored on; where one does, the line says so."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import small_settings
from PIL import Image

import pipeline.stages.train
from pipeline.cli import run_script, submit_all
from pipeline.config import Config
from pipeline.config_files import write_config
from pipeline.errors import UserError
from pipeline.executor import FULL, Task
from pipeline.files import read_json, write_text
from pipeline.inference.predict import predict_merged
from pipeline.predictions import Predictions
from pipeline.stages.learning import learned, load_lesson
from pipeline.stages.networks import Network, cached, every_test_row
from pipeline.stages.prepare import Prepared, prepare, workspace
from pipeline.stages.teach import check_teacher, teach
from pipeline.stages.train import fold_folder, train_stage
from pipeline.training.fold import FoldData

FOLDS = 3
HONEST = {"distillation": {"weight": 1.0}, "pseudo_labels": {"share": 0.5}}
CHEAP = {"distillation": {"weight": 1.0, "labels": "out_of_fold"}}
Rows = set[tuple[str, str]]


def spots(root: Path, twins: bool, test_copies: bool, extra: bool = False, per_fold: int = 8, num_classes: int = 2, seed: int = 0) -> None:
    """Pictures of coarse spots with labels by lot, in folds of their own.

    twins: every row has a slightly noisy copy in the next fold, its label drawn by a lot of its own; test_copies: the test rows
    are copies of train rows; extra: further rows with a label.
    """
    random = np.random.default_rng(seed)
    (root / "images").mkdir(parents=True)
    rows: list[dict[str, Any]] = []

    def add(pixels: "np.ndarray[Any, Any]", kind: str, fold: int) -> "np.ndarray[Any, Any]":
        name = f"{kind}{len(rows):04d}"
        noisy = np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(root / "images" / f"{name}.png")
        rows.append({"id": name, "label": f"c{random.integers(num_classes)}", "part": str(fold), "kind": kind})
        return pixels

    def spot() -> "np.ndarray[Any, Any]":
        return np.kron(random.integers(0, 256, (4, 4, 3)), np.ones((4, 4, 1)))

    for fold in range(FOLDS):
        for _ in range(per_fold // 2 if twins else per_fold):
            pixels = add(spot(), "train", fold)
            if twins:
                add(pixels, "train", (fold + 1) % FOLDS)
            if test_copies:
                add(pixels, "test", fold)
    for _ in range(0 if test_copies else per_fold):
        add(spot(), "test", 0)
    for _ in range(per_fold if extra else 0):
        add(spot(), "extra", 0)
    table = pd.DataFrame(rows)
    for kind, columns in (("train", ["id", "label", "part"]), ("test", ["id"]), ("extra", ["id", "label"])):
        table.loc[table["kind"] == kind, columns].to_csv(root / f"{kind}.csv", index=False)
    table.loc[table["kind"] == "test", ["id"]].assign(label="c0").to_csv(root / "sample_submission.csv", index=False)


def settings_of(root: Path, outputs: Path, **sections: Any) -> dict[str, Any]:
    settings = small_settings(root, outputs)
    settings["competition"] |= {"name": "spots", "solution": None}
    settings |= {"folds": {"strategy": "column", "column": "part", "n_splits": FOLDS}, "dedup": {"exact": "report", "conflict": "report", "near": "off"}}
    for name, section in sections.items():
        settings[name] = {**settings.get(name, {}), **section} if isinstance(section, dict) else section
    return settings


def run(folder: Path, settings: dict[str, Any], *words: str) -> int:
    path = folder / f"{settings['experiment']}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return run_script("", submit_all, [str(path), *words])


def cv_of(settings: dict[str, Any]) -> float:
    cv: float = read_json(next((Path(settings["outputs"]) / "spots" / "experiments" / settings["experiment"]).glob("predictions/*/cv.json")))["cv"]
    return cv


# ---------------------------------------------------------------- who saw what


class School:
    """A teacher, a student of it, and the rows that each of their networks could draw and was looked at with."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.folder, self.seen, self.tasks = folder, {}, {}  # type: dict[str, Rows]
        spots(folder / "spots", twins=False, test_copies=False, extra=True)
        original = pipeline.stages.train.fold_data

        def watched(prepared: Prepared, task: Task, device: Any) -> FoldData:
            data = original(prepared, task, device)
            self.tasks[str(task)] = task
            self.seen[str(task)] = set(data.train.dataset.places)  # type: ignore[attr-defined]
            self.looked_at = {**getattr(self, "looked_at", {}), str(task): set() if data.valid is None else set(data.valid.dataset.ids)}  # type: ignore[attr-defined]
            return data

        patch.setattr(pipeline.stages.train, "fold_data", watched)
        outputs = folder / "outputs"
        common = {"competition": {"extra_train": [{"table": "extra.csv"}]}, "train": {"full_data": True, "epochs": 2, "batch_size": 8}}
        self.teacher = settings_of(folder / "spots", outputs, experiment="teacher", **common)
        self.student = settings_of(folder / "spots", outputs, experiment="student", teacher={"experiment": "teacher", **HONEST}, **common)
        assert run(folder, self.teacher) == 0
        assert run(folder, self.student) == 0
        folds = pd.read_csv(next(outputs.glob("spots/folds/*/folds.csv")), dtype=str)
        self.rows = {fold: {("train", name) for name in folds.loc[folds["fold"] == str(fold), "id"]} for fold in range(FOLDS)}
        self.extra = {("extra", name) for name in self.student_prepared.extra["id"]}

    @property
    def student_config(self) -> Config:
        return Config.model_validate(self.student)

    @property
    def student_prepared(self) -> Prepared:
        return teach(self.student_config, prepare(self.student_config))

    @property
    def teacher_prepared(self) -> Prepared:
        return prepare(Config.model_validate(self.teacher))


@pytest.fixture(scope="module")
def school(tmp_path_factory: pytest.TempPathFactory) -> Iterator[School]:
    with pytest.MonkeyPatch.context() as patch:
        yield School(tmp_path_factory.mktemp("school"), patch)


def test_every_network_drew_all_rows_but_those_of_its_hidden_folds_and_was_looked_at_with_these(school: School) -> None:
    assert sorted(school.seen) == sorted(
        [
            *(f"{name} seed 0 fold {fold}" for name in ("teacher", "student") for fold in range(FOLDS)),
            *(f"{name} seed 0 on all rows" for name in ("teacher", "student")),
            *(f"teacher seed 0 without folds {pair}" for pair in ("0 and 1", "0 and 2", "1 and 2")),
        ]
    )
    for name, task in school.tasks.items():
        hidden = set().union(*(school.rows[fold] for fold in task.hidden))
        assert not school.seen[name] & hidden, name
        labelled = {place for place in school.seen[name] if place[0] != "test"}
        assert labelled == set().union(*school.rows.values(), school.extra) - hidden, name
        assert school.looked_at[name] == {row for _, row in hidden}, name
        assert len(school.seen[name]) > len(labelled) if task.config.teacher else school.seen[name] == labelled


def test_the_lesson_of_each_fold_is_what_networks_said_that_saw_neither_it_nor_the_row(school: School) -> None:
    prepared, teacher = school.student_prepared, Config.model_validate(school.teacher)
    assert prepared.lessons is not None
    for student in range(FOLDS):
        lesson = load_lesson(prepared.lessons, f"fold_{student}")
        assert {("train", name) for name in lesson["train"].ids} == set().union(*school.rows.values()) - school.rows[student]
        for fold in set(range(FOLDS)) - {student}:
            network = Network(teacher, school.teacher_prepared, Task(teacher, 0, min(fold, student), max(fold, student)))
            told = network.held_out(("identity",)).in_fold(fold)
            np.testing.assert_array_equal(lesson["train"].in_fold(fold).of(told.ids).values, told.values)
        test = told_of_test(Network(teacher, school.teacher_prepared, Task(teacher, 0, student)))
        assert len(lesson["test"]) == len(test) // 2
        np.testing.assert_array_equal(lesson["test"].values, rows_of(test, lesson["test"].ids))


def test_a_student_on_all_rows_is_told_each_row_by_the_network_that_did_not_see_it(school: School) -> None:
    prepared, teacher = school.student_prepared, Config.model_validate(school.teacher)
    assert prepared.lessons is not None
    lesson = load_lesson(prepared.lessons, "all")
    for fold in range(FOLDS):
        told = Network(teacher, school.teacher_prepared, Task(teacher, 0, fold)).held_out(("identity",))
        np.testing.assert_array_equal(lesson["train"].in_fold(fold).of(told.ids).values, told.values)
    tests = [told_of_test(Network(teacher, school.teacher_prepared, Task(teacher, 0, fold))) for fold in range(FOLDS)]
    np.testing.assert_allclose(lesson["test"].values, np.mean([rows_of(test, lesson["test"].ids) for test in tests], axis=0), atol=1e-6)


def told_of_test(network: Network) -> Predictions:
    """What a network says of the test rows."""
    prepared = network.prepared
    pictures = cached(network.config, prepared, "test", prepared.ids("test"))
    return every_test_row(prepared, network.task, predict_merged(network.reader, [network.member(["identity"])], pictures)[0])


def rows_of(predictions: Predictions, ids: tuple[str, ...]) -> "np.ndarray[Any, Any]":
    return predictions.values[[predictions.ids.index(name) for name in ids]]


def test_a_network_on_all_rows_predicts_the_test_rows_alone_and_weighs_as_much_as_a_fold(school: School) -> None:
    experiment = school.folder / "outputs" / "spots" / "experiments" / "student"
    pieces = {path.name for path in experiment.glob("predictions/*/seed_0_*")}
    assert pieces == {"seed_0_all_test", *(f"seed_0_fold_{fold}_{part}" for fold in range(FOLDS) for part in ("oof", "test"))}
    tests = [Predictions.load(path).values for path in sorted(experiment.glob("predictions/*/seed_0_*_test"))]
    blended = Predictions.load(school.folder / "outputs" / "spots" / "ensembles" / "student").values
    assert len(tests) == FOLDS + 1
    np.testing.assert_allclose(blended, np.mean(tests, axis=0), atol=1e-6)


def test_a_second_run_does_nothing_twice_and_says_so(school: School, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = school.folder / "outputs"
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file() and path.name not in ("submission.csv", "submission.json")}
    assert run(school.folder, school.student) == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    lines = [line.split("  ", 1)[1] for line in capsys.readouterr().err.splitlines()]
    assert [line.split()[0] for line in lines] == ["index", "dedup", "folds", "cache", "teach", "train", "train", "predict", "ensemble", "submit", "report"]
    assert all("up to date" in line for line in lines)


def test_a_fold_learns_again_only_from_a_lesson_that_changed(school: School) -> None:
    prepared = school.student_prepared
    lessons = prepared.lessons
    assert lessons is not None
    changed = teach_with(prepared, {**lessons.digests, "fold_1": "another"})
    for fold in (0, 1, 2, FULL):
        task = Task(school.student_config, 0, fold)
        assert (train_stage(task, prepared).fingerprint == train_stage(task, changed).fingerprint) == (fold != 1)


def teach_with(prepared: Prepared, digests: dict[str, str]) -> Prepared:
    from dataclasses import replace

    assert prepared.lessons is not None
    return replace(prepared, lessons=replace(prepared.lessons, digests=digests))


def test_asking_for_a_network_on_all_rows_leaves_trained_folds_as_they_are(school: School) -> None:
    with_full = Config.model_validate(school.teacher)
    without = with_full.model_copy(update={"train": with_full.train.model_copy(update={"full_data": False})})
    prepared = school.teacher_prepared
    for fold in range(FOLDS):
        assert train_stage(Task(with_full, 0, fold), prepared).fingerprint == train_stage(Task(without, 0, fold), prepared).fingerprint


def test_the_network_on_all_rows_is_trained_for_the_epochs_of_the_folds(school: School) -> None:
    manifest = read_json(fold_folder(Task(school.student_config, 0, FULL)) / "manifest.json")
    assert manifest["inputs"]["stop_after"] == manifest["record"]["epochs"] == 2


# ---------------------------------------------------------------- what changes afterwards


TINY: dict[str, Any] = {"train": {"epochs": 1, "batch_size": 8}}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A teacher and a student of its pseudo-labels, both trained."""
    spots(tmp_path / "spots", twins=False, test_copies=False)
    teacher = settings_of(tmp_path / "spots", tmp_path / "outputs", experiment="teacher", **TINY)
    student = settings_of(tmp_path / "spots", tmp_path / "outputs", experiment="student", teacher={"experiment": "teacher", "pseudo_labels": {}}, **TINY)
    assert run(tmp_path, teacher) == 0
    assert run(tmp_path, student) == 0
    return teacher, student


def test_a_student_predicts_other_test_rows_with_the_networks_that_it_has(
    pair: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained = {path: path.read_bytes() for path in tmp_path.rglob("last.pt")}
    sample = pd.read_csv(tmp_path / "spots" / "sample_submission.csv", dtype=str)
    for name in ("test.csv", "sample_submission.csv"):
        pd.read_csv(tmp_path / "spots" / name, dtype=str).iloc[1:].to_csv(tmp_path / "spots" / name, index=False)
    assert run(tmp_path, pair[1]) == 0
    assert "the test rows are not those that student learned from: its networks stay" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in trained} == trained
    assert len(pd.read_csv(tmp_path / "outputs" / "spots" / "submission.csv")) == len(sample) - 1


def test_a_student_that_is_trained_does_without_its_teacher(
    pair: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiments = tmp_path / "outputs" / "spots" / "experiments"
    (experiments / "teacher").rename(tmp_path / "elsewhere")
    assert run(tmp_path, pair[1]) == 0
    assert "student keeps what it learned from teacher" in capsys.readouterr().err
    assert run(tmp_path, pair[1], "train.epochs=2", "experiment=other") == 2
    assert 'no "teacher" in' in capsys.readouterr().err


def test_other_lessons_than_those_learned_are_still_refused(
    pair: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    student = {**pair[1], "teacher": {"experiment": "teacher", "pseudo_labels": {"share": 0.5}}}
    assert run(tmp_path, student) == 2
    assert "teacher.pseudo_labels.share: 1.0 -> 0.5" in capsys.readouterr().err


@pytest.mark.slow
def test_what_flattered_a_teacher_flatters_its_pupils_pupil_whatever_the_teacher_is_today(
    pair: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, outputs, best = tmp_path / "spots", tmp_path / "outputs", {"train": {**TINY["train"], "checkpoint": "best"}}
    grand = settings_of(first, outputs, experiment="grand", **best)
    middle = settings_of(first, outputs, experiment="middle", teacher={"experiment": "grand", "pseudo_labels": {}}, **TINY)
    leaf = settings_of(first, outputs, experiment="leaf", teacher={"experiment": "middle", "pseudo_labels": {}}, **TINY)
    assert [run(tmp_path, settings) for settings in (grand, middle, leaf)] == [0, 0, 0]
    assert run(tmp_path, {**grand, **TINY}, "--force", "train") == 0
    capsys.readouterr()
    assert run(tmp_path, leaf) == 0
    assert "optimistic: train.checkpoint=best of teacher grand" in capsys.readouterr().out


# ---------------------------------------------------------------- what is refused


def refusals() -> dict[str, tuple[dict[str, Any], str]]:
    return {
        "a teacher that is not there": (
            {"teacher": {"experiment": "teecher", **HONEST}},
            'no "teecher" in .*did you mean "teacher".*python scripts/run_folds.py',
        ),
        "other folds": ({"folds": {"strategy": "kfold", "column": None}}, '"teacher" was trained in other folds'),
        "a confidence that nothing reaches": ({"teacher": {"experiment": "teacher", "pseudo_labels": {"confidence": 1.0}}}, "lower confidence"),
        "a lesson of itself": ({"experiment": "teacher"}, "cannot teach itself"),
        "nested teachers of a student": ({"teacher": {"experiment": "student", **HONEST}}, "student was itself taught by teacher.*labels=out_of_fold"),
    }


@pytest.mark.parametrize("name", list(refusals()))
def test_what_cannot_be_taught_is_refused_in_one_line(school: School, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    changes, message = refusals()[name]
    settings = {**school.student, "experiment": "refused", **changes}
    if "folds" in changes:
        settings["folds"] = {**school.student["folds"], **changes["folds"]}
    assert run(school.folder, settings) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert pd.Series([error]).str.contains(message).all(), error


def test_two_experiments_that_teach_each_other_are_refused(school: School, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = ({**school.student, "experiment": name, "teacher": {"experiment": other, **CHEAP}} for name, other in (("one", "two"), ("two", "one")))
    for settings in (first, second):
        config = Config.model_validate(settings)
        write_text(workspace(config).experiment(config.experiment) / "config.yaml", write_config(config))
    assert run(school.folder, first) == 2
    assert "one learns from two learns from one; write experiment=NEW" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("folds", "n_splits", 2, "of 2 folds none is left for a nested teacher; write folds.n_splits=3"),
        ("competition", "task", "multilabel", "teacher predicts multilabel, but this experiment one of several classes"),
    ],
)
def test_a_teacher_of_too_few_folds_or_of_another_task_is_refused(school: School, section: str, key: str, value: object, message: str) -> None:
    teacher = Config.model_validate(school.teacher)
    teacher = teacher.model_copy(update={section: getattr(teacher, section).model_copy(update={key: value})})
    lessons = school.student_config.teacher
    assert lessons is not None
    with pytest.raises(UserError, match=message):
        check_teacher(lessons, teacher, school.student_prepared)


def test_a_teacher_that_is_not_trained_to_its_end_is_named_with_what_is_missing(school: School, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config.model_validate(school.teacher)
    manifest = workspace(config).network("teacher", 0, "fold_1") / "manifest.json"
    text = manifest.read_text()
    manifest.unlink()
    try:
        assert run(school.folder, school.student) == 2
    finally:
        manifest.write_text(text)
    assert '"teacher" is not trained to its end (seed 0 fold 1 is missing); train it first' in capsys.readouterr().err


def test_a_lesson_that_was_changed_is_not_learned(school: School, capsys: pytest.CaptureFixture[str]) -> None:
    prepared = school.student_prepared
    assert prepared.lessons is not None
    values = prepared.lessons.folder / "fold_1_train" / "values.npy"
    kept, networks = values.read_bytes(), {path: path.stat().st_mtime_ns for path in school.folder.rglob("last.pt")}
    np.save(values, np.full_like(np.load(values), 0.5))
    try:
        assert run(school.folder, school.student, "--force", "train") == 2
    finally:
        values.write_bytes(kept)
    assert "fold_1 is damaged or was changed; write --force teach" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in school.folder.rglob("last.pt")} == networks, "a mistake must not cost what was trained"


# ---------------------------------------------------------------- other tasks, seeds, choices


@pytest.mark.slow
def test_numbers_are_taught_in_their_own_unit_and_the_seeds_of_a_teacher_are_averaged(tmp_path: Path) -> None:
    spots(tmp_path / "spots", twins=False, test_copies=False)
    for name in ("train", "sample_submission"):
        table = pd.read_csv(tmp_path / "spots" / f"{name}.csv", dtype=str)
        table.assign(label=[str(1000 + 10 * row) for row in range(len(table))]).to_csv(tmp_path / "spots" / f"{name}.csv", index=False)
    common = {"competition": {"task": "regression", "metric": "rmse"}, "train": {"seeds": [3, 5], "epochs": 1, "batch_size": 8}}
    teacher = settings_of(tmp_path / "spots", tmp_path / "outputs", experiment="teacher", **common)
    lessons = {"experiment": "teacher", "distillation": {"weight": 0.25}, "pseudo_labels": {}}
    student = settings_of(tmp_path / "spots", tmp_path / "outputs", experiment="student", teacher=lessons, **common)
    assert run(tmp_path, teacher) == 0
    assert run(tmp_path, student) == 0
    config, of_teacher = Config.model_validate(student), Config.model_validate(teacher)
    prepared = teach(config, prepare(config))
    plain = prepare(of_teacher)
    places, targets = learned(prepared, Task(config, 3, 1))
    assert targets.shape == (len(places), 1)
    told = [Network(of_teacher, plain, Task(of_teacher, seed, 0, 1)).held_out(("identity",)).in_fold(0) for seed in (3, 5)]
    mean = {name: float((told[0].values[row, 0] + told[1].of(told[0].ids).values[row, 0]) / 2) for row, name in enumerate(told[0].ids)}
    assert len(mean) == 8
    for (split, name), target in zip(places, targets[:, 0].tolist(), strict=True):
        if (split, name) in {("train", other) for other in mean}:
            assert target == pytest.approx(0.75 * float(prepared.truth[name]) + 0.25 * mean[name], rel=1e-5)
    of_test = [told_of_test(Network(of_teacher, plain, Task(of_teacher, seed, 1))) for seed in (3, 5)]
    assert [name for split, name in places if split == "test"] == sorted(of_test[0].ids)
    taught = dict(zip(places, targets[:, 0].tolist(), strict=True))
    for name in of_test[0].ids:
        assert taught["test", name] == pytest.approx(np.mean([rows_of(part, (name,)) for part in of_test]), rel=1e-5)


@pytest.mark.slow
def test_a_test_picture_that_cannot_be_read_teaches_nothing(tmp_path: Path) -> None:
    spots(tmp_path / "spots", twins=False, test_copies=False, per_fold=4)
    blind = pd.read_csv(tmp_path / "spots" / "test.csv", dtype=str)["id"].iloc[1]
    (tmp_path / "spots" / "images" / f"{blind}.png").write_bytes(b"")
    common = {"images": {"corrupt": "skip"}, "train": {"epochs": 1, "batch_size": 8, "full_data": True}}
    teacher = settings_of(tmp_path / "spots", tmp_path / "outputs", experiment="teacher", **common)
    student = settings_of(tmp_path / "spots", tmp_path / "outputs", experiment="student", teacher={"experiment": "teacher", "pseudo_labels": {}}, **common)
    assert run(tmp_path, teacher) == 0
    assert run(tmp_path, student) == 0
    config = Config.model_validate(student)
    prepared = teach(config, prepare(config))
    for fold in (*range(FOLDS), FULL):
        taken = [name for split, name in learned(prepared, Task(config, 0, fold))[0] if split == "test"]
        assert len(taken) == 3
        assert blind not in taken


def test_a_network_on_all_rows_stops_where_the_folds_chose_their_epochs_and_chooses_nothing_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spots(tmp_path / "spots", twins=False, test_copies=False)
    choosing = {"epochs": 6, "batch_size": 8, "full_data": True, "checkpoint": "best", "patience": 2}
    settings = settings_of(tmp_path / "spots", tmp_path / "outputs", experiment="choosing", train=choosing)
    assert run(tmp_path, settings) == 0
    config = Config.model_validate(settings)
    epochs = [read_json(fold_folder(Task(config, 0, fold)) / "manifest.json")["record"]["epochs"] for fold in range(FOLDS)]
    full = read_json(fold_folder(Task(config, 0, FULL)) / "manifest.json")
    assert full["record"]["epochs"] == round(sum(epochs) / FOLDS)
    assert full["record"]["epochs"] < 6, "else nothing is shown"
    assert " - optimistic: train.checkpoint=best, train.patience" in capsys.readouterr().out


# ---------------------------------------------------------------- every line says so


def test_every_line_with_a_score_of_a_student_that_learned_from_who_saw_its_held_out_rows_says_so(school: School, capsys: pytest.CaptureFixture[str]) -> None:
    cheap = {**school.student, "experiment": "cheap", "teacher": {"experiment": "teacher", **CHEAP}}
    assert run(school.folder, cheap) == 0
    assert_marked(capsys, "cheap", "teacher.distillation.labels=out_of_fold")
    heir = {**school.student, "experiment": "heir", "teacher": {"experiment": "cheap", "pseudo_labels": {}}, "train": {"epochs": 2, "batch_size": 8}}
    assert run(school.folder, heir) == 0
    assert_marked(capsys, "heir", "teacher.distillation.labels=out_of_fold of teacher cheap")
    both = [str(school.folder / f"{name}.yaml") for name in ("student", "heir")]
    assert run_script("", submit_all, both) == 0
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if re.search(r"  ensemble  .*accuracy \d", line)]
    assert [" - optimistic: " in line for line in lines] == [True, False, *[True] * (len(lines) - 2)], "heir, student, and every blend of both"
    assert len(lines) > 4
    assert " - optimistic: teacher.distillation.labels=out_of_fold of teacher cheap" in captured.out


def assert_marked(capsys: pytest.CaptureFixture[str], name: str, reason: str) -> None:
    captured = capsys.readouterr()
    lines = [line for line in (captured.err + captured.out).splitlines() if re.search(r"accuracy \d", line)]
    kinds = [line.split("  ", 1)[-1].split()[0] for line in lines]
    assert kinds == ["train"] * FOLDS + ["predict", "ensemble", "accuracy"], lines
    for line in lines:
        assert f" - optimistic: {reason}" in line, line


def test_no_line_of_an_honest_student_says_so(school: School, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(school.folder, school.student, "--force", "predict", "--force", "ensemble") == 0
    captured = capsys.readouterr()
    assert len(re.findall(r"accuracy \d", captured.err + captured.out)) == 3
    assert "optimistic" not in captured.err + captured.out


# ---------------------------------------------------------------- labels by lot


MEMORISE = {
    "train": {"epochs": 30, "batch_size": 16, "ema": None},
    "optimizer": {"learning_rate": 4e-3, "weight_decay": 0.0},
    "model": {"backbone": "test_resnet", "weights": None},
}


@pytest.mark.slow
def test_labels_by_lot_stay_at_chance_with_nested_teachers_and_out_of_fold_labels_lift_them_and_say_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spots(tmp_path / "spots", twins=True, test_copies=False, per_fold=48, num_classes=4)
    scores = {}
    for name, teacher in {
        "teacher": None,
        "nested": {"experiment": "teacher", "distillation": {"weight": 1.0}},
        "cheap": {"experiment": "teacher", **CHEAP},
    }.items():
        settings = settings_of(tmp_path / "spots", tmp_path / "outputs", experiment=name, teacher=teacher, **MEMORISE)
        capsys.readouterr()
        assert run(tmp_path, settings) == 0
        scores[name] = cv_of(settings)
        assert ("optimistic: teacher.distillation.labels=out_of_fold" in capsys.readouterr().out) == (name == "cheap")
    print(scores)
    assert max(scores["teacher"], scores["nested"]) < 0.41, "of 72 pairs by lot a quarter is right, give or take three times a twentieth"
    assert scores["cheap"] > 0.6, "the twin of nearly every held-out row was told the row's own label"


@pytest.mark.slow
def test_labels_by_lot_stay_at_chance_with_pseudo_labels_on_copies_of_train_rows(tmp_path: Path) -> None:
    spots(tmp_path / "spots", twins=False, test_copies=True, per_fold=48, num_classes=4)
    scores = {}
    for name, teacher in {"teacher": None, "student": {"experiment": "teacher", "pseudo_labels": {"hard": True}}}.items():
        settings = settings_of(tmp_path / "spots", tmp_path / "outputs", experiment=name, teacher=teacher, **MEMORISE)
        assert run(tmp_path, settings) == 0
        scores[name] = cv_of(settings)
    print(scores)
    assert max(scores.values()) < 0.37, "of 144 rows by lot a quarter is right, give or take three times a twenty-eighth"
