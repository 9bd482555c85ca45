import itertools
from typing import get_args

import numpy as np
import pytest
import torch
from scipy.special import expit, logit, softmax

from pipeline import config
from pipeline.config import TRANSPOSING, Images
from pipeline.inference.tta import PRESETS, VIEWS, View, build_views, candidates, merge_views, view_names

CPU = torch.device("cpu")
IMAGES = Images(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
EXACT = view_names("dihedral")
SHAPES = [(8, 8), (32, 32), (1, 1), (2, 2), (3, 3), (7, 5), (16, 24)]


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """Pixels 0..1 to what a network sees."""
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGES.mean, IMAGES.std))
    return (pixels - mean) / std


def pixels_of(images: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(numbers).view(1, 3, 1, 1) for numbers in (IMAGES.mean, IMAGES.std))
    return images * std + mean


def random_pixels(height: int = 8, width: int = 8) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def view(name: str) -> View:
    return build_views([name], IMAGES, CPU)[name]


@pytest.mark.parametrize("name", VIEWS)
class TestEveryView:
    def test_a_batch_keeps_its_form_and_itself(self, name: str) -> None:
        for shape, dtype, memory_format in itertools.product(SHAPES, (torch.float32, torch.bfloat16), (torch.channels_last, torch.contiguous_format)):
            if shape[0] != shape[1] and name in TRANSPOSING:
                continue
            images = normalised(random_pixels(*shape)).to(dtype).contiguous(memory_format=memory_format)
            before = images.clone()
            seen = view(name)(images)
            assert torch.equal(images, before), "the batch is another view's, too"
            assert (seen.shape, seen.dtype) == (images.shape, dtype)
            assert seen.is_contiguous(memory_format=memory_format)
            assert seen.isfinite().all()

    def test_a_picture_is_seen_alike_in_any_batch(self, name: str) -> None:
        images = normalised(random_pixels())
        assert torch.allclose(view(name)(images)[1:], view(name)(images[1:]), atol=1e-6)

    def test_the_pixels_stay_in_range(self, name: str) -> None:
        seen = pixels_of(view(name)(normalised(random_pixels(16, 16))))
        assert seen.min() >= -1e-6
        assert seen.max() <= 1 + 1e-6

    def test_a_picture_of_one_colour_has_one_colour(self, name: str) -> None:
        grey = torch.full((1, 3, 8, 8), 0.4)
        seen = pixels_of(view(name)(normalised(grey)))
        assert torch.allclose(seen, seen[:, :1, :1, :1], atol=1e-6)

    def test_a_config_may_name_it(self, name: str) -> None:
        assert name in get_args(config.View)


@pytest.mark.parametrize("name", EXACT)
def test_a_turned_picture_is_an_exact_rearrangement_that_keeps_neighbours(name: str) -> None:
    row, column = torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")
    places = torch.stack([row, column, row])[None]
    seen = view(name)(places)
    assert torch.equal(seen.flatten(2).sort(dim=2).values, places.flatten(2).sort(dim=2).values)
    for axis in (1, 2):
        steps = seen[0, :2].diff(dim=axis).abs().sum(dim=0)
        assert torch.equal(steps, torch.ones_like(steps))


def test_turned_pictures_are_those_of_numpy() -> None:
    images = normalised(random_pixels())
    pixels = images.numpy()
    expected = {
        "identity": pixels,
        "horizontal_flip": pixels[..., ::-1],
        "vertical_flip": pixels[..., ::-1, :],
        "rotate_180": np.rot90(pixels, 2, (2, 3)),
        "rotate_90": np.rot90(pixels, 1, (2, 3)),
        "rotate_270": np.rot90(pixels, 3, (2, 3)),
        "transpose": pixels.swapaxes(2, 3),
        "anti_transpose": np.rot90(pixels.swapaxes(2, 3), 2, (2, 3)),
    }
    assert set(expected) == set(EXACT)
    for name, wanted in expected.items():
        assert np.array_equal(view(name)(images).numpy(), wanted), name


def test_colours_change_in_the_pixels_and_are_clipped_there() -> None:
    pixels = random_pixels()
    seen = {name: pixels_of(view(name)(normalised(pixels))) for name in ("brighter", "darker", "more_contrast")}
    assert torch.allclose(seen["brighter"], (pixels * 1.15).clamp(max=1), atol=1e-6)
    assert (pixels * 1.15 > 1).any(), "something is clipped"
    assert torch.allclose(seen["darker"], pixels * 0.85, atol=1e-6)
    mean = pixels.flatten(1).mean(dim=1).view(2, 1, 1, 1)
    assert torch.allclose(seen["more_contrast"], (mean + 1.2 * (pixels - mean)).clamp(0, 1), atol=1e-6)


def test_crops_lie_where_their_names_say() -> None:
    """On a picture whose first channels are the row and the column, 0 to 1, the mean tells where a crop lies."""
    row, column = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 64), indexing="ij")
    images = normalised(torch.stack([row, column, row])[None])
    offset = (64 - 56) / 2 / 63  # of a crop's centre from the picture's
    for name, down, right in [("centre", 0, 0), ("top_left", -1, -1), ("top_right", -1, 1), ("bottom_left", 1, -1), ("bottom_right", 1, 1)]:
        seen = pixels_of(view(f"crop_{name}")(images))[0]
        assert seen[:2].mean(dim=(1, 2)).tolist() == pytest.approx([0.5 + down * offset, 0.5 + right * offset], abs=1e-3), name
        assert (seen[0, -1] - seen[0, 0]).mean().item() == pytest.approx(55 / 63, abs=0.01), "it is 7/8 of each side"


def test_zooms_change_the_size_of_what_is_in_the_middle() -> None:
    """A square of 20 of 40 pixels becomes one of 25 or of 16; outside lies what the border reflects."""
    pixels = torch.zeros(1, 3, 40, 40)
    pixels[:, :, 10:30, 10:30] = 1
    areas = {name: pixels_of(view(name)(normalised(pixels)))[0, 0].sum().item() for name in ("zoom_in", "zoom_out")}
    assert areas["zoom_in"] == pytest.approx(25**2, rel=0.03)
    assert areas["zoom_out"] == pytest.approx(16**2, rel=0.03)
    frame = torch.zeros(1, 3, 40, 40)
    frame[:, :, :3] = frame[:, :, -3:] = 1
    out = pixels_of(view("zoom_out")(normalised(frame)))[0, 0]
    assert out[:2].max() < 1e-6, "four pixels of reflection do not reach the frame again"
    assert out[4].min() > 0.9


def test_views_of_a_generic_picture_are_all_different() -> None:
    images = normalised(random_pixels(16, 16))
    seen = {name: make(images) for name, make in build_views(VIEWS, IMAGES, CPU).items()}
    assert list(seen) == list(VIEWS)
    for first, second in itertools.combinations(seen, 2):
        assert (seen[first] - seen[second]).abs().max() > 0.01, (first, second)


class TestNames:
    def test_a_config_can_name_no_other_view(self) -> None:
        assert set(get_args(config.View)) == set(VIEWS)

    @pytest.mark.parametrize(("preset", "count"), [("none", 1), ("horizontal", 2), ("flips", 4), ("dihedral", 8), ("crops", 5), ("zooms", 3), ("colour", 4)])
    def test_presets_have_as_many_views_as_documented(self, preset: str, count: int) -> None:
        assert len(view_names(preset)) == count
        assert preset == "crops" or view_names(preset)[0] == "identity"
        assert set(PRESETS[preset]) <= set(VIEWS)

    def test_the_order_written_changes_nothing(self) -> None:
        assert view_names(["transpose", "identity", "rotate_90", "identity"]) == view_names(("rotate_90", "transpose", "identity"))
        assert view_names(reversed(VIEWS)) == tuple(VIEWS)
        assert view_names(["horizontal_flip", "identity"]) == view_names("horizontal")

    def test_auto_chooses_from_what_fits_the_input(self) -> None:
        assert candidates(None, (32, 32)) == tuple(VIEWS)
        assert set(candidates(None, (32, 48))) == set(VIEWS) - set(TRANSPOSING)
        assert candidates(["zoom_in", "horizontal_flip"], (8, 8)) == ("identity", "horizontal_flip", "zoom_in")


def logits_of_views(outputs: int = 4) -> np.ndarray:
    """[views, rows, outputs], with ties and with probabilities that single precision rounds to 0 or 1."""
    found = np.random.default_rng(0).normal(scale=8, size=(3, 60, outputs)).astype(np.float32)
    found[:, :5] *= 20
    found[:, 7] = found[:, 8]
    return found


class TestMerging:
    def test_probabilities_and_numbers_are_averaged(self) -> None:
        values = softmax(logits_of_views().astype(np.float64), axis=2).astype(np.float32)
        assert np.allclose(merge_views(values, "probabilities", "multiclass"), values.mean(axis=0, dtype=np.float64), atol=1e-7)
        assert merge_views(values * 1000, "probabilities", "regression").max() > 1

    def test_logits_give_the_geometric_mean(self) -> None:
        logits = logits_of_views()[:, 5:].astype(np.float64)
        geometric = softmax(logits, axis=2).prod(axis=0) ** (1 / 3)
        found = merge_views(logits.astype(np.float32), "logits", "multiclass")
        assert np.allclose(found, geometric / geometric.sum(axis=1, keepdims=True), atol=1e-6)
        labels = merge_views(logits.astype(np.float32), "logits", "multilabel")
        assert np.allclose(logit(labels.astype(np.float64)).clip(-10, 10), logits.mean(axis=0).clip(-10, 10), atol=1e-2)
        assert np.array_equal(merge_views(logits_of_views()[:1], "logits", "multilabel"), expit(logits_of_views()[0].astype(np.float64)).astype(np.float32))

    def test_ranks_are_shared_by_ties_and_do_not_depend_on_the_scale_of_a_view(self) -> None:
        column = np.array([0.1, 0.4, 0.4, 0.2], dtype=np.float32)
        values = np.stack([column, column**8])[:, :, None]
        expected = (np.array([1, 3.5, 3.5, 2]) - 0.5) / 4
        assert np.allclose(merge_views(values, "ranks", "multilabel")[:, 0], expected)

    def test_ranks_of_classes_keep_the_order_of_every_column_and_are_taken_within_folds(self) -> None:
        values = softmax(logits_of_views().astype(np.float64), axis=2).astype(np.float32)
        fold = (np.arange(60) % 3).astype(np.int16)
        merged = merge_views(values, "ranks", "multiclass", fold)
        for number in range(3):
            inside = fold == number
            one = merge_views(values[:1, inside], "ranks", "multiclass")
            assert np.array_equal(one.argsort(axis=0), values[0, inside].argsort(axis=0)), "rows that were scaled to a sum would be in another order"
            assert np.array_equal(merged[inside], merge_views(values[:, inside], "ranks", "multiclass"))

    @pytest.mark.parametrize("merge", ["probabilities", "logits", "ranks"])
    def test_no_rows_are_no_rows(self, merge: str) -> None:
        assert merge_views(np.zeros((2, 0, 4), dtype=np.float32), merge, "multiclass").shape == (0, 4)  # type: ignore[arg-type]
