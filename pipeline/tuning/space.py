"""What a study searches: dimensions over a config, checked before the first trial, and the config of any point of theirs."""

import json
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.config import Config
from pipeline.config_files import change_config, value_at
from pipeline.config_tuning import AnyDimension, Choices, Combinations, Range
from pipeline.errors import UserError
from pipeline.runtime import stream
from pipeline.tuning.trials import Parameter

if TYPE_CHECKING:
    import optuna

SOURCE = "tune.space"
ON_GRID = 1e-8  # of a step: how far from its grid a number may lie, as Optuna has it


@dataclass(frozen=True)
class Space:
    """The points that a study draws from; a point has a number or a label for each dimension that is active in it."""

    base: Config
    dimensions: Mapping[str, AnyDimension]
    """By name; a dimension comes after those that its `when` names."""
    whole: frozenset[str]
    """Ranges that are drawn as whole numbers."""

    def suggest(self, trial: "optuna.trial.BaseTrial", only: Collection[str] | None = None) -> dict[str, Parameter]:
        """Asks the trial for each active dimension; only: for these alone. Numbers are the grid's, labels stand for choices.

        Optuna is told labels in alphabetical order, so that the order in which they are written means nothing.
        """
        found: dict[str, Parameter] = {}
        for name, dimension in self.dimensions.items():
            if not self.active(name, found) or (only is not None and name not in only):
                continue
            if not isinstance(dimension, Range):
                found[name] = trial.suggest_categorical(name, sorted(labels_of(dimension)))
            elif name in self.whole:
                found[name] = trial.suggest_int(name, int(dimension.low), int(last_of(dimension)), step=int(dimension.step or 1), log=dimension.log)
            else:
                step = None if dimension.step is None else float(dimension.step)
                number = trial.suggest_float(name, float(dimension.low), float(last_of(dimension)), step=step, log=dimension.log)
                found[name] = self.exact(name, dimension, number)
        return found

    def active(self, name: str, parameters: Mapping[str, Parameter]) -> bool:
        """Whether the `when` of a dimension holds."""
        return all(parameters.get(other) in labels for other, labels in self.dimensions[name].condition().items())

    def changes(self, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
        """What a point sets: value by config key. Numbers between two ends are rounded to four digits, which is all that a config needs of them."""
        found: dict[str, Any] = {}
        for name, parameter in parameters.items():
            dimension = self.dimensions[name]
            if isinstance(dimension, Combinations):
                found |= dimension.settings[str(parameter)]
            elif isinstance(dimension, Choices):
                found[name] = dimension.choices[str(parameter)]
            else:
                assert not isinstance(parameter, str)
                found[name] = self._written(name, dimension, parameter)
        if "model.backbone" in found and "model.weights" not in found and self.base.model.weights is None:
            found["model.weights"] = None  # another backbone drops what the base says of the old one, and random weights must stay random
        return found

    def config_of(self, parameters: Mapping[str, Parameter], source: str) -> Config:
        """The config of a point; source: who asks, for the UserError where the schema refuses it."""
        return change_config(self.base, self.changes(parameters), source)

    def own(self) -> dict[str, Parameter]:
        """What of the base's own values the space can express, as a point, which may lack active dimensions."""
        unchanged = change_config(self.base, {}, SOURCE)
        found: dict[str, Parameter] = {}
        for name, dimension in self.dimensions.items():
            if not self.active(name, found):
                continue
            if isinstance(dimension, Range):
                if self._holds(name, dimension, value := value_at(self.base, name)):
                    found[name] = self.exact(name, dimension, value)
            elif labels := [label for label in labels_of(dimension) if self.config_of({name: label}, SOURCE) == unchanged]:
                found[name] = labels[0]
        return found

    def draw(self, generator: np.random.Generator) -> dict[str, Parameter]:
        """A random point."""
        found: dict[str, Parameter] = {}
        for name, dimension in self.dimensions.items():
            if not self.active(name, found):
                continue
            if isinstance(dimension, Range):
                found[name] = self._draw_number(name, dimension, generator)
            else:
                labels = sorted(labels_of(dimension))
                found[name] = labels[int(generator.integers(len(labels)))]
        return found

    def refused(self, draws: int = 64, seed: int = 0) -> tuple[int, str]:
        """How many of some random points the config's schema refuses, and the first such point with the reason, or ""."""
        generator, reasons = np.random.default_rng(stream("search", seed)), []
        for point in (self.draw(generator) for _ in range(draws)):
            if reason := refusal(self.base, self.changes(point)):
                reasons.append(f"{self.words(point)}: {reason}")
        return len(reasons), reasons[0] if reasons else ""

    def to_json(self) -> dict[str, Any]:
        """What the space means as plain data, the same in whatever order it was written: two spaces that differ here are two studies."""
        found: dict[str, Any] = {}
        for name, dimension in self.dimensions.items():
            found[name] = {"when": {other: sorted(labels) for other, labels in dimension.condition().items()}}
            if isinstance(dimension, Range):
                numbers = {"low": dimension.low, "high": last_of(dimension), "step": dimension.step}
                found[name] |= {key: number if number is None else float(number) for key, number in numbers.items()}
                found[name] |= {"log": dimension.log, "whole": name in self.whole}
            else:
                found[name]["labels"] = {str(label): settings for label, settings in settings_of(name, dimension).items()}
        plain: dict[str, Any] = json.loads(json.dumps(found, sort_keys=True))
        return plain

    def fits(self, parameters: Mapping[str, Parameter]) -> bool:
        """Whether the space could have drawn this point, some of its active dimensions left out."""
        for name, parameter in parameters.items():
            dimension = self.dimensions.get(name)
            if dimension is None or not self.active(name, parameters):
                return False
            if not (self._holds(name, dimension, parameter) if isinstance(dimension, Range) else parameter in labels_of(dimension)):
                return False
        return True

    def words(self, parameters: Mapping[str, Parameter]) -> str:
        """A point in a line, e.g. "learning_rate 0.0021, mixup 0.2, optimizer sgd"."""
        names = {*self.dimensions, *parameters}
        shown = [(name, f"{value:.3g}" if isinstance(value, float) else str(value)) for name, value in parameters.items()]
        return ", ".join(f"{_short_name(name, names)} {value}" for name, value in shown)

    def _written(self, name: str, dimension: Range, number: float) -> float:
        """The number as a config has it; the base's own value stays as it is."""
        exact = self.exact(name, dimension, number)
        if dimension.step is not None or name in self.whole or exact == value_at(self.base, name):
            return exact
        return min(max(float(f"{exact:.4g}"), float(dimension.low)), float(dimension.high))

    def exact(self, name: str, dimension: Range, number: float) -> float:
        """The number as the range has it: a whole one, or the decimal one of its grid, where 0.1 + 0.2 is 0.3."""
        if dimension.step is None:
            return int(number) if name in self.whole else float(number)
        return _on_grid(dimension, number, int if name in self.whole else float)

    def _holds(self, name: str, dimension: Range, value: Any) -> bool:
        """Whether a range can give the value."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return False
        exact = self.exact(name, dimension, value)
        return dimension.low <= exact <= dimension.high and abs(value - exact) <= ON_GRID * (dimension.step or 0)

    def _draw_number(self, name: str, dimension: Range, generator: np.random.Generator) -> Parameter:
        low, high, whole = dimension.low, dimension.high, name in self.whole
        if dimension.step is not None:
            steps = int((_decimal(last_of(dimension)) - _decimal(low)) / _decimal(dimension.step))
            return self.exact(name, dimension, low + dimension.step * int(generator.integers(steps + 1)))
        margin = 0.5 if whole else 0.0  # so that the ends are as likely as their neighbours
        ends = (math.log(low - margin), math.log(high + margin)) if dimension.log else (low - margin, high + margin)
        drawn = float(generator.uniform(*ends))
        number = math.exp(drawn) if dimension.log else drawn
        return self.exact(name, dimension, min(max(round(number) if whole else number, low), high))


def labels_of(dimension: Choices | Combinations) -> tuple[str, ...]:
    """As they are written."""
    return tuple(dimension.choices if isinstance(dimension, Choices) else dimension.settings)


def _decimal(number: float) -> Decimal:
    """The number as it is written, so that 0.3 lies on a grid of 0.1."""
    return Decimal(repr(number))


def _on_grid(dimension: Range, number: float, kind: type[int] | type[float]) -> float:
    """The number of low, low + step, ... nearest to `number`."""
    assert dimension.step is not None
    low, step = _decimal(dimension.low), _decimal(dimension.step)
    return kind(low + round((_decimal(number) - low) / step) * step)


def last_of(dimension: Range) -> float:
    """The largest value: `high`, or the last one of the grid below it."""
    if dimension.step is None:
        return dimension.high
    low, step = _decimal(dimension.low), _decimal(dimension.step)
    return float(low + (_decimal(dimension.high) - low) // step * step)


def _short_name(name: str, names: Collection[str]) -> str:
    """As few of a key's last parts as tell it from the others; optimizer.name is the optimizer, and an item of a list is not called a number."""
    parts = {other: other.removesuffix(".name").split(".") for other in names}
    own = parts[name]
    for start in range(len(own) - 1, -1, -1):
        numbered = own[start].isdigit() or (start > 0 and own[start - 1].isdigit())
        if not numbered and not any(other != name and parts[other][start - len(own) :] == own[start:] for other in names):
            return ".".join(own[start:])
    return name


def settings_of(name: str, dimension: AnyDimension) -> dict[str, dict[str, Any]]:
    """Values by config key, by label; a range has no labels, its key stands under none."""
    if isinstance(dimension, Range):
        return {"": {name: dimension.low}}
    if isinstance(dimension, Choices):
        return {label: {name: value} for label, value in dimension.choices.items()}
    return dict(dimension.settings)


def keys_of(name: str, dimension: AnyDimension) -> set[str]:
    """The config keys that a dimension sets."""
    return {key for settings in settings_of(name, dimension).values() for key in settings}


def refusal(base: Config, changes: Mapping[str, Any]) -> str | None:
    """Why the schema refuses these changes, with the epochs of the trials or of the tuned config; None if it does not."""
    epochs = base.tune.epochs
    for more in ({}, {"train.epochs": epochs}) if epochs is not None else ({},):
        try:
            change_config(base, {**changes, **more}, SOURCE)
        except UserError as error:
            at = f" (in trials of tune.epochs={epochs})" if more else ""
            return str(error).removeprefix(f"{SOURCE}: ") + at
    return None
