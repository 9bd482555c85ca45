"""The section of a config that says what a study searches, and the mark of a config that a study chose.

A string below a field is its documentation. `config.py` has the other sections and the whole.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pipeline.config_data import Positive, Section, Slug
from pipeline.errors import did_you_mean

Number = int | float
Label = str


class Dimension(Section):
    """One thing that a study searches."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True, coerce_numbers_to_str=True)

    when: dict[str, Label | list[Label]] = Field(default_factory=dict)
    """Searched only in trials in which these dimensions have this label, or one of these; else the config's own value stays."""

    def condition(self) -> dict[str, tuple[Label, ...]]:
        """`when`, with a tuple of labels for each dimension."""
        return {name: tuple(labels) if isinstance(labels, list) else (labels,) for name, labels in self.when.items()}


class Range(Dimension):
    """A number of a config key."""

    low: Number
    """Least value, included."""
    high: Number
    """Largest value, included. Where low, high and step are written as whole numbers and the key does not take fractions, so is what is drawn."""
    log: bool = False
    """Draw the logarithm evenly; for what spans powers of ten, such as learning rates."""
    step: Number | None = None
    """Only low, low + step, ...; null: everything between."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, but got {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"log: true wants low above 0, but got {self.low}")
        if self.log and self.step is not None:
            raise ValueError("log and step exclude each other; leave one out")
        if self.step is not None and self.step <= 0:
            raise ValueError(f"step must be above 0, but got {self.step}")
        return self


class Choices(Dimension):
    """Some values of a config key, which may be whole components."""

    choices: Annotated[dict[Label, Any], Field(min_length=2)]
    """Value by label; or a list of plain values, each its own label. Studies and reports know a value by its label."""

    @model_validator(mode="before")
    @classmethod
    def _label(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("choices"), list):
            return {**data, "choices": label_values(data["choices"])}
        return data


class Combinations(Dimension):
    """Several config keys that change together, under a name of its own."""

    settings: Annotated[dict[Label, dict[str, Any]], Field(min_length=2)]
    """By label, values by config key, e.g. {small: {model.backbone: resnet18, images.size: 128}, large: {...}}."""


AnyDimension = Range | Choices | Combinations
KINDS: dict[str, type[Range] | type[Choices] | type[Combinations]] = {"low": Range, "high": Range, "choices": Choices, "settings": Combinations}
"""By a key that only this kind has."""


def label_values(values: list[Any]) -> dict[Label, Any]:
    """Plain values by their own text."""
    if odd := [value for value in values if isinstance(value, list | dict)]:
        raise ValueError(f"choices: {odd[0]!r:.60} needs a label; write choices: {{LABEL: VALUE, ...}}")
    texts = {True: "true", False: "false", None: "null"}
    labels = [texts[value] if value is None or isinstance(value, bool) else str(value) for value in values]
    if len(set(labels)) != len(labels):
        raise ValueError(f"choices must differ, but got {values}")
    return dict(zip(labels, values, strict=True))


def _read_space(data: Any, above: str = "") -> Any:
    """Dimensions by name, from keys with dots or nested mappings; a plain list stands for its choices."""
    if not isinstance(data, Mapping):
        raise ValueError(
            f"a space maps config keys to what is searched, e.g. {{optimizer.learning_rate: {{low: 1e-4, high: 1e-2, log: true}}}}, but got {data!r:.60}"
        )
    found: dict[str, AnyDimension] = {}
    for key, value in data.items():
        name = f"{above}{key}"
        if value is None:  # drops what a base has written
            continue
        if isinstance(value, Dimension):
            found[name] = value  # type: ignore[assignment]
        elif isinstance(value, list):
            found[name] = _built(Choices, name, {"choices": value})
        elif not isinstance(value, Mapping):
            raise ValueError(f"{name}: write {{low: ..., high: ...}}, a list, or {{choices: {{LABEL: VALUE}}}}, but got {value!r:.60}")
        elif kinds := {KINDS[word] for word in value if word in KINDS}:
            if len(kinds) > 1:
                raise ValueError(f"{name}: a dimension has low and high, choices or settings, not several of them")
            found[name] = _built(kinds.pop(), name, value)
        else:
            found |= _read_space(value, f"{name}.")
    return found


def _built(kind: type[Range] | type[Choices] | type[Combinations], name: str, data: Mapping[str, Any]) -> AnyDimension:
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        at = ".".join(str(part) for part in first["loc"])
        text = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            text, at = f'unknown key "{at}"{did_you_mean(at, kind.model_fields)}', ""
        elif first["type"] == "too_short":
            text = "write two values or more"
        given = "" if "but got" in text else f", but got {dict(data)!r:.80}"
        raise ValueError(f"{name}{'.' if at else ''}{at}: {text[0].lower()}{text[1:]}{given}") from None


class Tune(Section):
    """A study: what `scripts/tune.py` searches, and how it judges."""

    space: Annotated[dict[str, AnyDimension], BeforeValidator(lambda data: _read_space(data))] = Field(default_factory=dict)
    """By config key: {low, high, log, step}, a list of values, or {choices: {label: value}}; under any other name {settings: {label: {key: value}}},
    for keys that change together. `when: {dimension: label}` makes one conditional; null drops one of a base. augment.train.1.p is a key, too: of
    the second component."""
    ready: tuple[Literal["optimizer", "augment", "mixing", "regularisation", "tta", "ensemble"], ...] = ()
    """Ready spaces around the config's own values, beside `space`, which wins where both name a key."""
    folds: Positive | None = None
    """Folds that a trial trains, the first ones; null: all."""
    epochs: Positive | None = None
    """Epochs of a trial; null: train.epochs. The tuned config is trained for train.epochs."""
    sampler: Literal["tpe", "random"] = "tpe"
    """tpe: where good trials were; random: anywhere."""
    startup: Annotated[int, Field(ge=0)] = 8
    """Trials drawn at random before tpe has enough to learn from."""
    pruner: Literal["auto", "folds", "epochs", "none"] = "auto"
    """folds: a trial ends after a fold if its folds are worse than the same folds of the best trial (Wilcoxon's signed-rank test); epochs: during
    its first fold if its epoch is worse than the median of the others at the same epoch; auto: folds where `threshold` can be reached
    before the last one, else none."""
    threshold: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.15
    """Of pruner folds: the largest p-value that ends a trial. After n folds the test reaches 1/2^n: 0.125 after three."""
    objectives: Literal["score", "score_and_seconds"] = "score"
    """What is better: the CV alone; or the CV and the seconds of training, which leaves several best trials and prunes none."""
    seed: int = 0
    """Of the sampler; trial n draws from (seed, n)."""
    finalists: Positive = 3
    """Where `folds` or `epochs` make trials cheaper: best trials that are trained in full at the end, beside the config itself; the best of them all on
    the folds of the search is the tuned config. What is best of short runs need not be of long ones."""
    unseen_seed: int | None = -1
    """folds.seed of a second split, on which the config and its tuned self are compared at the end; -1: folds.seed + 1; null: no such comparison."""
    top: Positive = 5
    """Best trials that the study ends with as configs to blend."""
    keep: Positive | None = 10
    """Best trials whose networks stay on the disk; of the others histories and scores do. Null: all."""

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        if self.objectives != "score" and self.pruner not in ("auto", "none"):
            raise ValueError(f"pruner: with two objectives no trial is pruned, but got {self.pruner}; write none")
        return self


class Tuned(Section):
    """The mark of a config that a study chose: its CV on the folds of the search flatters it."""

    study: Slug
    """The study's name."""
    trial: Annotated[int, Field(ge=0)]
    """Number of the trial."""
    trials: Positive | None
    """Trials among which it was chosen; null: of a trial itself, which is one of them."""
    split_seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    """folds.seed of the search, and of those before it."""
