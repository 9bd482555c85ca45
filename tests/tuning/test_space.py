"""What a study searches: every point is a config, the config's own point is itself, and what cannot be searched is refused in words."""

import warnings
from typing import Any

import numpy as np
import optuna
import pytest

from pipeline.config import Config
from pipeline.config_files import change_config, value_at
from pipeline.errors import UserError
from pipeline.tuning.building import build_space
from pipeline.tuning.space import Space

SGD = {"name": "sgd", "learning_rate": 0.05, "arguments": {"momentum": 0.9}}
SPACE: dict[str, Any] = {
    "train.epochs": {"low": 1, "high": 6},
    "train.batch_size": {"low": 8, "high": 128, "log": True},
    "loss.smoothing": {"low": 0.0, "high": 0.45, "step": 0.1},
    "optimizer.name": ["adamw", "sgd"],
    "optimizer.arguments.momentum": {"low": 0.5, "high": 0.99, "when": {"optimizer.name": "sgd"}},
    "optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True, "when": {"optimizer.name": "adamw"}},
    "size": {"settings": {"small": {"images.size": 16, "model.arguments": {}}, "large": {"images.size": 24, "model.arguments.drop_rate": 0.1}}},
    "augment.train": {"choices": {"none": [], "flips": [{"name": "HorizontalFlip", "p": 0.5}]}},
}


def searching(base: Config, space: dict[str, Any], **tune: Any) -> Config:
    """The config with this space."""
    return change_config(base, {f"tune.{key}": value for key, value in {"space": space, **tune}.items()}, "test")


@pytest.fixture
def space(small: Config) -> Space:
    """One of every kind of dimension, two of them conditional."""
    return build_space(searching(small, SPACE))


def suggestions(space: Space, trials: int = 40) -> list[tuple[optuna.trial.FrozenTrial, dict[str, Any]]]:
    """What a random study asks for, with the trial as it is stored; warnings are errors."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found: list[dict[str, Any]] = []
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        study.optimize(lambda trial: float(found.append(space.suggest(trial)) or 0), n_trials=trials)
    return list(zip(study.trials, found, strict=True))


def test_every_point_that_a_study_draws_fits_and_is_a_config_with_these_values(space: Space) -> None:
    labels = set()
    for trial, point in suggestions(space):
        assert trial.params.keys() == point.keys()
        assert space.fits(point)
        assert space.fits(trial.params)
        config = space.config_of(point, "test")
        assert config == space.config_of(trial.params, "test")
        assert all(value_at(config, key) == value for key, value in space.changes(point).items() if key not in ("model.arguments", "augment.train"))
        assert ("optimizer.arguments.momentum" in point) == (point["optimizer.name"] == "sgd")
        assert ("optimizer.learning_rate" in point) == (point["optimizer.name"] == "adamw")
        assert point["loss.smoothing"] in (0.0, 0.1, 0.2, 0.3, 0.4)  # and not 0.30000000000000004
        assert isinstance(point["train.epochs"], int)
        labels |= {(name, value) for name, value in point.items() if isinstance(value, str)}
    assert len(labels) == 6


def test_every_random_point_fits_and_reaches_every_value(space: Space) -> None:
    generator = np.random.default_rng(0)
    points = [space.draw(generator) for _ in range(300)]
    assert all(space.fits(point) for point in points)
    epochs = [point["train.epochs"] for point in points]
    assert min(epochs.count(number) for number in (1, 2, 3, 4, 5, 6)) > 35
    assert {point["loss.smoothing"] for point in points} == {0.0, 0.1, 0.2, 0.3, 0.4}
    assert {len(point) for point in points} == {len(space.dimensions) - 1}
    assert space.refused() == (0, "")


def test_a_trial_that_is_asked_for_some_dimensions_gets_no_other(space: Space) -> None:
    only = {"train.epochs": 2, "optimizer.name": "sgd"}
    assert space.suggest(optuna.trial.FixedTrial(only), only) == only
    assert space.suggest(optuna.trial.FixedTrial({"optimizer.learning_rate": 1e-3}), {"optimizer.learning_rate"}) == {}


def test_the_own_point_gives_the_config_itself(small: Config) -> None:
    own = {"loss.smoothing": 0.3, "optimizer.learning_rate": 2e-3, "train.batch_size": 64, "model.arguments": {}}
    space = build_space(searching(change_config(small, own, "test"), SPACE))
    point = space.own()
    assert point == {
        "train.epochs": 1,
        "train.batch_size": 64,
        "loss.smoothing": 0.3,
        "optimizer.name": "adamw",
        "optimizer.learning_rate": 2e-3,
        "size": "small",
        "augment.train": "none",
    }
    assert space.fits(point)
    assert space.config_of(point, "test") == space.base
    study = optuna.create_study()
    study.enqueue_trial(point)
    assert space.suggest(study.ask(), point) == point


def test_a_component_that_spells_its_defaults_out_is_the_configs_own(small: Config) -> None:
    whole = {"plain": {"name": "adamw", "weight_decay": 0.05}, "sgd": SGD}
    space = build_space(searching(small, {"optimizer": {"choices": whole}}))
    assert space.own() == {"optimizer": "plain"}
    assert space.config_of({"optimizer": "plain"}, "test") == space.base
    assert space.config_of({"optimizer": "sgd"}, "test").optimizer.arguments == {"momentum": 0.9}


@pytest.mark.parametrize(
    ("own", "dimension"),
    [
        ({"loss.smoothing": 0.5}, {"low": 0.0, "high": 0.4}),
        ({"loss.smoothing": 0.15}, {"low": 0.0, "high": 0.4, "step": 0.1}),
        ({"loss.smoothing": 0.4}, {"low": 0.0, "high": 0.35, "step": 0.1}),
        ({"loss.smoothing": 0.15}, [0.0, 0.1]),
    ],
)
def test_what_the_space_cannot_express_is_absent_and_so_is_what_depends_on_it(small: Config, own: dict[str, Any], dimension: Any) -> None:
    space = build_space(searching(change_config(small, own, "test"), {"loss.smoothing": dimension}))
    assert space.own() == {}
    given = {"optimizer.name": ["sgd", "lamb"], "optimizer.learning_rate": {"low": 1e-4, "high": 1e-2, "when": {"optimizer.name": "sgd"}}}
    assert build_space(searching(small, given)).own() == {}


def test_a_range_is_whole_where_its_bounds_are_and_the_key_takes_no_fractions(small: Config) -> None:
    flip = [{"name": "HorizontalFlip", "p": 0.5}]
    ranges = {
        "train.epochs": {"low": 1, "high": 4},
        "schedule.final_share": {"low": 0, "high": 1},  # a share
        "train.clip_norm": {"low": 1, "high": 5},  # none in the config, but a number with fractions
        "model.arguments.depth": {"low": 1, "high": 4},
        "model.arguments.width": {"low": 1.0, "high": 4},
        "augment.train.0.p": {"low": 0, "high": 1},  # 0.5 in the config: it takes fractions
    }
    space = build_space(searching(change_config(small, {"augment.train": flip, "train.clip_norm": None}, "test"), ranges))
    assert space.whole == {"train.epochs", "model.arguments.depth"}
    with pytest.raises(UserError, match=r"tune.space: train.epochs: low 1.0 is refused: .*integer.*write"):
        build_space(searching(small, {"train.epochs": {"low": 1, "high": 4, "step": 0.5}}))


def test_the_order_in_which_a_space_is_written_changes_nothing(small: Config, space: Space) -> None:
    turned = {
        name: {**value, "choices": dict(reversed(value["choices"].items()))}
        if isinstance(value, dict) and "choices" in value
        else value[::-1]
        if isinstance(value, list)
        else value
        for name, value in reversed(SPACE.items())
    }
    other = build_space(searching(small, turned))
    assert list(other.dimensions) == list(space.dimensions)
    assert str(other.to_json()) == str(space.to_json())
    assert [point for _, point in suggestions(other, 5)] == [point for _, point in suggestions(space, 5)]


def test_another_meaning_is_another_identity(small: Config) -> None:
    seen = []
    for dimension in ({"low": 1, "high": 4}, {"low": 1, "high": 5}, {"low": 1, "high": 4, "log": True}, {"low": 1, "high": 5, "step": 2}, [1, 4], [1, 5]):
        seen.append(str(build_space(searching(small, {"train.epochs": dimension})).to_json()))
    for label in "12":
        conditional = {"train.keep": [1, 2], "train.epochs": {"low": 1, "high": 4, "when": {"train.keep": label}}}
        seen.append(str(build_space(searching(small, conditional)).to_json()))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "point",
    [
        {"nonsense": 1},
        {"train.epochs": 7},
        {"train.epochs": 2.5},
        {"train.epochs": "2"},
        {"train.epochs": True},
        {"loss.smoothing": 0.15},
        {"loss.smoothing": float("nan")},
        {"size": "huge"},
        {"optimizer.learning_rate": 1e-3},
        {"optimizer.name": "sgd", "optimizer.learning_rate": 1e-3},
    ],
)
def test_a_point_of_another_space_does_not_fit(space: Space, point: dict[str, Any]) -> None:
    assert not space.fits(point)
    assert space.fits({"train.epochs": 2, "optimizer.name": "adamw", "optimizer.learning_rate": 1e-3, "size": "small"})


def test_a_point_in_words_is_short_and_unambiguous(small: Config) -> None:
    space = build_space(searching(change_config(small, {"augment.train": [{"name": "HorizontalFlip"}]}, "test"), SPACE))
    point = {"optimizer.learning_rate": 0.0021234, "loss.smoothing": 0.1, "optimizer.name": "sgd", "train.batch_size": 1234, "augment.train.0.p": 0.5}
    assert space.words(point) == "learning_rate 0.00212, smoothing 0.1, optimizer sgd, batch_size 1234, train.0.p 0.5"
    assert space.words({"a.x.p": 1, "b.x.p": 2}) == "a.x.p 1, b.x.p 2"


def test_values_that_do_not_go_together_are_counted_with_the_first_reason(small: Config) -> None:
    pairs = {"images.size": {"choices": {"square": 16, "wide": [16, 24]}}, "predict.tta": ["none", "dihedral"]}
    count, reason = build_space(searching(small, pairs)).refused(draws=200)
    assert 25 < count < 75
    assert reason.startswith("size wide, tta dihedral: predict.tta turns pictures by 90 degrees")


def test_a_range_of_a_trials_epochs_is_tested_with_them(small: Config) -> None:
    longer = change_config(small, {"train.epochs": 10}, "test")
    warmup = {"schedule.warmup": {"low": 0, "high": 5}}
    assert not build_space(searching(longer, warmup)).whole
    with pytest.raises(UserError, match=r"tune.space: schedule.warmup: high 5.0 is refused: .*tune.epochs=3.*; write other bounds"):
        build_space(searching(longer, warmup, epochs=3))
    with pytest.raises(UserError, match=r"^tune.epochs: .*schedule.warmup.*; write more epochs, or null"):
        build_space(searching(change_config(longer, {"schedule.warmup": 4}, "test"), {"train.keep": [1, 2]}, epochs=3))


SIZE = {"low": 16, "high": 32}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, r"tune.space: there is nothing to search; write tune.space or tune.ready=\[optimizer\]"),
    "unknown": ({"optimiser.learning_rate": SIZE}, r'tune.space: optimiser.learning_rate: unknown key "optimiser"; did you mean "optimizer"\?.*settings'),
    "unknown below": ({"train.epoch": SIZE}, r'tune.space: train.epoch: unknown key "epoch"; did you mean "epochs"\?'),
    "unknown in a label": (
        {"model": {"choices": {"a": {"backbon": "x"}, "b": {}}}},
        r'model: label a is refused: .*unknown key "backbon"; did you mean "backbone"',
    ),
    "frozen": ({"folds.seed": SIZE}, r"folds.seed: folds is not searched, since folds are frozen.*; leave it out"),
    "machine": ({"predict.batch_size": SIZE}, r"predict.batch_size is not searched, since it changes the machine"),
    "inside a value": ({"train": {"choices": {"a": {"full_data": True}, "b": {}}}}, r"train: train.full_data is not searched, since .*; leave it out"),
    "inside settings": ({"fast": {"settings": {"a": {"runtime.workers": 2}, "b": {}}}}, r"fast: runtime is not searched"),
    "twice": (
        {"images.size": SIZE, "big": {"settings": {"a": {"images.size": 32}, "b": {}}}},
        r"sets images.size, too, in the same trial; leave one out.*when",
    ),
    "inside": (
        {"model": {"choices": {"a": {}, "b": {"weights": None}}}, "model.weights": [None, "hub"]},
        r"model.weights.*one inside the other.*; leave one out",
    ),
    "inside one label": (
        {"m": {"settings": {"a": {"model": {}, "model.weights": None}, "b": {}}}},
        r"m: one label sets model and model.weights.*; write them as one",
    ),
    "no parent": (
        {"train.epochs": {**SIZE, "when": {"train.keeps": "1"}}, "train.keep": [1, 2]},
        r'when: no dimension is called train.keeps; did you mean "train.keep"',
    ),
    "range as parent": (
        {"train.epochs": {**SIZE, "when": {"train.keep": "1"}}, "train.keep": SIZE},
        r"when: train.keep is a range and has no labels; write it as choices",
    ),
    "no label": ({"train.epochs": {**SIZE, "when": {"train.keep": "3"}}, "train.keep": [1, 2]}, r'when: train.keep has no label "3"; known: 1, 2'),
    "circle": (
        {"train.keep": {"choices": [1, 2], "when": {"train.patience": "1"}}, "train.patience": {"choices": [1, 2], "when": {"train.keep": "1"}}},
        r"when leads in a circle: train.\w+ -> train.\w+ -> train.\w+; leave one condition out",
    ),
    "never by way of another": (
        {
            "train.keep": [1, 2],
            "train.patience": {"choices": [1, 2], "when": {"train.keep": "1"}},
            "train.epochs": {**SIZE, "when": {"train.patience": "1", "train.keep": "2"}},
        },
        r"train.epochs: when: no label of train.keep meets all its conditions; leave one out",
    ),
    "never": (
        {"train.epochs": {**SIZE, "when": {"train.keep": []}}, "train.keep": [1, 2]},
        r"train.epochs: when: no label of train.keep meets.*; leave one out",
    ),
    "low": ({"optimizer.learning_rate": {"low": 0.0, "high": 1.0}}, r"optimizer.learning_rate: low 0.0 is refused: .*greater than 0.*; write other bounds"),
    "high": ({"loss.smoothing": {"low": 0.0, "high": 1.0}}, r"loss.smoothing: high 1.0 is refused: .*less than 1.*; write other bounds"),
    "label": ({"loss.name": ["auto", "cross_entrpy"]}, r"loss.name: label cross_entrpy is refused: .*; write another value, or leave the label out"),
    "settings": (
        {"loss": {"settings": {"a": {"loss.name": "mse"}, "b": {}}}},
        r"tune.space: loss: label a is refused: .*loss.name.*multiclass.*; write another",
    ),
    "under one label": (
        {"loss.name": ["cross_entropy", "focal"], "loss.smoothing": {"low": 0.1, "high": 0.2, "when": {"loss.name": ["cross_entropy", "focal"]}}},
        r"loss.smoothing: low 0.1 with loss focal is refused: .*; write other bounds",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_searched_is_refused_with_its_key_and_what_to_write(small: Config, name: str) -> None:
    given, words = REFUSED[name]
    with pytest.raises(UserError, match=words) as caught:
        build_space(searching(small, given))
    assert str(caught.value).startswith("tune.space: ")
    assert "\n" not in str(caught.value)


def test_one_key_twice_is_fine_where_conditions_exclude_each_other(small: Config) -> None:
    given = {
        "loss": {"settings": {"hard": {"loss.name": "focal"}, "soft": {"loss.name": "cross_entropy"}, "softer": {"loss.smoothing": 0.3}}},
        "loss.smoothing": {"low": 0.1, "high": 0.2, "when": {"loss": "soft"}},
    }
    assert build_space(searching(small, given)).refused() == (0, "")
    given["loss.smoothing"]["when"] = {"loss": ["soft", "softer"]}
    with pytest.raises(UserError, match=r"sets loss.smoothing, too"):
        build_space(searching(small, given))


def test_a_study_of_shorter_trials_does_not_search_their_epochs(small: Config) -> None:
    for given in ({"train.epochs": [1, 2]}, {"train": {"choices": {"a": {"epochs": 2}, "b": {}}}}, {"x": {"settings": {"a": {"train.epochs": 2}, "b": {}}}}):
        with pytest.raises(UserError, match=r"tune.epochs=1 sets train.epochs of every trial; write tune.epochs=null or leave this out"):
            build_space(searching(small, given, epochs=1))


def test_the_space_that_is_written_wins_over_a_ready_one(small: Config) -> None:
    written = {
        "optimizer.learning_rate": {"low": 1e-3, "high": 2e-3},
        "decay": {"settings": {"a": {"optimizer.weight_decay": 0.1}, "b": {}}},
    }
    space = build_space(searching(small, written, ready=["optimizer"]))
    assert space.dimensions["optimizer.learning_rate"].model_dump()["high"] == 2e-3
    assert "optimizer.weight_decay" not in space.dimensions
    assert "schedule.warmup" in space.dimensions
