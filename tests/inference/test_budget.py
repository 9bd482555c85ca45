import numpy as np
import pytest

from pipeline.inference.budget import Candidate, Floats, Plan, fit_budget

TOLD = np.array([0.9, 0.8, 0.7, 0.6])


def log_loss(told: Floats) -> float:
    return float(-np.log(told).mean())


def candidate(*views: tuple[str, float, float], networks: tuple[str, ...] = ("fold 0", "fold 1")) -> Candidate:
    """Views: name, seconds per picture, how much they add to what identity says."""
    names = tuple(name for name, _, _ in views)
    return Candidate(names, {name: seconds for name, seconds, _ in views}, networks, {name: TOLD + gain for name, _, gain in views})


def words(plan: Plan) -> tuple[str, ...]:
    return tuple(step.words for step in plan.steps)


GOOD = candidate(("identity", 1.0, 0.0), ("horizontal_flip", 1.0, 0.05), ("vertical_flip", 1.0, -0.3))
POOR = candidate(("identity", 4.0, -0.4), ("horizontal_flip", 4.0, -0.4))


def test_what_fits_is_left_alone() -> None:
    plan = fit_budget({"good": GOOD, "poor": POOR}, pictures=10, loading=0.5, limit=10 * (0.5 + 2 * 3 + 2 * 8), loss=log_loss)
    assert words(plan) == ()
    assert plan.seconds == pytest.approx(225)
    assert plan.kept == {"good": GOOD, "poor": POOR}


def test_what_loses_least_for_its_seconds_goes_first_and_no_more_than_needed() -> None:
    plan = fit_budget({"good": GOOD, "poor": POOR}, pictures=10, loading=0, limit=200, loss=log_loss)
    assert words(plan) == ("view vertical_flip of good",), "the others are better without it"
    plan = fit_budget({"good": GOOD, "poor": POOR}, pictures=10, loading=0, limit=120, loss=log_loss)
    assert words(plan) == ("view vertical_flip of good", "experiment poor"), "then what is dear and poor"
    assert plan.seconds == pytest.approx(40)
    plan = fit_budget({"good": GOOD}, pictures=10, loading=0, limit=59, loss=log_loss)
    assert words(plan) == ("view vertical_flip of good",)
    assert plan.kept["good"].views == ("identity", "horizontal_flip")


def test_networks_go_last_and_one_always_stays() -> None:
    plan = fit_budget({"good": GOOD, "poor": POOR}, pictures=10, loading=0, limit=0.1, loss=log_loss)
    assert words(plan)[-1] == "good fold 1"
    assert [step.by_loss for step in plan.steps][-2:] == [True, False]
    assert plan.kept["good"].networks == ("fold 0",)
    assert plan.kept["good"].views == ("horizontal_flip",), "the view that says the truth best"
    assert plan.seconds == pytest.approx(10), "over the limit, but something must predict"


def test_the_order_of_experiments_changes_nothing() -> None:
    forth = fit_budget({"good": GOOD, "poor": POOR}, pictures=10, loading=0, limit=25, loss=log_loss)
    back = fit_budget({"poor": POOR, "good": GOOD}, pictures=10, loading=0, limit=25, loss=log_loss)
    assert words(forth) == words(back)
    assert forth.kept == back.kept
