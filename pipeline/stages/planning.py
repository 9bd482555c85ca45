"""From a config to what a study searches and how, checked before the first trial."""

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pipeline.config import Config
from pipeline.config_files import change_config
from pipeline.config_tuning import AnyDimension, Range
from pipeline.errors import UserError
from pipeline.files import digest
from pipeline.stages.prepare import Prepared, workspace
from pipeline.stages.train import check_before, fold_tasks, train_stage
from pipeline.stages.trial import Search
from pipeline.stages.versions import STAGE_VERSION
from pipeline.training.metrics import METRICS
from pipeline.tuning.pruning import resolve_pruner
from pipeline.tuning.space import Space, keys_of, labels_of
from pipeline.tuning.storage import locate
from pipeline.tuning.study import Plan
from pipeline.tuning.trials import Parameter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Wanted:
    """What a study is asked for; trials: finished ones in all; minutes: after which no trial goes on; added: names of earlier studies;
    command: what was typed, for the page."""

    trials: int
    workers: int = 1
    storage: str | None = None
    minutes: float | None = None
    added: Sequence[str] = ()
    command: str = ""


def for_trials(config: Config) -> Config:
    """The config with as many epochs as a trial has."""
    return config if config.tune.epochs is None else change_config(config, {"train.epochs": config.tune.epochs}, "tune.epochs")


def check_wanted(wanted: Wanted) -> None:
    """UserError for numbers that nothing could come of."""
    for name, number in (("--trials", wanted.trials), ("--workers", wanted.workers)):
        if number < 1:
            raise UserError(f"{name}: write 1 or more, but got {number}")
    if wanted.minutes is not None and not 0 < wanted.minutes < math.inf:
        raise UserError(f"--timeout: write minutes above 0, but got {wanted.minutes:g}")


def pruner_of(config: Config, space: Space, folds: int) -> str:
    """folds, epochs or none. UserError for one that could never prune, or not fairly."""
    epochs_differ = any("train.epochs" in keys_of(name, dimension) for name, dimension in space.dimensions.items())
    return resolve_pruner(config.tune.pruner, config.tune.threshold, folds, 1 if config.tune.objectives == "score" else 2, epochs_differ)


def search_of(config: Config, space: Space, folds: int, pruner: str, rows: str) -> Search:
    """What every trial shares, for a worker that has the whole machine; rows: digest of the folds."""
    asked = [space.base.predict.tta]
    for name, dimension in space.dimensions.items():
        asked += [space.config_of({name: label}, name).predict.tta for label in labels_of(dimension)] if not isinstance(dimension, Range) else []
    timed = config.tune.objectives == "score_and_seconds"
    return Search(space, folds, pruner, "auto" in asked, timed, config.runtime.device, config.runtime.jobs_per_device, rows)


def folds_of(config: Config) -> int:
    """How many folds a trial trains."""
    folds = config.tune.folds or config.folds.n_splits
    if folds > config.folds.n_splits:
        raise UserError(f"tune.folds: there are {config.folds.n_splits} folds, but got {folds}; write fewer, or null for all")
    return folds


def check_choices(space: Space, prepared: Prepared) -> list[str]:
    """Builds, once, what each choice of a component means: an unknown backbone or augmentation is better known before the first trial.

    Returns the digests of the weights files that choices name.
    """
    count, reason = space.refused()
    if count:
        log.warning("tune      %d of 64 random draws are refused by the config, and would be trials that fail: %s", count, reason)
    seen: set[str] = set()
    weights: set[str] = set()
    for name, dimension in space.dimensions.items():
        conditions: dict[str, Parameter] = {other: labels[0] for other, labels in dimension.condition().items()}
        for value in _ends(name, dimension):
            source = f"tune.space: {name}: {value}"
            config = space.config_of({**conditions, name: value}, source)
            built = digest(config.model_dump(mode="json", include={"augment", "model", "optimizer", "loss", "images"}))
            if built in seen:
                continue
            seen.add(built)
            try:
                check_before(config, replace(prepared, lessons=None), fold_tasks(config)[:1])
                weights.add(train_stage(fold_tasks(config)[0], prepared).inputs["weights"] or "")
            except UserError as error:
                raise UserError(f"{source}: {error}") from None
    return sorted(weights - {""})


def _ends(name: str, dimension: AnyDimension) -> Sequence[Parameter]:
    """Every label of a dimension, or the ends of a range that a library is handed; the schema knows the other ranges."""
    if isinstance(dimension, Range):
        return [dimension.low, dimension.high] if re.match(r"augment\.train|(model|optimizer|loss)\.arguments", name) else []
    return labels_of(dimension)


def plan_of(config: Config, wanted: Wanted, pruner: str) -> Plan:
    """What every worker must know to take its part."""
    section, work = config.tune, workspace(config)
    sign = METRICS[config.competition.metric].sign
    return Plan(
        storage=locate(wanted.storage, work.studies, config.experiment, wanted.workers),
        name=config.experiment,
        folder=work.study(config.experiment),
        directions=("maximize" if sign > 0 else "minimize", *(["minimize"] if config.tune.objectives == "score_and_seconds" else [])),
        sampler=section.sampler,
        startup=section.startup,
        seed=section.seed,
        pruner=pruner,
        threshold=section.threshold,
        trials=wanted.trials,
        deadline=None,  # which begins with the first trial
    )


def identity_of(config: Config, space: Space, prepared: Prepared, search: Search, weights: Sequence[str]) -> dict[str, Any]:
    """What makes the scores of two trials comparable, and a study the same when it is carried on; weights: digests of files that the space names."""
    base = space.base
    inputs = train_stage(fold_tasks(base)[0], prepared).inputs
    sections = {"images", "augment", "model", "loss", "optimizer", "schedule", "train", "teacher", "predict", "ensemble"}
    settings = base.model_dump(mode="json", include=sections)
    settings["model"]["weights"] = inputs["weights"]
    settings["train"].pop("full_data")
    for key in ("max_hours", "batch_size"):
        settings["predict"].pop(key)
    return {
        "settings": settings,
        "space": space.to_json(),
        "tune": config.tune.model_dump(mode="json", include={"sampler", "startup", "seed", "threshold"}),
        "objectives": config.tune.objectives,
        "trial_folds": search.folds,
        "metric": config.competition.metric,
        "data": {key: inputs[key] for key in ("target", "folds", "pixels", "extra")},
        "lessons": prepared.lessons.digests if prepared.lessons else None,
        "weights": list(weights),
        "program": [STAGE_VERSION[name] for name in ("train", "predict", "ensemble")],
    }
