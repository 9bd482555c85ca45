"""A time limit for a kernel: what is left out before it begins, so that the rest is likely to fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.kaggle.bundle import Bundle
from pipeline.kaggle.models import Costs, Key


@dataclass(frozen=True)
class Plan:
    """What predicts."""

    keys: tuple[Key, ...]
    """Networks, best first."""
    views: Mapping[int, tuple[str, ...]]
    """By number of an experiment."""
    left_out: tuple[str, ...] = ()
    """In words."""
    seconds: float = 0.0
    """Estimate."""


def best_first(bundle: Bundle, keys: Sequence[Key]) -> list[Key]:
    """Networks by the score on the rows that they did not see; one without a score has the mean of its experiment's."""

    def rank(key: Key) -> tuple[float, Key]:
        networks = bundle.experiments[key[0]].networks
        known = [network.score for network in networks if network.score is not None]
        own = networks[key[1]].score
        score = own if own is not None else sum(known) / len(known) if known else float("-inf")
        return (-score if bundle.greater_is_better else score), key

    return sorted(keys, key=rank)


def fit(plan: Plan, bundle: Bundle, inputs: Mapping[int, str], costs: Costs, rows: int, seconds: float) -> Plan:
    """Leaves out views, from the last of the experiment where that saves most, then networks, from the worst, until the estimate fits.

    inputs: by number of an experiment the digest of its input, which is read once for all that share it; rows: per device. One view of one network
    always stays.
    """
    keys, views, left_out = list(plan.keys), dict(plan.views), list(plan.left_out)
    while (needed := _seconds(keys, views, inputs, costs, rows)) > seconds:
        savings = {number: _saved(number, keys, views, costs) for number in sorted({key[0] for key in keys}) if len(views[number]) > 1}
        if savings:
            number = max(savings, key=lambda one: savings[one])
            left_out.append(f"view {views[number][-1]} of {bundle.experiments[number].name}")
            views[number] = views[number][:-1]
        elif len(keys) > 1:
            worst = keys.pop()
            left_out.append(name_of(bundle, worst))
        else:
            break
    return Plan(tuple(keys), views, tuple(left_out), needed)


def name_of(bundle: Bundle, key: Key) -> str:
    """A network in words."""
    experiment = bundle.experiments[key[0]]
    return f"{experiment.name} {experiment.networks[key[1]].name}"


def _saved(number: int, keys: Sequence[Key], views: Mapping[int, tuple[str, ...]], costs: Costs) -> float:
    """Seconds per picture that an experiment's last view takes."""
    return sum(key[0] == number for key in keys) * costs.get(number, {}).get(views[number][-1], 0.0)


def _seconds(keys: Sequence[Key], views: Mapping[int, tuple[str, ...]], inputs: Mapping[int, str], costs: Costs, rows: int) -> float:
    loading: dict[str, float] = {}
    for number in {key[0] for key in keys}:
        loading[inputs[number]] = max(loading.get(inputs[number], 0.0), costs.get(number, {}).get("loading", 0.0))
    passes = sum(costs.get(key[0], {}).get(view, 0.0) for key in keys for view in views[key[0]])
    return rows * (sum(loading.values()) + passes)
