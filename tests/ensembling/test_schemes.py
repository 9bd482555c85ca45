import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import expit, softmax
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier

from pipeline.config_data import Task
from pipeline.data.targets import Target
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.schemes import Blend, cross_fit, fit, schemes_for
from pipeline.training.metrics import METRICS

pytestmark = pytest.mark.slow
Values = list[npt.NDArray[np.float32]]
TASKS: list[tuple[Task, str]] = [
    ("multiclass", "accuracy"),
    ("binary", "roc_auc"),
    ("multilabel", "roc_auc"),
    ("ordinal", "quadratic_kappa"),
    ("regression", "mae"),
    ("regression", "rmsle"),
]
EVERY = [(task, metric, scheme) for task, metric in TASKS for scheme in schemes_for(Problem(Target(task, ()), *(np.zeros(0),) * 3, METRICS[metric]))]
FITTED = [case for case in EVERY if case[2] in ("greedy", "simplex", "metric", "stacked")]
LINEAR = ("equal", "greedy", "simplex", "metric")


def case(task: Task, metric: str, rows: int = 120, models: int = 3, seed: int = 0) -> tuple[Values, Problem]:
    """Models that know the truth to differing degrees, each with errors of its own."""
    generator = np.random.default_rng(seed)
    outputs = {"multiclass": 4, "ordinal": 4, "binary": 2, "multilabel": 3, "regression": 1}[task]
    skill = np.linspace(0.6, 2.0, models)
    noise = generator.normal(size=(models, rows, outputs))
    if task == "regression":
        numbers = generator.gamma(3, 10, size=(rows, 1)).astype(np.float32)
        values = [np.maximum(numbers + 8 * part / knows - 1, 0) for knows, part in zip(skill, noise, strict=True)]
    elif task == "multilabel":
        numbers = (generator.random((rows, outputs)) < [0.6, 0.3, 0.1]).astype(np.float32)
        values = [expit(knows * (2 * numbers - 1) + part) for knows, part in zip(skill, noise, strict=True)]
    else:
        numbers = generator.integers(outputs, size=rows)
        values = [softmax(knows * np.eye(outputs)[numbers] + part, axis=1) for knows, part in zip(skill, noise, strict=True)]
    target = Target(task, tuple(f"class {number}" for number in range(outputs)), may_be_empty=True)
    problem = Problem(target, numbers, (np.arange(rows) % 4).astype(np.int16), np.arange(rows), METRICS[metric])
    return [part.astype(np.float32) for part in values], problem


@cache
def digits() -> tuple[Values, Problem]:
    """Out-of-fold predictions of three kinds of classifiers on 500 noisy digits."""
    generator = np.random.default_rng(0)
    pictures, numbers = load_digits(return_X_y=True)
    chosen = generator.permutation(len(numbers))[:500]
    pictures, numbers = pictures[chosen] / 16 + generator.normal(0, 0.25, (500, 64)), numbers[chosen]
    folds = StratifiedKFold(5, shuffle=True, random_state=0)
    fold = np.zeros(500, dtype=np.int16)
    for number, (_, inside) in enumerate(folds.split(pictures, numbers)):
        fold[inside] = number
    models = (LogisticRegression(C=0.1, max_iter=500), GaussianNB(), KNeighborsClassifier(10))
    values = [cross_val_predict(model, pictures, numbers, cv=folds, method="predict_proba").astype(np.float32) for model in models]
    return values, Problem(Target("multiclass", tuple("0123456789")), numbers, fold, np.arange(500), METRICS["log_loss"])


@pytest.mark.parametrize(("task", "metric", "scheme"), EVERY)
class TestEveryScheme:
    def test_what_it_blends_is_a_valid_prediction(self, task: Task, metric: str, scheme: str) -> None:
        values, problem = case(task, metric)
        values[0][:3] = np.eye(values[0].shape[1])[0]  # a model that is sure
        blended = fit(scheme, values, problem, np.flatnonzero(problem.fold != 0)).apply(values, problem.fold)
        assert blended.dtype == np.float32
        assert blended.shape == values[0].shape
        assert np.isfinite(blended).all()
        if task != "regression":
            assert blended.min() >= 0
            assert blended.max() <= 1
        if task not in ("regression", "multilabel") and scheme != "ranks":
            np.testing.assert_allclose(blended.sum(axis=1), 1, atol=1e-6)

    def test_it_travels_through_a_file_to_the_last_bit(self, task: Task, metric: str, scheme: str) -> None:
        values, problem = case(task, metric)
        blend = fit(scheme, values, problem, np.arange(len(problem)))
        again = Blend.from_json(json.loads(json.dumps(blend.to_json())))
        assert again == blend
        assert np.array_equal(again.apply(values), blend.apply(values))

    def test_the_order_of_models_changes_nothing(self, task: Task, metric: str, scheme: str) -> None:
        values, problem = case(task, metric)
        values.append(values[1].copy())
        order = [2, 3, 0, 1]
        before, after = (fit(scheme, some, problem, np.arange(len(problem))) for some in (values, [values[number] for number in order]))
        size = max(1.0, float(np.abs(values[0]).max()))
        np.testing.assert_allclose(after.apply([values[number] for number in order]), before.apply(values), atol=1e-6 * size)

    def test_the_order_of_rows_changes_nothing(self, task: Task, metric: str, scheme: str) -> None:
        values, problem = case(task, metric)
        order, every = np.random.default_rng(1).permutation(len(problem)), np.arange(len(problem))
        expected = fit(scheme, values, problem, every).apply(values)
        shuffled = [part[order] for part in values]
        found = fit(scheme, shuffled, problem.take(order), every).apply(shuffled)
        size = max(1.0, float(np.abs(values[0]).max()))
        np.testing.assert_allclose(found, expected[order], atol=1e-6 * size)

    def test_one_model_alone_gives_back_its_predictions(self, task: Task, metric: str, scheme: str) -> None:
        values, problem = case(task, metric, models=1)
        alone = fit(scheme, values, problem, np.arange(len(problem))).apply(values)
        if scheme in LINEAR:
            assert np.array_equal(alone, values[0])
        elif scheme == "geometric":
            np.testing.assert_allclose(alone, values[0], atol=1e-6)

    def test_each_folds_rows_are_blended_by_its_own_blend(self, task: Task, metric: str, scheme: str) -> None:
        values, problem = case(task, metric)
        blended, blends = cross_fit(scheme, values, problem)
        assert list(blends) == [0, 1, 2, 3]
        for fold, blend in blends.items():
            inside = np.flatnonzero(problem.fold == fold)
            assert np.array_equal(blended[inside], blend.apply([part[inside] for part in values]))
        assert blends[2] == fit(scheme, values, problem, np.flatnonzero(problem.fold != 2))


@pytest.mark.parametrize(("task", "metric", "scheme"), FITTED)
class TestEveryFittedScheme:
    def test_a_folds_blend_does_not_depend_on_its_own_targets(self, task: Task, metric: str, scheme: str) -> None:
        values, problem = case(task, metric, seed=1)
        before, _ = cross_fit(scheme, values, problem)
        inside = problem.fold == 2
        numbers = problem.numbers.copy()
        numbers[inside] = problem.target.decide(values[0])[inside]  # the worst model is right all of a sudden
        after, _ = cross_fit(scheme, values, replace(problem, numbers=numbers))
        assert np.array_equal(after[inside], before[inside])
        assert not np.array_equal(after[~inside], before[~inside]), "the other folds do learn from it"

    def test_on_one_fold_alone_it_is_the_equal_mean(self, task: Task, metric: str, scheme: str) -> None:
        values, problem = case(task, metric)
        alone = replace(problem, fold=np.full(len(problem), 3, dtype=np.int16))
        blended, blends = cross_fit(scheme, values, alone)
        assert blends == {3: Blend.equal(task, 3)}
        assert np.array_equal(blended, blends[3].apply(values))


@pytest.mark.parametrize("scheme", ["ranks", "geometric", "greedy", "simplex", "stacked"])
def test_files_mapped_from_disk_give_the_same(scheme: str, tmp_path: Path) -> None:
    values, problem = case("multilabel", "roc_auc")
    for number, part in enumerate(values):
        np.save(tmp_path / f"{number}.npy", part)
    mapped: Values = [np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(3)]
    assert np.array_equal(cross_fit(scheme, mapped, problem)[0], cross_fit(scheme, values, problem)[0])


class TestRanks:
    def test_they_are_taken_within_a_fold_and_ties_share_their_mean(self) -> None:
        one = np.array([[0.1], [0.4], [0.4], [0.9], [0.8]], dtype=np.float32)
        two = np.array([[5], [1], [2], [1], [2]], dtype=np.float32)
        blend = Blend.equal("multilabel", 2, "ranks")
        fold = np.array([0, 0, 0, 1, 1], dtype=np.int16)
        first = (np.array([0.5, 2, 2]) / 3 + np.array([2.5, 0.5, 1.5]) / 3) / 2
        np.testing.assert_allclose(blend.apply([one, two], fold)[:, 0], [*first, 0.5, 0.5], atol=1e-6)
        np.testing.assert_allclose(blend.apply([one], None)[:, 0], np.array([0.5, 2, 2, 4.5, 3.5]) / 5, atol=1e-6)

    def test_they_are_for_metrics_that_look_at_order_alone(self) -> None:
        assert "ranks" in schemes_for(case("binary", "roc_auc")[1])
        assert "ranks" not in schemes_for(case("multiclass", "accuracy")[1])


def test_the_geometric_mean_is_that_of_probabilities_or_of_odds() -> None:
    one, two = np.array([[0.9, 0.1]], dtype=np.float32), np.array([[0.5, 0.5]], dtype=np.float32)
    np.testing.assert_allclose(Blend.equal("multiclass", 2, "geometric").apply([one, two]), [[0.75, 0.25]], atol=1e-6)
    np.testing.assert_allclose(Blend.equal("multilabel", 2, "geometric").apply([one, two]), [[0.75, 0.25]], atol=1e-6)
    assert "geometric" not in schemes_for(case("regression", "mae")[1])


@pytest.mark.parametrize(("task", "metric"), TASKS)
def test_searching_on_the_metric_is_never_worse_than_its_starts_or_the_best_model(task: Task, metric: str) -> None:
    values, problem = case(task, metric, rows=120, models=4, seed=3)
    every = np.arange(len(problem))

    def score(scheme: str) -> float:
        return problem.metric.sign * problem.score(fit(scheme, values, problem, every).apply(values))

    assert score("metric") >= max(score("equal"), score("simplex"))
    assert score("greedy") >= max(problem.metric.sign * problem.score(part) for part in values)


def test_the_search_on_the_metric_does_find_something() -> None:
    values, problem = case("multiclass", "accuracy", rows=300, models=4, seed=1)
    found = problem.score(fit("metric", values, problem, np.arange(300)).apply(values))
    assert found > max(problem.score(fit(scheme, values, problem, np.arange(300)).apply(values)) for scheme in ("equal", "simplex")) + 0.005


def test_greedy_selection_adds_the_model_that_helps_most_each_time() -> None:
    values, problem = case("multiclass", "log_loss", models=3, seed=5)
    counts, best = np.zeros(3), (np.inf, np.zeros(3))
    for _ in range(25):
        losses = [problem.score(np.einsum("m,mro->ro", counts + one, np.stack(values)) / (counts.sum() + 1)) for one in np.eye(3)]
        counts = counts + np.eye(3)[int(np.argmin(losses))]
        best = min(best, (min(losses), counts / counts.sum()), key=lambda pair: pair[0])
    weights = fit("greedy", values, problem, np.arange(len(problem))).weights
    np.testing.assert_allclose(weights, best[1], atol=1e-12)


def test_a_regression_on_all_models_and_simplex_weights_beat_the_equal_mean_on_digits() -> None:
    values, problem = digits()
    scores = {scheme: problem.score(cross_fit(scheme, values, problem)[0]) for scheme in schemes_for(problem)}
    assert scores["stacked"] < scores["equal"]
    assert scores["simplex"] < scores["equal"]
    weights = fit("simplex", values, problem, np.arange(500)).weights_by(["logistic", "bayes", "neighbours"])
    assert weights is not None
    assert sum(weights.values()) == pytest.approx(1)
    assert fit("stacked", values, problem, np.arange(500)).weights_by(["logistic", "bayes", "neighbours"]) is None


def test_a_regression_on_all_models_follows_shifted_numbers() -> None:
    values, problem = case("regression", "rmse", rows=400)
    shifted = [2 * part + 1000 for part in values]
    blended, _ = cross_fit("stacked", shifted, problem)
    assert problem.score(blended) < 1.1 * problem.score(cross_fit("simplex", values, problem)[0])


def test_where_a_class_has_no_row_to_learn_from_stacked_is_the_equal_mean() -> None:
    values, problem = case("multiclass", "accuracy")
    assert fit("stacked", values, problem, np.flatnonzero(problem.numbers != 2)) == Blend.equal("multiclass", 3)
    several, labels = case("multilabel", "accuracy")
    none = fit("stacked", several, labels, np.flatnonzero(labels.numbers[:, 2] == 0))
    geometric = Blend.equal("multilabel", 3, "geometric").apply([np.clip(part, 1e-3, 1 - 1e-3) for part in several])
    np.testing.assert_allclose(none.apply(several)[:, 2], geometric[:, 2], atol=1e-6)
