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
