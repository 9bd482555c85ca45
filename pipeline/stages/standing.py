"""Where one stands: every experiment, ensemble and submission on disk with its score and cost.

Only manifests and small JSON files are read; nothing is computed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import Manifest, Workspace
from pipeline.files import read_json
from pipeline.stages.experiments import (
    UNREADABLE,
    Skip,
    count_folds,
    count_planned,
    finished_manifest,
    finished_predictions,
    folders,
    moment_of,
    read_settings,
    trained_networks,
    views_of,
    why,
)
from pipeline.training.metrics import METRICS

STAMP = "%Y%m%dT%H%M%S"  # at the start of a kept submission's name


@dataclass(frozen=True)
class Standing:
    """One row: what it is, its CV, what it cost, and what the leaderboard said."""

    kind: Literal["experiment", "ensemble", "submission"]
    name: str
    file: str = ""
    """Of a submission, in submissions/."""
    metric: str = ""
    cv: float | None = None
    mean: float | None = None
    """Over folds, as `spread`."""
    spread: float | None = None
    low: float | None = None
    """With `high` the 95 % interval of the CV, where one is known."""
    high: float | None = None
    rows: int | None = None
    folds: int | None = None
    """That the CV is of."""
    assignment: str = ""
    """Digest of the assignment of rows to those folds; empty where networks of several are blended."""
    optimistic: tuple[str, ...] = ()
    """Why the CV flatters."""
    remark: str = ""
    """Why the CV is not of all that is there now."""
    trained: int | None = None
    """Networks, of those planned; of an ensemble, its experiments' together."""
    planned: int | None = None
    seconds: float | None = None
    """That training its networks took, nested teachers too."""
    parameters: int | None = None
    """Of one network; of an ensemble, of one per experiment together."""
    views: tuple[str, ...] = ()
    """Of test-time augmentation."""
    finished: datetime | None = None
    public: float | None = None
    private: float | None = None
    note: str = ""
    digest: str = field(default="", repr=False)
    """Of its predictions, by which an ensemble or a submission knows it."""

    @property
    def gap(self) -> float | None:
        """CV - public."""
        return None if self.cv is None or self.public is None else self.cv - self.public


def read_standings(work: Workspace) -> tuple[list[Standing], list[str]]:
    """Every experiment, ensemble and submission, and a line for each folder or file that was skipped. A study's trials stand on its own page."""
    skipped: list[str] = []
    experiments: dict[str, Standing] = {}
    ensembles: dict[str, Standing] = {}
    for folder in folders(work.experiment("")):
        try:
            experiments[folder.name] = _experiment(folder, skipped)
        except UNREADABLE as error:
            skipped.append(f"{folder}: {why(error)}")
    for folder in folders(work.ensemble([""])):
        try:
            ensembles[folder.name], singles = _ensemble(folder, experiments)
        except UNREADABLE as error:
            skipped.append(f"{folder}: {why(error)}")
            continue
        for single in singles:
            known = experiments.get(single.name)
            if known is not None and known.low is None and (known.metric, known.cv, known.rows) == (single.metric, single.cv, single.rows):
                experiments[single.name] = replace(known, low=single.low, high=single.high)
    submissions = [_submission(work, path, ensembles, skipped) for path in kept_submissions(work, skipped)]
    shown = [row for row in experiments.values() if row.cv is not None or not work.is_trial(row.name)]
    return [*shown, *ensembles.values(), *submissions], skipped


def submitted_score(scores: Mapping[str, Any]) -> Mapping[str, Any]:
    """Of an ensemble's cv.json the score of what is submitted; an older program wrote those of the schemes alone."""
    found: Mapping[str, Any] = scores.get("submitted") or scores["schemes"][scores["chosen"]]
    return found


def kept_submissions(work: Workspace, skipped: list[str] | None = None) -> list[Path]:
    """Every kept submission, oldest first; what has another name is noted in `skipped`."""
    paths = []
    for path in sorted(work.kept_submission("", "").parent.glob("[!.]*.csv")):
        try:
            datetime.strptime(path.name.partition("-")[0], STAMP)
            paths.append(path)
        except ValueError:
            if skipped is not None:
                skipped.append(f"{path}: its name does not begin with a time, e.g. 20260131T235900-")
    return paths


# ---------------------------------------------------------------- one folder each

NEWEST_DAMAGED = "its newest predictions cannot be read; the CV is of older ones"


def _scored(score: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a Standing that a score in JSON fills; what is not finite is None."""
    if score["metric"] not in METRICS:
        raise Skip(f'its metric "{score["metric"]}" is not known')
    low, high = score.get("interval") or (None, None)
    numbers = {"cv": score["cv"], "mean": score["mean"], "spread": score["spread"], "low": low, "high": high}
    return {
        "metric": score["metric"],
        **{key: float(value) if value is not None and math.isfinite(value) else None for key, value in numbers.items()},
        "rows": int(score["rows"]),
        "folds": len(score["folds"]),
        "optimistic": tuple(map(str, score.get("optimistic", ()))),
    }


def _experiment(folder: Path, skipped: list[str]) -> Standing:
    settings = read_settings(folder)
    every = trained_networks(folder, skipped)
    if not settings and not every:
        raise Skip("is no experiment: it has neither a config.yaml that can be read nor a trained network")
    networks = {name: manifest for name, manifest in every.items() if "_folds_" not in name}  # without nested teachers
    metric, planned = str(settings.get("competition", {}).get("metric")), count_planned(settings, networks)
    assignments = {str(manifest.inputs["folds"]) for manifest in networks.values()}
    row = Standing(
        "experiment",
        folder.name,
        assignment=assignments.pop() if len(assignments) == 1 else "",
        metric=metric if metric in METRICS else "",
        trained=len(networks),
        planned=planned,
        seconds=sum(float(manifest.record["seconds"]) for manifest in every.values()) if every else None,
        parameters=max((int(manifest.record["parameters"]) for manifest in networks.values()), default=None),
        finished=max(map(moment_of, every.values()), default=None),
    )
    newest = ""
    for place, manifest in finished_predictions(folder / "predictions", skipped):
        older, newest = bool(newest), newest or manifest.digest
        try:
            scored = _scored(read_json(place / "cv.json"))
            remark = NEWEST_DAMAGED if older else _remark(manifest, networks, scored["folds"], count_folds(settings), planned)
            return replace(row, **scored, views=views_of(place, manifest), finished=moment_of(manifest), remark=remark, digest=newest)
        except UNREADABLE as error:
            skipped.append(f"{place}: {why(error)}")
    return replace(row, digest=newest)


def _remark(manifest: Manifest, networks: Mapping[str, Manifest], folds: int, splits: int | None, planned: int | None) -> str:
    predicted = manifest.inputs.get("networks") or {}
    words = []
    if manifest.record.get("networks") == []:
        words.append("predict.max_hours leaves it no time: it is in no ensemble")
    if any(name not in networks or networks[name].digest != digest for name, digest in predicted.items()):
        words.append("the CV is of networks that have been replaced since")
    elif 0 < len(predicted) < len(networks):
        words.append(f"predicted by {len(predicted)} of {len(networks)} trained networks")
    elif folds < (splits or 0):
        words.append(f"the CV is of {folds} of {splits} folds")
    elif 0 < len(predicted) < (planned or 0):
        words.append(f"predicted by {len(predicted)} of {planned} networks")
    return "; ".join(words)


def _ensemble(folder: Path, experiments: Mapping[str, Standing]) -> tuple[Standing, list[Standing]]:
    """The ensemble, and its experiments as it scored them."""
    manifest = finished_manifest(folder)
    scores = read_json(folder / "cv.json")
    singles = [Standing("experiment", name, **_scored(score)) for name, score in scores["experiments"].items()]
    members = [experiments[single.name] for single in singles if single.name in experiments]
    whole = len(members) == len(singles)

    def total(key: str) -> Any:
        values = [getattr(member, key) for member in members]
        return sum(values) if whole and None not in values else None

    assignments = {member.assignment for member in members}
    row = Standing(
        "ensemble",
        folder.name,
        **_scored(submitted_score(scores)),
        assignment=assignments.pop() if whole and len(assignments) == 1 else "",
        **{key: total(key) for key in ("trained", "planned", "seconds", "parameters")},
        remark=_blended_before(manifest, members),
        views=members[0].views if whole and len({member.views for member in members}) == 1 else (),
        finished=moment_of(manifest),
        digest=manifest.digest,
    )
    return row, singles


def _blended_before(manifest: Manifest, members: list[Standing]) -> str:
    """Whether its experiments have predicted anew, or are not complete."""
    blended = manifest.inputs.get("predictions") or ()
    changed = [member.name for member in members if member.digest not in blended]
    partial = [member.name for member in members if member.remark]
    if changed:
        return f"blended before {', '.join(changed)} predicted anew"
    return f"blends {', '.join(partial)}: see there" if partial else ""


def _submission(work: Workspace, path: Path, ensembles: Mapping[str, Standing], skipped: list[str]) -> Standing:
    """A kept submission with the score of what it was made of.

    The latest one has a manifest that says what that is. An older one is of the ensemble of its name, if that has not changed since.
    """
    stamp, _, name = path.stem.partition("-")
    moment = datetime.strptime(stamp, STAMP)
    row = Standing("submission", name, path.name, finished=moment.astimezone())
    manifest = Manifest.read(work.submission_manifest)
    if manifest is not None and manifest.record.get("kept") != path.name:
        manifest = None
    source = ensembles.get(name)
    if source is not None and source.finished is not None:
        unchanged = source.finished.replace(tzinfo=None) <= moment
        if source.digest == manifest.inputs.get("predictions") if manifest else unchanged:
            return replace(source, kind="submission", file=path.name, finished=row.finished, digest="")
    if manifest is not None:
        try:
            return replace(row, **_scored(manifest.record["cv"]))
        except UNREADABLE as error:
            skipped.append(f"{work.submission_manifest}: {why(error)}")
    return row
