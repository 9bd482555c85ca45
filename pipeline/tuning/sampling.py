"""Draws a trial's parameters from (seed, number of the trial), so that a study carried on draws what it would have drawn."""

import zlib
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from pipeline.runtime import stream

RETRIED = "failed_trial"  # Optuna's attribute of a trial that repeats another: that one's number


def first_number(trial: FrozenTrial) -> int:
    """The number of a trial, or of the one that it repeats."""
    return int(trial.system_attrs.get(RETRIED, trial.number))


class SeededSampler(BaseSampler):
    """A new sampler for every draw, seeded by the study's seed, the trial's first number and, for one parameter alone, its name.

    A sampler that lived on would draw other values in a study that is carried on, and the same ones in two workers. Drawn alone, a parameter
    does not depend on which others were drawn before a trial was cut off.
    """

    def __init__(self, kind: str, startup: int, seed: int) -> None:
        self._kind, self._startup, self._seed = kind, startup, seed
        self._together: BaseSampler = RandomSampler(0)

    def _sampler(self, trial: FrozenTrial, name: str = "") -> BaseSampler:
        seed = int(stream("search", self._seed, first_number(trial), zlib.crc32(name.encode())).generate_state(1)[0])
        if self._kind == "random":
            return RandomSampler(seed)
        # Running trials count as bad ones, so that two workers do not try the same place.
        return TPESampler(n_startup_trials=self._startup, seed=seed, multivariate=True, group=True, constant_liar=True)

    def infer_relative_search_space(self, study: optuna.study.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        self._together = self._sampler(trial)
        return self._together.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.study.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Draws it."""
        return self._together.sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.study.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        """Draws one parameter alone."""
        return self._sampler(trial, param_name).sample_independent(study, trial, param_name, param_distribution)
