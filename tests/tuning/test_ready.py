"""Ready spaces around every config of the project: they can be searched, and hold the config's own values."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.augment.transforms import Transforms
from pipeline.config import Component, Config, Tune
from pipeline.config_files import change_config, load_config
from pipeline.errors import UserError
from pipeline.tuning.building import build_space
from pipeline.tuning.ready import READY, STRENGTHS, ready_space

pytestmark = pytest.mark.slow

CONFIGS = sorted(path for path in (Path(__file__).resolve().parents[2] / "configs").glob("*.yaml") if path.stem != "base")


def changed(base: Config, **changes: Any) -> Config:
    """The config with other values; a double underscore stands for a dot."""
    return change_config(base, {key.replace("__", "."): value for key, value in changes.items()}, "test")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_ready_space_of_a_config_holds_its_own_values_and_nothing_that_its_schema_refuses(path: Path) -> None:
    base = load_config(path).model_copy(update={"tune": Tune(ready=tuple(READY))})
    space = build_space(base)
    assert space.own().keys() == space.dimensions.keys()
    assert space.config_of(space.own(), "test") == base
    assert space.refused() == (0, "")
    for name in READY:
        assert ready_space(name, base).keys() <= space.dimensions.keys()
    for label in STRENGTHS:
        Transforms(space.config_of({"augment_strength": label}, "test").augment.train)


def test_a_space_that_a_config_comes_with_can_be_searched() -> None:
    searching = [base for base in map(load_config, CONFIGS) if base.tune.space or base.tune.ready]
    assert searching
    for space in map(build_space, searching):
        assert space.config_of(space.own(), "test") == space.base
        assert space.refused() == (0, "")


def test_a_small_config_has_them_too_with_fewer_epochs_and_odd_values_of_its_own(small: Config) -> None:
    given = {"train__epochs": 12, "schedule__warmup": "300 steps", "optimizer__weight_decay": 0.0, "predict__tta": ["identity", "zoom_in"], "train__ema": None}
    base = changed(small, **given, loss__smoothing=0.95, model__arguments={"drop_rate": 0}, tune__ready=list(READY), tune__epochs=2)
    space = build_space(base)
    assert space.own().keys() == space.dimensions.keys()
    assert space.config_of(space.own(), "test") == base
    assert space.refused() == (0, "")
    assert space.own()["predict.tta"] == "as_is"


@pytest.mark.parametrize("shape", [(8, 8), (3, 5), (64, 96)])
def test_every_strength_keeps_the_size_of_any_picture_and_flips_none(shape: tuple[int, int]) -> None:
    pixels = np.zeros((*shape, 3), dtype=np.uint8)
    pixels[:, : shape[1] // 2] = 200
    for components in STRENGTHS.values():
        transforms = Transforms([Component(**component) for component in components])
        transforms.check([shape])
        for seed in range(30):
            result = transforms(pixels, np.random.SeedSequence(seed)).astype(float).mean(axis=(0, 2))
            assert result[: shape[1] // 2].mean() > result[shape[1] // 2 :].mean()


def test_each_task_gets_what_it_has(small: Config) -> None:
    regression = changed(small, competition__task="regression", competition__metric="rmse")
    assert "augment.mixing.cutmix" not in ready_space("mixing", regression)
    assert "loss.smoothing" not in ready_space("regularisation", regression)
    assert ready_space("ensemble", regression) == {}
    with pytest.raises(UserError, match=r"^tune.ready: nothing of ensemble can be searched for this config; write tune.space or"):
        build_space(changed(regression, tune__ready=["ensemble"]))
    assert "loss.smoothing" not in ready_space("regularisation", changed(small, loss__name="focal"))
    grades = changed(small, competition__task="ordinal", competition__metric="quadratic_kappa")
    assert "ensemble.decisions" in ready_space("ensemble", grades)
    assert "ensemble.decisions" not in ready_space("ensemble", changed(grades, competition__metric="log_loss"))
    assert "ensemble.decisions" not in ready_space("ensemble", small)
    ranks = changed(small, competition__task="binary", competition__metric="roc_auc", predict__merge="ranks")
    assert ready_space("ensemble", ranks) == {}


def test_a_network_gets_the_arguments_that_its_builder_takes(small: Config) -> None:
    def taken(backbone: str, weights: str | None = None) -> set[str]:
        base = changed(small, model__backbone=backbone, model__weights=weights)
        return {key for ready in ("optimizer", "regularisation") for key in ready_space(ready, base)} & {"drop_rate", "drop_path_rate", "optimizer.layer_decay"}

    assert taken("resnet18", "hub") == {"drop_rate", "drop_path_rate", "optimizer.layer_decay"}
    assert taken("resnet18") == {"drop_rate", "drop_path_rate"}
    assert taken("vgg11", "hub") == {"drop_rate", "optimizer.layer_decay"}
    assert taken("torchvision/alexnet", "hub") == set()


def test_only_a_square_input_is_turned_and_mixing_ends_before_training_does(small: Config) -> None:
    assert "dihedral" in ready_space("tta", small)["predict.tta"].model_dump()["choices"]
    assert "dihedral" not in ready_space("tta", changed(small, images__size=[16, 24]))["predict.tta"].model_dump()["choices"]
    assert "augment.mixing.off_epochs" not in ready_space("mixing", small)
    longer = changed(small, train__epochs=20)
    assert ready_space("mixing", longer)["augment.mixing.off_epochs"].model_dump()["high"] == 5
    assert ready_space("mixing", changed(longer, tune__epochs=8))["augment.mixing.off_epochs"].model_dump()["high"] == 2


def test_the_own_rate_lies_inside_its_range(small: Config) -> None:
    for rate in (1e-6, 1.5e-4, 3e-3, 0.099, 7.0):
        low, high = (
            ready_space("optimizer", changed(small, optimizer__learning_rate=rate))["optimizer.learning_rate"].model_dump()[end] for end in ("low", "high")
        )
        assert rate / 20 < low < rate / 5
        assert rate * 5 < high < rate * 20
