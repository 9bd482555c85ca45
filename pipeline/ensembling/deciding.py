"""Whether fitted cut points and thresholds decide, or the default: by the same rule as weights, and scored on rows that had no say."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.targets import Numbers, Target
from pipeline.ensembling.automatic import SURE
from pipeline.ensembling.bootstrap import Resampler, share_better
from pipeline.ensembling.decisions import cross_fitted_decision, fit_decision
from pipeline.ensembling.problem import Problem

Values = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Decided:
    """Labels, in the form of `target.numbers`, and who decided them."""

    target: Target
    """What decides the test rows."""
    chosen: str
    """default or fitted."""
    labels: Numbers
    """Out of fold, no fold's rows having had a say in its own decision, nor in whether it is fitted."""
    default: Numbers
    """Out of fold by the default."""
    fitted: Numbers
    """Out of fold by what was fitted on the other folds."""
    better: float
    """Share of the paired draws in which the fitted ones beat the default."""


def decide(asked: str, values: Values, without: Mapping[int, Values], problem: Problem, draws: int, seed: int) -> Decided:
    """Default labels, fitted ones, or for auto the fitted ones where they beat the default in 95 % of the draws; with one fold, the default.

    values: cross-fitted predictions [rows, outputs]; without: by fold those of all rows by the blend that did not see the fold.
    """
    default, fitted = problem.target.decide(values), cross_fitted_decision(without, problem)
    better = _better(fitted, default, problem, draws, seed)
    if asked == "default" or len(problem.folds) < 2 or (asked == "auto" and better < SURE):
        target, chosen = problem.target, "default"
    else:
        target, chosen = fit_decision(values, problem), "fitted"
    labels = {"default": default, "fitted": fitted}.get(asked)
    if labels is None:
        labels = np.zeros_like(default)
        for fold in problem.folds:
            inside = problem.fold == fold
            labels[inside] = _chosen_elsewhere(without[fold], fold, problem, draws, seed).decide(values[inside])
    return Decided(target, chosen, labels, default, fitted, better)


def _chosen_elsewhere(values: Values, fold: int, problem: Problem, draws: int, seed: int) -> Target:
    """What the rule takes that sees the other folds alone."""
    outside = np.flatnonzero(problem.fold != fold)
    rest = problem.take(outside)
    if len(rest.folds) < 2:
        return problem.target
    told = values[outside]
    fitted = cross_fitted_decision(dict.fromkeys(rest.folds, told), rest)
    better = _better(fitted, rest.target.decide(told), rest, draws, seed)
    return fit_decision(told, rest) if better >= SURE else problem.target


def _better(fitted: Numbers, default: Numbers, problem: Problem, draws: int, seed: int) -> float:
    if np.array_equal(fitted, default):
        return 0.0
    resample = Resampler(problem, draws, seed)
    return share_better(resample(fitted), resample(default), problem.metric.sign)
