"""The submit stage: the checked file of an ensemble's test predictions."""

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline.artifacts import Manifest, build_stage, finished, join_names
from pipeline.config import RANKING_METRICS
from pipeline.data.tables import read_solution
from pipeline.ensembling.scores import score_of
from pipeline.errors import UserError
from pipeline.files import atomic, digest, digest_file, digest_table, lock, read_json, remove_leftovers
from pipeline.predictions import Predictions
from pipeline.stages.ensemble import chosen_score, decided_target, digest_of, taking_part
from pipeline.stages.predicted import Predicted
from pipeline.stages.prepare import workspace
from pipeline.stages.versions import define_stage
from pipeline.submission.doctor import write_valid
from pipeline.submission.formats import Form, to_table
from pipeline.submission.sheet import Original, read_original

log = logging.getLogger(__name__)


def _load_blend(folder: Path) -> tuple[Predictions, str]:
    """The blended test predictions and the digest of the ensemble that they are of."""
    manifest = Manifest.read(folder / "manifest.json")
    test = Predictions.load(folder) if manifest else None
    decision = read_json(folder / "decision.json") if manifest else {}
    if manifest is None or test is None or digest_of(Predictions.load(folder / "oof"), test, decision) != manifest.digest:
        raise UserError(f"{folder}: another run is blending the same experiments, or a file was changed; run again, or write --force ensemble")
    return test, manifest.digest


def _form_of(member: Predicted) -> tuple[Form, Original | None]:
    """How predictions become cells, and the sample's own file, None where the competition has none."""
    config, competition = member.config, member.config.competition
    form = Form(member.prepared.form, config.classes_in_a_cell, competition.label_separator, competition.metric in RANKING_METRICS)
    given = competition.sample_submission
    return form, None if given is None else read_original(competition.root / given, member.prepared.sample)


def submit(experiments: Sequence[Predicted], folder: Path, force: bool = False) -> Path:
    """Writes submission.csv from an ensemble's test predictions, after every check; returns its path."""
    members = taking_part(experiments)
    first = members[0]
    work, prepared = workspace(first.config), first.prepared
    test, source = _load_blend(folder)
    target = decided_target(prepared.target, folder)
    name = join_names(member.config.experiment for member in members)
    form, original = _form_of(first)
    inputs = {"scores": digest(chosen_score(folder)), "sample": [digest_table(prepared.sample), *(original.header if original else ())]}
    stage = define_stage("submit", {"name": name, "form": asdict(form)}, predictions=source, **inputs)
    path, manifest_path = work.submission, work.submission_manifest
    with lock(work.root / ".submission.lock", wait="submit: waiting for another process"):
        done = None if force else finished(stage, manifest_path)
        if done and path.exists() and digest_file(path) == done.digest:
            log.info("submit    up to date: %s", path)
            return path

        def build() -> tuple[str, dict[str, Any]]:
            table = to_table(test, prepared.sample, form, target)
            remove_leftovers(work.kept_submission("", "").parent)
            kept = work.kept_submission(time.strftime("%Y%m%dT%H%M%S"), name)
            write_valid(kept, table, prepared.sample, form, target, original)
            with atomic(path) as temporary:
                shutil.copyfile(kept, temporary)
            log.info("submit    %s rows, checked against the sample -> %s", f"{len(table):,}", path)
            return digest_file(path), {"kept": kept.name, "cv": chosen_score(folder)}

        build_stage(stage, manifest_path, build)
    return path


def true_score(experiment: Predicted, folder: Path) -> float | None:
    """The metric on the test answers, where the competition's folder holds them; nothing is chosen by it."""
    competition, prepared = experiment.config.competition, experiment.prepared
    if competition.solution is None:
        return None
    truth = read_solution(competition, prepared.sample.iloc[:, 0].tolist())
    return score_of(Predictions.load(folder).of(list(truth)), decided_target(prepared.target, folder), truth, competition.metric)
