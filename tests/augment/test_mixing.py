import numpy as np
import pytest
import torch

from pipeline.augment.mixing import mix
from pipeline.config import Mixing

CLASSES = 6
SEEDS = [np.random.SeedSequence(number) for number in range(60)]
BOTH = Mixing(mixup=0.4, cutmix=1.0)


def batch(rows: int = 6, height: int = 12, width: int = 10) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(rows, 3, height, width, generator=generator).contiguous(memory_format=torch.channels_last)
    return images, torch.nn.functional.one_hot(torch.arange(rows) % CLASSES, CLASSES).float()


def constant_images(rows: int = CLASSES, height: int = 12, width: int = 10) -> torch.Tensor:
    """Picture number n holds nothing but n."""
    return torch.arange(rows).float().view(-1, 1, 1, 1).expand(-1, 3, height, width).contiguous()


@pytest.mark.parametrize("section", [Mixing(mixup=0.2), Mixing(cutmix=1.0), BOTH], ids=["mixup", "cutmix", "both"])
class TestEveryKind:
    def test_rows_of_mixed_targets_sum_to_one(self, section: Mixing) -> None:
        for seed in SEEDS:
            _, targets = mix(*batch(), section, seed)
            assert (targets >= 0).all()
            assert torch.allclose(targets.sum(dim=1), torch.ones(len(targets)), atol=1e-6)

    def test_the_same_seed_gives_the_same_batch(self, section: Mixing) -> None:
        torch.manual_seed(0)
        first = mix(*batch(), section, np.random.SeedSequence([1, 2]))
        torch.manual_seed(1)
        second = mix(*batch(), section, np.random.SeedSequence([1, 2]))
        assert torch.equal(first[0], second[0])
        assert torch.equal(first[1], second[1])

    def test_different_seeds_differ(self, section: Mixing) -> None:
        assert len({mix(*batch(), section, seed)[0].numpy().tobytes() for seed in SEEDS[:10]}) > 5

    def test_what_goes_in_is_not_changed(self, section: Mixing) -> None:
        images, targets = batch()
        before = images.clone(), targets.clone()
        for seed in SEEDS[:10]:
            mix(images, targets, section, seed)
            assert torch.equal(images, before[0])
            assert torch.equal(targets, before[1])

    def test_probability_zero_changes_nothing(self, section: Mixing) -> None:
        images, targets = batch()
        for seed in SEEDS:
            mixed, soft = mix(images, targets, section.model_copy(update={"prob": 0.0}), seed)
            assert torch.equal(mixed, images)
            assert torch.equal(soft, targets)

    def test_probability_is_the_share_of_mixed_batches(self, section: Mixing) -> None:
        images, targets = batch()
        mixed = [not torch.equal(mix(images, targets, section.model_copy(update={"prob": 0.5}), seed)[0], images) for seed in SEEDS]
        assert 0.25 < np.mean(mixed) < 0.7

    def test_a_single_picture_stays_as_it_is(self, section: Mixing) -> None:
        images, targets = batch(1)
        mixed, soft = mix(images, targets, section, SEEDS[0])
        assert torch.allclose(mixed, images)
        assert torch.allclose(soft, targets)

    def test_pictures_already_soft_are_mixed_as_their_pixels_are(self, section: Mixing) -> None:
        images = constant_images()
        soft_before = torch.full((CLASSES, CLASSES), 0.02) + 0.88 * torch.eye(CLASSES)
        for seed in SEEDS[:20]:
            _, hard = mix(images, torch.eye(CLASSES), section, seed)
            _, soft = mix(images, soft_before, section, seed)
            assert torch.allclose(soft, hard @ soft_before, atol=1e-6)


def test_without_any_kind_nothing_changes() -> None:
    images, targets = batch()
    mixed, soft = mix(images, targets, Mixing(), SEEDS[0])
    assert torch.equal(mixed, images)
    assert torch.equal(soft, targets)


def test_mixup_is_the_convex_combination_that_its_targets_say() -> None:
    images, targets = batch()
    shares = []
    for seed in SEEDS:
        mixed, soft = mix(images, targets, Mixing(mixup=0.8), seed)
        weights = soft @ targets.T
        expected = torch.einsum("bn,nchw->bchw", weights, images)
        assert torch.allclose(mixed, expected, atol=1e-5)
        shares.append(float(soft.amax()))
    assert len({round(share, 4) for share in shares}) > 20, "the share is drawn anew for every batch"


@pytest.mark.parametrize("shape", [(12, 10), (7, 31), (16, 16)])
def test_cutmix_target_share_is_the_share_of_pixels_that_are_left(shape: tuple[int, int]) -> None:
    images, targets = constant_images(CLASSES, *shape), torch.eye(CLASSES)
    cut = 0
    for seed in SEEDS:
        mixed, soft = mix(images, targets, Mixing(cutmix=1.0), seed)
        kept = torch.stack([(mixed == number).float().mean(dim=(1, 2, 3)) for number in range(CLASSES)], dim=1)
        assert torch.allclose(soft, kept, atol=1e-6)
        cut += bool((mixed != images).any())
    assert cut > len(SEEDS) / 2


def test_cutmix_cuts_one_whole_box_at_the_same_place_in_every_picture() -> None:
    images = constant_images()
    for seed in SEEDS:
        mixed, _ = mix(images, torch.eye(CLASSES), Mixing(cutmix=1.0), seed)
        foreign = (mixed != images).any(dim=1)
        where = foreign.any(dim=0)
        rows, columns = where.any(dim=1).nonzero(), where.any(dim=0).nonzero()
        if where.any():
            assert where[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].all()
            assert where.sum() == len(rows) * len(columns)
            assert all(torch.equal(row, where) for row in foreign if row.any())


def test_both_kinds_occur_when_both_are_on() -> None:
    images, targets = constant_images(), torch.eye(CLASSES)
    cut = []
    for seed in SEEDS:
        mixed, _ = mix(images, targets, BOTH, seed)
        if not torch.equal(mixed, images):
            cut.append(bool((mixed == mixed.round()).all()))
    assert 0.25 < np.mean(cut) < 0.75


def test_the_position_of_the_box_is_spread_over_the_picture() -> None:
    images = constant_images(height=16, width=16)
    hit = torch.zeros(16, 16)
    for seed in SEEDS:
        mixed, _ = mix(images, torch.eye(CLASSES), Mixing(cutmix=1.0), seed)
        hit += (mixed != images).any(dim=1).any(dim=0)
    assert hit.min() > 0, "every pixel is cut now and then"
    assert hit[4:12, 4:12].mean() < len(SEEDS)
