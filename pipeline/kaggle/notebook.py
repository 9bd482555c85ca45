"""The notebooks that run on Kaggle, and what Kaggle is told of them and of their dataset; plain JSON, short enough to be read there."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pipeline.errors import UserError

Kind = Literal["predict", "train"]
Cell = tuple[Literal["markdown", "code"], str]

OWNER = "INSERT_OWNER_HERE"
"""Stands for who uploads, whom the files that are kept do not know."""
MARKERS: dict[Kind, str] = {"predict": "bundle.json", "train": "training.json"}
"""The file by which a notebook knows its dataset."""
CODE = "notebook.ipynb"
SHORTEST, LONGEST = 6, 50
"""Characters that Kaggle takes in the name of a dataset."""

FIND = '''
import itertools
import os
import sys
import tempfile
import zipfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"  # a missing file is said at once, not after five tries
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
inputs = Path(os.environ.get("PODIUM_INPUT", "/kaggle/input"))
working = Path(os.environ.get("PODIUM_WORKING", "/kaggle/working"))


def entries(folder, most=300):
    """A folder's first entries: one as full as those of pictures is not listed whole."""
    return list(itertools.islice(os.scandir(folder), most))


def folders(top, depth=8, fullest=300):
    """Every folder, the shallow ones first; nothing in the competition, nor in a folder that is full."""
    level = [top]
    for _ in range(depth):
        yield from level
        below = [entry for listed in map(entries, level) if len(listed) < fullest for entry in listed]
        level = sorted(Path(entry) for entry in below if entry.is_dir() and entry.name not in ("SLUG", "competitions"))


def unpacked(archive):
    folder = Path(tempfile.mkdtemp())
    zipfile.ZipFile(archive).extractall(folder)
    return folder


def holds(archive, name):
    return zipfile.is_zipfile(archive) and any(Path(member).name == name for member in zipfile.ZipFile(archive).namelist())


everywhere = list(itertools.islice(folders(inputs), 5_000))
found = [folder for folder in everywhere if (folder / "MARKER").is_file()]
if not found:  # perhaps nobody has unpacked it
    archives = [entry.path for folder in everywhere for entry in entries(folder) if entry.name.endswith(".zip") and holds(entry.path, "MARKER")]
    found = [path.parent for archive in archives for path in unpacked(archive).rglob("MARKER")]
bundles = {(folder / "MARKER").read_bytes(): folder for folder in reversed(found)}  # one dataset may be mounted at two places
assert len(bundles) == 1, f"the inputs must hold one dataset with a MARKER, but there are {sorted(map(str, bundles.values()))}"
[bundle] = bundles.values()

packages = [place for pattern in ("pipeline", "*/pipeline", "*/*/pipeline") for place in bundle.glob(pattern)]
packages = packages or [unpacked(bundle / "podium.zip") / "pipeline"]
sys.path.insert(0, str(packages[0].parent))
print("bundle", bundle, "package", packages[0].parent)
'''

MACHINE = """
import platform

import albumentations
import pandas
import timm
import torch

from pipeline.kaggle.MODULE import read_competition
from pipeline.kaggle.mounts import find_competition
from pipeline.runtime import start_logging

start_logging()
competition = find_competition(inputs, "SLUG", read_competition(bundle))
try:
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
except Exception as error:  # one that is broken is no reason to lose what the others can do
    gpus = [f"some, whose names cannot be read ({error})"]
print("competition SLUG in", competition)
print(len(gpus), "GPUs:", ", ".join(gpus) or f"none, {os.cpu_count()} CPU cores take their time")
print("python", platform.python_version(), *(f"{module.__name__} {module.__version__}" for module in (torch, timm, albumentations, pandas)))
"""

PREDICT = """
from pipeline.kaggle.kernel import predict

max_hours = None  # of all of it; None: as the config says in predict.max_hours
outcome = predict(bundle, competition, working / "submission.csv", max_hours=max_hours)
print(f"{outcome.rows:,} rows by {len(outcome.networks)} networks in {outcome.seconds:.0f} s -> {outcome.path}")
"""

FAILED = """
for words in (*outcome.notes, *outcome.left_out):
    print("left out, or to be known:", words)
if outcome.rows and not outcome.networks:
    print("!" * 100, "FAILED: NO NETWORK IS IN submission.csv: EVERY ROW HAS THE TRAINING SHARES", *outcome.notes, "!" * 100, sep="\\n")
for name, reason in outcome.failed:
    print("!" * 100, f"FAILED: {name}: {reason}", "!" * 100, sep="\\n")
if outcome.failed:
    print(f"submission.csv is valid, but {len(outcome.failed)} networks that were to predict are NOT in it")
"""

PICTURES = """
import matplotlib.pyplot as plt

try:
    figure, axes = plt.subplots(1, max(len(outcome.examples), 1), figsize=(12, 2), squeeze=False)
    for axis in axes[0]:
        axis.axis("off")
    for axis, row in zip(axes[0], outcome.examples):
        axis.imshow(row.pixels)
        axis.set_title(f"{row.id}\\n{row.label}" + ("" if row.probability is None else f" {row.probability:.0%}"), fontsize=8)
    plt.show()
except Exception as error:  # pictures that cannot be shown are no reason to lose the submission
    print(f"no pictures: {error!r}")
"""

HEAD = """
pandas.read_csv(outcome.path, dtype=str, nrows=10)
"""

TRAIN = """
from pipeline.cli import Arguments, submit_all
from pipeline.kaggle.train import train

hours = HOURS  # Kaggle ends a session after 12, and keeps nothing of one that it had to end
session = train(bundle, competition, working, lambda configs: submit_all(Arguments(configs, frozenset())), hours, inputs)
"""

STANDING = """
print(session)
"""


def predicting_cells(competition: str, slug: str) -> list[Cell]:
    """Of the notebook that predicts whatever test set is mounted when it runs."""
    return [
        ("markdown", f"# {competition}\nPredicts the test pictures with networks that were trained elsewhere; without internet, and nothing is installed."),
        ("markdown", "The dataset with the networks is somewhere below the inputs, and the package in it."),
        ("code", FIND.replace("SLUG", slug).replace("MARKER", MARKERS["predict"])),
        ("markdown", "The competition's files, and the machine; when the notebook is scored, another test set lies there."),
        (
            "code",
            MACHINE.replace("SLUG", slug).replace("MODULE", "kernel"),
        ),
        ("markdown", "Every network predicts, the predictions are blended, and the file is checked against the sample."),
        ("code", PREDICT),
        ("markdown", "What was left out, and what failed."),
        ("code", FAILED),
        ("markdown", "A few pictures with their predictions."),
        ("code", PICTURES),
        ("markdown", "The submission's first rows."),
        ("code", HEAD),
    ]


def training_cells(competition: str, slug: str, hours: float) -> list[Cell]:
    """Of the notebook that trains, and carries on where an earlier session stopped."""
    return [
        ("markdown", f"# {competition}: training\nTrains on this machine; a session that runs out of time is carried on by the next."),
        ("markdown", "The dataset with the configs is somewhere below the inputs, and the package in it."),
        ("code", FIND.replace("SLUG", slug).replace("MARKER", MARKERS["train"])),
        ("markdown", "The competition's files, and the machine."),
        ("code", MACHINE.replace("SLUG", slug).replace("MODULE", "train")),
        ("markdown", "Every stage up to the submission; what an earlier session has finished is taken over, if its output is among the inputs."),
        ("code", TRAIN.replace("HOURS", f"{hours:g}")),
        ("markdown", "How far it came, and how to go on."),
        ("code", STANDING),
    ]


def notebook(cells: Sequence[Cell]) -> dict[str, Any]:
    """The notebook as JSON, in nbformat 4.5."""
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}, "language_info": {"name": "python"}},
        "cells": [_cell(number, *cell) for number, cell in enumerate(cells)],
    }


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    cell = {"id": f"cell-{number}", "cell_type": kind, "metadata": {}, "source": text.strip().splitlines(keepends=True)}
    return cell if kind == "markdown" else cell | {"execution_count": None, "outputs": []}


def slug_for(competition: str, kind: Kind) -> str:
    """The name of dataset and kernel where none is given: letters, digits and dashes, 6 to 50 of them."""
    ending = "" if kind == "predict" else "-training"
    words = as_slug(f"podium-{competition}")
    return words[: LONGEST - len(ending)].strip("-") + ending


def as_slug(name: str) -> str:
    """A name as Kaggle spells it in addresses and folders."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def checked_slug(name: str) -> str:
    """A name that somebody wrote. UserError unless Kaggle takes it."""
    if not (SHORTEST <= len(name) <= LONGEST and re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name)):
        raise UserError(f"--name: a name on Kaggle is {SHORTEST} to {LONGEST} small letters, digits and single dashes between them, but got {name}")
    return name


def _title(slug: str) -> str:
    """A title that Kaggle makes this very name of."""
    return slug.replace("-", " ").capitalize()


def dataset_metadata(slug: str) -> dict[str, Any]:
    """dataset-metadata.json: its owner is filled in when it is uploaded."""
    return {"title": _title(slug), "id": f"{OWNER}/{slug}", "licenses": [{"name": "other"}]}


def kernel_metadata(slug: str, competition: str) -> dict[str, Any]:
    """kernel-metadata.json: without internet, with both T4s; competition: its name on Kaggle."""
    return {
        "id": f"{OWNER}/{slug}",
        "title": _title(slug),
        "code_file": CODE,
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4",
        "dataset_sources": [f"{OWNER}/{slug}"],
        "competition_sources": [competition],
        "kernel_sources": [],
        "model_sources": [],
    }


def with_owner(metadata: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The metadata as the client is to read it."""
    return {
        key: value.replace(OWNER, owner)
        if isinstance(value, str)
        else [source.replace(OWNER, owner) for source in value]
        if key == "dataset_sources"
        else value
        for key, value in metadata.items()
    }
