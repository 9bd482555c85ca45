from dataclasses import replace

import numpy as np
import pytest

from pipeline.config import Task
from pipeline.data.targets import Numbers, Target
from pipeline.inference.choose import ViewedRows, changed_rows, choose_views, cross_fitted_views, view_loss, view_table
from pipeline.inference.tta import Merge, merge_views
from pipeline.training.metrics import METRICS

NAMES = ("identity", "horizontal_flip", "rotate_180", "zoom_in")
ROWS = 600
FOLD = (np.arange(ROWS) % 3).astype(np.int16)


def target_of(task: Task) -> Target:
    return Target(task, ("score",) if task == "regression" else ("a", "b", "c") if task == "multiclass" else ("no", "yes"))


def truth_of(task: Task) -> Numbers:
    random = np.random.default_rng(0)
    if task == "regression":
        return random.normal(50, 10, size=(ROWS, 1)).astype(np.float32)
    return random.integers(3 if task == "multiclass" else 2, size=ROWS)


def viewed(task: Task = "multiclass", merge: Merge = "probabilities", seeds: int = 2) -> tuple[ViewedRows, Numbers]:
    """identity knows something; horizontal_flip as much, with errors of its own; rotate_180 nothing; zoom_in says what identity says."""
    target, truth = target_of(task), truth_of(task)
    parts = []
    for seed in range(seeds):
        random = np.random.default_rng([1, seed])
        signal = truth.astype(np.float64) if task == "regression" else 3.0 * np.eye(len(target.classes))[truth]
        views = [signal + (5.0 if task == "regression" else 1.5) * random.normal(size=signal.shape) for _ in range(2)]
        noise = random.normal(size=signal.shape) * 6 + (50 if task == "regression" else 0)
        logits = np.stack([views[0], views[1], noise, views[0]])
        values = logits if task == "regression" or merge == "logits" else np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
        parts.append(values.astype(np.float32))
    return ViewedRows(parts, NAMES, FOLD, target, merge), truth


def loss_of(found: ViewedRows, truth: Numbers):  # type: ignore[no-untyped-def]
    return view_loss(found, truth, {"regression": "rmse", "binary": "roc_auc", "multiclass": "accuracy"}[found.target.task])


CASES: list[tuple[Task, Merge]] = [("multiclass", "probabilities"), ("multiclass", "logits"), ("binary", "ranks"), ("regression", "probabilities")]


@pytest.mark.parametrize(("task", "merge"), CASES)
class TestChoosing:
    def test_a_view_that_helps_is_taken_and_those_that_spoil_or_add_nothing_are_left(self, task: Task, merge: Merge) -> None:
        found, truth = viewed(task, merge)
        loss = loss_of(found, truth)
        assert choose_views(found, loss) == ("identity", "horizontal_flip")
        every = np.arange(ROWS)
        assert loss(found.merged(("identity", "horizontal_flip")), every) < loss(found.merged(("identity",)), every) - 1e-3

    def test_a_fold_is_predicted_with_views_that_its_own_truth_has_no_part_in(self, task: Task, merge: Merge) -> None:
        found, truth = viewed(task, merge)
        values, chosen = cross_fitted_views(found, loss_of(found, truth))
        for number in range(3):
            inside = number == FOLD
            wrong = truth.copy()
            wrong[inside] = found.target.decide(found.merged(("rotate_180",))[inside])
            assert "rotate_180" in choose_views(found, loss_of(found, wrong)), "its truth changes what is chosen on all rows"
            again, views = cross_fitted_views(found, loss_of(found, wrong))
            assert views[number] == chosen[number]
            assert np.array_equal(again[inside], values[inside])
            assert np.array_equal(values[inside], found.merged(chosen[number])[inside])

    def test_the_order_of_views_and_seeds_changes_nothing(self, task: Task, merge: Merge) -> None:
        found, truth = viewed(task, merge)
        order = [2, 3, 0, 1]
        shuffled = replace(found, parts=[part[order] for part in found.parts[::-1]], names=tuple(NAMES[number] for number in order))
        loss = loss_of(found, truth)
        assert choose_views(shuffled, loss) == choose_views(found, loss)
        assert np.array_equal(cross_fitted_views(shuffled, loss)[0], cross_fitted_views(found, loss)[0])

    def test_what_is_scored_is_what_merging_the_chosen_views_gives(self, task: Task, merge: Merge) -> None:
        found, _ = viewed(task, merge)
        expected = np.mean([merge_views(part[:2], merge, task, FOLD) for part in found.parts], axis=0, dtype=np.float64)
        assert np.allclose(found.merged(("horizontal_flip", "identity")), expected, atol=1e-6)
        rows = np.flatnonzero(FOLD)
        assert np.array_equal(found.merged(NAMES, rows), found.merged(NAMES)[rows])


def test_with_one_fold_there_is_nothing_to_choose_on() -> None:
    found, truth = viewed()
    single = replace(found, fold=np.zeros(ROWS, dtype=np.int16))
    values, chosen = cross_fitted_views(single, loss_of(single, truth))
    assert chosen == {0: ("identity",)}
    assert choose_views(single, loss_of(single, truth)) == ("identity",)
    assert np.array_equal(values, single.merged(("identity",)))


def test_the_table_counts_what_each_view_corrects_and_spoils() -> None:
    found, truth = viewed(seeds=1)
    loss = loss_of(found, truth)
    table = view_table(found, truth, loss, lambda values: METRICS["accuracy"](found.target, truth, values), dict.fromkeys(NAMES, 2.5))
    assert [line["view"] for line in table] == ["identity", "horizontal_flip", "rotate_180", "zoom_in"]
    right = [part.argmax(axis=1) == truth for part in found.parts[0]]
    for line, now in zip(table, right, strict=True):
        assert (line["corrected"], line["spoiled"]) == ((now & ~right[0]).sum(), (right[0] & ~now).sum())
        assert line["score"] == pytest.approx(now.mean())
        assert line["milliseconds"] == 2.5
    assert table[1]["corrected"] > 10
    assert table[2]["spoiled"] > 10 * table[2]["corrected"]
    assert table[2]["loss"] > table[1]["loss"]


def test_a_number_is_corrected_where_its_error_falls_by_more_than_a_hundredth() -> None:
    truth = np.zeros((5, 1), dtype=np.float32)
    before = np.array([[1.0], [-1.0], [1.0], [1.0], [2.0]], dtype=np.float32)
    after = np.array([[0.5], [0.995], [1.005], [-1.02], [-1.0]], dtype=np.float32)
    assert changed_rows(target_of("regression"), truth, before, after) == (2, 1)


def test_of_several_labels_all_must_be_right() -> None:
    target = Target("multilabel", ("a", "b"), may_be_empty=True)
    truth = np.array([[1, 0], [1, 1], [0, 0]], dtype=np.float32)
    before = np.array([[0.9, 0.9], [0.9, 0.9], [0.1, 0.1]], dtype=np.float32)
    after = np.array([[0.9, 0.1], [0.9, 0.1], [0.2, 0.2]], dtype=np.float32)
    assert changed_rows(target, truth, before, after) == (1, 1)
