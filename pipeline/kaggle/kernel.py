"""The kernel: whatever test set is mounted, predicted by the networks of a bundle, without the train rows and without a network.

What fails is left out and said loudly; a valid file is written as long as the bundle and the tables can be read.
"""

import logging
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm.auto import tqdm

from pipeline.config import Config
from pipeline.config_data import Competition
from pipeline.data.pictures import Pictures
from pipeline.errors import UserError
from pipeline.kaggle.blending import blended, shares_alone
from pipeline.kaggle.bundle import Bundle, damaged, read_bundle
from pipeline.kaggle.limit import Plan, best_first, fit, name_of
from pipeline.kaggle.models import Key, Part, group, input_of
from pipeline.kaggle.mounts import unpacked
from pipeline.kaggle.parts import Lost, measure_part, run_parts, split
from pipeline.kaggle.rows import Example, TestSet, examples_of, read_rows
from pipeline.predictions import Predictions
from pipeline.runtime import cores, ordered_map
from pipeline.runtime import devices as devices_of
from pipeline.submission.doctor import write_valid
from pipeline.submission.formats import to_table

log = logging.getLogger(__name__)
RESERVE = 0.05  # share of the time limit for starting processes, blending and writing
LINE = "!" * 100


@dataclass(frozen=True)
class Outcome:
    """How it went."""

    path: Path
    rows: int
    networks: tuple[str, ...]
    """That predicted every row."""
    failed: tuple[tuple[str, str], ...]
    """Networks that did not, with the reason."""
    left_out: tuple[str, ...]
    """Views and networks for which there was no time."""
    seconds: float
    notes: tuple[str, ...]
    """What else a reader should know."""
    examples: tuple[Example, ...]


def read_competition(bundle: Path) -> Competition:
    """The section by which the competition's files are found; its root says nothing."""
    return read_bundle(bundle).competition


def predict(
    bundle: Path, competition: Path, output: Path, max_hours: float | None = None, devices: Sequence[str] | None = None, workers: int | None = None
) -> Outcome:
    """Writes the checked submission of the test set that lies in `competition`; equal to the local one on the same rows.

    max_hours: longest that it may take, default: the config's; devices: e.g. ["cuda:0", "cuda:1"], default: every GPU, else the CPU; workers:
    processes per device that read pictures. UserError for a bundle.json or tables that cannot be read; networks that fail are in the outcome.
    """
    started = time.monotonic()
    if max_hours is not None and not max_hours > 0:
        raise UserError(f"max_hours must be above 0, but got {max_hours:g}")
    read = read_bundle(bundle)
    log.info("kernel    %s: %d networks; CV %s", read.slug, sum(len(one.networks) for one in read.experiments), read.score)
    with tempfile.TemporaryDirectory(prefix="podium-") as place:
        temporary = Path(place)
        (temporary / "input").mkdir()
        run = _Run(read, unpacked(read.competition.model_copy(update={"root": competition}), temporary / "input"), temporary)
        test = run.read_test()
        limit = read.max_hours if max_hours is None else max_hours
        deadline = None if limit is None else started + 3600 * limit * (1 - RESERVE)
        found = run.predict(test, list(devices) if devices else devices_of("auto"), workers, deadline)
        table = _written(found, test, read, output)
        examples = examples_of(found, test, read, run.section, competition)
    _say(run, output, len(table), time.monotonic() - started)
    names = tuple(name_of(read, key) for key in run.predicted)
    failed = tuple((name_of(read, key), reason) for key, reason in sorted(run.failed.items()))
    return Outcome(output, len(table), names, failed, tuple(run.left_out), time.monotonic() - started, tuple(run.notes), examples)


# ---------------------------------------------------------------- predicting


class _Run:
    """A bundle at work on a competition; notes what happens to its networks."""

    def __init__(self, bundle: Bundle, section: Competition, temporary: Path) -> None:
        self.bundle, self.section, self.temporary = bundle, section, temporary
        self.failed: dict[Key, str] = {}
        self.predicted: list[Key] = []
        self.left_out: list[str] = []
        self.notes: list[str] = []
        self.configs = self._read_configs(damaged(bundle))

    def _read_configs(self, broken: Mapping[str, str]) -> dict[int, Config]:
        """By number of an experiment; networks that cannot predict for what is wrong with their files have failed."""
        configs = {}
        for number, experiment in enumerate(self.bundle.experiments):
            reason = f"{experiment.config} {broken[experiment.config]}" if experiment.config in broken else ""
            if not reason:
                try:
                    configs[number] = experiment.read_config(self.bundle.folder)
                except UserError as error:
                    reason = str(error)
            for place, network in enumerate(experiment.networks):
                if reason or network.file in broken:
                    self.failed[number, place] = reason or f"{network.file} {broken[network.file]}"
        for key, reason in self.failed.items():
            log.error("kernel    %s IS LEFT OUT: %s", name_of(self.bundle, key), reason)
        return configs

    def note(self, words: str) -> None:
        """Says and keeps it."""
        self.notes.append(words)
        log.warning("kernel    %s", words)

    def read_test(self) -> TestSet:
        """The test set, every picture looked at once."""
        test = read_rows(self.section, self.bundle)
        images = next(iter(self.configs.values())).images if self.configs else None
        if images is None:
            return replace(test, rows=test.rows.assign(problem=""))
        pictures = Pictures(self.section, images)
        checked = ordered_map(pictures.fault, test.rows["path"], cores())
        problems = list(tqdm(checked, total=len(test.rows), desc="check", unit="img", leave=False, delay=2, disable=None))
        rows = test.rows.assign(problem=pd.Series(problems, index=test.rows.index, dtype=str))
        if len(bad := rows[rows["problem"] != ""]):
            example = f"e.g. {bad.iloc[0]['path']}: {bad.iloc[0]['problem']}"
            if len(bad) == len(rows):
                self.note(f"NOT ONE OF {len(rows):,} TEST PICTURES CAN BE READ, AND EVERY ROW GETS THE TRAINING SHARES: {example}")
            else:
                self.note(f"{len(bad):,} of {len(rows):,} test pictures cannot be read, {example}; they get the training shares")
        return replace(test, rows=rows)

    def predict(self, test: TestSet, devices: Sequence[str], workers: int | None, deadline: float | None) -> Predictions:
        """Of all rows, in the order of the test table."""
        every = [(number, place) for number, one in enumerate(self.bundle.experiments) for place in range(len(one.networks))]
        usable = [key for key in every if key not in self.failed]
        weights = self.bundle.blend.weights
        weighty = [key for key in usable if weights is None or weights[key[0]] > 0]  # what weighs nothing need not be looked at
        if not len(test.readable):
            return shares_alone(self.bundle, test.ids)
        first = weighty or usable
        found = self._attempt(test, first, devices, workers, deadline)
        if found is None and devices[0] != "cpu" and usable:
            self.note(f"NO NETWORK PREDICTED ON A GPU ({self._forget(usable)}); they are tried on the CPU")
            found = self._attempt(test, usable, ["cpu"], workers, deadline)
        elif found is None and (unused := [key for key in usable if key not in first]):
            found = self._attempt(test, unused, devices, workers, deadline)
        if found is None:
            self.note("NO NETWORK PREDICTED: every row gets the training shares")
            return shares_alone(self.bundle, test.ids)
        return found

    def _forget(self, keys: Sequence[Key]) -> str:
        """What became of networks that are all tried again is no part of the outcome; the first reason."""
        reasons = [self.failed.pop(key) for key in keys if key in self.failed]
        self.left_out.clear()
        return reasons[0] if reasons else "for want of time"

    def _attempt(self, test: TestSet, keys: Sequence[Key], devices: Sequence[str], workers: int | None, deadline: float | None) -> Predictions | None:
        """The blend of the networks that predict; None where none does."""
        if not keys:
            return None
        readable = test.readable
        place = Path(tempfile.mkdtemp(dir=self.temporary))
        inputs = {number: input_of(self.bundle.experiments[number], config) for number, config in self.configs.items()}
        views = {number: self.bundle.experiments[number].views for number in self.configs}
        plan = Plan(tuple(best_first(self.bundle, keys)), views)
        share = max(1, cores() // len(devices)) if workers is None else workers
        whole = Part(self.bundle.folder, self.section, tuple(readable["path"]), devices[0], share, (plan.keys,), views, place, deadline)
        if deadline is not None:
            plan = fit(plan, self.bundle, inputs, measure_part(whole, self.bundle), -(-len(readable) // len(devices)), deadline - time.monotonic())
            self.left_out += plan.left_out
        groups = group(self.bundle, plan.keys, self.configs, len(readable))
        parts = split(replace(whole, groups=tuple(groups), views=plan.views), devices, place)
        log.info("kernel    %d networks look at %s pictures on %s", len(plan.keys), f"{len(readable):,}", ", ".join(part.device for part in parts))
        lost = _watched(parts, self.bundle, len(plan.keys) * len(readable))
        return self._join(plan.keys, parts, lost, test)

    def _join(self, keys: Sequence[Key], parts: Sequence[Part], lost: Sequence[Lost], test: TestSet) -> Predictions | None:
        predicted = []
        for key in keys:
            failed = [one.failed[key] for one in lost if key in one.failed]
            if failed or not all(part.file(key).exists() for part in parts):
                if failed or not any(key in one.late for one in lost):
                    self.failed[key] = failed[0] if failed else "it did not predict every row"
                else:
                    self.left_out.append(name_of(self.bundle, key))
            else:
                self.failed.pop(key, None)
                predicted.append(key)
        if not predicted:
            return None
        self.predicted = sorted(predicted)
        return blended(self.bundle, self.configs, self.predicted, parts, list(test.readable["id"]), test.ids)


def _watched(parts: Sequence[Part], bundle: Bundle, total: int) -> list[Lost]:
    """Runs the parts below a bar that counts pictures times networks."""
    with tqdm(total=total, desc="predict", unit="img", leave=False, delay=2, disable=None) as bar:

        def hear(message: dict[str, Any]) -> None:
            bar.update(message.get("rows", 0))
            if "log" in message:
                log.info("kernel    %s", message["log"])

        return run_parts(parts, bundle, hear)


# ---------------------------------------------------------------- what is written and said


def _written(found: Predictions, test: TestSet, bundle: Bundle, output: Path) -> pd.DataFrame:
    """The submission, checked; without rows it is its header."""
    table = to_table(found, test.sample, bundle.form, bundle.target)
    output.parent.mkdir(parents=True, exist_ok=True)
    write_valid(output, table, test.sample, bundle.form, bundle.target, test.original)
    return table


def _say(run: _Run, output: Path, rows: int, seconds: float) -> None:
    """The lines at the end."""
    if run.left_out:
        log.warning("kernel    for want of time left out: %s", "; ".join(run.left_out))
    if run.failed:
        log.error("kernel    %s", LINE)
        for key, reason in sorted(run.failed.items()):
            log.error("kernel    FAILED, AND NOT IN THE SUBMISSION: %s: %s", name_of(run.bundle, key), reason)
        log.error("kernel    %s", LINE)
    log.info("kernel    %s rows by %d networks in %.0f s, checked against the sample -> %s", f"{rows:,}", len(run.predicted), seconds, output)
