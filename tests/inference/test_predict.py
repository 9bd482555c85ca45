from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_settings

from pipeline.config import Config, Model, Predict
from pipeline.data.cache import ImageCache
from pipeline.errors import UserError
from pipeline.inference.predict import Predictor, with_shares
from pipeline.predictions import TEST, Predictions
from pipeline.stages.prepare import Prepared, prepare
from pipeline.training.models import build_model
from pipeline.training.outputs import Outputs

CLASSES = Outputs("multiclass")
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


@pytest.fixture(scope="module")
def config(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    return Config.model_validate(small_settings(digits, tmp_path_factory.mktemp("outputs")))


@pytest.fixture(scope="module")
def prepared(config: Config) -> Prepared:
    return prepare(config)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return build_model(Model(backbone="test_resnet", weights=None), 10, seed=0)


class TestPredictor:
    def predictor(self, config: Config, prepared: Prepared, section: Predict, workers: int = 0) -> Predictor:
        cache = ImageCache(prepared.cache, prepared.pictures)
        return Predictor(cache, config.images, section, prepared.classes, torch.device("cpu"), None, workers)

    def test_a_row_keeps_its_prediction_in_any_order_and_batch_size(self, config: Config, prepared: Prepared, model: torch.nn.Module) -> None:
        ids = prepared.ids("test")[:40]
        expected = self.predictor(config, prepared, Predict())(model, CLASSES, "test", ids, TEST)
        found = self.predictor(config, prepared, Predict(batch_size=7), workers=2)(model, CLASSES, "test", ids[::-1], TEST)
        assert list(found.ids) == ids[::-1]
        assert np.abs(found.values[0] - found.values[1]).max() > 1e-6, "the rows differ for this network"
        assert np.allclose(found.of(ids).values, expected.values, atol=1e-6)

    def test_rows_carry_their_fold_and_sum_to_one(self, config: Config, prepared: Prepared, model: torch.nn.Module) -> None:
        ids = prepared.folds["id"].tolist()[:10]
        found = self.predictor(config, prepared, Predict(tta="dihedral"))(model, CLASSES, "train", ids, 3)
        assert found.fold.tolist() == [3] * 10
        assert found.classes == prepared.classes
        assert np.allclose(found.values.sum(axis=1), 1, atol=1e-6)

    def test_several_labels_have_probabilities_of_their_own_and_numbers_their_unit(self, config: Config, prepared: Prepared, model: torch.nn.Module) -> None:
        ids = prepared.ids("test")[:10]
        predict = self.predictor(config, prepared, Predict(tta="flips"))
        labels = predict(model, Outputs("multilabel"), "test", ids, TEST).values
        assert ((labels > 0) & (labels < 1)).all()
        assert not np.allclose(labels.sum(axis=1), 1, atol=1e-3)
        learned = np.array([[100.0], [200.0], [600.0]], dtype=np.float32)
        numbers = predict(model, Outputs.of("regression", learned), "test", ids, TEST).values
        assert numbers.min() >= 100
        assert numbers.max() <= 600
        assert numbers.std() > 0

    def test_no_ids_are_no_rows(self, config: Config, prepared: Prepared, model: torch.nn.Module) -> None:
        assert self.predictor(config, prepared, Predict())(model, CLASSES, "test", [], TEST).values.shape == (0, 10)
