"""Builds a study's space, and finds before the first trial whatever would make a trial fail for its words alone."""

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from pipeline.config import Config
from pipeline.config_files import change_config, value_at
from pipeline.config_tuning import AnyDimension, Range
from pipeline.errors import UserError, did_you_mean
from pipeline.tuning.ready import ready_space
from pipeline.tuning.space import SOURCE, Space, keys_of, labels_of, last_of, refusal, settings_of
from pipeline.tuning.trials import Parameter

NOT_SEARCHED = {
    "experiment": "each trial has a name of its own",
    "outputs": "it says where files go and does not change the score",
    "competition": "it says what the data is and how it is scored",
    "folds": "folds are frozen: scores on different splits cannot be compared",
    "dedup": "it decides which rows are scored",
    "images.preprocess": "it decides which pictures are copies, and so which rows are scored",
    "images.corrupt": "it decides which rows are scored",
    "cache": "it changes the machine's work and not the score",
    "submission": "it is the form of the file and does not change the score",
    "runtime": "it changes the machine's work and not the score",
    "tune": "it is the study itself",
    "tuned": "it is the mark of a study's result",
    "teacher.experiment": "a trial's teacher has to be trained before",
    "train.full_data": "its network has no out-of-fold score",
    "predict.max_hours": "it depends on the machine's speed",
    "predict.batch_size": "it changes the machine's work and not the score",
}
"""Keys that a study does not search, all keys below them included, and why."""


def build_space(base: Config) -> Space:
    """The space of `tune.ready` and `tune.space`, of which the latter wins; UserError for what could not be searched or the schema refuses."""
    asked = base.tune.space
    taken = {key for name, dimension in asked.items() for settings in settings_of(name, dimension).values() for key in settings}
    ready = {name: dimension for each in base.tune.ready for name, dimension in ready_space(each, base).items()}
    ready = {name: dimension for name, dimension in ready.items() if not any(_overlap(key, other) for key in keys_of(name, dimension) for other in taken)}
    dimensions = ready | asked
    if not dimensions:
        if base.tune.ready:
            raise UserError(f"tune.ready: nothing of {', '.join(base.tune.ready)} can be searched for this config; write tune.space or tune.ready=[optimizer]")
        raise UserError(f"{SOURCE}: there is nothing to search; write tune.space or tune.ready=[optimizer]")
    if base.tune.epochs is not None and (reason := refusal(base, {})):
        raise UserError(f"tune.epochs: {reason}; write more epochs, or null for train.epochs")
    for name, dimension in dimensions.items():
        _check_condition(name, dimension, dimensions)
        _check_keys(name, dimension, base)
    dimensions = {name: dimensions[name] for name in _ordered(dimensions)}
    conditions = {name: _full_condition(name, dimensions) for name in dimensions}
    _check_overlaps(dimensions, conditions)
    whole = frozenset(name for name in dimensions if _is_whole(name, base, dimensions, conditions))
    space = Space(base, dimensions, whole)
    for name in dimensions:
        _check_values(name, space, conditions)
    return space


def _overlap(one: str, other: str) -> bool:
    """Whether two keys are one, or one lies inside the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


def _check_condition(name: str, dimension: AnyDimension, dimensions: Mapping[str, AnyDimension]) -> None:
    for other, labels in dimension.condition().items():
        if other not in dimensions:
            raise UserError(f"{SOURCE}: {name}: when: no dimension is called {other}{did_you_mean(other, dimensions)}")
        named = dimensions[other]
        if isinstance(named, Range):
            raise UserError(f"{SOURCE}: {name}: when: {other} is a range and has no labels; write it as choices, or leave the condition out")
        for label in labels:
            if label not in labels_of(named):
                raise UserError(f'{SOURCE}: {name}: when: {other} has no label "{label}"{did_you_mean(label, labels_of(named))}')


def _check_keys(name: str, dimension: AnyDimension, base: Config) -> None:
    for settings in settings_of(name, dimension).values():
        for key in itertools.chain.from_iterable(_leaves(key, value) for key, value in settings.items()):
            for kept, reason in NOT_SEARCHED.items():
                if f"{key}.".startswith(f"{kept}."):
                    raise UserError(f"{SOURCE}: {name}: {kept} is not searched, since {reason}; leave it out")
            if key == "train.epochs" and base.tune.epochs is not None:
                raise UserError(f"{SOURCE}: {name}: tune.epochs={base.tune.epochs} sets train.epochs of every trial; write tune.epochs=null or leave this out")
        for one, other in itertools.combinations(settings, 2):
            if _overlap(one, other):
                raise UserError(f"{SOURCE}: {name}: one label sets {one} and {other}, which lie in one another; write them as one")


def _leaves(key: str, value: Any) -> Iterator[str]:
    """The keys that a value sets, which may be a whole section."""
    if not isinstance(value, dict) or not value:
        yield key
        return
    for below, inner in value.items():
        yield from _leaves(f"{key}.{below}", inner)


def _ordered(dimensions: Mapping[str, AnyDimension]) -> Sequence[str]:
    try:
        return tuple(TopologicalSorter({name: sorted(dimensions[name].when) for name in sorted(dimensions)}).static_order())
    except CycleError as error:
        circle = list(reversed(error.args[1]))
        raise UserError(f"{SOURCE}: {circle[0]}: when leads in a circle: {' -> '.join(circle)}; leave one condition out") from None


def _full_condition(name: str, dimensions: Mapping[str, AnyDimension]) -> dict[str, frozenset[str]]:
    """The labels of every dimension that the named one depends on, also by way of others."""
    found: dict[str, frozenset[str]] = {}
    for other, labels in dimensions[name].condition().items():
        for each, allowed in (_full_condition(other, dimensions) | {other: frozenset(labels)}).items():
            found[each] = found.get(each, allowed) & allowed
    for other, allowed in found.items():
        if not allowed:
            raise UserError(f"{SOURCE}: {name}: when: no label of {other} meets all its conditions; leave one out")
    return found


def _check_overlaps(dimensions: Mapping[str, AnyDimension], conditions: Mapping[str, Mapping[str, frozenset[str]]]) -> None:
    """UserError where two dimensions could set one key in one trial, or one of them a key inside the other's."""
    setters = [
        (name, key, {**conditions[name]} | ({} if isinstance(dimension, Range) else {name: frozenset([label])}))
        for name, dimension in dimensions.items()
        for label, settings in settings_of(name, dimension).items()
        for key in settings
    ]
    for (name, key, condition), (other, other_key, other_condition) in itertools.combinations(setters, 2):
        exclusive = any(not condition[shared] & other_condition[shared] for shared in condition.keys() & other_condition.keys())
        if name != other and _overlap(key, other_key) and not exclusive:
            what = f"{other} sets {key}, too" if key == other_key else f"sets {key}, and {other} sets {other_key}, one inside the other"
            raise UserError(f"{SOURCE}: {name}: {what}, in the same trial; leave one out, or give them conditions (when) that exclude each other")


def _met(name: str, conditions: Mapping[str, Mapping[str, frozenset[str]]], order: Collection[str]) -> Iterator[dict[str, Parameter]]:
    """Every assignment of labels under which a dimension is active, of those that it depends on."""
    named = [other for other in order if other in conditions[name]]
    for labels in itertools.product(*(sorted(conditions[name][other]) for other in named)):
        yield dict(zip(named, labels, strict=True))


def _is_whole(name: str, base: Config, dimensions: Mapping[str, AnyDimension], conditions: Mapping[str, Mapping[str, frozenset[str]]]) -> bool:
    """Whether the bounds are written as whole numbers, and the key keeps them so and has no fraction now."""
    dimension = dimensions[name]
    if not isinstance(dimension, Range) or not all(isinstance(part, int) for part in (dimension.low, dimension.high, dimension.step or 1)):
        return False
    given = Space(base, dimensions, frozenset()).changes(next(_met(name, conditions, dimensions)))
    try:
        value = value_at(change_config(base, given | {name: dimension.low}, SOURCE), name)
    except UserError:
        return True  # its values are checked later, and refused in better words
    return isinstance(value, int) and not isinstance(value_at(base, name), float)


def _check_values(name: str, space: Space, conditions: Mapping[str, Mapping[str, frozenset[str]]]) -> None:
    """UserError for a single value that the schema refuses with the rest of the base, under any labels that it may meet."""
    for labels in _met(name, conditions, space.dimensions):
        given = f" with {space.words(labels)}" if labels else ""
        for what, parameter in _samples(name, space):
            reason = refusal(space.base, space.changes(labels | {name: parameter}))
            if reason is None:
                continue
            key, unknown, _ = reason.partition(": unknown key ")
            if unknown and f"{name}.".startswith(f"{key}."):
                hint = "; for several keys that change together write {settings: {LABEL: {KEY: VALUE}}}"
                raise UserError(f"{SOURCE}: {name}: {reason.removeprefix(f'{key}: ')}{hint}")
            remedy = "write other bounds" if isinstance(space.dimensions[name], Range) else "write another value, or leave the label out"
            raise UserError(f"{SOURCE}: {name}: {what}{given} is refused: {reason}; {remedy}")


def _samples(name: str, space: Space) -> Iterator[tuple[str, Parameter]]:
    """What of a dimension is tried, in words: every label; of a range its ends and one number between."""
    dimension = space.dimensions[name]
    if not isinstance(dimension, Range):
        yield from ((f"label {label}", label) for label in labels_of(dimension))
        return
    middle = math.sqrt(dimension.low * dimension.high) if dimension.log else (dimension.low + dimension.high) / 2
    for what, number in (("low", dimension.low), ("high", last_of(dimension)), ("what lies between", middle)):
        exact = space.exact(name, dimension, number)
        yield f"{what}, {exact}," if what == "what lies between" else f"{what} {exact}", exact
