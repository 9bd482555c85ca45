from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from pipeline.tuning.importances import importances

SPACE: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-4, 1e-1, log=True),
    "layers": IntDistribution(1, 8),
    "mixing": CategoricalDistribution(["none", "mixup", "cutmix"]),
    "mixing.alpha": FloatDistribution(0.0, 1.0),
}


def study_of(trials: Sequence[tuple[Mapping[str, Any], Any]]) -> optuna.study.Study:
    """A study of finished trials: parameters, value or values; None: it failed."""
    widths = {len(value) for _, value in trials if isinstance(value, tuple)}
    study = optuna.create_study(directions=["maximize"] * max(widths, default=1))
    for parameters, value in trials:
        values = None if value is None else list(value) if isinstance(value, tuple) else [value]
        state = optuna.trial.TrialState.FAIL if value is None else optuna.trial.TrialState.COMPLETE
        distributions = {name: SPACE[name] for name in parameters}
        study.add_trial(optuna.trial.create_trial(params=dict(parameters), distributions=distributions, values=values, state=state))
    return study


def drawn(count: int, conditional: bool = False) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        mixing = str(random.choice(["none", "mixup"]))
        parameters = {"rate": float(10 ** random.uniform(-4, -1)), "layers": int(random.integers(1, 9)), "mixing": mixing}
        found.append(parameters | ({"mixing.alpha": float(random.uniform())} if conditional and mixing == "mixup" else {}))
    return found


def by_rate(parameters: Mapping[str, Any]) -> float:
    """A score that one power of ten below 0.01 costs as much as one above."""
    return 0.9 - 0.02 * abs(float(np.log10(parameters["rate"])) + 2)


def test_what_the_score_depends_on_is_important_and_shares_sum_to_one() -> None:
    found = importances(study_of([(parameters, by_rate(parameters)) for parameters in drawn(40)]))
    assert found is not None
    assert next(iter(found)) == "rate"
    assert found["rate"] > 0.8
    assert sum(found.values()) == pytest.approx(1.0)


def test_a_conditional_dimension_is_measured_within_its_trials() -> None:
    trials = drawn(60, conditional=True)
    strong = importances(study_of([(one, 0.5 + 0.2 * one.get("mixing.alpha", 0.5)) for one in trials]))
    weak = importances(study_of([(one, by_rate(one)) for one in trials]))
    assert strong is not None
    assert weak is not None
    assert strong["mixing.alpha"] > 0.7
    assert weak["mixing.alpha"] < 0.1
    assert set(strong) == set(weak) == set(SPACE)


def test_a_conditional_dimension_weighs_no_more_than_the_spread_of_its_trials() -> None:
    trials = drawn(60, conditional=True)
    found = importances(study_of([(one, 0.9 + 0.001 * one["mixing.alpha"] if "mixing.alpha" in one else by_rate(one)) for one in trials]))
    assert found is not None
    assert found["mixing.alpha"] < 0.01


def test_a_logarithmic_range_is_seen_on_its_scale() -> None:
    found = importances(study_of([(one, 0.02 * (one["rate"] < 1e-3) + 0.01 * (one["layers"] > 4)) for one in drawn(60)]))
    assert found is not None
    assert found["rate"] > 0.6


def test_one_trial_without_a_dimension_does_not_make_the_dimension_vanish() -> None:
    trials = drawn(30)
    own = {name: value for name, value in trials[0].items() if name != "rate"}
    found = importances(study_of([(own, 0.7), *((one, by_rate(one)) for one in trials[1:])]))
    assert found is not None
    assert next(iter(found)) == "rate"


def test_a_dimension_with_few_trials_is_left_out() -> None:
    trials: list[dict[str, Any]] = [one | ({"mixing.alpha": 0.1 * place} if place < 5 else {}) for place, one in enumerate(drawn(30))]
    found = importances(study_of([(one, by_rate(one)) for one in trials]))
    assert found is not None
    assert set(found) == {"rate", "layers", "mixing"}


@pytest.mark.parametrize(
    "trials", [[], [(one, None) for one in drawn(12)], [(one, by_rate(one)) for one in drawn(7)], [(one, 0.1 + 0.2) for one in drawn(20)], [({}, 0.5)] * 12]
)
def test_nothing_is_said_of_few_trials_or_equal_scores(trials: list[tuple[Mapping[str, Any], Any]]) -> None:
    assert importances(study_of(trials)) is None


def test_trials_of_another_space_are_measured_too() -> None:
    study = study_of([(one, by_rate(one)) for one in drawn(20)])
    for place, one in enumerate(drawn(12)):
        labels = CategoricalDistribution(["none", "mixup", "snapmix"])
        other: dict[str, BaseDistribution] = {"rate": FloatDistribution(1e-5, 1.0, log=True), "layers": IntDistribution(1, 16), "mixing": labels}
        study.add_trial(optuna.trial.create_trial(params=one, distributions=other, value=by_rate(one) + 1e-4 * place))
    found = importances(study)
    assert found is not None
    assert next(iter(found)) == "rate"


def test_the_order_of_trials_changes_nothing_and_nothing_is_printed(capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    trials = [(one, (by_rate(one), 5.0 * one["layers"])) for one in drawn(30, conditional=True)]
    first, second = study_of(trials), study_of(trials[::-1])
    capfd.readouterr()
    recwarn.clear()
    assert importances(first) == importances(second)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    of_seconds = importances(first, lambda trial: float(trial.values[1]))
    assert of_seconds is not None
    assert of_seconds["layers"] > 0.8
