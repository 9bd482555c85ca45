"""Submissions are joined to the sample by id, and no single fault gets past the checks."""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import FORMAT_TASKS, Task
from pipeline.data.targets import Target, define_target
from pipeline.errors import UserError
from pipeline.predictions import TEST, Predictions
from pipeline.submission.formats import Form, check_table, choose_format, class_columns, make_sample, require_valid, to_table

IDS = ("007", "7", "b,c", "10")
CLASSES = ("cat", "dog", "ä")
GRADES = ("0", "1", "2", "10")
KINDS: dict[str, tuple[Form, Target, pd.DataFrame]] = {
    "label": (Form("label"), Target("multiclass", CLASSES), pd.DataFrame({"image": IDS, "label": "cat"})),
    "probabilities": (Form("probabilities"), Target("multiclass", CLASSES), pd.DataFrame({"image": IDS, "dog": "0", "ä": "0", "cat": "1"})),
    "grade": (Form("label"), Target("ordinal", GRADES), pd.DataFrame({"image": IDS, "label": "0"})),
    "score": (Form("score"), Target("binary", ("no", "yes")), pd.DataFrame({"image": IDS, "label": "0.5"})),
    "top_k": (Form("top_k", 2), Target("multiclass", CLASSES), pd.DataFrame({"image": IDS, "label": "cat dog"})),
    "labels": (Form("label"), Target("multilabel", CLASSES), pd.DataFrame({"image": IDS, "label": "cat"})),
    "labels or none": (Form("label", separator="|"), Target("multilabel", CLASSES, True), pd.DataFrame({"image": IDS, "label": ""})),
    "label columns": (Form("probabilities"), Target("multilabel", CLASSES), pd.DataFrame({"image": IDS, "dog": "0", "ä": "0", "cat": "1"})),
    "number": (Form("score"), Target("regression", ("price",)), pd.DataFrame({"image": IDS, "price": "0"})),
}


def predictions(kind: str = "label", seed: int = 0, ids: tuple[str, ...] = IDS, classes: tuple[str, ...] | None = None) -> Predictions:
    target = KINDS[kind][1]
    classes = classes or target.classes
    generator = np.random.default_rng(seed)
    if target.task == "regression":
        values = generator.normal(100, 50, (len(ids), 1))
    else:
        values = generator.random((len(ids), len(classes))) if target.task == "multilabel" else generator.dirichlet(np.ones(len(classes)), len(ids))
    return Predictions(ids, classes, values.astype(np.float32), np.full(len(ids), TEST, dtype=np.int16))


def of_values(kind: str, values: list[list[float]], ids: tuple[str, ...] = IDS) -> Predictions:
    return Predictions(ids, KINDS[kind][1].classes, np.array(values, dtype=np.float32), np.full(len(ids), TEST, dtype=np.int16))


def table_of(kind: str, source: Predictions | None = None) -> pd.DataFrame:
    form, target, sample = KINDS[kind]
    return to_table(source or predictions(kind), sample, form, target)


def as_read_back(table: pd.DataFrame) -> pd.DataFrame:
    """The table as the competition reads it from its CSV."""
    return pd.read_csv(io.StringIO(table.to_csv(index=False)), dtype=str, keep_default_na=False)


# ---------------------------------------------------------------- which format


@pytest.mark.parametrize(
    ("asked", "columns", "task", "metric", "form"),
    [
        ("auto", ["id", "label"], "multiclass", "accuracy", "label"),
        ("auto", ["id", "label"], "multiclass", "macro_f1", "label"),
        ("auto", ["id", "a", "b"], "multiclass", "accuracy", "probabilities"),
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
    assert class_columns(sample, "probabilities") == ["b", "a"]
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
    columns = {"probabilities": list(CLASSES), "score": ["price"] if target.task == "regression" else ["label"]}.get(form.name, ["label"])
    assert list(sample.columns) == ["image", *columns]
    table = as_read_back(to_table(predictions(kind), sample, form, target))
    require_valid(table, sample, form, target)


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_has_the_ids_order_and_columns_of_the_sample_and_passes_the_checks(kind: str) -> None:
    form, target, sample = KINDS[kind]
    table = as_read_back(table_of(kind))
    assert list(table.columns) == list(sample.columns)
    assert table["image"].tolist() == list(IDS)
    require_valid(table, sample, form, target)


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
    require_valid(as_read_back(table), sample, form, target)


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
    one, other = table_of(kind, shuffled), table_of(kind, source)
    if KINDS[kind][0].name == "probabilities":
        np.testing.assert_allclose(one.iloc[:, 1:].astype(float), other.iloc[:, 1:].astype(float), rtol=1e-6)
    else:
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [1.0, 0.9995, 1e-3])
def test_written_rows_sum_to_one_within_a_millionth(num_classes: int, scale: float) -> None:
    target = Target("multiclass", tuple(f"class {number}" for number in range(num_classes)))
    whole = predictions("label", 0, IDS, target.classes)
    scaled = Predictions(IDS, target.classes, whole.values * np.float32(scale), whole.fold)
    sample = make_sample(IDS, "image", target, "probabilities")
    table = as_read_back(to_table(scaled, sample, Form("probabilities"), target))
    assert np.abs(table.iloc[:, 1:].astype(float).sum(axis=1) - 1).max() < 1e-6
    require_valid(table, sample, Form("probabilities"), target)


def test_tiny_and_certain_probabilities_are_written_so_that_they_pass() -> None:
    form, target, sample = KINDS["probabilities"]
    table = table_of("probabilities", of_values("probabilities", [[1.0, 0.0, 0.0], [1e-30, 1.0, 1e-8], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 1e-38]]))
    require_valid(as_read_back(table), sample, form, target)
    assert float(table.loc[1, "cat"]) == pytest.approx(1e-30)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ids", [IDS[:-1], (*IDS, "new"), (*IDS[:-1], "010")], ids=["fewer", "more", "other"])
def test_predictions_of_other_ids_make_no_table(kind: str, ids: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"ids are (missing|unknown)"):
        table_of(kind, predictions(kind, 0, ids))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_row_without_any_probability_is_refused() -> None:
    form, target, sample = KINDS["probabilities"]
    table = table_of("probabilities", of_values("probabilities", [[0.2, 0.3, 0.5], [1, 0, 0], [0, 0, 0], [0, 1, 0]]))
    with pytest.raises(UserError, match="row 4"):
        require_valid(table, sample, form, target)


def test_classes_of_the_train_table_and_of_the_sample_meet_in_one_order() -> None:
    from pipeline.config import Competition

    own = Competition.model_validate({"name": "toy", "root": ".", "id": "image", "target": "label", "metric": "log_loss"})
    sample = KINDS["probabilities"][2]
    target = define_target(own, pd.Series(["cat", "dog", "ä"]), class_columns(sample, "probabilities"))
    assert target.classes == ("dog", "ä", "cat")


# ---------------------------------------------------------------- the checks: each single fault is refused


def refusal(table: pd.DataFrame, kind: str) -> str:
    form, target, sample = KINDS[kind]
    with pytest.raises(UserError) as caught:
        require_valid(table, sample, form, target)
    message = str(caught.value)
    assert message.startswith("submission refused: ")
    assert "\n" not in message
    return message


def with_cell(table: pd.DataFrame, row: int, column: str, value: str) -> pd.DataFrame:
    table = table.copy()
    table.loc[row, column] = value
    return table


Damage = Callable[[pd.DataFrame], pd.DataFrame]
EITHER: dict[str, tuple[Damage, str]] = {
    "missing id": (lambda table: table.drop(index=1), '1 ids of the sample are missing, e.g. "7"'),
    "doubled id": (lambda table: with_cell(table, 2, "image", "007"), 'row 4: id "007" is there twice'),
    "doubled row": (lambda table: pd.concat([table, table.tail(1)], ignore_index=True), "there are 5 rows, but the sample has 4"),
    "unknown id": (lambda table: with_cell(table, 0, "image", "0007"), '1 ids are not in the sample, e.g. "0007"'),
    "id without its zeros": (lambda table: with_cell(table, 0, "image", "7"), "is there twice"),
    "id with a space": (lambda table: with_cell(table, 0, "image", "007 "), "are not in the sample"),
    "wrong order": (lambda table: table.iloc[[0, 2, 1, 3]].reset_index(drop=True), 'row 3: id "b,c" stands where the sample has "7"'),
    "reversed": (lambda table: table[::-1].reset_index(drop=True), 'row 2: id "10" stands where the sample has "007"'),
    "no rows": (lambda table: table.head(0), "4 ids of the sample are missing"),
    "renamed column": (lambda table: table.rename(columns={"image": "id"}), "the columns are id,"),
    "extra column": (lambda table: table.assign(more="1"), "the columns are image,"),
    "fewer columns": (lambda table: table.iloc[:, :-1], "the columns are image"),
    "other order of columns": (lambda table: table[table.columns[::-1]], "write image,"),
}
LABEL: dict[str, tuple[Damage, str]] = {
    "unknown label": (lambda table: with_cell(table, 3, "label", "bird"), 'row 5: "bird" is no label of the train table'),
    "empty label": (lambda table: with_cell(table, 0, "label", ""), 'row 2: "" is no label'),
    "label in capitals": (lambda table: with_cell(table, 0, "label", "Cat"), '"Cat" is no label'),
    "number of a class": (lambda table: with_cell(table, 0, "label", "0"), '"0" is no label'),
    "no label": (lambda table: table.assign(label=[None, "cat", "cat", "cat"]), "row 2"),
    "two labels": (lambda table: with_cell(table, 0, "label", "cat dog"), 'row 2: "cat dog" is no label'),
    "label with a space": (lambda table: with_cell(table, 0, "label", "cat "), 'row 2: "cat " is no label'),
}
SEVERAL: dict[str, tuple[Damage, str]] = {
    "unknown label": (lambda table: with_cell(table, 3, "label", "cat bird"), 'row 5: "bird" is no label of the train table'),
    "label twice": (lambda table: with_cell(table, 1, "label", "dog dog"), 'row 3: "dog dog" has a label twice'),
    "other separator": (lambda table: with_cell(table, 1, "label", "dog,cat"), 'row 3: "dog,cat" is no label'),
    "no label": (lambda table: with_cell(table, 2, "label", ""), "row 4: there is no label"),
    "spaces alone": (lambda table: with_cell(table, 2, "label", "  "), "row 4: there is no label"),
}
TOP_K = SEVERAL | {"too many": (lambda table: with_cell(table, 0, "label", "cat dog ä"), "or more than 2")}
NUMBER: dict[str, tuple[Damage, str]] = {
    "not a number": (lambda table: table.assign(**{table.columns[1]: ["1", "nan", "1", "1"]}), "row 3"),
    "infinite": (lambda table: table.assign(**{table.columns[1]: ["1", "1", "1", "inf"]}), "row 5"),
    "beyond all numbers": (lambda table: table.assign(**{table.columns[1]: ["1", "1", "1", "1e999"]}), "row 5"),
    "text": (lambda table: table.assign(**{table.columns[1]: ["yes", "1", "1", "1"]}), 'row 2: "yes" in column'),
    "empty": (lambda table: table.assign(**{table.columns[1]: ["1", "1", "", "1"]}), "row 4"),
}
SCORE = NUMBER | {
    "above one": (lambda table: with_cell(table, 1, "label", "1.01"), "row 3: 1.01 in column label is no probability"),
    "negative": (lambda table: with_cell(table, 1, "label", "-0.01"), "row 3: -0.01 in column label is no probability"),
}
PROBABILITIES: dict[str, tuple[Damage, str]] = {
    "not a number": (lambda table: with_cell(table, 1, "dog", "nan"), 'row 3: "nan" in column dog is no finite number'),
    "empty": (lambda table: with_cell(table, 1, "dog", ""), "row 3"),
    "infinite": (lambda table: with_cell(table, 1, "dog", "inf"), 'row 3: "inf" in column dog'),
    "minus infinite": (lambda table: with_cell(table, 1, "dog", "-inf"), "row 3"),
    "text": (lambda table: with_cell(table, 1, "dog", "cat"), 'row 3: "cat" in column dog'),
    "truth": (lambda table: with_cell(table, 1, "dog", "True"), "row 3"),
    "comma": (lambda table: with_cell(table, 1, "dog", "0,5"), "row 3"),
    "negative": (lambda table: table.assign(dog="-0.1", cat="0.6", **{"ä": "0.5"}), "row 2: -0.1 in column dog is no probability"),
    "above one": (lambda table: table.assign(dog="1.5", cat="0", **{"ä": "0"}), "row 2: 1.5 in column dog is no probability"),
    "sum off": (lambda table: with_cell(table, 2, "dog", "0.99999"), "row 4: the probabilities sum to"),
    "row of zeros": (lambda table: table.assign(dog="0", cat="0", **{"ä": "0"}), "row 2: the probabilities sum to 0"),
    "per cent": (lambda table: table.assign(dog="100", cat="0", **{"ä": "0"}), "row 2: 100 in column dog"),
}
SUMLESS = {name: fault for name, fault in PROBABILITIES.items() if "sum" not in fault[1]}
FAULTS_OF = {
    "label": LABEL,
    "probabilities": PROBABILITIES,
    "grade": {"unknown grade": (lambda table: with_cell(table, 0, "label", "3"), 'row 2: "3" is no label')},
    "score": SCORE,
    "top_k": TOP_K,
    "labels": SEVERAL,
    "labels or none": {"unknown label": (lambda table: with_cell(table, 0, "label", "cat|bird"), '"bird" is no label')},
    "label columns": SUMLESS,
    "number": NUMBER,
}
FAULTS = [pytest.param(kind, *fault, id=f"{kind}-{name}") for kind, faults in FAULTS_OF.items() for name, fault in (EITHER | faults).items()]


@pytest.mark.parametrize(("kind", "damage", "message"), FAULTS)
def test_a_single_fault_is_refused_and_named(kind: str, damage: Damage, message: str) -> None:
    assert message in refusal(damage(table_of(kind)), kind)


def test_every_kind_of_submission_is_damaged() -> None:
    assert set(FAULTS_OF) == set(KINDS)
    assert {form.name for form, _, _ in KINDS.values()} | {"auto"} == set(FORMAT_TASKS)


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_is_named_at_once(kind: str) -> None:
    table = with_cell(with_cell(table_of(kind), 0, "image", "new"), 1, "image", "10")
    assert refusal(table, kind).count(" | ") == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_table_has_no_findings(kind: str) -> None:
    form, target, sample = KINDS[kind]
    assert check_table(table_of(kind), sample, form, target) == []


def test_a_number_may_be_below_zero_and_above_one_where_a_probability_may_not() -> None:
    form, target, sample = KINDS["number"]
    assert check_table(table_of("number", of_values("number", [[-5], [0], [1e6], [0.5]])), sample, form, target) == []


def test_labels_of_a_row_may_be_none_where_train_rows_have_none_and_separated_as_the_competition_does() -> None:
    form, target, sample = KINDS["labels or none"]
    table = sample.assign(label=["", "cat", "cat|dog", "ä|cat|dog"])
    assert check_table(as_read_back(table), sample, form, target) == []


def test_a_class_of_several_words_is_one_label() -> None:
    target = Target("multiclass", ("big dog", "cat"))
    sample = pd.DataFrame({"image": IDS, "label": "cat"})
    assert check_table(sample.assign(label=["big dog", "cat", "cat", "big dog"]), sample, Form("label"), target) == []


def test_labels_where_probabilities_belong_are_refused() -> None:
    table = pd.DataFrame({"image": IDS, "dog": "dog", "ä": "dog", "cat": "dog"})
    assert '"dog" in column dog is no finite number' in refusal(table, "probabilities")
