"""What stages leave on disk: manifests with fingerprints, and every path under `outputs/`.

A stage writes one folder and, last, its `manifest.json`. A folder whose manifest carries the
fingerprint that the stage would have now is not computed again.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from pipeline.errors import UserError
from pipeline.files import digest, lock, read_json, remove_leftovers, write_json

log = logging.getLogger(__name__)
HEX_IN_KEYS = 8
EPOCH_FILES = "epoch_*.pt"  # in a network's folder while it trains: epochs whose weights may be chosen
LONGEST_NAME = 120  # characters of a folder made of many experiments' names; file systems end at 255


@dataclass(frozen=True)
class Stage:
    """What decides a stage's result: its name and version, the settings, and digests from upstream."""

    name: str
    version: int
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]
    decisive: Mapping[str, Any] | None = None
    """The settings that differ from their defaults, if the others are to stay out of the fingerprint."""

    @property
    def fingerprint(self) -> str:
        """64 hex digits; equal exactly when the result is to be the same."""
        settings = self.settings if self.decisive is None else self.decisive
        return digest({"stage": self.name, "version": self.version, "settings": settings, "inputs": self.inputs})

    def key(self, *words: object) -> str:
        """Folder name: readable words, then the first digits of the fingerprint."""
        return "-".join([*(str(word) for word in words), self.fingerprint[:HEX_IN_KEYS]])


@dataclass(frozen=True)
class Manifest:
    """Proof that a stage is done. `digest` is of its logical output; `record` says how it went."""

    stage: str
    version: int
    fingerprint: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]
    digest: str
    record: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Manifest | None":
        """The manifest in a file; None if there is none or it is not readable as one."""
        try:
            return cls(**read_json(path))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Writes it atomically."""
        write_json(path, asdict(self))


Build = Callable[[], tuple[str, dict[str, Any]]]


def run_stage(stage: Stage, folder: Path, build: Build, force: bool = False, manifest: str = "manifest.json") -> Manifest:
    """Runs `build` in `folder` unless it is done; `build` returns the output's digest and a record.

    One process at a time: others wait, then find it done. Stages that share a folder have a `manifest` of their own.
    """
    path = folder / manifest
    if not force and (done := finished(stage, path)):
        log.info("%-9s up to date: %s", stage.name, folder)
        return done
    with lock(folder / ".lock", wait=f"{stage.name}: waiting for another process in {folder}"):
        if not force and (done := finished(stage, path)):
            log.info("%-9s done by another process: %s", stage.name, folder)
            return done
        return build_stage(stage, path, build)


def finished(stage: Stage, path: Path) -> Manifest | None:
    """The manifest at `path` if it is this stage's, with the fingerprint of now."""
    manifest = Manifest.read(path)
    return manifest if manifest and manifest.fingerprint == stage.fingerprint else None


def build_stage(stage: Stage, path: Path, build: Build) -> Manifest:
    """Runs `build` and writes the manifest at `path` last; the caller holds the folder's lock."""
    path.unlink(missing_ok=True)
    remove_leftovers(path.parent)
    started = time.monotonic()
    output, record = build()
    record = {"seconds": round(time.monotonic() - started, 2), "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **record}
    manifest = Manifest(stage.name, stage.version, stage.fingerprint, stage.settings, stage.inputs, output, record)
    manifest.write(path)
    return manifest


def differences(old: Mapping[str, Any], new: Mapping[str, Any], at: str = "") -> list[str]:
    """Lines `key: old -> new` for every setting that differs."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{at}{key}.")
        elif json.dumps(before, sort_keys=True) != json.dumps(after, sort_keys=True):
            lines.append(f"{at}{key}: {_short(before)} -> {_short(after)}")
    return lines


def refuse_changed(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> NoReturn:
    """UserError that says what differs between the settings that a fold was trained with and today's."""
    changed = "; ".join(differences(old, new)) or "the folds, the pictures, the weights file or the program"
    raise UserError(f"{folder}: was trained with other settings ({changed}); write experiment=NEW to keep it, or --force train to replace it")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."


def join_names(names: Iterable[str]) -> str:
    """Experiments' names as one file name, shortened where a file system would refuse it."""
    joined = "+".join(names)
    return joined if len(joined) <= LONGEST_NAME else f"{joined[:LONGEST_NAME]}-{digest(joined)[:HEX_IN_KEYS]}"


TRIAL = re.compile(r"(.+)-trial-\d{3,}(-whole|-seed-?\d+)?")


def trial_name(study: str, number: int, suffix: str = "") -> str:
    """Of the experiment that a study's trial is; suffix: "-whole" or "-seed43" for its settings on all folds, or on another split."""
    name = f"{study}-trial-{number:03d}{suffix}"
    assert TRIAL.fullmatch(name)
    return name


@dataclass(frozen=True)
class Workspace:
    """The only builder of paths under `outputs/<competition>/`."""

    root: Path

    @property
    def digests(self) -> Path:
        """Digests of input files, remembered."""
        return self.root / "digests.parquet"

    @property
    def prepared(self) -> Path:
        """The index of the last config used."""
        return self.root / "prepared"

    @property
    def index(self) -> Path:
        """One row per picture."""
        return self.prepared / "index.parquet"

    @property
    def duplicates(self) -> Path:
        """Copies of pictures, and what became of them."""
        return self.prepared / "duplicates.csv"

    @property
    def eda(self) -> Path:
        """The report to look at."""
        return self.prepared / "eda.html"

    def folds(self, key: str) -> Path:
        """A frozen assignment."""
        return self.root / "folds" / key

    def cache(self, key: str) -> Path:
        """Decoded pictures."""
        return self.root / "cache" / key

    def experiment(self, name: str) -> Path:
        """One experiment: its config, folds and predictions."""
        return self.root / "experiments" / name

    def network(self, name: str, seed: int, folder: str) -> Path:
        """One trained network; folder: fold_2, folds_0_2 (trained without both), or all."""
        return self.experiment(name) / f"seed_{seed}" / folder

    def lessons(self, name: str, key: str) -> Path:
        """What an experiment learns from its teacher."""
        return self.experiment(name) / "lessons" / key

    def predictions(self, name: str, key: str) -> Path:
        """Out-of-fold and test predictions of an experiment."""
        return self.experiment(name) / "predictions" / key

    def ensemble(self, names: Iterable[str]) -> Path:
        """A blend of experiments."""
        return self.root / "ensembles" / join_names(names)

    @property
    def studies(self) -> Path:
        """Storages of studies, and a folder for each."""
        return self.root / "studies"

    def study(self, name: str) -> Path:
        """What a study ends in: its page, its trials as a table, its result, its best trials as configs."""
        return self.studies / name

    @property
    def kernel(self) -> Path:
        """The dataset and the notebook that predict on Kaggle."""
        return self.root / "kernel"

    @property
    def training_kernel(self) -> Path:
        """Those that train there."""
        return self.root / "training_kernel"

    def is_trial(self, experiment: str) -> bool:
        """Whether an experiment belongs to a study that is there."""
        found = TRIAL.fullmatch(experiment)
        return found is not None and self.study(found[1]).is_dir()

    def labelled(self, name: str) -> Path:
        """New pictures with what a finished run says of them."""
        return self.root / "labelled" / f"{name}.csv"

    @property
    def submission(self) -> Path:
        """The latest submission."""
        return self.root / "submission.csv"

    @property
    def submission_manifest(self) -> Path:
        """What the latest submission was made of."""
        return self.root / "submission.json"

    def kept_submission(self, stamp: str, name: str) -> Path:
        """Every submission is kept under its time."""
        return self.root / "submissions" / f"{stamp}-{name}.csv"

    @property
    def ledger(self) -> Path:
        """What the leaderboard said of submissions."""
        return self.root / "ledger.csv"

    @property
    def comparison(self) -> Path:
        """Every experiment, ensemble and submission, one row each."""
        return self.root / "comparison.csv"
