"""Ends trials early, and fairly: on the same folds as the best trial, or at the same epoch as the others."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import UserError

if TYPE_CHECKING:
    import optuna

FEWEST_FOLDS = 2  # that are compared: one says too little of a spread
FEWEST_TRIALS = 4  # complete ones whose median an epoch is held against
WARM_UP = 1  # first epochs of a trial that are not held against any


def resolve_pruner(asked: str, threshold: float, folds: int, objectives: int, epochs_differ: bool) -> str:
    """The pruner of a study: folds, epochs or none. UserError for one that could never prune, or not fairly.

    folds: that a trial trains; epochs_differ: whether trials may differ in train.epochs.
    """
    least = 0.5 ** (folds - 1)  # p-value of a trial that is worse on every fold but the last, where pruning saves nothing any more
    if objectives > 1 and asked not in ("auto", "none"):
        raise UserError(f"tune.pruner: with {objectives} objectives no trial is pruned, but got {asked}; write none")
    if asked == "epochs" and epochs_differ:
        raise UserError(
            "tune.pruner: epochs compares trials at the same epoch, but the space searches train.epochs, and an epoch of a longer schedule is another"
            " thing; write pruner: folds or none"
        )
    if asked == "auto":
        return "folds" if objectives == 1 and folds > FEWEST_FOLDS and least < threshold else "none"
    if asked == "folds" and (folds <= FEWEST_FOLDS or least >= threshold):
        raise UserError(f"tune.pruner: folds can end no trial of {folds} folds at a threshold of {threshold:g}; {_way_out(threshold, folds)}")
    return asked


def _way_out(threshold: float, folds: int) -> str:
    enough = FEWEST_FOLDS + 1
    while 0.5 ** (enough - 1) >= threshold:
        enough += 1
    higher = f"write tune.threshold above {0.5 ** (folds - 1):g}, or " if folds > FEWEST_FOLDS else ""
    return f"{higher}train {enough} folds or more (tune.folds, folds.n_splits), or write pruner: none"


def why_prune(pruner: str, threshold: float, study: "optuna.study.Study", trial: "optuna.trial.FrozenTrial", step: int) -> str | None:
    """Why the trial is to end after this step; None if it is to go on.

    Of a trial that is tried again the later steps are known already; they are left out, so that it is judged as it would have been.
    """
    if pruner == "none":
        return None
    maximize = study.direction.name == "MAXIMIZE"
    steps = {at: value for at, value in trial.intermediate_values.items() if at <= step}
    if pruner == "epochs":
        trial = copy.copy(trial)
        trial.intermediate_values = steps
        return _behind_the_median(study, trial, step, maximize)
    complete = [other for other in study.get_trials(deepcopy=False) if other.state.name == "COMPLETE"]
    if not complete:
        return None
    best = min(complete, key=lambda other: ((-1 if maximize else 1) * other.values[0], other.number))
    return worse_on_the_same_folds(steps, best.intermediate_values, best.number, 1 if maximize else -1, threshold)


def worse_on_the_same_folds(own: Mapping[int, float], best: Mapping[int, float], number: int, sign: int, threshold: float) -> str | None:
    """Why a trial whose folds have these scores cannot be expected to beat the best one, by number; None if it can.

    Wilcoxon's signed-rank test over the folds that both have. optuna.pruners.WilcoxonPruner is not used for three reasons: it spares a trial
    whose folds so far have a higher mean than all folds of the best one, so that it never prunes where the first folds are the easy ones; it
    prunes after the last fold, when nothing is left to save and only a score is lost; and the p-values of equal differences, which small
    folds often have, are an approximation in older SciPy (0.08 for two folds, where 0.25 is right).
    """
    shared = sorted(own.keys() & best.keys())
    if len(shared) < FEWEST_FOLDS or max(own) >= max(best):
        return None
    differences = sign * np.array([own[step] - best[step] for step in shared])
    p_value = chance_of_being_so_low(differences)
    if p_value >= threshold or differences.mean() >= 0:
        return None
    return f"on {len(shared)} folds {-differences.mean():.4g} worse than trial {number} on average (Wilcoxon p = {p_value:.3g}, below {threshold:g})"


def chance_of_being_so_low(differences: np.ndarray) -> float:
    """One-sided p-value of Wilcoxon's signed-rank test: how often signs drawn at random give a rank sum as low as this one's.

    differences: [pairs]. Exact, with equal differences too: they share their mean rank, and those of 0 are ranked and then left out (Pratt, 1959).
    """
    from scipy.stats import rankdata

    doubled = np.rint(2 * rankdata(np.abs(differences))).astype(int)  # mean ranks are halves
    counts = np.ones(1)
    for rank in doubled[differences != 0]:
        counts = np.convolve(counts, np.bincount([0, rank]))  # by rank sum: in how many ways it comes about
    return float(counts[: doubled[differences > 0].sum() + 1].sum() / counts.sum())


def _behind_the_median(study: "optuna.study.Study", trial: "optuna.trial.FrozenTrial", step: int, maximize: bool) -> str | None:
    import optuna

    pruner = optuna.pruners.MedianPruner(FEWEST_TRIALS, n_warmup_steps=WARM_UP + 1)  # it spares steps below this, and epochs count from 1
    if not pruner.prune(study, trial):
        return None
    complete = [other.intermediate_values for other in study.get_trials(deepcopy=False) if other.state.name == "COMPLETE"]
    others = [values[step] for values in complete if step in values]
    best = (max if maximize else min)(trial.intermediate_values.values())
    return f"after epoch {step} its best is {best:.4g}, the median of {len(others)} trials {float(np.median(others)):.4g}"
