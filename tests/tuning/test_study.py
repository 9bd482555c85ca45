"""A study's loop: the same trials however often it is cut off, fair pruning, failures that end it and failures that do not."""

import errno
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from toys import FOLDS, OWN, objective, rows_of, run, suggest, toy_plan, value

from pipeline.errors import RunFailed, UserError
from pipeline.runtime import Interrupted
from pipeline.tuning.pruning import chance_of_being_so_low, resolve_pruner, why_prune, worse_on_the_same_folds
from pipeline.tuning.study import Attempt, Plan, Result, open_study, run_trials
from pipeline.tuning.trials import TrialRow


def history(rows: list[TrialRow]) -> list[tuple[Any, ...]]:
    return [(row.number, row.state, row.values, row.parameters, row.steps, row.reason, row.record) for row in rows]


class CutOff:
    """Interrupts each trial twice: while its parameters are drawn, and after one of its folds."""

    def __init__(self) -> None:
        self.done: set[tuple[int, str]] = set()

    def once(self, number: int, place: str) -> None:
        if (number, place) not in self.done:
            self.done.add((number, place))
            raise Interrupted

    def suggest(self, trial: optuna.trial.Trial, only: Any) -> Any:
        suggest(trial, ["x"])
        self.once(trial.number, "parameters")
        return suggest(trial, only)

    def objective(self, attempt: Attempt) -> Result:
        for fold in range(attempt.number % FOLDS):
            attempt.report(fold, value(attempt.parameters, fold))
        self.once(attempt.number, "folds")
        return objective(attempt)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_study_cut_off_at_every_trial_is_the_undisturbed_one(tmp_path: Path, sampler: str) -> None:
    calm = run(toy_plan(tmp_path / "calm", sampler=sampler))
    assert {row.state for row in calm} == {"complete", "pruned"}
    assert len({str(row.parameters) for row in calm}) == len(calm) == 8
    assert any(int(5 * (float(row.parameters["x"]) + 1)) != row.parameters["y"] for row in calm[1:3]), "each parameter has draws of its own"
    plan, cut, times = toy_plan(tmp_path / "cut", sampler=sampler), CutOff(), 0
    while True:
        open_study(plan, {}, OWN)
        try:
            run_trials(plan, cut.suggest, cut.objective, lambda row, best: None)
            break
        except Interrupted:
            times += 1
    assert times == len(cut.done) > 12  # a trial that is pruned where it would be cut off is not
    assert history(rows_of(plan)) == history(calm)
    assert history(run(toy_plan(tmp_path / "other", sampler=sampler, seed=1))) != history(calm)


def test_more_trials_go_on_where_fewer_ended(tmp_path: Path) -> None:
    calm = run(toy_plan(tmp_path / "calm"))
    for trials in (1, 4, 4, 8):
        rows = run(toy_plan(tmp_path / "parts", trials=trials))
        assert len(rows) == trials
    assert history(rows) == history(calm)


def test_the_config_as_it_is_comes_first_and_suggestions_next(tmp_path: Path) -> None:
    plan, seen = toy_plan(tmp_path, trials=3, pruner="none"), []
    open_study(plan, {}, OWN, [{"x": 0.25, "y": 7, "z": "b"}])
    run_trials(plan, suggest, objective, lambda row, best: seen.append((row.number, best.number if best else None)))
    rows = rows_of(plan)
    assert [row.parameters for row in rows[:2]] == [OWN, {"x": 0.25, "y": 7, "z": "b"}]
    assert [row.record for row in rows] == [{"folder": 0}, {"folder": 1}, {"folder": 2}]
    assert seen[:2] == [(0, 0), (1, 1)]


class Odd:
    """Fails in some trials, each in another way."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = numbers

    def __call__(self, attempt: Attempt) -> Result:
        if attempt.number not in self.numbers:
            return objective(attempt)
        match attempt.number % 4:
            case 0:
                raise RuntimeError("CUDA out of\nmemory")
            case 1:
                raise UserError("a bad combination")
            case 2:
                return Result((float("nan"),), {})
            case _:
                raise RunFailed("the loss is not finite")


def test_failures_are_recorded_and_do_not_count(tmp_path: Path) -> None:
    rows = run(toy_plan(tmp_path, trials=4), Odd(1, 2, 3, 4))
    assert [row.state == "failed" for row in rows] == [False, True, True, True, True, False, False, False]
    assert rows[1].reason == "a bad combination"
    assert rows[2].reason == "the metric is not defined on its predictions (it came out as nan)"
    assert rows[4].reason == "RuntimeError: CUDA out of memory"


def test_ten_failures_in_a_row_end_a_study_until_the_command_is_given_again(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, trials=3)
    with pytest.raises(RunFailed, match="10 trials failed in a row, the last with: RuntimeError: CUDA out of memory"):
        run(plan, Odd(*range(1, 10), *range(11, 30)))
    assert [row.number for row in rows_of(plan) if row.finished] == [0, 10], "nine are not ten"
    assert len(rows_of(plan)) == 21
    assert sum(row.finished for row in run(plan, Odd(21))) == 3


def test_the_config_that_fails_ends_the_study_and_is_tried_again(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, trials=2)
    for _ in range(4):  # more often than a trial may die
        with pytest.raises(RuntimeError, match="out of\nmemory"):
            run(plan, Odd(0), batch=64)
    rows = run(plan, batch=32)  # mended: nothing of the old study was worth keeping
    assert [(row.number, row.state) for row in rows] == [(0, "complete"), (1, rows[1].state)]
    with pytest.raises(UserError, match=r"batch: 32 -> 64.*experiment=NEW"):
        open_study(plan, {"batch": 64}, OWN)
    with pytest.raises(UserError, match=r'pruner: "folds" -> "none"'):
        open_study(replace(plan, pruner="none"), {"batch": 32}, OWN)


def full_disk(attempt: Attempt) -> Result:
    if attempt.number == 1:
        raise OSError(errno.ENOSPC, "No space left on device")
    return objective(attempt)


def test_a_full_disk_ends_the_study_and_is_no_fault_of_the_trial(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, trials=2)
    for _ in range(4):
        with pytest.raises(OSError, match="No space left"):
            run(plan, full_disk)
    assert [row.state for row in rows_of(plan)] == ["complete", "running"]
    assert [row.number for row in run(plan) if row.finished] == [0, 1]


@pytest.mark.parametrize("number", [0, 1])
def test_a_trial_whose_process_died_three_times_has_failed(tmp_path: Path, number: int) -> None:
    plan = toy_plan(tmp_path, trials=2)
    study = open_study(plan, {}, OWN)
    if number:
        run_trials(replace(plan, trials=1), suggest, objective, lambda row, best: None)
    study.ask().set_user_attr("attempts", 3)
    if number == 0:
        with pytest.raises(RunFailed, match="killed 3 times, perhaps for lack of memory"):
            run(plan)
    rows = run(plan)
    assert [row.state == "failed" for row in rows] == ([False, False] if number == 0 else [False, True, False])
    assert number == 0 or rows[1].reason == "its process was killed 3 times, perhaps for lack of memory"


def both(attempt: Attempt) -> Result:
    for fold in range(FOLDS):
        attempt.report(fold, -9.0)
    return Result((float(attempt.parameters["x"]), 10 - attempt.number), {})


def test_two_objectives_prune_nothing(tmp_path: Path) -> None:
    plan, best = toy_plan(tmp_path, directions=("maximize", "minimize"), trials=5, pruner="none"), []
    open_study(plan, {}, OWN)
    run_trials(plan, suggest, both, lambda row, at: best.append(at.values[0] if at else None))
    rows = rows_of(plan)
    assert [row.state for row in rows] == ["complete"] * 5
    assert [row.values[1] for row in rows] == [10, 9, 8, 7, 6]
    assert best == [max(row.values[0] for row in rows[: count + 1]) for count in range(5)]


def test_after_the_deadline_no_trial_starts_and_one_cut_off_by_it_waits(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, trials=3, deadline=time.time() + 1.5)

    def until_late(attempt: Attempt) -> Result:
        while attempt.number == 1 and time.time() < (plan.deadline or 0):
            time.sleep(0.02)
        if attempt.number == 1:
            raise Interrupted
        return objective(attempt)

    assert [row.state for row in run(plan, until_late)] == ["complete", "running"]
    assert [row.state for row in run(plan, until_late)] == ["complete", "running"]
    assert sum(row.finished for row in run(replace(plan, deadline=None))) == 3


def epochs(attempt: Attempt) -> Result:
    """Every trial is worse than the one before."""
    for epoch in range(1, 5):
        attempt.report(epoch, float("nan") if epoch == 3 else epoch - attempt.number)
    return Result((-float(attempt.number),), {})


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_epochs_but_the_first_are_held_against_the_median_after_four_trials(tmp_path: Path, direction: str) -> None:
    rows = run(toy_plan(tmp_path, pruner="epochs", directions=(direction,), trials=6), epochs)
    assert all(sorted(row.steps) == ([1, 2] if row.state == "pruned" else [1, 2, 4]) for row in rows)
    assert [row.state for row in rows] == ["complete"] * 4 + ["pruned" if direction == "maximize" else "complete"] * 2
    assert direction == "minimize" or rows[4].reason == "after epoch 2 its best is -2, the median of 4 trials 0.5"


# ---------------------------------------------------------------- the test over the same folds


@pytest.mark.parametrize("sign", [1, -1])
def test_only_a_trial_that_is_worse_on_the_same_folds_is_pruned(sign: int) -> None:
    best = {fold: sign * score for fold, score in enumerate([0.9, 0.7, 0.5, 0.3, 0.1])}  # the first folds are the easy ones
    worse = {fold: score - 0.05 * sign for fold, score in best.items()}
    reasons = [worse_on_the_same_folds({at: worse[at] for at in range(count + 1)}, best, 7, sign, 0.15) for count in range(FOLDS)]
    assert [reason is not None for reason in reasons] == [False, False, True, True, False]  # equal differences are no better evidence; the last is too late
    assert reasons[2] == "on 3 folds 0.05 worse than trial 7 on average (Wilcoxon p = 0.125, below 0.15)"
    assert worse_on_the_same_folds({0: worse[0], 1: worse[1], 3: worse[3]}, {at: best[at] for at in (0, 1, 4)}, 7, sign, 0.2) is None
    assert worse_on_the_same_folds({at: best[at] for at in range(4)}, best, 7, sign, 0.99) is None
    ahead = {at: worse[at] + (1.0 * sign if at == 3 else 0) for at in range(4)}
    assert worse_on_the_same_folds(ahead, best, 7, sign, 0.99) is None, "its mean is higher"


def test_a_trial_that_is_tried_again_is_judged_by_the_steps_so_far(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, trials=1)
    run(plan)
    trial = open_study(plan, {}, OWN).ask()
    for fold in range(4):
        trial.report(-9.0, fold)
    study = trial.study
    verdicts = [why_prune("folds", 0.15, study, study.trials[1], fold) for fold in range(4)]
    assert [verdict is not None for verdict in verdicts] == [False, False, True, True]


def test_p_values_are_those_of_all_signs() -> None:
    import itertools

    import numpy as np
    from scipy.stats import rankdata

    for differences in ([-1, -2, -3], [-1, -1, -1], [-2, 0, -1, 3], [0, 0], [1, 2, -4, 4, -0.5]):
        array = np.array(differences, float)
        ranks = rankdata(np.abs(array))
        sums = [sum(sign * rank for sign, rank in zip(signs, ranks * (array != 0), strict=True)) for signs in itertools.product([-1, 1], repeat=len(array))]
        expected = np.mean([total <= (np.sign(array) * ranks).sum() for total in sums])
        assert chance_of_being_so_low(array) == pytest.approx(expected)


def test_auto_prunes_exactly_where_a_hopeless_trial_could_be_pruned() -> None:
    for folds in range(1, 9):
        for threshold in (0.01, 0.0625, 0.1, 0.125, 0.15, 0.25, 0.3, 0.6):
            best = dict.fromkeys(range(folds), 1.0)
            prunable = any(worse_on_the_same_folds(dict.fromkeys(range(count), 0.0), best, 0, 1, threshold) for count in range(1, folds + 1))
            assert resolve_pruner("auto", threshold, folds, 1, True) == ("folds" if prunable else "none")
            if not prunable:
                with pytest.raises(UserError, match=r"tune\.pruner: folds can end no trial"):
                    resolve_pruner("folds", threshold, folds, 1, False)


def test_a_pruner_that_cannot_work_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"threshold above 0\.25, or train 4 folds or more"):
        resolve_pruner("folds", 0.15, 3, 1, False)
    with pytest.raises(UserError, match="longer schedule"):
        resolve_pruner("epochs", 0.15, 5, 1, True)
    with pytest.raises(UserError, match="2 objectives"):
        resolve_pruner("folds", 0.15, 5, 2, False)
    assert resolve_pruner("auto", 0.15, 5, 2, False) == resolve_pruner("none", 0.15, 5, 2, True) == "none"


def test_a_plan_does_not_show_its_password(tmp_path: Path) -> None:
    plan: Plan = toy_plan(tmp_path, "postgresql+psycopg://me:secret@there/db")
    assert "secret" not in repr(plan)
