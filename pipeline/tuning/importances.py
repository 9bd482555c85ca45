"""Which dimensions of a study its scores vary with."""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import optuna

FEWEST = 8  # complete trials with a dimension, below which nothing is said about it
COMMON = 0.8  # of the complete trials have a dimension that is not conditional; one that trial 0 cannot express is such a dimension, too

Target = Callable[["optuna.trial.FrozenTrial"], float]


def first_objective(trial: "optuna.trial.FrozenTrial") -> float:
    """The metric."""
    return float(trial.values[0])


def importances(study: "optuna.study.Study", target: Target = first_objective) -> dict[str, float] | None:
    """Share of each dimension in the spread of `target` over the complete trials, by fANOVA (Hutter et al., 2014); the largest first, sum 1.

    fANOVA and not PED-ANOVA: it asks how much of the spread over the whole space a dimension explains alone, and uses every complete trial.
    PED-ANOVA asks what sets the best tenth apart, which of 30 trials are 3; Optuna 4 leaves conditional dimensions out of both, and so would
    give other answers than Optuna 5. Ranges with a logarithmic scale are seen on it, which Optuna's own fANOVA does not do.

    A conditional dimension is measured within the trials that have it, and weighs as much as their part of all squared deviations. One that
    fewer than 8 complete trials have, or that never varied, is absent from the answer. None where nothing can be said: fewer than 8
    complete trials with the common dimensions, or equal scores. The same trials give the same shares, in whichever order they were run.
    """
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == "COMPLETE" and np.isfinite(target(trial))]
    complete.sort(key=lambda trial: (sorted((name, str(value)) for name, value in trial.params.items()), target(trial)))
    names = sorted({name for trial in complete for name in trial.params})
    common = {name for name in names if sum(name in trial.params for trial in complete) >= COMMON * len(complete)}
    base = [trial for trial in complete if common <= set(trial.params)]
    total = _squares(base, target)
    if len(base) < FEWEST or total == 0.0:
        return None
    known: dict[tuple[int, ...], dict[str, float]] = {}
    found = {}
    for name in names:
        inside = tuple(place for place, trial in enumerate(base) if name in trial.params)
        trials = [base[place] for place in inside]
        if len(trials) < FEWEST or len({trial.params[name] for trial in trials}) < 2:
            continue
        if inside not in known:
            known[inside] = _explained(trials, target)
        found[name] = max(0.0, known[inside].get(name, 0.0)) * _squares(trials, target) / total
    whole = sum(found.values())
    return {name: found[name] / whole for name in sorted(found, key=lambda name: (-found[name], name))} if whole > 0 else None


def _squares(trials: Sequence["optuna.trial.FrozenTrial"], target: Target) -> float:
    """Sum of squared deviations from the mean; 0.0 for equal values, whatever their mean is rounded to."""
    values = np.array([target(trial) for trial in trials])
    return float(((values - values.mean()) ** 2).sum()) if len(values) and np.ptp(values) > 0 else 0.0


def _explained(trials: Sequence["optuna.trial.FrozenTrial"], target: Target) -> dict[str, float]:
    """Share of the spread of these trials that each of their dimensions explains alone, 0 to 1; it means something for those that all of them have.

    The others take part with a middle value where they are absent, so that what they do is not put down to chance neighbours.
    """
    import optuna

    if _squares(trials, target) == 0.0:
        return {}
    names = sorted({name for trial in trials for name in trial.params})
    columns = {name: _column(trials, name) for name in names}
    with _quiet():
        study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="minimize")
        for place, trial in enumerate(trials):
            parameters = {name: columns[name][0][place] for name in names}
            distributions = {name: columns[name][1] for name in names}
            study.add_trial(optuna.trial.create_trial(params=parameters, distributions=distributions, value=target(trial)))
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator, params=names, normalize=False)
    return {name: float(share) for name, share in found.items()}


def _column(trials: Sequence["optuna.trial.FrozenTrial"], name: str) -> tuple[list[float] | list[str], "optuna.distributions.BaseDistribution"]:
    """One dimension's values, logarithms where its range has a logarithmic scale, and a distribution that holds those of all trials."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution

    kinds = [trial.distributions[name] for trial in trials if name in trial.params]
    if any(isinstance(kind, CategoricalDistribution) for kind in kinds):
        labels = [str(trial.params.get(name, "")) for trial in trials]
        return labels, CategoricalDistribution(sorted(set(labels)))
    ends = np.array([[getattr(kind, end) for end in ("low", "high")] for kind in kinds], dtype=np.float64)
    numbers = np.array([trial.params.get(name, np.nan) for trial in trials], dtype=np.float64)
    if all(getattr(kind, "log", False) for kind in kinds):
        ends, numbers = np.log(ends), np.log(numbers)
    numbers = np.where(np.isnan(numbers), np.nanmean(numbers), numbers)
    low, high = min(float(ends.min()), float(numbers.min())), max(float(ends.max()), float(numbers.max()))
    return [float(value) for value in numbers], FloatDistribution(low, high)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Optuna's log of a study in memory and its warning of an experimental argument from the terminal."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(before)
