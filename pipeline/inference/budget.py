"""A time limit for predicting the test rows: what is left out, so that the rest fits."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Candidate:
    """One experiment that wants to predict."""

    views: tuple[str, ...]
    seconds: Mapping[str, float]
    """Of one picture's forward pass through one of its networks, by view."""
    networks: tuple[str, ...]
    """Names; those that are left out first come last."""
    told: Mapping[str, Floats]
    """What each view says out of fold [cells]: of the truth its probability, or the number itself."""

    @property
    def cost(self) -> float:
        """Seconds per picture."""
        return len(self.networks) * sum(self.seconds[view] for view in self.views)

    def mean(self) -> Floats:
        """What its views say together [cells]."""
        return np.asarray(np.mean([self.told[view] for view in self.views], axis=0))


@dataclass(frozen=True)
class Step:
    """Something left out."""

    experiment: str
    words: str
    by_loss: bool = True
    """Whether the loss of rows chose it."""


@dataclass(frozen=True)
class Plan:
    """What predicts, by experiment."""

    kept: Mapping[str, Candidate]
    seconds: float
    """Estimate for all pictures."""
    steps: tuple[Step, ...] = ()
    """What was left out, in order."""


def fit_budget(wanted: Mapping[str, Candidate], pictures: int, loading: float, limit: float, loss: Callable[[Floats], float]) -> Plan:
    """Leaves out views and whole experiments, at each step that which costs least loss of the equal mean for the seconds it saves.

    loading: seconds per picture that every plan needs; limit: seconds; loss: of what is told [cells], less is better. How much a network of
    one experiment adds to the others cannot be measured out of fold, so networks are left out last, when one view of one experiment is left.
    A plan of one network is never empty, whatever the limit.
    """
    kept, steps = dict(wanted), list[Step]()
    while (seconds := _seconds(kept, pictures, loading)) > limit and (found := _cheapest(kept, loss)):
        step, kept = found
        steps.append(step)
    return Plan(kept, seconds, tuple(steps))


def _seconds(kept: Mapping[str, Candidate], pictures: int, loading: float) -> float:
    return pictures * (loading + sum(candidate.cost for candidate in kept.values()))


def _cheapest(kept: dict[str, Candidate], loss: Callable[[Floats], float]) -> tuple[Step, dict[str, Candidate]] | None:
    """The step that loses least for the seconds that it saves, and what is left after it; None where one network is left."""
    options = [*_without_a_view(kept), *_without_an_experiment(kept)]
    if not options:
        name, candidate = next(iter(kept.items()))
        if len(candidate.networks) == 1:
            return None
        step = Step(name, f"{name} {candidate.networks[-1]}", by_loss=False)
        return step, {name: replace(candidate, networks=candidate.networks[:-1])}
    means = {name: candidate.mean() for name, candidate in kept.items()}
    before, cost = loss(_mean(means.values())), sum(candidate.cost for candidate in kept.values())

    def price(option: tuple[Step, dict[str, Candidate]]) -> tuple[float, str]:
        step, left = option
        told = [left[name].mean() if name == step.experiment else means[name] for name in left]
        saved = cost - sum(candidate.cost for candidate in left.values())
        return (loss(_mean(told)) - before) / max(saved, 1e-12), step.words

    return min(options, key=price)


def _mean(parts: Iterable[Floats]) -> Floats:
    return np.asarray(np.mean(list(parts), axis=0))


def _without_a_view(kept: Mapping[str, Candidate]) -> list[tuple[Step, dict[str, Candidate]]]:
    return [
        (Step(name, f"view {view} of {name}"), {**kept, name: replace(candidate, views=tuple(other for other in candidate.views if other != view))})
        for name, candidate in kept.items()
        for view in candidate.views
        if len(candidate.views) > 1
    ]


def _without_an_experiment(kept: Mapping[str, Candidate]) -> list[tuple[Step, dict[str, Candidate]]]:
    if len(kept) == 1:
        return []
    return [(Step(name, f"experiment {name}"), {other: candidate for other, candidate in kept.items() if other != name}) for name in kept]
