from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from scipy.special import softmax

from pipeline.data.targets import Target
from pipeline.ensembling import automatic
from pipeline.ensembling.automatic import TRIED, Choice, fit_ensemble
from pipeline.ensembling.bootstrap import Resampler, interval, share_better
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.schemes import Blend, cross_fit, fit
from pipeline.training.metrics import METRICS

Values = list[npt.NDArray[np.float32]]
DRAWS = 200


def case(rows: int, skill: list[float], metric: str = "log_loss", seed: int = 0, folds: int = 4) -> tuple[Values, Problem]:
    """Models of three classes with errors of their own; skill: how much each knows."""
    generator = np.random.default_rng(seed)
    numbers = generator.integers(3, size=rows)
    values = [softmax(knows * np.eye(3)[numbers] + generator.normal(size=(rows, 3)), axis=1).astype(np.float32) for knows in skill]
    fold = (np.arange(rows) % folds).astype(np.int16)
    return values, Problem(Target("multiclass", ("a", "b", "c")), numbers, fold, np.arange(rows), METRICS[metric])


@pytest.mark.parametrize("metric", ["log_loss", "accuracy"])
def test_noise_gets_no_weight_a_copy_half_of_it_and_auto_beats_the_equal_mean(metric: str) -> None:
    values, problem = case(1500, [2.0, 0.0], metric)
    values = [values[0], 3 * values[1], values[0].copy()]
    values[1] = (values[1] / values[1].sum(axis=1, keepdims=True)).astype(np.float32)
    fitted = fit_ensemble(values, problem, "auto", DRAWS, seed=0)
    good, noise, copy = fitted.weights["simplex"]
    assert noise < 0.01
    assert good == pytest.approx(copy, abs=1e-6)
    sign = problem.metric.sign
    assert sign * problem.score(fitted.out_of_fold["auto"]) >= sign * problem.score(fitted.out_of_fold["equal"])
    if metric == "log_loss":
        assert fitted.chosen == "simplex"
        assert fitted.better["simplex"] == 1.0
        assert np.array_equal(fitted.out_of_fold["auto"], fitted.out_of_fold["simplex"])


@pytest.mark.parametrize("seed", range(4))
def test_where_60_rows_would_be_overfitted_the_equal_mean_is_kept(seed: int) -> None:
    values, problem = case(60, [1.5] * 6, seed=seed)
    every = np.arange(60)
    apparent, equal = (problem.score(fit(scheme, values, problem, every).apply(values)) for scheme in ("simplex", "equal"))
    assert apparent < equal - 0.005, "on the rows it is fitted on it looks better"
    fitted = fit_ensemble(values, problem, "auto", DRAWS, seed=0)
    assert fitted.chosen == "equal"
    assert fitted.blend == Blend.equal("multiclass", 6)
    assert fitted.weights["auto"] == pytest.approx((1 / 6,) * 6)


@pytest.mark.slow
def test_the_choice_for_a_fold_does_not_see_its_targets() -> None:
    values, problem = case(120, [1.4, 1.0, 0.9], seed=5)
    before = fit_ensemble(values, problem, "auto", DRAWS, seed=0)
    assert {blend.scheme for blend in before.without.values()} == {"equal", "simplex"}, "a case on the edge, where the choice depends on the rows"
    elsewhere = 0
    for fold in problem.folds:
        inside = problem.fold == fold
        assert np.array_equal(before.out_of_fold["auto"][inside], before.without[fold].apply([part[inside] for part in values]))
        changed = Choice(values, replace(problem, numbers=np.where(inside, values[2].argmax(axis=1), problem.numbers)), TRIED, DRAWS, 0)
        assert changed.by_rule([fold]) == before.without[fold]
        elsewhere += sum(changed.by_rule([other]).scheme != before.without[other].scheme for other in problem.folds)
    assert elsewhere > 0, "what is chosen for other folds does depend on this one"


@pytest.mark.slow
def test_the_rule_for_a_fold_is_what_auto_does_where_that_fold_does_not_exist() -> None:
    values, problem = case(160, [1.6, 0.9, 0.7], seed=1)
    fitted = fit_ensemble(values, problem, "auto", DRAWS, seed=0)
    for fold in problem.folds:
        inside = np.flatnonzero(problem.fold != fold)
        alone = fit_ensemble([part[inside] for part in values], problem.take(inside), "auto", DRAWS, seed=0)
        assert alone.chosen == fitted.without[fold].scheme
        assert alone.blend.weights == pytest.approx(fitted.without[fold].weights, abs=1e-9)


def test_shares_and_intervals_are_of_the_cross_fitted_predictions() -> None:
    values, problem = case(200, [1.6, 0.9, 0.7], "accuracy")
    fitted = fit_ensemble(values, problem, "stacked", DRAWS, seed=3)
    assert list(fitted.out_of_fold) == ["equal", "geometric", "greedy", "simplex", "metric", "stacked", "auto"]
    resampler = Resampler(problem, DRAWS, 3)
    equal = resampler(problem.scored(fitted.out_of_fold["equal"]))
    for scheme in list(fitted.out_of_fold)[:-1]:
        blended, blends = cross_fit(scheme, values, problem)
        assert np.array_equal(fitted.out_of_fold[scheme], blended)
        drawn = resampler(problem.scored(blended))
        assert fitted.intervals[scheme] == interval(drawn)
        assert fitted.better.get(scheme) == (None if scheme == "equal" else share_better(drawn, equal, 1))
        if scheme == "stacked":
            assert fitted.without == blends
    assert fitted.chosen == fitted.blend.scheme == "stacked"
    assert fitted.blend == fit("stacked", values, problem, np.arange(200))
    assert "stacked" not in fitted.weights
    assert fitted.weights["simplex"] == fit("simplex", values, problem, np.arange(200)).weights


def test_the_order_of_models_changes_nothing() -> None:
    values, problem = case(160, [1.6, 0.9, 0.7], seed=1)
    order = [2, 0, 1]
    before, after = (fit_ensemble(some, problem, "auto", DRAWS, seed=0) for some in (values, [values[number] for number in order]))
    assert before.better == after.better
    for scheme, blended in before.out_of_fold.items():
        np.testing.assert_allclose(after.out_of_fold[scheme], blended, atol=1e-6)


@pytest.mark.parametrize("asked", ["auto", "simplex", "stacked", "equal"])
def test_one_experiment_is_itself(asked: str) -> None:
    values, problem = case(60, [1.5])
    fitted = fit_ensemble(values, problem, asked, DRAWS, seed=0)
    assert fitted.chosen == "equal"
    assert list(fitted.out_of_fold) == ["equal"]
    assert np.array_equal(fitted.out_of_fold["equal"], values[0])
    assert fitted.without == dict.fromkeys(range(4), fitted.blend)
    low, high = fitted.intervals["equal"]
    assert low < problem.score(values[0]) < high
    assert fitted.notes == ()


@pytest.mark.parametrize("asked", ["auto", "simplex"])
def test_one_fold_alone_is_blended_equally_and_says_so(asked: str) -> None:
    values, problem = case(600, [2.0, 0.0], folds=1)
    fitted = fit_ensemble(values, problem, asked, DRAWS, seed=0)
    assert fitted.blend == fitted.without[0] == Blend.equal("multiclass", 2)
    assert np.array_equal(fitted.out_of_fold["simplex"], fitted.out_of_fold["equal"])
    assert fitted.notes == ("one fold alone: nothing can be fitted on rows of another, so every fitted scheme is the equal mean",)


def test_of_two_folds_neither_leaves_enough_to_choose_by() -> None:
    values, problem = case(600, [2.0, 0.0], folds=2)
    assert Choice(values, problem, TRIED, DRAWS, 0).by_rule([0]) == Blend.equal("multiclass", 2)
    assert fit_ensemble(values, problem, "auto", DRAWS, seed=0).chosen == "simplex"


def test_what_would_take_long_is_left_out_with_a_note_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(automatic, "MOST_VALUES", 100)
    values, problem = case(60, [1.5, 0.5])
    fitted = fit_ensemble(values, problem, "auto", DRAWS, seed=0)
    assert list(fitted.out_of_fold) == ["equal", "geometric", "simplex", "auto"]
    assert any(note.startswith("not compared, as 60 rows, 3 outputs and 2 experiments would take long: greedy, metric, stacked") for note in fitted.notes)
    asked = fit_ensemble(values, problem, "greedy", DRAWS, seed=0)
    assert "greedy" in asked.out_of_fold
    assert asked.chosen == "greedy"
    assert "metric" not in asked.out_of_fold


def test_a_class_of_one_fold_alone_is_told() -> None:
    values, problem = case(80, [1.5, 0.5])
    numbers = problem.numbers.copy()
    numbers[(problem.fold != 1) & (numbers == 2)] = 0
    fitted = fit_ensemble(values, replace(problem, numbers=numbers), "stacked", DRAWS, seed=0)
    assert "stacked is the equal mean for fold 1: a class has no row among those that it would be fitted on" in fitted.notes
    assert fitted.chosen == "stacked"
