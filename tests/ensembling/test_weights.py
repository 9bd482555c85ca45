import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize

from pipeline.ensembling.weights import blend, cross_fitted, fit_weights, fold_weights, given_truth, with_mean_weight

Floats = npt.NDArray[np.float64]


def random_models(seed: int, rows: int, models: int, classes: int = 4) -> tuple[list[npt.NDArray[np.float32]], npt.NDArray[np.int64]]:
    """Probabilities of models that know the target to differing degrees, each with errors of its own."""
    generator = np.random.default_rng(seed)
    targets = generator.integers(classes, size=rows)
    skill = generator.uniform(0.3, 2.5, size=models)
    logits = [knows * np.eye(classes)[targets] + generator.normal(size=(rows, classes)) for knows in skill]
    odds = [np.exp(values) for values in logits]
    return [(values / values.sum(axis=1, keepdims=True)).astype(np.float32) for values in odds], targets


def given_to_the_truth(values: list[npt.NDArray[np.float32]], targets: npt.NDArray[np.int64]) -> Floats:
    return np.stack([part[np.arange(len(targets)), targets] for part in values], axis=1).astype(np.float64)


def loss(weights: Floats, given: Floats) -> float:
    return float(-np.log(given @ weights).mean())


def solved_by_scipy(given: Floats) -> Floats:
    models = given.shape[1]
    found = minimize(
        loss,
        np.full(models, 1 / models),
        args=(given,),
        jac=lambda weights, given: -(given / (given @ weights)[:, None]).mean(axis=0),
        method="SLSQP",
        bounds=[(0, 1)] * models,
        constraints={"type": "eq", "fun": lambda weights: weights.sum() - 1, "jac": np.ones_like},
        options={"maxiter": 1000, "ftol": 1e-14},
    )
    assert found.success, found.message
    return np.asarray(found.x)


class TestFittedWeights:
    @pytest.mark.parametrize("seed", range(8))
    @pytest.mark.parametrize(("rows", "models"), [(60, 2), (300, 3), (1000, 6)])
    def test_they_equal_the_solution_of_a_general_solver(self, seed: int, rows: int, models: int) -> None:
        given = given_to_the_truth(*random_models(seed, rows, models))
        weights, expected = fit_weights(given), solved_by_scipy(given)
        assert loss(weights, given) <= loss(expected, given) + 1e-6
        assert np.abs(weights - expected).max() < 1e-3

    @pytest.mark.parametrize("seed", range(5))
    def test_they_lie_on_the_simplex(self, seed: int) -> None:
        weights = fit_weights(given_to_the_truth(*random_models(seed, 200, 5)))
        assert (weights >= 0).all()
        assert weights.sum() == pytest.approx(1)

    def test_noise_gets_no_weight_beside_a_good_model(self) -> None:
        generator = np.random.default_rng(0)
        given = np.stack([generator.beta(9, 1, size=500), generator.uniform(0, 0.2, size=500)], axis=1)
        weights = fit_weights(given)
        assert weights[1] < 1e-3
        assert weights[0] > 0.999

    def test_they_are_never_worse_than_equal_weights_or_any_single_model(self) -> None:
        for seed in range(5):
            given = given_to_the_truth(*random_models(seed, 200, 4))
            fitted = loss(fit_weights(given), given)
            for other in [np.full(4, 0.25), *np.eye(4)]:
                assert fitted <= loss(other, given) + 1e-7

    def test_the_order_of_models_does_not_matter(self) -> None:
        given = given_to_the_truth(*random_models(1, 200, 4))
        order = np.array([2, 0, 3, 1])
        assert np.allclose(fit_weights(given[:, order]), fit_weights(given)[order], atol=1e-6)

    def test_two_copies_of_a_model_share_its_weight(self) -> None:
        given = given_to_the_truth(*random_models(2, 200, 2))
        alone, doubled = fit_weights(given), fit_weights(given[:, [0, 1, 1]])
        assert loss(doubled, given[:, [0, 1, 1]]) == pytest.approx(loss(alone, given), abs=1e-6)
        assert doubled[1] == pytest.approx(doubled[2])

    def test_one_model_gets_everything(self) -> None:
        assert fit_weights(np.array([[0.5], [0.0]])).tolist() == [1.0]

    def test_a_truth_that_a_model_ruled_out_is_survived(self) -> None:
        weights = fit_weights(np.array([[0.0, 0.5], [0.9, 0.5], [0.9, 0.0]]))
        assert np.isfinite(weights).all()
        assert weights.sum() == pytest.approx(1)


class TestCrossFitted:
    FOLD = np.arange(240, dtype=np.int16) % 4

    def test_a_folds_blend_does_not_depend_on_its_own_targets(self) -> None:
        values, targets = random_models(3, 240, 3)
        before = cross_fitted(values, targets, self.FOLD)
        for number in range(4):
            inside = number == self.FOLD
            changed = np.where(inside, (targets + 1) % 4, targets)
            after = cross_fitted(values, changed, self.FOLD)
            assert np.array_equal(after[inside], before[inside])
            assert not np.allclose(after[~inside], before[~inside], atol=1e-4), "the other folds do learn from it"

    def test_it_blends_with_the_weights_of_the_other_folds(self) -> None:
        values, targets = random_models(3, 240, 3)
        blended = cross_fitted(values, targets, self.FOLD)
        for number in range(4):
            inside = number == self.FOLD
            weights = fit_weights(given_to_the_truth([part[~inside] for part in values], targets[~inside]))
            assert np.allclose(blended[inside], blend([part[inside] for part in values], weights), atol=1e-6)

    def test_rows_in_another_order_give_the_same_rows(self) -> None:
        values, targets = random_models(3, 240, 3)
        order = np.random.default_rng(0).permutation(240)
        shuffled = cross_fitted([part[order] for part in values], targets[order], self.FOLD[order])
        assert np.allclose(shuffled, cross_fitted(values, targets, self.FOLD)[order], atol=1e-6)

    def test_the_models_are_not_changed(self) -> None:
        values, targets = random_models(3, 240, 3)
        before = [part.copy() for part in values]
        cross_fitted(values, targets, self.FOLD)
        assert all(np.array_equal(left, right) for left, right in zip(values, before, strict=True))


class TestSeveralLabels:
    FOLD = np.arange(240, dtype=np.int16) % 4

    def models(self) -> tuple[list[npt.NDArray[np.float32]], npt.NDArray[np.float32]]:
        """One that knows a good deal of every label, and one that knows nothing and is sure of it."""
        generator = np.random.default_rng(0)
        targets = (generator.random((240, 3)) < [0.6, 0.3, 0.1]).astype(np.float32)
        good = np.clip(0.7 * targets + 0.15 + generator.normal(0, 0.1, (240, 3)), 0.02, 0.98)
        noise = generator.beta(0.5, 0.5, (240, 3)).clip(0.02, 0.98)
        return [good.astype(np.float32), noise.astype(np.float32)], targets

    def test_what_is_given_to_the_truth_is_of_each_label_being_there_or_not(self) -> None:
        given = given_truth(np.array([[0.9, 0.2]], dtype=np.float32), np.array([[1, 0]], dtype=np.float32))
        assert given.tolist() == [pytest.approx([0.9, 0.8], abs=1e-6)]
        one = given_truth(np.array([[0.9, 0.1], [0.25, 0.75]], dtype=np.float32), np.array([0, 0]))
        assert one.tolist() == pytest.approx([0.9, 0.25], abs=1e-6)

    def test_noise_gets_no_weight(self) -> None:
        values, targets = self.models()
        weights = fit_weights(np.stack([given_truth(part, targets).ravel() for part in values], axis=1))
        assert weights[0] > 0.98
        assert np.abs(weights - solved_by_scipy(np.stack([given_truth(part, targets).ravel() for part in values], axis=1))).max() < 1e-3

    def test_the_cross_fitted_blend_is_that_of_the_good_model(self) -> None:
        values, targets = self.models()
        blended = cross_fitted(values, targets, self.FOLD)
        assert blended.shape == (240, 3)
        assert np.abs(blended - values[0]).max() < 0.03

    def test_a_folds_blend_does_not_depend_on_its_own_targets(self) -> None:
        values, targets = self.models()
        values[1] = np.clip(values[0] + np.random.default_rng(1).normal(0, 0.2, (240, 3)), 0.01, 0.99).astype(np.float32)
        before = cross_fitted(values, targets, self.FOLD)
        inside = self.FOLD == 2
        after = cross_fitted(values, np.where(inside[:, None], 1 - targets, targets), self.FOLD)
        assert np.array_equal(after[inside], before[inside])
        assert not np.allclose(after[~inside], before[~inside], atol=1e-4)


class TestBlend:
    def test_rows_sum_to_one(self) -> None:
        values, _ = random_models(0, 50, 3)
        blended = blend(values, np.array([0.2, 0.5, 0.3]))
        assert blended.dtype == np.float32
        assert np.allclose(blended.sum(axis=1), 1, atol=1e-6)

    def test_the_order_of_models_does_not_matter(self) -> None:
        values, _ = random_models(0, 50, 3)
        weights = np.array([0.2, 0.5, 0.3])
        assert np.allclose(blend(values[::-1], weights[::-1]), blend(values, weights), atol=1e-6)

    def test_it_is_the_weighted_mean_by_hand(self) -> None:
        values = [np.array([[1.0, 0.0]], dtype=np.float32), np.array([[0.2, 0.8]], dtype=np.float32)]
        assert np.allclose(blend(values, np.array([0.75, 0.25])), [[0.8, 0.2]])

    def test_numbers_keep_their_unit(self) -> None:
        values = [np.array([[100.0], [-4.0]], dtype=np.float32), np.array([[200.0], [8.0]], dtype=np.float32)]
        assert np.allclose(blend(values, np.array([0.25, 0.75])), [[175.0], [5.0]])

    def test_a_different_number_of_weights_is_our_mistake(self) -> None:
        values, _ = random_models(0, 5, 3)
        with pytest.raises(ValueError, match="zip"):
            blend(values, np.array([0.5, 0.5]))


class TestFoldWeights:
    def test_equal_ignores_the_scores(self) -> None:
        assert fold_weights("equal", [0.9, 0.1, 0.5, 0.5], 1).tolist() == [0.25] * 4

    def test_by_score_the_worst_keeps_half_the_weight_of_the_best(self) -> None:
        weights = fold_weights("score", [0.90, 0.95, 0.92], 1)
        assert weights.sum() == pytest.approx(1)
        assert weights[0] == pytest.approx(weights[1] / 2)
        assert weights[0] < weights[2] < weights[1]

    def test_where_less_is_better_the_lowest_gets_most(self) -> None:
        weights = fold_weights("score", [0.3, 0.1, 0.2], -1)
        assert weights[1] > weights[2] > weights[0] > 0
        assert np.allclose(weights, fold_weights("score", [-0.3, -0.1, -0.2], 1))

    @pytest.mark.parametrize("scores", [[0.9], [0.9, 0.9, 0.9]])
    def test_equal_scores_get_equal_weights(self, scores: list[float]) -> None:
        assert np.allclose(fold_weights("score", scores, 1), 1 / len(scores))


def test_a_fold_without_a_score_counts_as_the_worst() -> None:
    np.testing.assert_allclose(fold_weights("score", [np.nan, 0.6, 0.7], 1), fold_weights("score", [0.6, 0.6, 0.7], 1))
    np.testing.assert_allclose(fold_weights("score", [np.nan, 0.6, 0.7], -1), fold_weights("score", [0.7, 0.6, 0.7], -1))
    np.testing.assert_allclose(fold_weights("score", [np.nan, np.nan], 1), [0.5, 0.5])


def test_a_further_member_has_the_mean_weight_of_the_folds_and_these_keep_their_proportions() -> None:
    folds = fold_weights("score", [0.8, 0.9, 0.7], sign=1)
    weights = with_mean_weight(folds, 4)
    assert weights.sum() == pytest.approx(1)
    assert weights[3] == pytest.approx(weights[:3].mean())
    np.testing.assert_allclose(weights[:3] / weights[0], folds / folds[0])
    assert with_mean_weight(fold_weights("equal", [0.8, 0.9, 0.7], sign=1), 4) == pytest.approx(np.full(4, 0.25))
    assert (with_mean_weight(folds, 3) == folds).all(), "without one not a bit changes"
