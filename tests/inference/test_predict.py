import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

from pipeline.config import Images
from pipeline.errors import UserError
from pipeline.inference.predict import Member, Reader, Watch, measure_costs, predict_merged, predict_views, predict_watched, with_shares
from pipeline.inference.tta import VIEWS, Merge, merge_views, view_names
from pipeline.predictions import TEST, Predictions
from pipeline.training.datasets import Batch, Normalise
from pipeline.training.evaluate import Network, plain_predictions
from pipeline.training.outputs import Outputs

CPU = torch.device("cpu")
CLASSES = Outputs("multiclass")
IMAGES = Images(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
READER = Reader(IMAGES, batch_size=8, workers=0, device=CPU)
MERGES: tuple[Merge, ...] = ("probabilities", "logits", "ranks")


@dataclass
class Digits(Dataset[Batch]):
    """Digits of 16 pixels; notes which are read."""

    rows: Sequence[int]

    def __post_init__(self) -> None:
        self.pixels = (load_digits().images * 255 / 16).astype(np.uint8).repeat(2, axis=1).repeat(2, axis=2)
        self.read: list[int] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Batch:
        self.read.append(row)
        return torch.from_numpy(np.stack([self.pixels[self.rows[row]]] * 3, axis=2)), torch.tensor(row)


def network(seed: int) -> torch.nn.Module:
    """Untrained, with what differs between training and predicting; its views differ."""
    torch.manual_seed(seed)
    convolution = torch.nn.Conv2d(3, 4, 3, stride=2)
    head = torch.nn.Linear(196, 10)
    head.weight.data.mul_(10)
    return torch.nn.Sequential(convolution, torch.nn.BatchNorm2d(4), torch.nn.ReLU(inplace=True), torch.nn.Flatten(), torch.nn.Dropout(), head)


@pytest.fixture(scope="module")
def models() -> list[torch.nn.Module]:
    return [network(seed) for seed in range(5)]


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits(range(21))


def members(models: Sequence[torch.nn.Module]) -> list[Member]:
    """Networks that differ in everything in which those that share an input may."""
    views = [tuple(VIEWS), ("identity",), ("zoom_in", "horizontal_flip"), view_names("dihedral"), ("darker", "crop_centre", "identity")]
    merges: list[Merge] = ["probabilities", "ranks", "logits", "logits", "ranks"]
    casts = [None, None, torch.bfloat16, None, None]
    outputs = [CLASSES, CLASSES, CLASSES, Outputs("multilabel"), Outputs("multilabel")]
    return [Member(*parts) for parts in zip(models, outputs, casts, views, merges, strict=True)]


class TestSharing:
    def test_a_network_says_the_same_bits_alone_and_with_others(self, models: list[torch.nn.Module], digits: Digits) -> None:
        every = members(models)
        for predict in (predict_merged, predict_views):
            together = predict(READER, every, digits)
            reverse = predict(READER, every[::-1], digits)[::-1]
            for member, values, other in zip(every, together, reverse, strict=True):
                assert np.array_equal(values, other)
                assert np.array_equal(values, predict(READER, [member], digits)[0])

    def test_every_picture_is_read_once_for_all_and_every_view_made_once(
        self, models: list[torch.nn.Module], digits: Digits, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made = []
        for name, view in VIEWS.items():
            monkeypatch.setitem(VIEWS, name, lambda images, colours, name=name, view=view: made.append(name) or view(images, colours))
        normalise, normalised = Normalise.__call__, []
        monkeypatch.setattr(Normalise, "__call__", lambda self, pixels: normalised.append(len(pixels)) or normalise(self, pixels))
        digits.read.clear()
        predict_merged(READER, members(models), digits)
        assert digits.read == list(range(21))
        assert normalised == [8, 8, 5]
        assert made == list(VIEWS) * 3

    def test_the_order_in_which_views_are_written_changes_no_bit(self, models: list[torch.nn.Module], digits: Digits) -> None:
        names = ("identity", "rotate_90", "crop_top_left", "brighter")
        for merge in MERGES:
            found = [
                predict_merged(READER, [Member(models[0], CLASSES, None, order, merge)], digits)[0]
                for order in itertools.islice(itertools.permutations(names), 5)
            ]
            assert all(np.array_equal(found[0], other) for other in found[1:])
            backwards = Member(models[0], CLASSES, None, names[::-1], merge)
            assert np.array_equal(predict_views(READER, [backwards], digits)[0], predict_views(READER, [replace(backwards, views=names)], digits)[0])

    def test_batches_and_workers_change_next_to_nothing(self, models: list[torch.nn.Module], digits: Digits) -> None:
        every = members(models)[:1]
        [expected] = predict_merged(READER, every, digits)
        [found] = predict_merged(replace(READER, batch_size=5, workers=2), every, digits)
        assert expected.std(axis=0).max() > 1e-3, "the rows differ for this network"
        assert np.allclose(found, expected, atol=1e-6)

    def test_a_batch_that_does_not_fit_goes_through_in_halves(self, models: list[torch.nn.Module], digits: Digits) -> None:
        class Tight(torch.nn.Module):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                if len(images) > 3:
                    raise torch.OutOfMemoryError("CUDA out of memory")
                logits: torch.Tensor = models[0](images)
                return logits

        roomy, tight = predict_merged(READER, [Member(models[0], CLASSES), Member(Tight(), CLASSES)], digits)
        assert np.allclose(roomy, tight, atol=1e-6)


class TestMerging:
    @pytest.mark.parametrize("merge", MERGES)
    @pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
    def test_views_merged_later_are_those_merged_at_once(self, models: list[torch.nn.Module], digits: Digits, merge: Merge, task: str) -> None:
        if task == "regression" and merge == "logits":
            return
        outputs = Outputs("regression", 30.0, 5.0, 0.0, 100.0) if task == "regression" else Outputs(task)  # type: ignore[arg-type]
        member = Member(models[0], outputs, None, view_names("dihedral"), merge)
        [views], [at_once] = predict_views(READER, [member], digits), predict_merged(READER, [member], digits)
        assert views.shape == (8, 21, 10)
        assert views.dtype == at_once.dtype == np.float32
        assert np.abs(views[0] - views[1]).max() > 1e-3, "the views differ for this network"
        assert np.allclose(merge_views(views, merge, outputs.task), at_once, atol=1e-6, rtol=1e-6)

    def test_probabilities_that_single_precision_loses_do_not_disturb_merged_logits(self, digits: Digits) -> None:
        class Sure(torch.nn.Module):
            """Logits far from 0, which depend on the corner."""

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                corner = images[:, 0, :8, :8].mean(dim=(1, 2))
                return torch.stack([60 * corner, -60 * corner], dim=1)

        for outputs in (CLASSES, Outputs("multilabel")):
            member = Member(Sure(), outputs, None, view_names("flips"), "logits")
            [views], [at_once] = predict_views(READER, [member], digits), predict_merged(READER, [member], digits)
            assert np.allclose(merge_views(views, "logits", outputs.task), at_once, atol=1e-6)

    def test_one_view_of_probabilities_is_what_training_sees(self, models: list[torch.nn.Module], digits: Digits) -> None:
        models[0].train()
        loader = READER.load(digits)
        looked = plain_predictions(Network(models[0]), loader, CPU, READER.normalise(), CLASSES)
        assert np.array_equal(predict_merged(READER, [Member(models[0], CLASSES)], digits)[0], looked)
        assert np.allclose(looked.sum(axis=1), 1, atol=1e-6)

    def test_numbers_keep_their_unit_and_its_range(self, models: list[torch.nn.Module], digits: Digits) -> None:
        learned = np.array([[100.0], [200.0], [600.0]], dtype=np.float32)
        [numbers] = predict_merged(READER, [Member(models[0], Outputs.of("regression", learned), None, view_names("flips"))], digits)
        assert numbers.min() >= 100
        assert numbers.max() <= 600
        assert numbers.std() > 0

    def test_no_pictures_are_no_rows(self, models: list[torch.nn.Module]) -> None:
        every = members(models)
        assert [values.shape for values in predict_merged(READER, every, Digits([]))] == [(0, 10)] * 5
        assert [values.shape for values in predict_views(READER, every, Digits([]))] == [(len(member.views), 0, 10) for member in every]


class TestWatched:
    def test_who_stays_says_the_same_bits_as_without_anybody_watching(self, models: list[torch.nn.Module], digits: Digits) -> None:
        every = members(models)
        for member, values, merged, views in zip(
            every, predict_watched(READER, every, digits, Watch()), predict_merged(READER, every, digits), predict_views(READER, every, digits), strict=True
        ):
            assert values is not None
            assert np.array_equal(values, views) if member.merge == "ranks" else np.array_equal(values[0], merged)

    @pytest.mark.parametrize("calls", [0, 1, 9])
    def test_one_that_breaks_leaves_at_any_pass_and_the_others_stay_as_they_are(self, models: list[torch.nn.Module], digits: Digits, calls: int) -> None:
        class Breaking(torch.nn.Module):
            left = calls

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                Breaking.left -= 1
                if Breaking.left < 0:
                    raise ValueError("broken\nat last")
                return models[0](images)

        watch, every = Watch(), members(models)
        every[0] = replace(every[0], model=Breaking(), views=view_names("flips"))
        found = predict_watched(READER, every, digits, watch)
        assert found[0] is None
        assert watch.left == {0: "ValueError: broken at last"}
        for alone, values in zip(predict_watched(READER, every[1:], digits, Watch()), found[1:], strict=True):
            assert values is not None
            assert alone is not None
            assert np.array_equal(values, alone)

    def test_one_may_be_taken_out_between_batches_and_all_may_leave(self, models: list[torch.nn.Module], digits: Digits) -> None:
        class Impatient(Watch):
            rows = 0

            def advance(self, rows: int) -> None:
                self.rows += rows
                self.leave(len(self.left), "no time")

        watch = Impatient()
        found = predict_watched(READER, members(models)[:2], Digits(range(80)), watch)
        assert found == [None, None]
        assert watch.rows < 40, "nobody is left to read for"
        watch = Impatient()
        [values, other] = predict_watched(READER, members(models)[:2], Digits(range(8)), watch)
        assert values is None
        assert other is not None


def test_costs_are_seconds_of_each_network_and_view(digits: Digits) -> None:
    class Slow(torch.nn.Module):
        def __init__(self, factor: int) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            for _ in range(self.factor):
                torch.randn(150, 150).mm(torch.randn(150, 150))
            return images.flatten(1)[:, :2]

    every = [Member(Slow(1), CLASSES, None, ("identity", "zoom_out")), Member(Slow(30), CLASSES, None, ("brighter", "identity"))]
    costs = measure_costs(READER, every, digits, pictures=16)
    assert list(costs.making) == ["identity", "zoom_out", "brighter"]
    assert costs.passes.shape == (2, 3)
    assert (costs.passes > 0).all()
    assert costs.loading > 0
    assert costs.passes[1, 0] > costs.passes[0, 0]
    assert not measure_costs(READER, every, Digits([])).passes.any()


SHARES = np.array([0.5, 0.3, 0.2])


def predictions(ids: tuple[str, ...]) -> Predictions:
    values = np.random.default_rng(0).dirichlet(np.ones(3), size=len(ids)).astype(np.float32)
    return Predictions(ids, ("cat", "dog", "owl"), values, np.full(len(ids), TEST, dtype=np.int16))


class TestClassShares:
    def test_rows_without_a_prediction_get_the_shares_and_all_others_keep_theirs(self) -> None:
        known = predictions(("c", "a", "e"))
        every = ["a", "b", "c", "d", "e"]
        filled = with_shares(known, every, SHARES)
        assert list(filled.ids) == every
        assert filled.classes == known.classes
        for name, row in zip(known.ids, known.values, strict=True):
            assert np.array_equal(filled.values[every.index(name)], row)
        for name in ("b", "d"):
            assert np.allclose(filled.values[every.index(name)], SHARES)
        assert filled.values.dtype == np.float32
        assert set(filled.fold) == {TEST}

    def test_nothing_missing_changes_nothing(self) -> None:
        known = predictions(("a", "b"))
        assert np.array_equal(with_shares(known, ["a", "b"], SHARES).values, known.values)

    def test_no_prediction_at_all_gives_the_shares_everywhere(self) -> None:
        assert np.allclose(with_shares(predictions(()), ["a", "b"], SHARES).values, SHARES)

    def test_a_prediction_for_an_unknown_id_is_refused(self) -> None:
        with pytest.raises(UserError, match='"z"'):
            with_shares(predictions(("a", "z")), ["a", "b"], SHARES)


@pytest.mark.parametrize("merge", MERGES)
@pytest.mark.parametrize("outputs", [Outputs("multilabel"), Outputs("regression", 0.0, 1.0, 0.0, 9.0), CLASSES])
def test_rows_whose_logits_overflow_are_not_taken_for_predictions(outputs: Outputs, merge: Merge) -> None:
    class Overflowing(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(images), 1 if outputs.task == "regression" else 3)
            logits[1, 0] = torch.inf
            return logits

    [values] = predict_watched(READER, [Member(Overflowing(), outputs, merge=merge)], Digits(range(4)), Watch())
    assert values is not None
    assert np.isnan(values[0, 1]).all()
    assert np.isfinite(values[0, [0, 2, 3]]).all()
