from typing import get_args

import numpy as np
import pytest
import torch

from pipeline import config
from pipeline.config import Images, Model
from pipeline.inference.tta import PRESETS, VIEWS, view_names, views
from pipeline.training.datasets import Batch, Normalise
from pipeline.training.evaluate import mean_predictions
from pipeline.training.models import build_model
from pipeline.training.outputs import Outputs

CPU = torch.device("cpu")
CLASSES = Outputs("multiclass")


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).contiguous(memory_format=torch.channels_last)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_model(Model(backbone="test_resnet", weights=None, arguments={"drop_rate": 0.5}), 10, seed=0)


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    pixels = torch.randint(0, 256, (13, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return list(zip(pixels.split(5), torch.arange(13).split(5), strict=True))


def normalise() -> Normalise:
    return Normalise(Images(size=32), CPU)


@pytest.mark.parametrize("name", VIEWS)
class TestEveryView:
    def test_it_is_an_exact_rearrangement_of_each_channels_pixels(self, name: str, picture: torch.Tensor) -> None:
        seen = VIEWS[name](picture)
        assert seen.shape == picture.shape
        assert seen.dtype == picture.dtype
        assert torch.equal(seen.flatten(2).sort(dim=2).values, picture.flatten(2).sort(dim=2).values)

    def test_the_picture_itself_is_not_changed(self, name: str, picture: torch.Tensor) -> None:
        before = picture.clone()
        VIEWS[name](picture)
        assert torch.equal(picture, before)

    def test_neighbouring_pixels_stay_neighbours(self, name: str) -> None:
        row, column = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
        seen = VIEWS[name](torch.stack([row, column])[None])[0]
        for axis in (1, 2):
            steps = seen.diff(dim=axis).abs().sum(dim=0)
            assert torch.equal(steps, torch.ones_like(steps))

    def test_a_config_may_name_it(self, name: str) -> None:
        assert name in get_args(config.View)


def test_a_config_can_name_no_other_view() -> None:
    assert set(get_args(config.View)) == set(VIEWS)


def test_the_eight_views_of_a_generic_picture_are_all_different(picture: torch.Tensor) -> None:
    assert len({view(picture).contiguous().numpy().tobytes() for view in views(view_names("dihedral"))}) == 8


def test_views_do_what_their_names_say() -> None:
    picture = torch.tensor([[1, 2], [3, 4]]).view(1, 1, 2, 2)
    expected = {
        "identity": [1, 2, 3, 4],
        "horizontal_flip": [2, 1, 4, 3],
        "vertical_flip": [3, 4, 1, 2],
        "rotate_180": [4, 3, 2, 1],
        "rotate_90": [2, 4, 1, 3],
        "rotate_270": [3, 1, 4, 2],
        "transpose": [1, 3, 2, 4],
        "anti_transpose": [4, 2, 3, 1],
    }
    assert {name: view(picture).flatten().tolist() for name, view in VIEWS.items()} == expected


@pytest.mark.parametrize(("preset", "count"), [("none", 1), ("horizontal", 2), ("flips", 4), ("dihedral", 8)])
def test_presets_have_as_many_views_as_documented(preset: str, count: int) -> None:
    assert len(view_names(preset)) == count
    assert view_names(preset)[0] == "identity"


def test_the_order_written_changes_nothing() -> None:
    assert view_names(["transpose", "identity", "rotate_90"]) == view_names(("rotate_90", "transpose", "identity"))
    assert view_names(list(reversed(PRESETS["dihedral"]))) == view_names("dihedral")
    assert view_names(["horizontal_flip", "identity"]) == view_names("horizontal")


@pytest.mark.parametrize("preset", PRESETS)
def test_rows_of_mean_predictions_sum_to_one(preset: str, model: torch.nn.Module, batches: list[Batch]) -> None:
    values = mean_predictions(model, batches, normalise(), CLASSES, None, views(view_names(preset)))
    assert values.shape == (13, 10)
    assert values.dtype == np.float32
    assert (values >= 0).all()
    assert np.allclose(values.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("preset", ["horizontal", "dihedral"])
def test_mean_predictions_are_the_mean_of_single_views(preset: str, model: torch.nn.Module, batches: list[Batch]) -> None:
    names = view_names(preset)
    singles = np.stack([mean_predictions(model, batches, normalise(), CLASSES, None, views([name])) for name in names])
    assert np.abs(singles[0] - singles[1]).max() > 1e-5, "the views differ for this network"
    together = mean_predictions(model, batches, normalise(), CLASSES, None, views(names))
    assert np.allclose(together, singles.mean(axis=0), atol=1e-6)


def test_dropout_is_off_and_the_rows_keep_their_order(model: torch.nn.Module, batches: list[Batch]) -> None:
    model.train()
    together = mean_predictions(model, batches, normalise(), CLASSES, None)
    singles = [(pixels[None], row[None]) for batch, rows in batches for pixels, row in zip(batch, rows, strict=True)]
    alone = [mean_predictions(model, [single], normalise(), CLASSES, None) for single in singles]
    assert np.allclose(together, np.concatenate(alone), atol=1e-6)
