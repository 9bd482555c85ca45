"""The teach stage: what each network of a student learns from an experiment that is trained already.

The student of fold k must not learn, by any way, from the truth of fold k. Test rows it learns as the teacher's network of fold k
predicts them, which did not see that fold. Train rows of fold j are told it by a nested teacher, trained without j and k; or, at no
cost, by the teacher's network of fold j, which saw fold k: then every line that prints the student's CV says that it is optimistic.
"""

import functools
import logging
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from pipeline.artifacts import Manifest, Stage, finished, run_stage
from pipeline.config import CLASS_TASKS, Config, Distillation, PseudoLabels, Teacher
from pipeline.config_files import load_config
from pipeline.ensembling.scores import union
from pipeline.errors import UserError, did_you_mean
from pipeline.executor import FULL, Task
from pipeline.files import digest, digest_table
from pipeline.predictions import Predictions
from pipeline.stages.jobs import load_piece, views_setting
from pipeline.stages.learning import Lesson, digest_lesson, save_lesson
from pipeline.stages.networks import Network, Trained, mean
from pipeline.stages.predict import predict
from pipeline.stages.predicted import Predicted
from pipeline.stages.prepare import Prepared, prepare, workspace
from pipeline.stages.train import fold_folder, fold_tasks, full_tasks, is_trained, train_networks, train_stage
from pipeline.stages.versions import STAGE_VERSION, define_stage
from pipeline.training.teaching import Lessons, check_selection, confidence, distilled, nested_lesson, nested_pairs, pseudo_targets, select, soft

log = logging.getLogger(__name__)
TRAIN_FIRST = "train it first: python scripts/run_folds.py CONFIG"


def teach(config: Config, prepared: Prepared, force: bool = False, finished_only: bool = False) -> Prepared:
    """The same, with the lessons of a student's networks; as it is for an experiment without a teacher. finished_only: trains no nested teacher."""
    if config.teacher is None:
        return prepared
    if not force and not _config_path(config, config.teacher).exists() and (kept := _learned(config, config.teacher)):
        log.warning("teach     %s keeps what it learned from %s, which is not in outputs any more", config.experiment, config.teacher.experiment)
        return replace(prepared, lessons=kept)
    teacher = _read_teacher(config, config.teacher)
    _refuse_circle(teacher, (config.experiment,))
    stage = _stage(config, config.teacher, teacher, prepared)
    check_teacher(config.teacher, teacher, prepared)
    folder = workspace(config).lessons(config.experiment, stage.key(teacher.experiment))
    lessons = functools.cache(functools.partial(_lessons, config, config.teacher, teacher, prepared))
    if force or finished(stage, folder / "manifest.json") is None:
        if not force and (kept := _learned(config, config.teacher, stage)):
            log.warning("teach     the test rows are not those that %s learned from: its networks stay as they are", config.experiment)
            return replace(prepared, lessons=kept)
        if finished_only:
            raise UserError(
                f"{config.experiment} has not learned from {teacher.experiment} yet, and nothing is to be trained; run scripts/run_folds.py CONFIG first"
            )
        lessons()  # before the folder is locked, so that two processes share the nested teachers

    def build() -> tuple[str, dict[str, Any]]:
        digests = {network: digest_lesson(lesson) for network, lesson in lessons().items()}
        for network, lesson in lessons().items():
            save_lesson(Lessons(folder, digests), network, lesson)
        log.info("teach     %s learns from %s: %s -> %s", config.experiment, teacher.experiment, _in_words(config, prepared, lessons()), folder)
        return digest(digests), {"digests": digests, "optimistic": _reasons(teacher)}

    return replace(prepared, lessons=_of(folder, run_stage(stage, folder, build, force)))


def _of(folder: Path, manifest: Manifest) -> Lessons:
    return Lessons(folder, manifest.record["digests"], tuple(manifest.record["optimistic"]))


def _learned(config: Config, section: Teacher, stage: Stage | None = None) -> Lessons | None:
    """What a student's networks, all trained, have learned; None unless it is there, and as `stage` would make it but for the test rows."""
    manifests = [(task.folder, Manifest.read(fold_folder(task) / "manifest.json")) for task in fold_tasks(config) + full_tasks(config)]
    learned = {(folder, manifest.inputs.get("lessons") if manifest else None) for folder, manifest in manifests}
    for path in sorted(workspace(config).lessons(config.experiment, "").glob("*/manifest.json")):
        made = Manifest.read(path)
        if made is None or any(made.record["digests"].get(folder) != found for folder, found in learned):
            continue
        if digest(made.settings["teacher"]) == digest(section.model_dump(mode="json")) and (stage is None or _but_for_test(made) == _but_for_test(stage)):
            return _of(path.parent, made)
    return None


def _but_for_test(stage: Stage | Manifest) -> str:
    return digest([stage.version, stage.settings, {name: value for name, value in stage.inputs.items() if name != "test"}])


def _stage(config: Config, section: Teacher, teacher: Config, prepared: Prepared) -> Stage:
    """What decides the lessons: the teacher's networks, and the pictures that they look at."""
    networks = {f"seed_{task.seed}_{task.folder}": _trained(task, prepared).digest for task in fold_tasks(teacher)}
    images = teacher.images.model_dump(mode="json", exclude={"cache_size", "corrupt"})
    settings = {"teacher": section.model_dump(mode="json"), "views": views_setting(teacher), "images": images, "precision": teacher.train.precision}
    rows = {part: digest_table(prepared.rows.loc[prepared.rows["split"] == part, ["id", "problem", "digest"]]) for part in ("train", "test")}
    inputs: dict[str, Any] = {"networks": networks, "folds": prepared.folds_digest, "target": [prepared.target.task, prepared.classes], **rows}
    if teacher.predict.merge != "probabilities":
        settings["merge"] = teacher.predict.merge
    if teacher.predict.tta == "auto":
        settings["metric"] = teacher.competition.metric
    inputs["versions"] = [STAGE_VERSION["cache"], STAGE_VERSION["predict"]]
    if config.train.full_data:
        inputs["full_data"] = True
    return define_stage("teach", settings, **inputs)


# ---------------------------------------------------------------- the teacher


def _read_teacher(config: Config, section: Teacher) -> Config:
    """The teacher's config as it was trained, on this machine; UserError where there is none."""
    name, experiments, path = section.experiment, workspace(config).experiment(""), _config_path(config, section)
    if not path.exists():
        known = [other.parent.name for other in experiments.glob("*/config.yaml")]
        raise UserError(f'teacher.experiment: no "{name}" in {experiments}{did_you_mean(name, known)}; {TRAIN_FIRST}')
    saved = load_config(path)
    extra, here = saved.competition.extra_train, config.competition.extra_train
    if [part.table for part in extra] == [part.table for part in here]:
        extra = tuple(part.model_copy(update={"root": other.root}) for part, other in zip(extra, here, strict=True))
    competition = saved.competition.model_copy(update={"root": config.competition.root, "extra_train": extra})
    model = saved.model
    if model.backbone == config.model.backbone and model.weights not in (None, "hub") and not Path(str(model.weights)).exists():
        model = model.model_copy(update={"weights": config.model.weights})  # its content is compared with what the teacher was trained from
    predict_section = saved.predict.model_copy(update={"max_hours": None})
    changes = {"predict": predict_section, "experiment": name, "competition": competition, "model": model, "runtime": config.runtime, "outputs": config.outputs}
    return saved.model_copy(update=changes)


def _config_path(config: Config, section: Teacher) -> Path:
    return workspace(config).experiment(section.experiment) / "config.yaml"


def _refuse_circle(teacher: Config, students: tuple[str, ...]) -> None:
    if teacher.experiment in students:
        raise UserError(f"teacher.experiment: {' learns from '.join([*students, teacher.experiment])}; write experiment=NEW for the student")
    if teacher.teacher is not None and _config_path(teacher, teacher.teacher).exists():
        _refuse_circle(_read_teacher(teacher, teacher.teacher), (*students, teacher.experiment))


def _reasons(teacher: Config) -> list[str]:
    """Why a teacher's CV flatters it, and so its student's, as its networks were trained; those of its own teachers included."""
    manifests = [Manifest.read(fold_folder(task) / "manifest.json") for task in fold_tasks(teacher)]
    chosen = [["predict.tta=auto"]] if teacher.predict.tta == "auto" else []  # its views were chosen on every fold
    found = union([*(manifest.record["optimistic"] for manifest in manifests if manifest), *chosen])
    return [reason if " of teacher " in reason else f"{reason} of teacher {teacher.experiment}" for reason in found]


def check_teacher(section: Teacher, teacher: Config, prepared: Prepared) -> None:
    """UserError where this teacher cannot teach this student what it asks for."""
    kinds = [task if task not in CLASS_TASKS else "one of several classes" for task in (teacher.competition.task, prepared.target.task)]
    if kinds[0] != kinds[1]:
        raise UserError(f"teacher.experiment: {teacher.experiment} predicts {kinds[0]}, but this experiment {kinds[1]}; take a teacher of the same task")
    if teacher.predict.merge == "ranks":
        raise UserError(
            f"teacher.experiment: {teacher.experiment} predicts ranks, which are no probabilities to learn from; run it with predict.merge=probabilities"
        )
    if section.pseudo_labels is not None:
        check_selection(section.pseudo_labels, prepared.target)
        if not prepared.ids("test"):
            raise UserError("teacher.pseudo_labels: there is no test row to learn from; leave it out, and write distillation or no teacher")
    if section.distillation is not None and section.distillation.labels == "nested":
        if teacher.folds.n_splits < 3:
            raise UserError("teacher.distillation.labels: of 2 folds none is left for a nested teacher; write folds.n_splits=3 for both, or labels=out_of_fold")
        if teacher.teacher is not None:
            raise UserError(
                f"teacher.distillation.labels: {teacher.experiment} was itself taught by {teacher.teacher.experiment}, whose networks saw"
                f" the folds that a nested teacher must not know; write labels=out_of_fold, or take {teacher.teacher.experiment} as the teacher"
            )


def _trained(task: Task, prepared: Prepared) -> Manifest:
    """The manifest of a teacher's network; UserError where it is missing or of other folds."""
    manifest = Manifest.read(fold_folder(task) / "manifest.json")
    name = task.config.experiment
    if manifest is None:
        raise UserError(f'teacher.experiment: "{name}" is not trained to its end ({task.name} is missing); {TRAIN_FIRST}')
    if manifest.inputs["folds"] != prepared.folds_digest:
        raise UserError(f'teacher.experiment: "{name}" was trained in other folds; give both the same folds, dedup and images.corrupt, or train it again')
    return manifest


def _nested_tasks(teacher: Config, pair: tuple[int, int]) -> list[Task]:
    return [Task(teacher, seed, *pair) for seed in teacher.train.seeds]


def _prepare_teacher(config: Config, teacher: Config, prepared: Prepared) -> Prepared:
    """What the teacher starts from; UserError unless its networks were trained from just that."""
    sections = ("competition", "folds", "images", "dedup", "cache", "submission")
    alike = all(getattr(config, section) == getattr(teacher, section) for section in sections)
    student, prepared = prepared, teach(teacher, prepared if alike else prepare(teacher))
    if not alike and config.teacher and config.teacher.pseudo_labels and _test_pictures(student) != _test_pictures(prepared):
        raise UserError(f'teacher.experiment: "{teacher.experiment}" predicts other test pictures than this experiment; give both the same competition section')
    for task in fold_tasks(teacher) + full_tasks(teacher):
        _trained(task, prepared)
        if not is_trained(task, train_stage(task, prepared)):
            raise UserError(
                f'teacher.experiment: "{teacher.experiment}" ({task.name}) was trained on other pictures or by another version;'
                " train it again: python scripts/run_folds.py CONFIG --force train"
            )
    return prepared


def _test_pictures(prepared: Prepared) -> set[tuple[str, str]]:
    test = prepared.rows[prepared.rows["split"] == "test"]
    return set(zip(test["id"], test["digest"], strict=True))


@dataclass(frozen=True)
class _TeacherPredictions:
    """A teacher that has predicted; seeds are averaged."""

    told: Predicted

    def test(self, folds: Collection[int]) -> Predictions:
        """Of the test rows whose pictures can be read, by the networks of these folds, sorted by id."""
        found = mean([load_piece(self.told.folder, task, "test") for task in fold_tasks(self.told.config) if task.fold in folds])
        readable = set(self.told.prepared.ids("test"))
        return found.take(np.array([row for row in np.argsort(found.ids) if found.ids[row] in readable], dtype=np.int64))

    def out_of_fold(self) -> Predictions:
        """Of each train row, by the networks that did not see it."""
        return self.told.out_of_fold()

    def nested(self) -> dict[tuple[int, int], Predictions]:
        """By pair of folds, of the rows of both, by the networks that saw neither."""
        config, prepared = self.told.config, self.told.prepared
        bar = tqdm(nested_pairs(config.folds.n_splits), desc="teach", unit="pair", leave=False, delay=2, disable=None)
        return {pair: mean([Network(config, prepared, task).held_out(self.told.views) for task in _nested_tasks(config, pair)]) for pair in bar}


# ---------------------------------------------------------------- the lessons


def _lessons(config: Config, section: Teacher, teacher: Config, prepared: Prepared) -> dict[str, Lesson]:
    """What each network of the student learns, by fold_0, fold_1, ... and, for `train.full_data`, all; trains the nested teachers."""
    ready = _prepare_teacher(config, teacher, prepared)
    said = _TeacherPredictions(predict([Trained(teacher, ready, fold_tasks(teacher) + full_tasks(teacher))])[0])
    every = tuple(range(teacher.folds.n_splits))
    networks = {fold: Task(teacher, 0, fold).folder for fold in ((FULL, *every) if config.train.full_data else every)}
    lessons: dict[str, Lesson] = {network: {} for network in networks.values()}
    if section.pseudo_labels is not None:
        for fold, network in networks.items():
            lessons[network]["test"] = _pseudo_labels(section.pseudo_labels, prepared, said.test(every if fold == FULL else (fold,)), network)
    if section.distillation is not None:
        if section.distillation.labels == "nested":
            train_networks([task for pair in nested_pairs(len(every)) for task in _nested_tasks(teacher, pair)], ready)
        told = _told(section.distillation, said)
        for fold in networks:
            lessons[networks[fold]]["train"] = _soft_labels(section.distillation, prepared, told[fold])
    return lessons


def _told(section: Distillation, teacher: _TeacherPredictions) -> dict[int, Predictions]:
    """By fold of the student, what the teacher says of the train rows outside it; a student on all rows takes the out-of-fold labels."""
    out_of_fold, folds = teacher.out_of_fold(), range(teacher.told.config.folds.n_splits)
    if section.labels == "out_of_fold":
        return {FULL: out_of_fold} | {fold: out_of_fold.outside_fold(fold) for fold in folds}
    pieces = teacher.nested()
    return {FULL: out_of_fold} | {fold: nested_lesson(fold, pieces) for fold in folds}


def _soft_labels(section: Distillation, prepared: Prepared, told: Predictions) -> Predictions:
    """Targets of train rows: the truth, mixed with what the teacher says."""
    told = told.in_classes(prepared.classes)
    truth = prepared.truth
    numbers = prepared.target.numbers([truth[name] for name in told.ids])
    return replace(told, values=distilled(section, soft(prepared.target, numbers), told.values))


def _pseudo_labels(section: PseudoLabels, prepared: Prepared, told: Predictions, network: str) -> Predictions:
    """Test rows to learn from, with their targets; UserError where the teacher is sure of none."""
    told = told.in_classes(prepared.classes)
    rows = select(section, prepared.target, told.values)
    if not len(rows):
        surest = float(confidence(prepared.target, told.values).max())
        remedy = f"lower confidence ({section.confidence:g})" if surest < section.confidence else f"raise share ({section.share:g})"
        student = "the network on all rows" if network == "all" else network
        raise UserError(f"teacher.pseudo_labels: {student} takes none of {len(told)} test rows, the surest of which has confidence {surest:.3f}; {remedy}")
    taken = told.take(rows)
    return replace(taken, values=pseudo_targets(section, prepared.target, taken.values))


def _in_words(config: Config, prepared: Prepared, lessons: dict[str, Lesson]) -> str:
    """What is taught: soft labels of 1,438 train rows, pseudo-labels of 180 to 201 of 359 test rows."""
    parts = []
    if config.teacher and config.teacher.distillation:
        how = config.teacher.distillation
        parts.append(f"{how.labels.replace('_', '-')} soft labels of {len(prepared.folds):,} train rows, weight {how.weight:g}")
    counts = sorted(len(lesson["test"]) for lesson in lessons.values() if "test" in lesson)
    if counts:
        number = f"{counts[0]:,}" if counts[0] == counts[-1] else f"{counts[0]:,} to {counts[-1]:,}"
        parts.append(f"pseudo-labels of {number} of {len(prepared.ids('test')):,} test rows")
    return ", ".join(parts)
