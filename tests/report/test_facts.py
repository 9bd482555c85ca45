import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from runs import invented, predictions
from sklearn.metrics import average_precision_score, brier_score_loss, confusion_matrix, precision_recall_fscore_support

from pipeline.data.targets import Target
from pipeline.report.blend import describe_blend
from pipeline.report.calibration import calibrate, reliability, wilson
from pipeline.report.charts import NONE, Scale, mean_and_spread, score_text
from pipeline.report.classes import confusion, describe_classes
from pipeline.report.curves import describe_curves, mean_curve
from pipeline.report.headline import describe_headline
from pipeline.report.held_out_folds import describe_folds, stands_out
from pipeline.report.mistakes import describe_mistakes, describe_suspects
from pipeline.report.run import Experiment, Run, rows_of
from pipeline.report.views import describe_views


def texts(findings: Any) -> str:
    return " ".join(finding.text for finding in findings)


def with_experiments(run: Run, *experiments: Experiment) -> Run:
    return replace(run, experiments=experiments, ensemble={})


# ---------------------------------------------------------------- calibration


def test_the_calibration_error_is_the_weighted_distance_of_said_and_happened() -> None:
    said = np.array([0.12, 0.18, 0.85, 0.95, 0.95, 1.0])
    bins, error, by_chance = reliability(said, np.array([False, True, True, True, False, True]))
    assert [(one.low, one.count) for one in bins] == [(0.1, 2), (0.8, 1), (0.9, 3)]
    assert [one.happened for one in bins] == pytest.approx([0.5, 1.0, 2 / 3])
    assert error == pytest.approx((2 * abs(0.15 - 0.5) + 0.15 + 3 * abs(2.9 / 3 - 2 / 3)) / 6)
    variances = [0.12 * 0.88 + 0.18 * 0.82, 0.85 * 0.15, 2 * 0.95 * 0.05]
    assert by_chance == pytest.approx(sum(math.sqrt(2 / math.pi * variance) for variance in variances) / 6)


def test_exact_probabilities_show_the_error_that_chance_makes() -> None:
    random = np.random.default_rng(0)
    found = []
    for _ in range(40):
        said = random.random(500)
        found.append(reliability(said, random.random(500) < said)[1:])
    error, by_chance = np.mean(found, axis=0)
    assert by_chance == pytest.approx(error, rel=0.05)


def test_the_interval_of_a_share_is_that_of_wilson() -> None:
    from scipy.stats import binomtest

    expected = binomtest(8, 20).proportion_ci(0.95, method="wilson")
    assert wilson(0.4, 20) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_the_brier_score_is_that_of_scikit_learn() -> None:
    rows = rows_of(invented("binary"))
    assert calibrate(rows, "roc_auc").brier == pytest.approx(brier_score_loss(rows.numbers, rows.values[:, 1]), abs=1e-6)
    rows = rows_of(invented("multiclass"))
    assert calibrate(rows, "accuracy").brier == pytest.approx(((rows.values - np.eye(4)[rows.numbers]) ** 2).sum(axis=1).mean(), abs=1e-6)


def test_probabilities_that_are_too_high_are_said_to_be() -> None:
    run = invented("multiclass", 2000)
    sharp = run.out_of_fold.values**6
    run = replace(run, out_of_fold=replace(run.out_of_fold, values=sharp / sharp.sum(axis=1, keepdims=True)))
    found = calibrate(rows_of(run), "log_loss").findings
    assert "Probabilities are too high" in texts(found)
    assert found[0].level == "decide"


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize("task", ["multiclass", "binary", "ordinal", "multilabel"])
def test_scores_per_class_are_those_of_scikit_learn_and_the_worst_comes_first(task: str) -> None:
    rows = rows_of(invented(task))
    found = describe_classes(rows)
    precision, recall, f1, count = precision_recall_fscore_support(rows.numbers, rows.decided, zero_division=0)
    for one in found.lines:
        place = rows.target.classes.index(one.name)
        assert (one.precision, one.recall, one.f1, one.rows) == pytest.approx((precision[place], recall[place], f1[place], count[place]))
        if task == "multilabel":
            assert one.average_precision == pytest.approx(average_precision_score(rows.numbers[:, place], rows.values[:, place]))
    assert [one.f1 for one in found.lines] == sorted(f1)
    assert found.means == pytest.approx((precision.mean(), recall.mean(), f1.mean()))
    if task != "multilabel":
        assert (confusion(rows) == confusion_matrix(rows.numbers, rows.decided)).all()


def test_fitted_decisions_are_what_is_shown() -> None:
    run = invented("binary")
    strict = replace(run, target=replace(run.target, thresholds=(0.9,)))
    strict = replace(strict, decided=strict.target.decide(run.out_of_fold.values))
    assert describe_classes(rows_of(strict)).wrong == (strict.decided != rows_of(run).numbers).sum() > describe_classes(rows_of(run)).wrong


def test_many_classes_show_the_most_confused_pairs_instead_of_a_grid() -> None:
    found = describe_classes(rows_of(invented("multiclass", 600, 31)))
    assert not found.grid
    assert len(found.pairs) == 30
    assert found.more_pairs > 0
    assert [pair.count for pair in found.pairs] == sorted((pair.count for pair in found.pairs), reverse=True)
    small = describe_classes(rows_of(invented("multiclass", 600, 30)))
    assert sum(cell.count for line in small.grid for cell in line) == 600


def test_a_class_that_is_never_found_is_named() -> None:
    run = invented("multiclass")
    run.decided[run.decided == 2] = 0
    assert "1 class is never found, of" in texts(describe_classes(rows_of(run)).findings)
    assert "never found" not in texts(describe_classes(rows_of(invented("multiclass"))).findings)


# ---------------------------------------------------------------- experiments


def test_experiments_are_compared_by_id_on_the_rows_that_both_have() -> None:
    run = invented("multiclass")
    first, second = run.experiments
    whole = describe_blend(run, rows_of(run)).agreement
    assert whole is not None
    differ = (first.out_of_fold.values.argmax(axis=1) != second.out_of_fold.values.argmax(axis=1))[100:].mean()
    part = replace(second, out_of_fold=second.out_of_fold.take(np.arange(199, 99, -1)))
    found = describe_blend(with_experiments(run, first, part), rows_of(run)).agreement
    assert found is not None
    assert found.cells[0][1] == found.cells[1][0] == f"{100 * differ:.0f} %"


def test_what_the_ensemble_corrects_and_spoils_is_counted_against_the_best_experiment() -> None:
    run = invented("multiclass")
    rows = rows_of(run)
    gain = describe_blend(run, rows).gain
    best = max(run.experiments, key=lambda one: one.score["cv"])
    alone = best.out_of_fold.values.argmax(axis=1) != rows.numbers
    assert gain is not None
    assert gain.best == best.name
    assert (gain.corrected, gain.spoiled) == ((alone & ~rows.wrong).sum(), (~alone & rows.wrong).sum())


@pytest.mark.parametrize(("task", "worse"), [("multiclass", -0.2), ("regression", 3.0)])
def test_an_ensemble_that_is_no_better_than_one_experiment_is_the_first_thing_to_look_at(task: str, worse: float) -> None:
    run = invented(task)
    better = describe_blend(run, rows_of(run))
    assert "no better" not in texts(better.findings)
    score = {**run.score, "cv": run.score["cv"] + worse}
    found = describe_blend(replace(run, score=score), rows_of(run))
    assert "no better than" in texts(found.findings)
    assert found.gain is not None
    assert found.gain.difference.endswith("worse")


def test_medals_are_compared_with_the_interval_whichever_way_is_up() -> None:
    run = invented("multiclass", thresholds={"gold": 0.99, "silver": 0.9, "bronze": 0.8})
    run = replace(run, score={**run.score, "cv": 0.91, "interval": [0.89, 0.93]})
    medals = describe_headline(run, rows_of(run), []).medals
    assert [(medal.name, medal.words) for medal in medals] == [
        ("bronze", "the whole interval reaches it"),
        ("silver", "it lies within the interval; the CV itself reaches it"),
        ("gold", "the whole interval falls short of it"),
    ]
    down = describe_headline(replace(run, sign=-1, thresholds={"gold": 0.8, "silver": 0.92, "bronze": 0.99}), rows_of(run), []).medals
    assert [(medal.name, medal.words) for medal in down] == [
        ("bronze", "the whole interval reaches it"),
        ("silver", "it lies within the interval; the CV itself reaches it"),
        ("gold", "the whole interval falls short of it"),
    ]
    assert down[0].place < down[1].place < down[2].place


def test_a_flattering_or_missing_score_is_said_before_anything_else() -> None:
    run = invented("multiclass")
    flattering = replace(run, score={**run.score, "optimistic": ["train.checkpoint: best"]})
    assert "train.checkpoint: best" in describe_headline(flattering, rows_of(run), []).findings[0].text
    missing = replace(run, score={**run.score, "cv": float("nan")})
    assert describe_headline(missing, rows_of(run), []).findings[0].level == "stop"


# ---------------------------------------------------------------- folds, curves, views


def test_a_fold_stands_out_only_where_chance_hardly_makes_it() -> None:
    five = [0.91, 0.92, 0.93, 0.92, 0.90]
    assert stands_out(five) is None
    two_spreads = [0.91, 0.92, 0.93, 0.92, np.mean(five[:4]) - 2.5 * np.std(five[:4], ddof=1)]
    assert stands_out(two_spreads) is None
    place, likely = stands_out([0.91, 0.80, 0.92, 0.915, 0.918])  # type: ignore[misc]
    assert (place, likely < 0.01) == (1, True)
    assert stands_out([0.9, 0.1]) is None
    random = np.random.default_rng(0)
    alarms = np.mean([stands_out(scores.tolist()) is not None for scores in random.normal(size=(600, 5))])
    assert alarms < 0.08


def test_scores_stand_with_the_folds_that_they_are_of() -> None:
    run = invented("multiclass")
    first, second = run.experiments
    late = replace(second, out_of_fold=second.out_of_fold.take(np.flatnonzero(second.out_of_fold.fold >= 3)), score={**second.score, "folds": [0.25, 0.75]})
    found = describe_folds(with_experiments(run, first, late))
    assert [(fold, rows, scores[2]) for fold, rows, scores in found.lines][2:] == [(2, 40, NONE), (3, 40, "0.2500"), (4, 40, "0.7500")]


def test_the_mean_curve_is_of_the_runs_that_reached_an_epoch() -> None:
    long = pd.DataFrame({"epoch": [1, 2, 3, 4], "valid_loss": [4.0, 3.0, np.nan, 1.0]})
    short = pd.DataFrame({"epoch": [1], "valid_loss": [2.0]})
    epochs, loss = mean_curve({"a": long, "b": short, "c": short}, "valid_loss")
    assert (epochs.tolist(), loss.tolist()) == ([1.0], [pytest.approx(8 / 3)])
    epochs, loss = mean_curve({"a": long, "b": short}, "valid_loss")
    assert (epochs.tolist(), loss.tolist()) == ([1.0, 2.0, 4.0], [3.0, 3.0, 1.0])


def test_curves_say_which_losses_rise_again_and_which_still_fall() -> None:
    run = invented("multiclass")
    _, _, found = describe_curves(run)
    assert 'rises again before the last epoch in "second"' in texts(found)
    assert 'still falls in the last epochs of "first"' in texts(found)


def test_views_that_do_harm_are_named_whichever_way_is_up() -> None:
    run = invented("multiclass")
    assert not describe_views(run)[2]
    assert 'in "first"' in texts(describe_views(replace(run, sign=-1))[2])


# ---------------------------------------------------------------- rows to look at


def test_the_surest_mistakes_come_first() -> None:
    run = invented("multiclass", 400)
    rows = rows_of(run)
    found = describe_mistakes(run, rows)
    wrong = np.flatnonzero(rows.wrong)
    surest = wrong[rows.values[wrong, rows.decided[wrong]].argmax()]
    assert found.pictures[0].caption[0] == rows.texts[surest]
    assert found.pictures[0].caption[2].startswith(rows.ids[surest])
    assert found.total == len(wrong)


def test_copies_with_another_label_are_told() -> None:
    run = invented("multiclass", 400)
    suspects = describe_suspects(run, rows_of(run))
    name = suspects.shown[0].id
    other = next(row for row, text in run.truth.items() if text != run.truth[name])
    with_copies = describe_suspects(replace(run, groups={name: 1, other: 1}), rows_of(run))
    assert with_copies.shown[0].copies == run.truth[other]
    assert (suspects.contradicted, with_copies.contradicted) == (0, 1)


def test_classes_of_the_predictions_in_another_order_are_put_right() -> None:
    run = invented("multiclass")
    turned = replace(run, out_of_fold=run.out_of_fold.in_classes(tuple(reversed(run.out_of_fold.classes))))
    assert (rows_of(turned).values == rows_of(run).values).all()


def test_predictions_need_not_be_sorted() -> None:
    out_of_fold = predictions(["b", "a"], ["x", "y"], np.array([[0.9, 0.1], [0.2, 0.8]]), np.array([1, 0]))
    target = Target("multiclass", ("x", "y"))
    run = replace(invented("multiclass"), target=target, truth={"a": "x", "b": "x"}, out_of_fold=out_of_fold, decided=np.array([0, 1]))
    rows = rows_of(run)
    assert (rows.ids, rows.decided.tolist(), rows.fold.tolist(), rows.wrong.tolist()) == (("a", "b"), [1, 0], [0, 1], [True, False])


# ---------------------------------------------------------------- words and axes


def test_ticks_are_round_numbers_within_the_axis() -> None:
    assert Scale(0.13, 0.94, 0, 1).ticks() == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert Scale(1, 12, 0, 1).ticks() == [5, 10]
    assert Scale(0.09, 2.1, 0, 1, logarithmic=True).ticks(4) == pytest.approx([0.1, 0.2, 0.5, 1, 2])


def test_scores_keep_four_digits_and_spreads_as_many_decimals() -> None:
    assert [score_text(value) for value in (0.98765, 0, 12.3, 0.00012345, 12345.6)] == ["0.9877", "0.0000", "12.3000", "0.0001234", "12,345.6"]
    assert score_text(None) == score_text(math.nan) == mean_and_spread({"mean": math.nan, "spread": math.nan}) == NONE
    assert mean_and_spread({"mean": 0.9, "spread": 0.00351}) == "0.9000 ± 0.0035"
