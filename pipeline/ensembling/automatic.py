"""The choice among schemes: fitted weights only where they surely beat the equal mean, and every scheme scored on rows it was not fitted on."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np

from pipeline.ensembling.bootstrap import Resampler, interval, share_better
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.schemes import Blend, Fitter, Outputs, schemes_for
from pipeline.ensembling.weights import Floats, Values

SURE = 0.95  # share of the paired draws in which the fitted weights must beat the equal mean
TRIED = ("simplex", "greedy")  # by auto: the fitted weights, the convex ones first
MOST_VALUES = 40_000_000  # rows x outputs x models up to which what takes many evaluations is compared unasked
MOST_TRIED = 10_000_000  # the same up to which auto tries what takes many evaluations, once more for every pair of folds
MOST_PRODUCTS = 200_000_000  # rows x models x classes x classes, which a step of a multinomial regression multiplies, up to which it is


@dataclass(frozen=True)
class Fitted:
    """What became of a problem's models.

    chosen: the scheme whose blend this is; blend: fitted on all rows; without: what was chosen and fitted without that fold; out_of_fold:
    of every compared scheme, and of auto, predictions [rows, outputs] in which no fold's rows took part in choosing or fitting for that
    fold; better: share of the paired draws in which these beat the equal mean's (absent for equal); intervals: of the metric, 95 %;
    weights: fitted on all rows [models], of the schemes that have some; notes: what a reader of the scores has to know.
    """

    chosen: str
    blend: Blend
    without: dict[int, Blend]
    out_of_fold: dict[str, Outputs]
    better: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    weights: dict[str, tuple[float, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def fit_ensemble(values: Values, problem: Problem, asked: str, draws: int, seed: int) -> Fitted:
    """The blend of models that was asked for, a scheme or auto, and beside it every scheme that fits.

    values: per model out-of-fold predictions [rows, outputs], perhaps mapped from disk; asked: auto, or one of `schemes_for(problem)`;
    draws and seed: of the bootstrap. auto begins with the equal mean and goes on to simplex and then greedy weights, where the cross-fitted
    predictions of the one surely beat those of what it had: in 95 % of the draws, and more since two are tried.
    """
    notes: list[str] = []
    schemes = _compared(problem, len(values), asked, notes)
    choice, resampler = Choice(values, problem, _tried(problem, schemes, len(values)), draws, seed), Resampler(problem, draws, seed)
    out_of_fold = {scheme: choice.cross_fitted(scheme) for scheme in schemes}
    samples = {scheme: resampler(problem.scored(blended)) for scheme, blended in out_of_fold.items()}
    final = {scheme: choice.final(scheme) for scheme in schemes}
    without = {scheme: {fold: choice.fit(scheme, [fold]) for fold in problem.folds} for scheme in schemes}
    sign = problem.metric.sign
    better = {scheme: share_better(drawn, samples["equal"], sign) for scheme, drawn in samples.items() if scheme != "equal"}
    if len(values) > 1:
        taken, steps = surest({scheme: samples[scheme] for scheme in ("equal", *choice.tried)}, sign)
        final["auto"], without["auto"] = final[taken], {fold: choice.by_rule([fold]) for fold in problem.folds}
        out_of_fold["auto"] = choice.fitter.apply(without["auto"])
        samples["auto"] = resampler(problem.scored(out_of_fold["auto"]))
        better["auto"] = share_better(samples["auto"], samples["equal"], sign)
        steps = [f"auto {step} of {draws:,} draws; {_sure(choice.tried):.1%} are wanted" for step in steps]
        further = {scheme: share_better(drawn, samples["auto"], sign) for scheme, drawn in samples.items() if scheme not in (*TRIED, "equal", "auto")}
        steps += [f"{scheme} beats auto in {share:.1%} of draws; ensemble.models={scheme} takes it" for scheme, share in further.items() if share >= SURE]
        notes += _told(problem, final, without, steps, asked)
    key = asked if len(values) > 1 else "equal"
    intervals = {scheme: interval(drawn) for scheme, drawn in samples.items()}
    weights = {scheme: one.weights for scheme, one in final.items() if one.weights is not None}
    return Fitted(final[key].scheme, final[key], without[key], out_of_fold, better, intervals, weights, tuple(notes))


def _compared(problem: Problem, models: int, asked: str, notes: list[str]) -> list[str]:
    """The schemes to compare; those that would take too long are noted, unless one was asked for."""
    if models == 1:
        return ["equal"]
    outputs = problem.numbers.shape[1] if problem.numbers.ndim == 2 else len(problem.target.classes)
    size = len(problem) * outputs * models
    long = {"greedy", "metric", "stacked"} if size > MOST_VALUES else {"stacked"} if problem.numbers.ndim == 1 and size * outputs > MOST_PRODUCTS else set()
    left_out = [scheme for scheme in schemes_for(problem) if scheme in long - {asked}]
    if left_out:
        shape = f"{len(problem):,} rows, {outputs:,} outputs and {models} experiments"
        notes.append(f"not compared, as {shape} would take long: {', '.join(left_out)}; ensemble.models={left_out[0]} does")
    return [scheme for scheme in schemes_for(problem) if scheme not in left_out]


def _tried(problem: Problem, compared: list[str], models: int) -> tuple[str, ...]:
    """What auto tries of the schemes that are compared."""
    outputs = problem.numbers.shape[1] if problem.numbers.ndim == 2 else len(problem.target.classes)
    small = len(problem) * outputs * models <= MOST_TRIED
    return tuple(scheme for scheme in TRIED if scheme in compared and (small or scheme == "simplex"))


def _sure(tried: Collection[str]) -> float:
    """Share of the draws in which one of several must win, so that none does by chance more often than one alone (Bonferroni)."""
    return 1 - (1 - SURE) / max(1, len(tried))


def surest(samples: Mapping[str, Floats], sign: int) -> tuple[str, list[str]]:
    """The scheme that auto takes, and its steps in words; samples: the metric of the same draws by scheme, the simplest first."""
    taken, *tried = samples
    steps = []
    for scheme in tried:
        share = share_better(samples[scheme], samples[taken], sign)
        steps.append(f"{'takes' if share >= _sure(tried) else 'leaves'} {scheme}, which beats {taken} in {share:.1%}")
        taken = scheme if share >= _sure(tried) else taken
    return taken, steps


def _told(problem: Problem, final: dict[str, Blend], without: dict[str, dict[int, Blend]], steps: list[str], asked: str) -> list[str]:
    """What auto did and why, and which scheme is the equal mean in truth, as it could not be fitted."""
    if len(problem.folds) < 2:
        return ["one fold alone: nothing can be fitted on rows of another, so every fitted scheme is the equal mean"]
    notes = steps if asked == "auto" else []
    for scheme in (scheme for scheme in final if scheme != "auto"):
        fallen = [f"fold {fold}" for fold, blend in without[scheme].items() if blend.scheme != scheme]
        fallen += ["the test rows"] if final[scheme].scheme != scheme else []
        if fallen:
            notes.append(f"{scheme} is the equal mean for {', '.join(fallen)}: a class has no row among those that it would be fitted on")
    return notes


class Choice:
    """Fits each scheme once for every set of folds that is left out, and decides by the rule of auto among those that remain."""

    def __init__(self, values: Values, problem: Problem, tried: tuple[str, ...], draws: int, seed: int) -> None:
        self.tried, self.fitter, self._problem, self._draws, self._seed = tried, Fitter(values, problem), problem, draws, seed
        self._equal = Blend.equal(problem.target.task, len(values))
        self._blends: dict[tuple[str, frozenset[int]], Blend] = {}

    def fit(self, scheme: str, left_out: Collection[int]) -> Blend:
        """The scheme, fitted without these folds."""
        key = scheme, frozenset(left_out)
        if key not in self._blends:
            self._blends[key] = self.fitter.without(scheme, sorted(key[1]))
        return self._blends[key]

    def final(self, scheme: str) -> Blend:
        """The scheme, fitted on all rows; not where they are one fold, whose score would be of rows that were fitted on."""
        folds = self._problem.folds
        return self.fit(scheme, folds if len(folds) < 2 else [])

    def cross_fitted(self, scheme: str, left_out: Collection[int] = ()) -> Outputs:
        """Predictions of the rows outside these folds, in the problem's order, each fold's by what was fitted on the others outside."""
        return self.fitter.apply({fold: self.fit(scheme, [*left_out, fold]) for fold in self._problem.folds if fold not in left_out})

    def by_rule(self, left_out: Collection[int]) -> Blend:
        """What auto takes where these folds do not exist."""
        inside = np.flatnonzero(~np.isin(self._problem.fold, list(left_out)))
        part = self._problem.take(inside)
        if len(part.folds) < 2:
            return self._equal
        resampler = Resampler(part, self._draws, self._seed)
        samples = {scheme: resampler(part.scored(self.cross_fitted(scheme, left_out))) for scheme in ("equal", *self.tried)}
        taken, _ = surest(samples, part.metric.sign)
        return self._equal if taken == "equal" else self.fit(taken, left_out)
