"""The bundle of an ensemble: what a kernel needs to predict a test set that nobody has seen."""

import importlib.metadata
import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.artifacts import Manifest, finished, run_stage
from pipeline.config import RANKING_METRICS, Config
from pipeline.config_files import write_config
from pipeline.config_tuning import Tune
from pipeline.ensembling.schemes import Blend
from pipeline.ensembling.scores import describe, score_of
from pipeline.errors import UserError
from pipeline.executor import FULL, Task
from pipeline.files import atomic, digest, digest_file, read_json, write_json, write_text
from pipeline.kaggle.bundle import MARKER, Bundle, BundledExperiment, BundledNetwork, Regressed, defined
from pipeline.stages.ensemble import chosen_score, decided_target, taking_part
from pipeline.stages.jobs import load_piece
from pipeline.stages.learning import learned_rows, outputs_of
from pipeline.stages.networks import manifest_of
from pipeline.stages.predicted import Predicted
from pipeline.stages.train import fold_folder
from pipeline.stages.versions import define_stage
from pipeline.submission.formats import Form
from pipeline.training.metrics import METRICS

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)
PATHS = r"competition\.(train_table|test_table|sample_submission|image_path|extra_train\.\d+\.(table|image_path))"
"""Keys that may hold an absolute path."""
READING = ("root", "id", "test_table", "image_path", "sample_submission", "pixel_columns", "pixel_shape")
"""Of the section competition: where the rows to predict are, and their pictures."""


def write_bundle(experiments: Sequence[Predicted], ensemble: Path, folder: Path) -> Path:
    """Writes bundle.json, configs and weights of every network that predicts into `folder`, bundle.json last; returns its path.

    Networks and configs of an earlier bundle are deleted, whatever else lies in the folder stays. UserError for experiments of which each finds its
    test pictures in its own way, for a config that names a place of this machine, and for weights that are not those that training ended with.
    Memory: one network.
    """
    members = taking_part(experiments)
    require_one_test_set([member.config for member in members])
    blended = Manifest.read(ensemble / "manifest.json")
    if blended is None:
        raise UserError(f"{ensemble}: another run is blending the same experiments; run again when it is done")
    configs = {member.config.experiment: portable(member.config) for member in members}
    networks = {member.config.experiment: {task.name: manifest_of(task).digest for task in member.predicting} for member in members}
    inputs: dict[str, Any] = {"networks": networks, "predictions": [member.digest for member in members], "ensemble": blended.digest}
    inputs |= {"weights": digest(read_json(ensemble / "weights.json")), "score": describe(chosen_score(ensemble))}
    inputs |= {"views": [list(member.views) for member in members], "jpeg": [_jpeg_quality(member) for member in members]}
    inputs["target"] = asdict(decided_target(members[0].prepared.target, ensemble))
    settings = {name: json.loads(config.model_dump_json()) for name, config in configs.items()}
    stage = define_stage("kernel", settings, program=_version(), **inputs)
    manifest = f"{folder.name}.json"  # beside the folder, whose files are all uploaded
    done = finished(stage, folder.parent / manifest)

    def build() -> tuple[str, dict[str, Any]]:
        earlier = _files_of(folder)
        (folder / MARKER).unlink(missing_ok=True)  # what is half written is no bundle
        files = _write_files(members, configs, folder)
        bundle = _describe(members, configs, ensemble, folder, files)
        for name in earlier.union(path.name for path in folder.glob("*--seed_*.safetensors")).difference(files):
            (folder / name).unlink(missing_ok=True)
        write_json(folder / MARKER, bundle.to_json())
        size = sum((folder / file).stat().st_size for file in files)
        count = sum(len(one.networks) for one in bundle.experiments)
        log.info("kernel    %d networks of %d experiments, %.1f MB -> %s", count, len(members), size / 1e6, folder)
        return digest_file(folder / MARKER), {"bytes": size, "networks": count}

    run_stage(stage, folder.parent, build, force=done is not None and not _whole(folder, done), manifest=manifest)
    return folder / MARKER


def _files_of(folder: Path) -> set[str]:
    """Names of the files of the bundle that a folder holds, if it does."""
    try:
        return {Path(name).name for name in read_json(folder / MARKER)["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _whole(folder: Path, manifest: Manifest) -> bool:
    """Whether every file is there, of the size that it was written with."""
    try:
        files = read_json(folder / MARKER)["files"]
        there = sum((folder / file).stat().st_size for file in files)
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return there == manifest.record["bytes"] and digest_file(folder / MARKER) == manifest.digest


def _version() -> str:
    try:
        return importlib.metadata.version("podium")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


# ---------------------------------------------------------------- configs without this machine


def portable(config: Config) -> Config:
    """The config as it reads on another machine: places of this one replaced. UserError for one that cannot be."""
    competition = config.competition
    extra = tuple(
        one if one.root is None else one.model_copy(update={"root": Path(f"input/extra-{number}")}) for number, one in enumerate(competition.extra_train)
    )
    own = {"root": Path("input") / competition.name, "extra_train": extra, "solution": None, "bundled": None}
    changes: dict[str, Any] = {
        "outputs": Path("outputs"),
        "competition": competition.model_copy(update=own),
        "model": config.model.model_copy(update={"weights": None}),
        "tune": Tune(),  # no study is run there
    }
    moved = config.model_copy(update=changes)
    for key, text in _texts(json.loads(moved.model_dump_json())):
        place = next((place for place in _places(config) if _leads_to(place, text)), None)
        if place is None and re.fullmatch(PATHS, key) and Path(text).is_absolute():
            place = str(Path(text).parent)
        if place is not None:
            raise UserError(f"{config.experiment}: {key}: {text} lies in {place}, which is not there on Kaggle; write it relative to competition.root")
    return moved


def _leads_to(place: str, text: str) -> bool:
    """Whether a text has an absolute path below a folder: /a/b/x is one below /a/b, c/a/b/x and /a/bc are none."""
    return re.search(rf"(?<![\w.}}*-]){re.escape(place)}(?![\w.-])", text) is not None


def require_one_test_set(configs: Sequence[Config]) -> None:
    """UserError where experiments do not find the rows to predict, and their pictures, in the same way: a kernel reads them once for all."""
    first, *others = configs
    for other in others:
        for key in READING:
            one, two = (getattr(config.competition, key) for config in (first, other))
            if one != two and (key != "root" or one.resolve() != two.resolve()):
                said = f"{first.experiment} has {one} and {other.experiment} has {two}"
                raise UserError(
                    f"competition.{key}: {said}, but the networks of a kernel all look at the same test pictures; write the same, or make two kernels"
                )


def _texts(value: Any, at: str = "") -> list[tuple[str, str]]:
    """Every text in nested data, with its key."""
    if isinstance(value, str):
        return [(at, value)]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, one in items for found in _texts(one, f"{at}.{key}" if at else str(key))]


def _places(config: Config) -> set[str]:
    """Folders of this machine that no text may name."""
    root, outputs = config.competition.root.resolve(), config.outputs.resolve()
    return {str(place) for place in (Path.home(), Path.cwd(), root, outputs) if len(place.parts) > 1}


# ---------------------------------------------------------------- what is written


def _write_files(members: Sequence[Predicted], configs: dict[str, Config], folder: Path) -> dict[str, str]:
    """Configs and weights; SHA-256 by name."""
    from safetensors.torch import save_file

    files = {}
    for member in members:
        name = f"{member.config.experiment}.yaml"
        write_text(folder / name, write_config(configs[member.config.experiment]))
        files[name] = digest_file(folder / name)
        for task in member.predicting:
            name = _file_of(task)
            with atomic(folder / name) as temporary:
                save_file(_weights(task), temporary)
            files[name] = digest_file(folder / name)
    return files


def _file_of(task: Task) -> str:
    return f"{task.config.experiment}--seed_{task.seed}_{task.folder}.safetensors"


def _weights(task: Task) -> "dict[str, torch.Tensor]":
    """What a network predicts with, each tensor on its own."""
    from pipeline.training.checkpoint import digest_weights, final_weights, load_checkpoint

    weights = final_weights(load_checkpoint(fold_folder(task)) or {"model": {}})
    if digest_weights(weights) != manifest_of(task).digest:
        raise UserError(f"{fold_folder(task)}: last.pt is damaged or not the one that training ended with; write --force train")
    return {name: values.detach().cpu().contiguous().clone() for name, values in weights.items()}


def _jpeg_quality(member: Predicted) -> int | None:
    mode = read_json(member.prepared.cache / "index.json")["mode"]
    return member.config.cache.quality if mode == "jpeg" else None


def _describe(members: Sequence[Predicted], configs: dict[str, Config], ensemble: Path, folder: Path, files: dict[str, str]) -> Bundle:
    """What bundle.json says."""
    first, weights = members[0], read_json(ensemble / "weights.json")
    assert weights["names"] == [member.config.experiment for member in members]
    config, competition = first.config, configs[first.config.experiment].competition
    nothing = {"extra_train": (), "solution": None, "thresholds": None, "bundled": None}
    return Bundle(
        folder,
        _version(),
        competition.slug or competition.name,
        competition.model_copy(update=nothing),
        decided_target(first.prepared.target, ensemble),
        Form(first.prepared.form, config.classes_in_a_cell, competition.label_separator, competition.metric in RANKING_METRICS),
        Blend.from_json(weights["blend"]),
        tuple(_experiment(member, weights) for member in members),
        describe(chosen_score(ensemble)),
        METRICS[competition.metric].sign > 0,
        config.predict.max_hours,
        files,
    )


def _experiment(member: Predicted, weights: dict[str, Any]) -> BundledExperiment:
    name = member.config.experiment
    networks = tuple(_network(member, task, weights["networks"][name][task.name], weights["temperatures"][name][task.name]) for task in member.predicting)
    return BundledExperiment(name, f"{name}.yaml", member.prepared.classes, member.views, _jpeg_quality(member), networks)


def _network(member: Predicted, task: Task, weight: float, temperature: float) -> BundledNetwork:
    prepared, outputs = member.prepared, outputs_of(member.prepared, task)
    shares = prepared.target.shares(learned_rows(prepared, task)["target"].tolist())
    if member.config.predict.merge == "ranks":
        shares = np.full(len(shares), 0.5)  # the middle of the ranks
    score = None
    if task.fold != FULL:
        score = defined(score_of(load_piece(member.folder, task, "oof"), prepared.target, prepared.truth, member.config.competition.metric))
    numbers = {key: value for key, value in asdict(outputs).items() if key != "task"}
    regressed = Regressed(**numbers) if outputs.task == "regression" else None
    parameters = int(manifest_of(task).record["parameters"])
    return BundledNetwork(task.name, _file_of(task), weight, temperature, tuple(shares.tolist()), score, parameters, regressed)
