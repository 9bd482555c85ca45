"""Submissions are joined to the sample by id, and what is written passes the doctor."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kinds import CLASSES, IDS, KINDS, findings, findings_of, of_values, predictions, table_of, written

from pipeline.config import FORMAT_TASKS, Task
from pipeline.data.targets import Target, define_target
from pipeline.errors import UserError
from pipeline.predictions import Predictions
from pipeline.submission.formats import Form, choose_format, class_columns, make_sample, to_table

# ---------------------------------------------------------------- which format


@pytest.mark.parametrize(
    ("asked", "columns", "task", "metric", "form"),
    [
        ("auto", ["id", "label"], "multiclass", "accuracy", "label"),
        ("auto", ["id", "label"], "multiclass", "macro_f1", "label"),
        ("auto", ["id", "a", "b"], "multiclass", "accuracy", "indicators"),
        ("auto", ["id", "a", "b"], "multiclass", "log_loss", "probabilities"),
        ("label", ["id", "label"], "multiclass", "log_loss", "label"),
        ("probabilities", ["id", "a", "b"], "multiclass", "accuracy", "probabilities"),
        ("auto", ["id", "label"], "binary", "roc_auc", "score"),
        ("auto", ["id", "label"], "binary", "log_loss", "score"),
        ("auto", ["id", "label"], "binary", "average_precision", "score"),
        ("auto", ["id", "label"], "binary", "accuracy", "label"),
        ("auto", ["id", "no", "yes"], "binary", "roc_auc", "probabilities"),
        ("auto", ["id", "label"], "ordinal", "quadratic_kappa", "label"),
        ("auto", ["id", "label"], "multilabel", "samples_f1", "label"),
        ("auto", ["id", "a", "b"], "multilabel", "roc_auc", "probabilities"),
        ("auto", ["id", "a", "b"], "multilabel", "macro_f1", "indicators"),
        ("auto", ["id", "a", "b"], "multiclass", "map_at_5", "probabilities"),
        ("auto", ["id", "label"], "multiclass", "map_at_5", "top_k"),
        ("auto", ["id", "price"], "regression", "rmse", "score"),
        ("auto", None, "regression", "rmse", "score"),
        ("auto", None, "binary", "roc_auc", "score"),
        ("auto", None, "multiclass", "log_loss", "probabilities"),
        ("auto", None, "multiclass", "accuracy", "label"),
        ("auto", None, "multiclass", "map_at_3", "top_k"),
    ],
)
def test_the_format_is_the_one_asked_for_or_what_task_metric_and_sample_say(asked: str, columns: list[str] | None, task: Task, metric: str, form: str) -> None:
    assert choose_format(asked, None if columns is None else pd.DataFrame(columns=columns), task, metric) == form
    assert task in FORMAT_TASKS[form]


def test_one_column_for_a_metric_of_probabilities_is_refused() -> None:
    with pytest.raises(UserError, match=r"log_loss wants probabilities.*write submission\.format=label"):
        choose_format("auto", pd.DataFrame(columns=["id", "target"]), "multiclass", "log_loss")


@pytest.mark.parametrize("asked", ["auto", "score"])
def test_many_columns_for_one_number_are_refused(asked: str) -> None:
    with pytest.raises(UserError, match="regression predicts one number, but the sample has the columns x, y"):
        choose_format(asked, pd.DataFrame(columns=["id", "x", "y"]), "regression", "rmse")


def test_only_columns_of_probabilities_are_classes() -> None:
    sample = pd.DataFrame(columns=["id", "b", "a"])
    assert class_columns(sample, "probabilities") == class_columns(sample, "indicators") == ["b", "a"]
    assert class_columns(sample[["id", "b"]], "label") is None
    assert class_columns(None, "probabilities") is None
    for form in ("label", "score", "top_k"):
        with pytest.raises(UserError, match=f"{form} writes one column, but the sample has 2"):
            class_columns(sample, form)


# ---------------------------------------------------------------- a sample where the competition has none


@pytest.mark.parametrize("kind", KINDS)
def test_a_made_sample_has_the_test_ids_and_what_the_form_writes(kind: str) -> None:
    form, target, _ = KINDS[kind]
    sample = make_sample(IDS, "image", target, form.name)
    assert sample["image"].tolist() == list(IDS)
    columns = {"probabilities": list(CLASSES), "indicators": list(CLASSES), "score": ["price"] if target.task == "regression" else ["label"]}.get(
        form.name, ["label"]
    )
    assert list(sample.columns) == ["image", *columns]
    assert findings(written(to_table(predictions(kind), sample, form, target)), sample, form, target) == []


# ---------------------------------------------------------------- the table


def test_an_indicator_is_1_where_the_decision_says_so() -> None:
    values = [[0.1, 0.2, 0.7], [0.9, 0.05, 0.05], [0.2, 0.6, 0.2], [0.4, 0.3, 0.3]]
    one = table_of("indicators", of_values("indicators", values))
    assert [dict(row) for row in one[list(CLASSES)].to_dict("records")] == [
        {name: str(int(name == right)) for name in CLASSES} for right in ("ä", "cat", "dog", "cat")
    ]
    form, _, sample = KINDS["several indicators"]
    fitted = Target("multilabel", CLASSES, may_be_empty=True, thresholds=(0.2, 0.7, 0.5))
    table = to_table(of_values("several indicators", [[0.3, 0.6, 0.4], [0.1, 0.75, 0.5], [0, 0, 0], [1, 1, 1]]), sample, form, fitted)
    assert table[["cat", "dog", "ä"]].to_numpy().tolist() == [["1", "0", "0"], ["0", "1", "1"], ["0", "0", "0"], ["1", "1", "1"]]


def test_where_order_alone_counts_ranks_and_logits_stay_as_they_are_and_rows_of_softmax_are_scaled() -> None:
    _, target, sample = KINDS["probabilities"]
    form = Form("probabilities", any_scale=True)
    for values, scaled in [
        ([[0.9, 0.9, 0.1], [0.2, 0.3, 0.5], [0.5, 0.1, 0.2], [1, 1, 1]], False),
        ([[2.5, -1, -0.5], [0.2, 0.3, 0.5], [-3, 4, 9], [1, 1, 1]], False),
        ([[0.9, 0.0504, 0.05], [0.2, 0.3, 0.5], [0.5, 0.1, 0.4], [1, 0, 0]], True),
    ]:
        table = to_table(of_values("probabilities", values), sample, form, target)
        found, given = table[list(CLASSES)].astype(float).to_numpy(), np.array(values)
        np.testing.assert_allclose(found, given / given.sum(axis=1, keepdims=True) if scaled else given, rtol=1e-6)
        assert all(finding.judgement and finding.level == "note" for finding in findings(written(table), sample, form, target, judgement=True))


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_has_the_ids_order_and_columns_of_the_sample_and_passes_the_checks(kind: str) -> None:
    sample = KINDS[kind][2]
    table = table_of(kind)
    assert list(table.columns) == list(sample.columns)
    assert table["image"].tolist() == list(IDS)
    assert findings_of(table, kind) == []


def test_a_label_is_the_most_probable_class_of_its_id() -> None:
    values = [[0.1, 0.2, 0.7], [0.9, 0.05, 0.05], [0.2, 0.6, 0.2], [0.4, 0.3, 0.3]]
    assert dict(table_of("label", of_values("label", values, IDS[::-1])).to_numpy()) == {"10": "ä", "b,c": "cat", "7": "dog", "007": "cat"}


def test_a_grade_is_the_one_nearest_to_the_expected_one() -> None:
    values = [[0.5, 0, 0, 0.5], [1, 0, 0, 0], [0, 0.2, 0.8, 0], [0, 0, 0.4, 0.6]]
    assert table_of("grade", of_values("grade", values))["label"].tolist() == ["2", "0", "2", "10"]


def test_a_score_is_the_probability_of_the_positive_class() -> None:
    values = [[0.25, 0.75], [1, 0], [0, 1], [0.5, 0.5]]
    assert table_of("score", of_values("score", values))["label"].tolist() == ["0.75", "0", "1", "0.5"]


def test_a_number_is_written_as_it_is() -> None:
    values = [[-1.5], [1e-9], [123456.78], [0]]
    found = table_of("number", of_values("number", values))["price"]
    assert [np.float32(text) for text in found] == np.array(values, dtype=np.float32)[:, 0].tolist()


def test_the_best_classes_stand_first_and_no_more_than_k() -> None:
    values = [[0.1, 0.2, 0.7], [0.4, 0.4, 0.2], [1, 0, 0], [0.2, 0.5, 0.3]]
    assert table_of("top_k", of_values("top_k", values))["label"].tolist() == ["ä dog", "cat dog", "cat dog", "dog ä"]
    form, target, sample = Form("top_k", 5, ", "), *KINDS["top_k"][1:]
    table = to_table(of_values("top_k", values), sample, form, target)
    assert table["label"].tolist() == ["ä, dog, cat", "cat, dog, ä", "cat, dog, ä", "dog, ä, cat"]
    assert findings(written(table), sample, form, target) == []


def test_every_label_of_at_least_a_half_stands_in_the_cell_and_one_where_there_must_be_one() -> None:
    values = [[0.9, 0.1, 0.5], [0.3, 0.4, 0.2], [1, 1, 1], [0.4, 0.1, 0.6]]
    assert table_of("labels", of_values("labels", values))["label"].tolist() == ["cat ä", "dog", "cat dog ä", "ä"]
    assert table_of("labels or none", of_values("labels or none", values))["label"].tolist() == ["cat|ä", "", "cat|dog|ä", "ä"]


@pytest.mark.parametrize("kind", ["probabilities", "label columns"])
def test_a_probability_stands_in_the_column_of_its_class(kind: str) -> None:
    source = predictions(kind)
    table = table_of(kind)
    for column, name in enumerate(CLASSES):
        np.testing.assert_allclose(table[name].astype(float), source.values[:, column], rtol=1e-6)


def test_probabilities_of_labels_are_not_scaled_to_sum_one() -> None:
    table = table_of("label columns", of_values("label columns", [[0.9, 0.9, 0.9]] * 4))
    np.testing.assert_allclose(table[list(CLASSES)].astype(float), 0.9, rtol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 50), st.permutations(range(4)), st.sampled_from(sorted(KINDS)))
def test_predictions_in_any_order_of_rows_give_the_same_table(seed: int, rows: list[int], kind: str) -> None:
    source = predictions(kind, seed)
    shuffled = Predictions(tuple(IDS[row] for row in rows), source.classes, source.values[rows], source.fold)
    pd.testing.assert_frame_equal(table_of(kind, shuffled), table_of(kind, source))


@settings(deadline=None)
@given(st.integers(0, 50), st.data(), st.sampled_from(sorted(KINDS)))
def test_predictions_in_any_order_of_classes_give_the_same_table(seed: int, data: st.DataObject, kind: str) -> None:
    source = predictions(kind, seed)
    columns = data.draw(st.permutations(range(len(source.classes))))
    shuffled = Predictions(IDS, tuple(source.classes[column] for column in columns), np.ascontiguousarray(source.values[:, columns]), source.fold)
    assert written(table_of(kind, shuffled)) == written(table_of(kind, source))


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [1.0, 0.9995, 1e-3])
def test_written_rows_sum_to_one_within_a_millionth(num_classes: int, scale: float) -> None:
    target = Target("multiclass", tuple(f"class {number}" for number in range(num_classes)))
    whole = predictions("label", 0, IDS, target.classes)
    scaled = Predictions(IDS, target.classes, whole.values * np.float32(scale), whole.fold)
    sample = make_sample(IDS, "image", target, "probabilities")
    table = to_table(scaled, sample, Form("probabilities"), target)
    assert np.abs(table.iloc[:, 1:].astype(float).sum(axis=1) - 1).max() < 1e-6
    assert findings(written(table), sample, Form("probabilities"), target) == []


def test_tiny_and_certain_probabilities_are_written_so_that_they_pass() -> None:
    table = table_of("probabilities", of_values("probabilities", [[1.0, 0.0, 0.0], [1e-30, 1.0, 1e-8], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 1e-38]]))
    assert findings_of(table, "probabilities") == []
    assert float(table.loc[1, "cat"]) == pytest.approx(1e-30)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ids", [IDS[:-1], (*IDS, "new"), (*IDS[:-1], "010")], ids=["fewer", "more", "other"])
def test_predictions_of_other_ids_make_no_table(kind: str, ids: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"ids are (missing|unknown)"):
        table_of(kind, predictions(kind, 0, ids))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_row_without_any_probability_is_refused() -> None:
    table = table_of("probabilities", of_values("probabilities", [[0.2, 0.3, 0.5], [1, 0, 0], [0, 0, 0], [0, 1, 0]]))
    assert [finding.where for finding in findings_of(table, "probabilities")] == ["row 4, column B (dog)"]


def test_classes_of_the_train_table_and_of_the_sample_meet_in_one_order() -> None:
    from pipeline.config import Competition

    own = Competition.model_validate({"name": "toy", "root": ".", "id": "image", "target": "label", "metric": "log_loss"})
    sample = KINDS["probabilities"][2]
    target = define_target(own, pd.Series(["cat", "dog", "ä"]), class_columns(sample, "probabilities"))
    assert target.classes == ("dog", "ä", "cat")
