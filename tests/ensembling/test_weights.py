from typing import Literal

import numpy as np
import numpy.typing as npt
import pytest
from scipy.optimize import minimize

from pipeline.data.targets import Target
from pipeline.ensembling import weights as module
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.weights import StandIn, blend, fold_weights, given_truth, with_mean_weight
from pipeline.training.metrics import METRICS

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


def fit_weights(given: Floats) -> Floats:
    """Simplex weights of models of which only what they gave to the truth counts; given: [rows, models]."""
    rows, nothing = len(given), np.zeros(len(given), dtype=np.int64)
    problem = Problem(Target("multiclass", ("truth", "other")), nothing, nothing.astype(np.int16), np.arange(rows), METRICS["log_loss"])
    values = [np.stack([column, 1 - column], axis=1) for column in given.T]
    return StandIn(values, problem).on(np.arange(rows)).minimise()


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


class TestSeveralLabels:
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


def expectation_maximisation(given: Floats) -> Floats:
    """Mixture proportions (Dempster, Laird and Rubin, 1977): slow, but never off the simplex and never worse."""
    weights = np.full(given.shape[1], 1 / given.shape[1])
    for _ in range(5000):
        weights = weights * (given / (given @ weights)[:, None]).mean(axis=0)
    return weights


class TestHardCases:
    @pytest.mark.parametrize("seed", range(6))
    def test_they_are_as_good_as_those_of_expectation_maximisation(self, seed: int) -> None:
        generator = np.random.default_rng(seed)
        rows, models = [(5, 3), (20, 12), (60, 20), (300, 20), (300, 5), (2000, 8)][seed]
        close = np.clip(generator.beta(3, 2, (rows, 1)) + generator.normal(0, 0.01, (rows, models)), 1e-15, 1)  # nearly copies
        close[generator.random((rows, models)) < 0.02] = 1e-15
        close[:, -1] = close[:, 0]
        weights = fit_weights(close)
        assert loss(weights, close) <= loss(expectation_maximisation(close), close) + 1e-9
        assert weights[0] == pytest.approx(weights[-1], abs=1e-6), "copies share"
        order = generator.permutation(models)
        np.testing.assert_allclose(fit_weights(close[:, order]), weights[order], atol=1e-6)
        np.testing.assert_allclose(fit_weights(close[generator.permutation(rows)]), weights, atol=1e-6)


def numbers_case(metric: str, rows: int = 300, models: int = 4) -> tuple[list[npt.NDArray[np.float32]], Problem]:
    generator = np.random.default_rng(7)
    truth = generator.gamma(3, 1000, size=(rows, 1)).astype(np.float32)
    values = [(truth + generator.normal(0, 500 + 300 * number, (rows, 1)) + 100 * number).astype(np.float32) for number in range(models)]
    every = np.arange(rows)
    return values, Problem(Target("regression", ("price",)), truth, np.zeros(rows, dtype=np.int16), every, METRICS[metric])


class TestNumbers:
    @pytest.mark.parametrize("metric", ["rmse", "r2", "mae", "rmsle"])
    def test_weights_are_those_of_a_general_solver_on_the_metric_itself(self, metric: str) -> None:
        values, problem = numbers_case(metric)
        weights = StandIn(values, problem).on(np.arange(len(problem))).minimise()
        sign = problem.metric.sign

        def score(some: Floats) -> float:
            return -sign * problem.score_scored(np.stack(values, axis=2).astype(np.float64) @ some)

        scale = abs(score(np.full(4, 0.25)))
        starts = [np.full(4, 0.25), weights]
        sums = {"type": "eq", "fun": lambda some: some.sum() - 1}
        options = {"maxiter": 500, "ftol": 1e-12}
        found = [minimize(lambda some: score(some) / scale, start, method="SLSQP", bounds=[(0, 1)] * 4, constraints=sums, options=options) for start in starts]
        assert score(weights) / scale <= min(one.fun for one in found) + (1e-4 if metric == "mae" else 1e-7)
        assert weights.sum() == pytest.approx(1)
        assert (weights >= 0).all()
        if metric != "mae":  # whose stand-in is round at the bottom
            assert np.abs(weights - found[1].x).max() < 1e-3

    def test_the_unit_changes_nothing(self) -> None:
        values, problem = numbers_case("rmse")
        larger = Problem(problem.target, problem.numbers * 1024, problem.fold, problem.group, problem.metric)
        before, after = (StandIn(some, part).on(np.arange(300)).minimise() for some, part in ((values, problem), ([1024 * part for part in values], larger)))
        np.testing.assert_allclose(after, before, atol=1e-8)

    def test_models_without_a_mistake_are_survived(self) -> None:
        _, problem = numbers_case("mae")
        for metric in ("rmse", "mae", "rmsle"):
            part = Problem(problem.target, problem.numbers, problem.fold, problem.group, METRICS[metric])
            np.testing.assert_allclose(StandIn([problem.numbers] * 2, part).on(np.arange(300)).minimise(), [0.5, 0.5], atol=1e-6)


@pytest.mark.parametrize("task", ["multilabel", "multiclass"])
def test_what_does_not_fit_in_memory_is_read_in_passes_with_the_same_weights(
    task: Literal["multilabel", "multiclass"], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    truth = (generator.random((3000, 3)) < 0.3).astype(np.float32) if task == "multilabel" else generator.integers(3, size=3000)
    values = [generator.beta(1, 3, (3000, 3)).astype(np.float32) for _ in range(4)]
    if task == "multilabel":
        values[1] = np.clip(values[1] + 0.3 * truth, 0.01, 0.99).astype(np.float32)
    problem = Problem(Target(task, ("a", "b", "c")), truth, np.zeros(3000, dtype=np.int16), np.arange(3000), METRICS["log_loss"])
    rows = np.flatnonzero(generator.random(3000) < 0.8)
    kept = StandIn(values, problem).on(rows).minimise()
    monkeypatch.setattr(module, "KEPT", 1000)
    monkeypatch.setattr(module, "CHUNK", 4000)
    assert not StandIn(values, problem).kept
    np.testing.assert_allclose(StandIn(values, problem).on(rows).minimise(), kept, atol=1e-7)


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
