"""The ensemble stage: experiments blended, their weights and decisions chosen where they are not scored."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import run_stage
from pipeline.config import Config, Ensemble
from pipeline.data.targets import Numbers, Target
from pipeline.ensembling.automatic import Fitted, fit_ensemble
from pipeline.ensembling.bootstrap import Resampler, interval
from pipeline.ensembling.deciding import Decided, decide
from pipeline.ensembling.decisions import FLATTER, decides
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.schemes import schemes_for
from pipeline.ensembling.scores import describe, problem_of, union, validation
from pipeline.errors import UserError
from pipeline.files import atomic, digest, read_json, write_json
from pipeline.predictions import Predictions, align
from pipeline.stages.predicted import Predicted
from pipeline.stages.prepare import workspace
from pipeline.stages.versions import define_stage
from pipeline.stages.views import require_one_limit

log = logging.getLogger(__name__)
WORDS = {"equal": "equal mean", "ranks": "mean of ranks", "geometric": "geometric mean", "greedy": "greedy selection", "simplex": "simplex weights"}
WORDS |= {"metric": "weights fitted on the metric", "stacked": "logistic regression", "auto": "auto"}


def ensemble(experiments: Sequence[Predicted], force: bool = False) -> Path:
    """Blends one or more experiments of a competition, in any order; returns the folder with the blended test predictions."""
    members = taking_part(experiments)
    first = members[0].config
    names = [member.config.experiment for member in members]
    require_alike([member.config for member in members])
    inputs: dict[str, Any] = {"predictions": [member.digest for member in members], "metric": first.competition.metric}
    inputs |= {"folds": [member.prepared.folds_digest for member in members], "optimistic": [list(member.optimistic) for member in members]}
    inputs["missing"] = [member.missing for member in members]
    stage = define_stage("ensemble", {"names": names, **first.ensemble.model_dump(mode="json")}, **inputs)
    folder = workspace(first).ensemble(names)

    def build() -> tuple[str, dict[str, Any]]:
        done = blend_experiments(members, first.ensemble)
        done.out_of_fold.save(folder / "oof")
        _save_labels(folder / "oof" / "labels.npy", done.labels)
        done.test.save(folder)
        write_json(folder / "weights.json", done.weights)
        write_json(folder / "decision.json", done.decision)
        write_json(folder / "cv.json", done.scores)
        _say(done.scores)
        return digest_of(done.out_of_fold, done.test, done.decision), {"cv": done.scores["submitted"]["cv"]}

    run_stage(stage, folder, build, force)
    return folder


def require_alike(configs: Sequence[Config]) -> None:
    """UserError where experiments cannot be blended, which is better known before they are trained."""
    if len({config.competition.metric for config in configs}) > 1:
        raise UserError("the configs name different metrics; an ensemble is scored by one")
    if len({config.ensemble for config in configs}) > 1:
        raise UserError("the configs name different ways to blend; give them the same section ensemble, or write its keys on the command line")
    if len({config.predict.merge == "ranks" for config in configs}) > 1:
        raise UserError("predict.merge: some configs merge views as ranks and others do not, which do not compare; write the same for all")
    require_one_limit(configs)


def taking_part(experiments: Sequence[Predicted]) -> list[Predicted]:
    """The experiments that predict test rows, in an order that does not depend on theirs."""
    return sorted((experiment for experiment in experiments if experiment.predicting), key=lambda experiment: experiment.config.experiment)


def digest_of(out_of_fold: Predictions, test: Predictions, decision: dict[str, Any]) -> str:
    """Of what an ensemble's folder holds."""
    return digest([out_of_fold.digest(), test.digest(), decision])


def chosen_score(folder: Path) -> dict[str, Any]:
    """The CV of what an ensemble submits."""
    score: dict[str, Any] = read_json(folder / "cv.json")["submitted"]
    return score


def decided_target(target: Target, folder: Path) -> Target:
    """The target with the cut points or thresholds that an ensemble decides by."""
    decision = read_json(folder / "decision.json")
    thresholds, cut_points = (None if decision[key] is None else tuple(decision[key]) for key in ("thresholds", "cut_points"))
    return replace(target, thresholds=thresholds, cut_points=cut_points)


def _save_labels(path: Path, labels: Numbers | None) -> None:
    path.unlink(missing_ok=True)
    if labels is not None:
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.save(file, labels, allow_pickle=False)


@dataclass(frozen=True)
class Blended:
    """What the ensemble stage writes."""

    out_of_fold: Predictions
    labels: Numbers | None
    """Of the out-of-fold rows, where cut points or thresholds may decide."""
    test: Predictions
    weights: dict[str, Any]
    decision: dict[str, Any]
    scores: dict[str, Any]


def blend_experiments(members: Sequence[Predicted], section: Ensemble) -> Blended:
    """The blend that was asked for, and the CV of every experiment and scheme."""
    first, names = members[0], [member.config.experiment for member in members]
    target, truth, metric = first.prepared.target, first.prepared.truth, first.config.competition.metric
    notes: list[str] = []
    parts = _common([member.out_of_fold(section.temperature, section.seed).in_classes(target.classes) for member in members], members, notes)
    problem = problem_of(parts[0], target, truth, metric, first.prepared.groups)
    if section.models not in ("auto", *schemes_for(problem)):
        raise UserError(
            f"ensemble.models: {section.models} does not fit {metric} of a {target.task} target; fitting are auto, {', '.join(schemes_for(problem))}"
        )
    if section.models == "ranks" and any((part.fold != parts[0].fold).any() for part in parts):
        raise UserError("ensemble.models=ranks: ranks compare within a fold, but the experiments have different folds; give them the same, or write equal")
    fitted = fit_ensemble([part.values for part in parts], problem, section.models, section.draws, section.seed)
    values = fitted.out_of_fold[section.models if len(parts) > 1 else "equal"]
    blended = replace(parts[0], values=values)
    decided = _decide(section, fitted, parts, values, problem)
    tests = align([member.test(section.folds, section.temperature).in_classes(target.classes) for member in members])
    test = replace(tests[0], values=fitted.blend.apply([part.values for part in tests]))
    reasons = union(member.optimistic for member in members)
    scores = _scores(members, parts, problem, fitted, decided, section, reasons)
    scores["notes"] = [*notes, *fitted.notes, *_notes(section, problem, fitted, decided)]
    weights = {"names": names, "blend": fitted.blend.to_json(), "weights": fitted.blend.weights_by(names)}
    weights |= {"networks": {member.config.experiment: member.weights(section.folds) for member in members}}
    weights |= {"temperatures": {member.config.experiment: member.temperatures(section.temperature) for member in members}}
    return Blended(blended, decided.labels if decided else None, test, weights, _decision(decided, target), scores)


def _notes(section: Ensemble, problem: Problem, fitted: Fitted, decided: Decided | None) -> list[str]:
    """What a reader of the scores must know."""
    notes = []
    weights = section.models == "auto" and fitted.chosen != "equal"
    decisions = section.decisions == "auto" and decided is not None and decided.chosen == "fitted"
    fits = [name for name, takes in (("weights", weights), ("decisions", decisions)) if takes]
    if len(problem.folds) == 2 and fits:
        notes.append(
            f"of two folds the rule has one to look at, where it keeps the default: the CV is of that, the test rows get the fitted {' and '.join(fits)}"
        )
    if decided is not None and decided.chosen == "fitted":
        notes.append(FLATTER)
    if section.folds == "score":
        notes.append(
            "ensemble.folds=score weighs the folds of a model on test rows alone; no row is predicted by two folds out of fold, so no CV can show what it does"
        )
    return notes


def _decision(decided: Decided | None, target: Target) -> dict[str, Any]:
    """What decision.json says."""
    target, chosen = (target, "default") if decided is None else (decided.target, decided.chosen)
    given = {"thresholds": target.thresholds, "cut_points": target.cut_points}
    return {"chosen": chosen, **{key: None if value is None else list(value) for key, value in given.items()}}


def _common(parts: list[Predictions], members: Sequence[Predicted], notes: list[str]) -> list[Predictions]:
    """The rows that every experiment has predicted, sorted by id; UserError where finished experiments have different ones."""
    shared = set(parts[0].ids).intersection(*(part.ids for part in parts[1:]))
    for member in members:
        if member.missing:
            planned = len(member.config.train.seeds) * member.config.folds.n_splits
            notes.append(f"{member.config.experiment}: {planned - member.missing} of {planned} networks are trained; the others do not take part")
    if any(len(part) != len(shared) for part in parts):
        if not any(member.missing for member in members):
            return align(parts)  # which says what differs
        if not shared:
            raise UserError("the experiments have no finished fold in common; wait for one, or blend others")
        most = max(len(part) for part in parts)
        notes.append(f"scored on the {len(shared):,} rows that every experiment has predicted, of {most:,}")
        parts = [part.take(np.array([row for row, name in enumerate(part.ids) if name in shared], dtype=np.int64)) for part in parts]
    for member in members[1:]:
        _refuse_other_truth(members[0], member, shared)
    if any((part.fold != parts[0].fold).any() for part in parts):
        notes.append(f"the experiments have different folds; what is fitted is cross-fitted over those of {members[0].config.experiment}")
    return [part.by_id() for part in parts]


def _refuse_other_truth(first: Predicted, other: Predicted, shared: set[str]) -> None:
    """UserError where two experiments learned different targets of the same rows: no score would be of both."""
    one, two = first.prepared.truth, other.prepared.truth
    if odd := sorted(name for name in shared if one[name] != two[name]):
        names = f"{first.config.experiment} and {other.config.experiment}"
        raise UserError(f'{names} learned different targets of {len(odd):,} rows, e.g. of id "{odd[0]}"; train both from one train table')


def _decide(section: Ensemble, fitted: Fitted, parts: Sequence[Predictions], values: Any, problem: Problem) -> Decided | None:
    """Labels by cut points or thresholds; None where the metric wants none that could be fitted."""
    if not decides(problem):
        return None
    told = [part.values for part in parts]
    applied = {blend: blend.apply(told, problem.fold) for blend in set(fitted.without.values())}
    without = {fold: applied[blend] for fold, blend in fitted.without.items()}
    return decide(section.decisions, values, without, problem, section.draws, section.seed)


def _scores(
    members: Sequence[Predicted],
    parts: Sequence[Predictions],
    problem: Problem,
    fitted: Fitted,
    decided: Decided | None,
    section: Ensemble,
    reasons: Sequence[str],
) -> dict[str, Any]:
    """What cv.json says."""
    resample = Resampler(problem, section.draws, section.seed)

    def score(scored: Numbers, why: Sequence[str], better: float | None = None, over: Problem = problem) -> dict[str, Any]:
        drawn = resample if over is problem else Resampler(over, section.draws, section.seed)
        found = validation(over, scored, why) | {"interval": list(interval(drawn(scored)))}
        return found if better is None else found | {"better": better}

    singles = {}
    for member, part in zip(members, parts, strict=True):
        own = problem if (part.fold == problem.fold).all() else replace(problem, fold=part.fold)
        singles[member.config.experiment] = score(own.scored(part.values), member.optimistic, over=own)
    schemes: dict[str, dict[str, Any]] = {}
    for name, values in fitted.out_of_fold.items():  # whose draws are the fit's
        schemes[name] = validation(problem, problem.scored(values), reasons) | {"interval": list(fitted.intervals[name])}
        schemes[name] |= {"better": fitted.better[name]} if name in fitted.better else {}
    asked = section.models if len(parts) > 1 else "equal"
    scores: dict[str, Any] = {"metric": problem.metric.name, "asked": section.models, "chosen": fitted.chosen, "experiments": singles, "schemes": schemes}
    names = [member.config.experiment for member in members]
    scores["weights"] = {scheme: dict(zip(names, weights, strict=True)) for scheme, weights in fitted.weights.items()}
    scores["decisions"] = None
    scores["submitted"] = schemes[asked]
    if decided is not None:
        both = {"default": score(decided.default, reasons), "fitted": score(decided.fitted, reasons, decided.better)}
        given = {key: list(value) for key, value in asdict(decided.target).items() if key in ("thresholds", "cut_points") and value is not None}
        scores["decisions"] = {"chosen": decided.chosen, "asked": section.decisions, **both, **given}
        scores["submitted"] = score(decided.labels, reasons)
    return scores


def _say(scores: dict[str, Any]) -> None:
    several = len(scores["experiments"]) > 1
    for name, score in scores["experiments"].items():
        log.info("ensemble  %-30s %s", name, describe(score))
    for name, score in scores["schemes"].items() if several else ():
        better = f", beats the equal mean in {score['better']:.1%} of draws" if "better" in score else ""
        taken = " <- taken" if name == scores["asked"] else ""
        log.info("ensemble  %-30s %s%s%s", WORDS[name], describe(score), better, taken)
    if decisions := scores["decisions"]:
        for name in ("default", "fitted"):
            taken = f" <- taken by ensemble.decisions={decisions['asked']}" if name == decisions["chosen"] else ""
            log.info("ensemble  %-30s %s%s", f"{name} decisions", describe(decisions[name]), taken)
        if decisions["asked"] == "auto":
            log.info("ensemble  %-30s %s", "the rule, fold by fold", describe(scores["submitted"]))
    for note in scores["notes"]:
        log.info("ensemble  %s", note)
