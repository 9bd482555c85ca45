from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_settings

from pipeline.augment.transforms import Transforms
from pipeline.config import Component, Config
from pipeline.data.cache import ImageCache
from pipeline.errors import UserError
from pipeline.runtime import stream
from pipeline.stages.prepare import Prepared, prepare
from pipeline.training.datasets import Batch, Draw, EpochBatches, TrainingImages, training_loader

CPU = torch.device("cpu")
EVERY_KIND: list[dict[str, Any]] = [
    {"name": "HorizontalFlip", "p": 0.5},
    {"name": "Affine", "translate_percent": [-0.1, 0.1], "rotate": [-20, 20], "p": 1.0},
    {"name": "OneOf", "transforms": [{"name": "GaussNoise"}, {"name": "RandomBrightnessContrast"}], "p": 0.8},
    {"name": "CoarseDropout", "p": 0.5},
]


def build(*components: dict[str, Any]) -> Transforms:
    return Transforms([Component.model_validate(component) for component in components])


@pytest.fixture(scope="module")
def prepared(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(Config.model_validate(small_settings(digits, tmp_path_factory.mktemp("outputs"))))


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return np.random.default_rng(5).integers(256, size=(24, 20, 3), dtype=np.uint8)


class TestOneSample:
    def test_the_same_picture_and_seed_give_the_same_result(self, picture: np.ndarray) -> None:
        transforms, other = build(*EVERY_KIND), build(*EVERY_KIND)
        for position in range(20):
            expected = transforms(picture, stream("augment", 0, 0, 0, position))
            assert np.array_equal(expected, other(picture, stream("augment", 0, 0, 0, position)))
        first = transforms(picture, stream("augment", 0, 0, 0, 0))
        assert np.array_equal(first, other(picture, stream("augment", 0, 0, 0, 0))), "what was drawn before must not matter"

    def test_different_seeds_differ(self, picture: np.ndarray) -> None:
        transforms = build(*EVERY_KIND)
        places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]
        results = {transforms(picture, stream("augment", *place)).tobytes() for place in places}
        assert len(results) == len(places)

    def test_the_global_generators_do_not_matter(self, picture: np.ndarray) -> None:
        import random

        transforms = build(*EVERY_KIND)
        results = set()
        for number in range(3):
            random.seed(number)
            np.random.seed(number)
            torch.manual_seed(number)
            results.add(transforms(picture, stream("augment", 0, 0, 0, 0)).tobytes())
        assert len(results) == 1

    def test_the_picture_itself_is_not_changed(self, picture: np.ndarray) -> None:
        before = picture.copy()
        build(*EVERY_KIND)(picture, np.random.SeedSequence(0))
        assert np.array_equal(picture, before)

    def test_no_transforms_give_the_picture_back(self, picture: np.ndarray) -> None:
        assert np.array_equal(build()(picture, np.random.SeedSequence(0)), picture)

    def test_two_flips_are_independent(self, picture: np.ndarray) -> None:
        transforms = build({"name": "HorizontalFlip", "p": 0.5}, {"name": "VerticalFlip", "p": 0.5})
        outcomes = {picture[::vertical, ::horizontal].tobytes(): (horizontal, vertical) for horizontal in (1, -1) for vertical in (1, -1)}
        drawn = np.array([outcomes[transforms(picture, stream("augment", 0, 0, 0, position)).tobytes()] for position in range(400)])
        assert abs(drawn.mean(axis=0)).max() < 0.2, "each flip falls on about half of the pictures"
        assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.2, "neither flip tells of the other"

    def test_neighbouring_positions_are_independent(self, picture: np.ndarray) -> None:
        transforms = build({"name": "HorizontalFlip", "p": 0.5})
        flipped = np.array([np.array_equal(transforms(picture, stream("augment", 0, 0, 0, n)), picture) for n in range(400)])
        assert abs(np.corrcoef(flipped[:-1], flipped[1:])[0, 1]) < 0.2

    def test_one_of_several_nested_transforms_is_taken(self, picture: np.ndarray) -> None:
        flips = [{"name": "HorizontalFlip", "p": 1.0}, {"name": "Sequential", "transforms": [{"name": "VerticalFlip", "p": 1.0}], "p": 1.0}]
        transforms = build({"name": "OneOf", "transforms": flips, "p": 1.0})
        results = {transforms(picture, np.random.SeedSequence(number)).tobytes() for number in range(30)}
        assert results == {picture[:, ::-1].tobytes(), picture[::-1].tobytes()}

    def test_building_changes_no_config(self) -> None:
        component = Component.model_validate({"name": "OneOf", "transforms": [{"name": "HorizontalFlip"}]})
        before = component.model_dump_json()
        Transforms([component])
        Transforms([component])
        assert component.model_dump_json() == before


class TestMistakesInTheConfig:
    def test_an_unknown_class_is_named_with_its_place_and_the_nearest(self) -> None:
        with pytest.raises(UserError, match=r'augment\.train\[1\].*"HorizontalFlp".*"HorizontalFlip"'):
            build({"name": "VerticalFlip"}, {"name": "HorizontalFlp"})

    def test_an_unknown_class_within_another_is_named_with_its_place(self) -> None:
        with pytest.raises(UserError, match=r'augment\.train\[0\]\.transforms\[1\].*"HorizontalFlp".*"HorizontalFlip"'):
            build({"name": "OneOf", "transforms": [{"name": "VerticalFlip"}, {"name": "HorizontalFlp"}]})

    @pytest.mark.parametrize("name", ["compose", "numpy", "__version__", "BboxParams"])
    def test_a_name_that_is_no_transform_is_refused(self, name: str) -> None:
        with pytest.raises(UserError, match="albumentations has no"):
            build({"name": name})

    @pytest.mark.parametrize(
        "component",
        [
            {"name": "HorizontalFlip", "probability": 0.5},
            {"name": "HorizontalFlip", "p": 1.5},
            {"name": "HorizontalFlip", "p": "often"},
            {"name": "RandomCrop", "height": 4},
            {"name": "RandomResizedCrop", "size": [8, 8], "scale": [0.5, 1.5]},
            {"name": "OneOf", "transforms": [{"name": "HorizontalFlip"}], "often": 1},
            {"name": "OneOf", "transforms": [{"name": "HorizontalFlip", "probability": 1}]},
        ],
        ids=str,
    )
    def test_an_unknown_argument_or_wrong_value_is_refused_in_one_line(self, component: dict[str, Any]) -> None:
        with pytest.raises(UserError, match=r"augment\.train\[0\]") as raised:
            build(component)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("children", [[{"HorizontalFlip": {}}], ["HorizontalFlip"], 5], ids=str)
    def test_nested_transforms_that_are_no_components_are_refused(self, children: Any) -> None:
        with pytest.raises(UserError, match=r"augment\.train\[0\]"):
            build({"name": "OneOf", "transforms": children})


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
class TestLoader:
    """What a sample looks like depends on (seed, fold, epoch, position) alone, through a real DataLoader."""

    ROWS, BATCH = 100, 16

    def images(self, prepared: Prepared, seed: int = 3, fold: int = 1) -> TrainingImages:
        config = Config.model_validate(small_settings(Path("unused"), Path("unused")))
        places = [("train", name) for name in prepared.folds["id"].tolist()[: self.ROWS]]
        return TrainingImages(ImageCache(prepared.cache, prepared.pictures), places, build(*EVERY_KIND), config.images, seed, fold)

    def test_seed_fold_epoch_and_position_each_change_how_a_row_looks(self, prepared: Prepared) -> None:
        draws = [Draw(0, 5, 7), Draw(1, 5, 7), Draw(0, 6, 7)]
        looks = {self.images(prepared)[draw][0].numpy().tobytes() for draw in draws}
        looks |= {self.images(prepared, *place)[draws[0]][0].numpy().tobytes() for place in ((4, 1), (3, 2))}
        assert len(looks) == 5

    def epochs(self, prepared: Prepared, workers: int, epochs: list[int], first_batch: int = 0, seed: int = 3, fold: int = 1) -> list[list[Batch]]:
        dataset = self.images(prepared, seed, fold)
        batches = EpochBatches(self.ROWS, self.BATCH, seed, fold)
        loader = training_loader(dataset, batches, workers, CPU)
        drawn = []
        for epoch in epochs:
            batches.epoch, batches.first_batch = epoch, first_batch
            drawn.append([(pixels.clone(), rows.clone()) for pixels, rows in loader])
        return drawn

    @staticmethod
    def equal(left: list[Batch], right: list[Batch]) -> bool:
        pairs = list(zip(left, right, strict=True))
        return all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in pairs)

    @pytest.mark.parametrize("workers", [1, 4])
    def test_the_number_of_workers_changes_nothing_over_two_epochs(self, prepared: Prepared, workers: int) -> None:
        expected = self.epochs(prepared, 0, [0, 1])
        found = self.epochs(prepared, workers, [0, 1])
        assert len(expected[0]) == self.ROWS // self.BATCH
        assert expected[0][0][0].shape == (self.BATCH, 16, 16, 3)
        assert expected[0][0][0].dtype == torch.uint8
        assert self.equal(expected[0], found[0])
        assert self.equal(expected[1], found[1])

    @pytest.mark.parametrize("workers", [0, 2])
    def test_one_row_looks_different_in_every_epoch(self, prepared: Prepared, workers: int) -> None:
        first, second = self.epochs(prepared, workers, [0, 1])
        by_row = [{int(row): pixels for batch, rows in epoch for pixels, row in zip(batch, rows, strict=True)} for epoch in (first, second)]
        both = by_row[0].keys() & by_row[1].keys()
        assert len(both) > self.ROWS // 2
        assert not any(torch.equal(by_row[0][row], by_row[1][row]) for row in both)

    @pytest.mark.parametrize("change", [{"seed": 4}, {"fold": 2}])
    def test_seeds_and_folds_draw_differently(self, prepared: Prepared, change: dict[str, int]) -> None:
        assert not self.equal(self.epochs(prepared, 0, [0])[0], self.epochs(prepared, 0, [0], **change)[0])

    @pytest.mark.parametrize("workers", [0, 4])
    @pytest.mark.parametrize("first_batch", [1, 4, 6])
    def test_starting_in_the_middle_gives_the_tail_of_the_undisturbed_epoch(self, prepared: Prepared, workers: int, first_batch: int) -> None:
        whole = self.epochs(prepared, 0, [1])[0]
        tail = self.epochs(prepared, workers, [1], first_batch)[0]
        assert self.equal(whole[first_batch:], tail)

    def test_an_epoch_does_not_depend_on_those_before_it(self, prepared: Prepared) -> None:
        assert self.equal(self.epochs(prepared, 0, [0, 1, 2])[2], self.epochs(prepared, 0, [2])[0])
