from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_settings

from pipeline.augment.transforms import Transforms
from pipeline.config import Config, Images
from pipeline.data.cache import ImageCache
from pipeline.stages.prepare import prepare
from pipeline.training.datasets import Draw, EpochBatches, Normalise, PlainImages, TrainingImages, plain_loader

CPU = torch.device("cpu")


class TestEpochBatches:
    @pytest.mark.parametrize(("rows", "batch_size"), [(100, 16), (96, 16), (16, 16), (17, 16), (5, 1)])
    def test_every_batch_is_full_and_every_row_comes_at_most_once(self, rows: int, batch_size: int) -> None:
        batches = EpochBatches(rows, batch_size, seed=0, fold=0)
        drawn = list(batches)
        assert len(drawn) == len(batches) == rows // batch_size
        assert {len(batch) for batch in drawn} == {batch_size}
        numbers = [draw.row for batch in drawn for draw in batch]
        assert len(set(numbers)) == len(numbers)
        assert set(numbers) <= set(range(rows))

    @pytest.mark.parametrize("rows", [1, 5, 15])
    def test_fewer_rows_than_a_batch_give_one_batch_of_all(self, rows: int) -> None:
        batches = EpochBatches(rows, 16, seed=0, fold=0)
        drawn = list(batches)
        assert len(drawn) == len(batches) == 1
        assert sorted(draw.row for draw in drawn[0]) == list(range(rows))

    def test_positions_count_up_through_the_epoch_and_carry_it(self) -> None:
        batches = EpochBatches(50, 8, seed=0, fold=0)
        batches.epoch = 7
        draws = [draw for batch in batches for draw in batch]
        assert [draw.position for draw in draws] == list(range(48))
        assert {draw.epoch for draw in draws} == {7}

    def test_left_out_rows_come_in_other_epochs(self) -> None:
        batches = EpochBatches(17, 16, seed=0, fold=0)
        seen = set()
        for batches.epoch in range(6):
            seen |= {draw.row for batch in batches for draw in batch}
        assert seen == set(range(17))

    def test_the_order_depends_on_seed_fold_and_epoch_alone(self) -> None:
        def order(seed: int, fold: int, epoch: int) -> tuple[int, ...]:
            batches = EpochBatches(40, 8, seed, fold)
            batches.epoch = epoch
            return tuple(draw.row for batch in batches for draw in batch)

        places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
        assert len({order(*place) for place in places}) == len(places)
        np.random.seed(1)
        torch.manual_seed(1)
        assert order(0, 0, 0) == order(0, 0, 0)

    def test_the_first_batch_skips_exactly_those_before_it(self) -> None:
        batches = EpochBatches(100, 8, seed=0, fold=0)
        whole = list(batches)
        for batches.first_batch in (0, 3, len(whole)):
            assert list(batches) == whole[batches.first_batch :]


class TestBalancedBatches:
    SKEWED = np.repeat(np.arange(4), [70, 25, 4, 1])

    def drawn(self, balance: np.ndarray, batch_size: int = 1, epoch: int = 0, seed: int = 0, fold: int = 0) -> np.ndarray:
        batches = EpochBatches(len(balance), batch_size, seed, fold, balance)
        batches.epoch = epoch
        return np.array([draw.row for batch in batches for draw in batch])

    @pytest.mark.parametrize("counts", [[70, 25, 4, 1], [1, 1], [9, 3, 5], [0, 10, 3], [5], [97, 1, 1, 1, 1, 1, 1]])
    def test_an_epoch_has_as_many_draws_as_rows_with_each_class_equally_often(self, counts: list[int]) -> None:
        classes = np.repeat(np.arange(len(counts)), counts)
        for epoch in range(3):
            rows = self.drawn(classes, epoch=epoch)
            assert len(rows) == len(classes)
            shown = np.bincount(classes[rows], minlength=len(counts))[np.array(counts) > 0]
            assert shown.max() - shown.min() <= 1

    def test_within_a_class_every_row_comes_equally_often(self) -> None:
        shown = np.bincount(self.drawn(self.SKEWED), minlength=100)
        for number in range(4):
            times = shown[number == self.SKEWED]
            assert times.max() - times.min() <= 1
        assert shown[99] == 25
        assert set(shown[95:99]) == {6, 7}

    def test_the_rows_and_classes_that_get_one_more_change_with_the_epoch(self) -> None:
        seen = [np.bincount(self.drawn(self.SKEWED, epoch=epoch), minlength=100) for epoch in range(12)]
        assert (np.sum(seen, axis=0) > 0).all(), "no row of a large class is always left out"
        classes = np.array([0, 0, 1])
        assert {tuple(np.bincount(classes[self.drawn(classes, epoch=epoch)])) for epoch in range(20)} == {(1, 2), (2, 1)}

    def test_classes_and_repeats_are_shuffled(self) -> None:
        classes = np.repeat(np.arange(2), [900, 100])
        rows = self.drawn(classes, 10)
        per_batch = classes[rows].reshape(-1, 10).sum(axis=1)
        assert 1 < per_batch.std() < 2.5, "near the 1.6 of ten draws at random"

    def test_the_order_depends_on_seed_fold_and_epoch_alone(self) -> None:
        places = [{}, {"seed": 1}, {"fold": 1}, {"epoch": 1}]
        assert len({tuple(self.drawn(self.SKEWED, 8, **place)) for place in places}) == len(places)
        assert self.drawn(self.SKEWED, 8).tolist() == self.drawn(self.SKEWED, 8).tolist()

    def test_the_first_batch_skips_exactly_those_before_it(self) -> None:
        batches = EpochBatches(100, 8, 0, 0, self.SKEWED)
        whole = list(batches)
        assert len(whole) == len(batches) == 12
        for batches.first_batch in (0, 3, len(whole)):
            assert list(batches) == whole[batches.first_batch :]

    def test_soft_targets_are_of_their_likeliest_class(self) -> None:
        soft = (0.6 * np.eye(4)[self.SKEWED] + 0.1).astype(np.float32)
        assert self.drawn(soft).tolist() == self.drawn(self.SKEWED).tolist()

    @pytest.mark.parametrize("share", [1.0, 0.9])
    def test_a_row_of_several_labels_belongs_to_its_rarest_and_one_without_any_to_its_own(self, share: float) -> None:
        kinds = np.array([[1, 0, 0], [1, 1, 0], [1, 1, 1], [0, 0, 0], [0, 0, 1]])
        labels = kinds.repeat([50, 20, 4, 5, 1], axis=0).astype(np.float32) * share
        rarest = np.array([0, 1, 2, 3, 2]).repeat([50, 20, 4, 5, 1])
        shown = np.bincount(rarest[self.drawn(labels)])
        assert shown.tolist() == [20, 20, 20, 20]

    def test_without_balance_the_order_is_that_of_the_recorded_runs(self) -> None:
        assert [draw.row for batch in EpochBatches(10, 5, 3, 1) for draw in batch] == [9, 8, 5, 3, 2, 7, 0, 6, 4, 1]


class TestNormalise:
    IMAGES = Images(size=(6, 5), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def pixels(self) -> torch.Tensor:
        return torch.randint(0, 256, (4, 6, 5, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

    def test_it_is_the_plain_formula(self) -> None:
        pixels = self.pixels()
        expected = (pixels.double() / 255 - torch.tensor(self.IMAGES.mean).double()) / torch.tensor(self.IMAGES.std).double()
        found = Normalise(self.IMAGES, CPU)(pixels)
        assert found.dtype == torch.float32
        assert found.shape == (4, 3, 6, 5)
        assert torch.allclose(found.double(), expected.permute(0, 3, 1, 2), atol=1e-5)

    def test_it_yields_the_memory_format_asked_for(self) -> None:
        pixels = self.pixels()
        last = Normalise(self.IMAGES, CPU)(pixels)
        first = Normalise(self.IMAGES, CPU, channels_last=False)(pixels)
        assert last.is_contiguous(memory_format=torch.channels_last)
        assert first.is_contiguous()
        assert torch.equal(last, first)

    def test_the_pixels_are_not_changed(self) -> None:
        pixels = self.pixels()
        before = pixels.clone()
        Normalise(self.IMAGES, CPU)(pixels)
        assert torch.equal(pixels, before)


def test_plain_pictures_come_in_the_order_asked_for_with_any_number_of_workers(digits: Path, tmp_path: Path) -> None:
    config = Config.model_validate(small_settings(digits, tmp_path))
    prepared = prepare(config)
    cache = ImageCache(prepared.cache, prepared.pictures)
    ids = prepared.folds["id"].tolist()[:50][::-1]
    dataset = PlainImages(cache, "train", ids, config.images)
    alone = list(plain_loader(dataset, 16, 0, CPU))
    helped = list(plain_loader(dataset, 16, 2, CPU))
    assert [len(rows) for _, rows in alone] == [16, 16, 16, 2]
    assert torch.cat([rows for _, rows in alone]).tolist() == list(range(50))
    assert all(torch.equal(left[0], right[0]) for left, right in zip(alone, helped, strict=True))
    shown = torch.cat([pixels for pixels, _ in alone])
    assert all(torch.equal(shown[row], dataset[row][0]) for row in range(50))
    assert not any(torch.equal(left, right) for left, right in pairwise(shown)), "different digits look different"


def test_training_pictures_come_from_the_split_that_their_place_names(digits: Path, tmp_path: Path) -> None:
    config = Config.model_validate(small_settings(digits, tmp_path))
    prepared = prepare(config)
    cache = ImageCache(prepared.cache, prepared.pictures)
    train, test = prepared.folds["id"].iloc[0], prepared.ids("test")[0]
    dataset = TrainingImages(cache, [("train", train), ("test", test)], Transforms(()), config.images, 0, 0)
    for row, (split, name) in enumerate([("train", train), ("test", test)]):
        pixels, number = dataset[Draw(0, 0, row)]
        assert int(number) == row
        assert torch.equal(pixels, PlainImages(cache, split, [name], config.images)[0][0])
