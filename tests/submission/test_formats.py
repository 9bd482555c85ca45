"""Submissions are joined to the sample by id, and no single fault gets past the checks."""

import io
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import UserError
from pipeline.predictions import TEST, Predictions
from pipeline.submission.formats import check_table, choose_format, class_order, require_valid, to_table

IDS = ("007", "7", "b,c", "10")
CLASSES = ("cat", "dog", "ä")
SAMPLE = {
    "label": pd.DataFrame({"image": IDS, "label": "cat"}),
    "probabilities": pd.DataFrame({"image": IDS, "dog": "0", "ä": "0", "cat": "1"}),
}
FORMS = ["label", "probabilities"]


def predictions(seed: int = 0, ids: tuple[str, ...] = IDS, classes: tuple[str, ...] = CLASSES) -> Predictions:
    values = np.random.default_rng(seed).dirichlet(np.ones(len(classes)), len(ids)).astype(np.float32)
    return Predictions(ids, classes, values, np.full(len(ids), TEST, dtype=np.int16))


def good(form: str) -> pd.DataFrame:
    return to_table(predictions(), SAMPLE[form], form)


def as_read_back(table: pd.DataFrame) -> pd.DataFrame:
    """The table as the competition reads it from its CSV."""
    return pd.read_csv(io.StringIO(table.to_csv(index=False)), dtype=str, keep_default_na=False)


# ---------------------------------------------------------------- which format


@pytest.mark.parametrize(
    ("asked", "columns", "metric", "form"),
    [
        ("auto", ["id", "label"], "accuracy", "label"),
        ("auto", ["id", "label"], "macro_f1", "label"),
        ("auto", ["id", "a", "b"], "accuracy", "probabilities"),
        ("auto", ["id", "a", "b"], "log_loss", "probabilities"),
        ("label", ["id", "label"], "log_loss", "label"),
        ("probabilities", ["id", "a", "b"], "accuracy", "probabilities"),
    ],
)
def test_the_format_is_the_one_asked_for_or_what_the_columns_of_the_sample_say(asked: str, columns: list[str], metric: str, form: str) -> None:
    assert choose_format(asked, pd.DataFrame(columns=columns), metric) == form


def test_one_column_for_a_metric_of_probabilities_is_refused() -> None:
    with pytest.raises(UserError, match=r"log_loss wants probabilities.*write submission\.format=label"):
        choose_format("auto", pd.DataFrame(columns=["id", "target"]), "log_loss")


# ---------------------------------------------------------------- classes


def test_classes_of_labels_are_sorted_as_text() -> None:
    assert class_order(pd.Series(["2", "10", "1", "2"]), SAMPLE["label"], "label") == ("1", "10", "2")


def test_classes_of_probabilities_are_in_the_order_of_the_sample() -> None:
    assert class_order(pd.Series(["cat", "ä", "dog", "cat"]), SAMPLE["probabilities"], "probabilities") == ("dog", "ä", "cat")


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["cat", "dog"], 'class "ä" is in the sample but in no training row'),
        (["cat", "dog", "ä", "bird"], 'class "bird" is in the train table but not in the sample'),
        (["cat", "cat"], "has the one class"),
        (["cat", "dog", "ä "], "is in"),
    ],
)
def test_classes_that_the_sample_and_the_train_table_do_not_share_are_refused(targets: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        class_order(pd.Series(targets), SAMPLE["probabilities"], "probabilities")
    assert message in str(caught.value)


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize("form", FORMS)
def test_a_table_has_the_ids_order_and_columns_of_the_sample_and_passes_the_checks(form: str) -> None:
    table = as_read_back(good(form))
    assert list(table.columns) == list(SAMPLE[form].columns)
    assert table["image"].tolist() == list(IDS)
    require_valid(table, SAMPLE[form], form, CLASSES)


def test_a_label_is_the_most_probable_class_of_its_id() -> None:
    values = np.array([[0.1, 0.2, 0.7], [0.9, 0.05, 0.05], [0.2, 0.6, 0.2], [0.4, 0.3, 0.3]], dtype=np.float32)
    table = to_table(Predictions(IDS[::-1], CLASSES, values, np.full(4, TEST, dtype=np.int16)), SAMPLE["label"], "label")
    assert dict(table.to_numpy()) == {"10": "ä", "b,c": "cat", "7": "dog", "007": "cat"}


def test_a_probability_stands_in_the_column_of_its_class() -> None:
    source = predictions()
    table = good("probabilities")
    for column, name in enumerate(CLASSES):
        np.testing.assert_allclose(table[name].astype(float), source.values[:, column], rtol=1e-6)


@settings(deadline=None)
@given(st.integers(0, 50), st.permutations(range(4)), st.sampled_from(FORMS))
def test_predictions_in_any_order_of_rows_give_the_same_table(seed: int, rows: list[int], form: str) -> None:
    source = predictions(seed)
    shuffled = Predictions(tuple(IDS[row] for row in rows), CLASSES, source.values[rows], source.fold)
    pd.testing.assert_frame_equal(to_table(shuffled, SAMPLE[form], form), to_table(source, SAMPLE[form], form))


@settings(deadline=None)
@given(st.integers(0, 50), st.permutations(range(3)), st.sampled_from(FORMS))
def test_predictions_in_any_order_of_classes_give_the_same_table(seed: int, columns: list[int], form: str) -> None:
    source = predictions(seed)
    shuffled = Predictions(IDS, tuple(CLASSES[column] for column in columns), np.ascontiguousarray(source.values[:, columns]), source.fold)
    one, other = to_table(shuffled, SAMPLE[form], form), to_table(source, SAMPLE[form], form)
    if form == "label":
        pd.testing.assert_frame_equal(one, other)
    else:
        np.testing.assert_allclose(one.iloc[:, 1:].astype(float), other.iloc[:, 1:].astype(float), rtol=1e-6)


@pytest.mark.parametrize("num_classes", [2, 10, 1000])
@pytest.mark.parametrize("scale", [1.0, 0.9995, 1e-3])
def test_written_rows_sum_to_one_within_a_millionth(num_classes: int, scale: float) -> None:
    classes = tuple(f"class {number}" for number in range(num_classes))
    whole = predictions(0, IDS, classes)
    scaled = Predictions(IDS, classes, whole.values * np.float32(scale), whole.fold)
    sample = pd.DataFrame({"image": IDS} | {name: ["0"] * 4 for name in classes})
    table = as_read_back(to_table(scaled, sample, "probabilities"))
    assert np.abs(table.iloc[:, 1:].astype(float).sum(axis=1) - 1).max() < 1e-6
    require_valid(table, sample, "probabilities", classes)


def test_tiny_and_certain_probabilities_are_written_so_that_they_pass() -> None:
    values = np.array([[1.0, 0.0, 0.0], [1e-30, 1.0, 1e-8], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 1e-38]], dtype=np.float32)
    table = to_table(Predictions(IDS, CLASSES, values, np.full(4, TEST, dtype=np.int16)), SAMPLE["probabilities"], "probabilities")
    require_valid(as_read_back(table), SAMPLE["probabilities"], "probabilities", CLASSES)
    assert float(table.loc[1, "cat"]) == pytest.approx(1e-30)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("ids", [IDS[:-1], (*IDS, "new"), (*IDS[:-1], "010")], ids=["fewer", "more", "other"])
def test_predictions_of_other_ids_make_no_table(form: str, ids: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match=r"ids are (missing|unknown)"):
        to_table(predictions(0, ids), SAMPLE[form], form)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_row_without_any_probability_is_refused() -> None:
    values = predictions().values.copy()
    values[2] = 0
    table = to_table(Predictions(IDS, CLASSES, values, np.full(4, TEST, dtype=np.int16)), SAMPLE["probabilities"], "probabilities")
    with pytest.raises(UserError, match="row 4"):
        require_valid(table, SAMPLE["probabilities"], "probabilities", CLASSES)


# ---------------------------------------------------------------- the checks: each single fault is refused


def refusal(table: pd.DataFrame, form: str) -> str:
    with pytest.raises(UserError) as caught:
        require_valid(table, SAMPLE[form], form, CLASSES)
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
FAULTS = [
    pytest.param(form, *fault, id=f"{form}-{name}")
    for form, faults in (("label", EITHER | LABEL), ("probabilities", EITHER | PROBABILITIES))
    for name, fault in faults.items()
]


@pytest.mark.parametrize(("form", "damage", "message"), FAULTS)
def test_a_single_fault_is_refused_and_named(form: str, damage: Damage, message: str) -> None:
    assert message in refusal(damage(good(form)), form)


@pytest.mark.parametrize("form", FORMS)
def test_every_fault_is_named_at_once(form: str) -> None:
    table = with_cell(with_cell(good(form), 0, "image", "new"), 1, "image", "10")
    assert refusal(table, form).count(" | ") == 2


@pytest.mark.parametrize("form", FORMS)
def test_a_good_table_has_no_findings(form: str) -> None:
    assert check_table(good(form), SAMPLE[form], form, CLASSES) == []


def test_labels_where_probabilities_belong_are_refused() -> None:
    table = pd.DataFrame({"image": IDS, "dog": "dog", "ä": "dog", "cat": "dog"})
    assert '"dog" in column dog is no finite number' in refusal(table, "probabilities")
