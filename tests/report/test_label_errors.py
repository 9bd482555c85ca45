import numpy as np
import pytest
from runs import digits_predictions, invented, predictions

from pipeline.data.targets import Target
from pipeline.report.label_errors import COLUMNS, confident_classes, label_errors, large_residuals, noisy_pairs
from pipeline.report.run import default_rows, rows_of


def test_most_of_the_flipped_labels_of_the_digits_are_found_and_little_else() -> None:
    target, truth, out_of_fold, flipped = digits_predictions(flip=0.05)
    table = label_errors(out_of_fold, target, truth)
    found = set(table["id"])
    assert len(found & flipped) / len(flipped) > 0.7  # recall: 0.76
    assert len(found & flipped) / len(found) > 0.9  # precision: 0.96
    assert set(table["id"].head(40)) <= flipped
    pairs, estimated = noisy_pairs(default_rows(out_of_fold, target, truth))
    assert estimated == pytest.approx(0.05, abs=0.02)
    assert sum(pair.suspected for pair in pairs) == len(table)


def test_few_of_the_digits_are_suspected_as_they_are() -> None:
    target, truth, out_of_fold, _ = digits_predictions(flip=0.0)
    assert len(label_errors(out_of_fold, target, truth)) < 0.005 * len(out_of_fold)


def test_the_confident_joint_is_that_of_the_paper() -> None:
    values = np.array([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.4, 0.6], [0.7, 0.3]], dtype=np.float32)
    given = np.array([0, 0, 0, 1, 1])
    # Mean probabilities of the label: class 0 (0.9 + 0.5 + 0.2) / 3 = 0.533, class 1 (0.6 + 0.3) / 2 = 0.45.
    assert confident_classes(values, given).tolist() == [0, 1, 1, 1, 0]
    target = Target("multiclass", ("a", "b"))
    out_of_fold = predictions(list("vwxyz"), "ab", values, np.zeros(5))
    truth = dict(zip("vwxyz", ["a", "a", "a", "b", "b"], strict=True))
    table = label_errors(out_of_fold, target, truth)
    assert list(table) == COLUMNS
    assert table[["id", "label", "suggested", "rank"]].values.tolist() == [["x", "a", "b", 1], ["z", "b", "a", 2], ["w", "a", "b", 3]]
    assert table["own"].tolist() == pytest.approx([0.2, 0.3, 0.5])
    # The joint is [[1, 2], [1, 1]], scaled to the 3 and 2 rows of each label.
    pairs, estimated = noisy_pairs(default_rows(out_of_fold, target, truth))
    assert [(pair.label, pair.suspected, pytest.approx(pair.estimated)) for pair in pairs] == [("a", 2, 0.4), ("b", 1, 0.2)]
    assert estimated == pytest.approx(0.6)


def test_a_class_without_rows_is_never_suggested() -> None:
    values = np.array([[0.3, 0.0, 0.7], [0.6, 0.3, 0.1], [0.2, 0.8, 0.0]], dtype=np.float32)
    assert 2 not in confident_classes(values, np.array([0, 0, 1]))


def test_of_several_labels_each_is_suspected_alone() -> None:
    ids = [f"{number:02d}" for number in range(20)]
    cats = np.arange(20) < 10
    values = np.stack([np.where(cats, 0.9, 0.1), np.full(20, 0.1)], axis=1)
    values[0, 0], values[19, 0] = 0.05, 0.97
    truth = {name: "cat" if cat else "" for name, cat in zip(ids, cats, strict=True)}
    truth["05"] += "|dog"
    table = label_errors(predictions(ids, ["cat", "dog"], values, np.zeros(20)), Target("multilabel", ("cat", "dog"), may_be_empty=True), truth)
    found = {(line.id, line.label, line.suggested) for line in table.itertuples() if "cat" in (line.label, line.suggested)}
    assert found == {("00", "cat", ""), ("19", "", "cat")}


def test_the_order_of_rows_and_classes_changes_nothing() -> None:
    target, truth, out_of_fold, _ = digits_predictions(flip=0.05)
    order = np.random.default_rng(1).permutation(len(out_of_fold))
    other = out_of_fold.take(order).in_classes(tuple(reversed(out_of_fold.classes)))
    assert label_errors(other, target, truth).equals(label_errors(out_of_fold, target, truth))


def test_a_residual_far_out_is_found_though_it_widens_the_spread() -> None:
    rows = rows_of(invented("regression"))
    assert large_residuals(rows).empty
    rows.numbers[17] += 4000
    table = large_residuals(rows)
    assert table["id"].tolist() == [rows.ids[17]]
    assert table["standardised"][0] < -100
