"""Our files pass the doctor, and any single corruption of one is found, with its row."""

import csv
import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from kinds import findings, written

from pipeline.data.tables import read_table
from pipeline.data.targets import Target
from pipeline.errors import UserError
from pipeline.predictions import TEST, Predictions
from pipeline.submission.doctor import diagnose, write_valid
from pipeline.submission.formats import COLUMNS_OF_CLASSES, Form, to_table

# ---------------------------------------------------------------- any valid predictions


@dataclass(frozen=True)
class Case:
    """Predictions of some kind, and the sample that they answer."""

    source: Predictions
    sample: pd.DataFrame
    form: Form
    target: Target

    def written(self, source: Predictions | None = None) -> bytes:
        return written(to_table(source or self.source, self.sample, self.form, self.target))


TASKS = {
    "label": ("multiclass", Form("label")),
    "probabilities": ("multiclass", Form("probabilities")),
    "top_k": ("multiclass", Form("top_k", 3, " ")),
    "score": ("binary", Form("score")),
    "grade": ("ordinal", Form("label")),
    "labels": ("multilabel", Form("label", separator=" ")),
    "labels or none": ("multilabel", Form("label", separator=";")),
    "label columns": ("multilabel", Form("probabilities")),
    "number": ("regression", Form("score")),
    "indicators": ("multiclass", Form("indicators")),
    "several indicators": ("multilabel", Form("indicators")),
}
LETTERS = st.one_of(st.sampled_from("abAB019 ,\";|'éß漢.-/"), st.characters(exclude_categories=("Cc", "Cs")))
NAMES = st.text(LETTERS, min_size=1, max_size=8).filter(lambda text: text == text.strip() and text not in ("image", "007", "12"))


@st.composite
def cases(draw: st.DrawFn, kinds: tuple[str, ...] = tuple(TASKS)) -> Case:
    kind = draw(st.sampled_from(kinds))
    task, form = TASKS[kind]
    ids = draw(st.permutations(["007", "12", *draw(st.lists(NAMES, min_size=4, max_size=8, unique=True))]))
    several = form.name == "top_k" or kind.startswith("labels")
    names = NAMES.filter(lambda name: not several or (form.separator not in name and "|" not in name and name.lower() not in ("nan", "na", "none", "null")))
    classes = ["0", "1", "2", "10"] if task == "ordinal" else draw(st.lists(names, min_size=2, max_size=5, unique=True))
    classes = classes[: {"binary": 2, "regression": 1}.get(task, 5)]
    generator = np.random.default_rng(draw(st.integers(0, 2**16)))
    size = (len(ids), len(classes))
    values = {"regression": generator.normal(5, 50, size), "multilabel": generator.uniform(0, 1, size)}.get(
        task, generator.dirichlet(np.ones(size[1]), size[0])
    )
    columns = list(draw(st.permutations(classes))) if form.name in COLUMNS_OF_CLASSES else ["label"]
    sample = pd.DataFrame({"image": ids, **dict.fromkeys(columns, "0.5" if form.name in (*COLUMNS_OF_CLASSES, "score") else classes[0])}, dtype=str)
    source = Predictions(tuple(ids), tuple(classes), values.astype(np.float32), np.full(len(ids), TEST, dtype=np.int16))
    return Case(source, sample, form, Target(task, tuple(classes), may_be_empty=kind == "labels or none"))


few = settings(max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


@settings(few, max_examples=60)
@given(cases(), st.randoms(use_true_random=False))
def test_valid_predictions_in_any_order_of_rows_and_columns_give_the_same_bytes_and_pass(case: Case, random: object) -> None:
    source = case.source
    rows, columns = (np.array(random.sample(range(count), count)) for count in source.values.shape)  # type: ignore[attr-defined]
    values = np.asfortranarray(source.values[rows][:, columns])
    shuffled = Predictions(tuple(source.ids[row] for row in rows), tuple(source.classes[column] for column in columns), values, source.fold)
    raw = case.written()
    assert case.written(shuffled) == raw
    assert list(map(str, findings(raw, case.sample, case.form, case.target))) == []


# ---------------------------------------------------------------- any single corruption

Cells = list[list[str]]
Corrupted = tuple[bytes, int | None]  # the file, and the row that a finding must name, header 1
Corruption = Callable[[Cells, int], Corrupted]
ALL = tuple(TASKS)
SUMMED = ("probabilities",)
UNIT = ("probabilities", "label columns", "score")
INDICATORS = ("indicators", "several indicators")
NUMERIC = (*UNIT, "number", *INDICATORS)
ONE_LABEL = ("label", "grade")
LISTS = ("top_k", "labels")


def to_bytes(cells: Cells, separator: str = ",") -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator, lineterminator="\n").writerows(cells)
    return buffer.getvalue().encode()


def cell(text: Callable[[str], str]) -> Corruption:
    """A change of the last cell of a row."""

    def corrupt(cells: Cells, row: int) -> Corrupted:
        before = cells[row][-1]
        cells[row][-1] = text(before)
        assume(cells[row][-1] != before)
        return to_bytes(cells), row + 1

    return corrupt


def identity(text: Callable[[str], str], of: str | None = None) -> Corruption:
    """A change of one id: that of a row, or `of`."""

    def corrupt(cells: Cells, row: int) -> Corrupted:
        row = next(number for number, record in enumerate(cells) if record[0] == of) if of else row
        changed = text(cells[row][0])
        assume(changed != cells[row][0])
        cells[row][0] = changed
        again = [number + 1 for number, record in enumerate(cells) if record[0] == changed]
        return to_bytes(cells), again[-1]

    return corrupt


def whole(change: Callable[[bytes], bytes], row: int | None = None) -> Corruption:
    """A change of the file's bytes."""
    return lambda cells, _row: (change(to_bytes(cells)), row)


def line(change: Callable[[list[bytes], int], None], named: int | None = 1) -> Corruption:
    """A change of the file's lines; `named`: how much the row's number differs from its place in the list."""

    def corrupt(cells: Cells, row: int) -> Corrupted:
        lines = to_bytes(cells).splitlines(keepends=True)
        assume(len(lines) == len(cells))
        change(lines, row)
        return b"".join(lines), None if named is None else row + named

    return corrupt


def columns(change: Callable[[list[str]], list[str]], row: int | None = 1) -> Corruption:
    """The same change of every row."""
    return lambda cells, _row: (to_bytes([change(record) for record in cells]), row)


def header(change: Callable[[list[str]], list[str]]) -> Corruption:
    return lambda cells, _row: (to_bytes([change(cells[0]), *cells[1:]]), 1)


def numbers(change: Callable[[float], float]) -> Corruption:
    return lambda cells, _row: (to_bytes([cells[0], *([record[0], *(repr(change(float(text))) for text in record[1:])] for record in cells[1:])]), None)


def scale_row(cells: Cells, row: int) -> Corrupted:
    cells[row][1:] = [repr(float(text) * 0.9) for text in cells[row][1:]]
    return to_bytes(cells), row + 1


def swap_rows(cells: Cells, row: int) -> Corrupted:
    other = row % (len(cells) - 1) + 1
    cells[row], cells[other] = cells[other], cells[row]
    return to_bytes(cells), min(row, other) + 1


def decimal_commas(cells: Cells, row: int) -> Corrupted:
    changed = [cells[0], *([record[0], *(text.replace(".", ",") for text in record[1:])] for record in cells[1:])]
    assume(changed != cells)
    return to_bytes(changed, ";"), None


def replace_line(lines: list[bytes], row: int, old: bytes, new: bytes) -> None:
    lines[row] = lines[row].replace(old, new)


CORRUPTIONS: dict[str, tuple[Corruption, tuple[str, ...]]] = {
    "row dropped": (lambda cells, row: (to_bytes(cells[:row] + cells[row + 1 :]), None), ALL),
    "row doubled": (lambda cells, row: (to_bytes([*cells, cells[row]]), len(cells) + 1), ALL),
    "rows swapped": (swap_rows, ALL),
    "id renamed": (identity(lambda text: f"{text}~new"), ALL),
    "id emptied": (identity(lambda _text: ""), ALL),
    "zeros lost": (identity(lambda text: text.lstrip("0"), "007"), ALL),
    "id as float": (identity(lambda text: f"{text}.0", "12"), ALL),
    "id with ending": (identity(lambda text: f"{text}.jpg"), ALL),
    "id with space": (identity(lambda text: f"{text} "), ALL),
    "columns' names swapped": (header(lambda names: [*names[:-2], names[-1], names[-2]]), ALL),
    "column renamed": (header(lambda names: [*names[:-1], f"{names[-1]}~new"]), ALL),
    "id column in capitals": (header(lambda names: ["Image", *names[1:]]), ALL),
    "header with space": (header(lambda names: [*names[:-1], f" {names[-1]}"]), ALL),
    "header lost": (lambda cells, row: (to_bytes(cells[1:]), 1), ALL),
    "column dropped": (columns(lambda record: record[:-1]), ALL),
    "column doubled": (columns(lambda record: [*record, record[-1]]), ALL),
    "index column": (lambda cells, row: (to_bytes([["", *cells[0]], *([str(n), *record] for n, record in enumerate(cells[1:]))]), 1), ALL),
    "extra cell": (lambda cells, row: (to_bytes([*cells[:row], [*cells[row], "1"], *cells[row + 1 :]]), row + 1), ALL),
    "cell too few": (lambda cells, row: (to_bytes([*cells[:row], cells[row][:-1], *cells[row + 1 :]]), row + 1), ALL),
    "BOM": (whole(lambda raw: b"\xef\xbb\xbf" + raw, 1), ALL),
    "UTF-16": (whole(lambda raw: raw.decode().encode("utf-16")), ALL),
    "UTF-16 without a mark": (whole(lambda raw: raw.decode().encode("utf-16-le")), ("score", "number", "grade")),
    "another encoding": (line(lambda lines, row: lines.__setitem__(row, b"\xe9" + lines[row])), ALL),
    "zero byte": (line(lambda lines, row: replace_line(lines, row, b"\n", b"\0\n")), ALL),
    "semicolons": (lambda cells, row: (to_bytes(cells, ";"), None), ALL),
    "tabs": (lambda cells, row: (to_bytes(cells, "\t"), None), ALL),
    "Windows line ends": (whole(lambda raw: raw.replace(b"\n", b"\r\n")), ALL),
    "one carriage return": (line(lambda lines, row: replace_line(lines, row, b"\n", b"\r") if row + 1 < len(lines) else assume(False)), ALL),
    "blank line": (line(lambda lines, row: lines.insert(row, b"\n")), ALL),
    "blank line at the end": (lambda cells, row: (to_bytes(cells) + b"\n", len(cells) + 1), ALL),
    "no line end": (lambda cells, row: (to_bytes(cells)[:-1], len(cells)), ALL),
    "cut off": (whole(lambda raw: raw[: len(raw) * 2 // 3]), ALL),
    "quote not closed": (line(lambda lines, row: lines.__setitem__(row, b'"' + lines[row].replace(b'"', b""))), ALL),
    "NaN": (cell(lambda _text: "nan"), (*NUMERIC, "grade")),
    "empty cell": (cell(lambda _text: ""), (*NUMERIC, *ONE_LABEL, *LISTS)),
    "infinite": (cell(lambda _text: "-inf"), NUMERIC),
    "text": (cell(lambda text: f"{text}x"), NUMERIC),
    "spaces": (cell(lambda text: f" {text}"), NUMERIC),
    "decimal commas": (decimal_commas, NUMERIC),
    "negative": (cell(lambda text: repr(-0.25 - float(text))), (*UNIT, *INDICATORS)),
    "percentages": (numbers(lambda value: value * 100), UNIT),
    "a fraction": (cell(lambda _text: "0.25"), INDICATORS),
    "indicator as float": (cell(lambda text: f"{text}.0"), INDICATORS),
    "no indicator": (lambda cells, row: (to_bytes([*cells[:row], [cells[row][0], *"0" * (len(cells[row]) - 1)], *cells[row + 1 :]]), row + 1), INDICATORS),
    "two indicators": (
        lambda cells, row: (to_bytes([*cells[:row], [cells[row][0], *"1" * (len(cells[row]) - 1)], *cells[row + 1 :]]), row + 1),
        ("indicators",),
    ),
    "row scaled": (scale_row, SUMMED),
    "rows of few digits": (numbers(lambda value: round(value, 4) + 1e-5), SUMMED),
    "label with typo": (cell(lambda text: f"{text}~"), (*ONE_LABEL, *LISTS)),
    "label as float": (cell(lambda text: f"{text}.0"), ("grade",)),
    "label with space": (cell(lambda text: f"{text} "), ONE_LABEL),
    "label twice": (cell(lambda text: " ".join([text.split()[0]] * 2) if text else text), LISTS),
    "too many labels": (cell(lambda _text: "a b c d"), ("top_k",)),
}


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_any_single_corruption_is_found_in_its_row(name: str) -> None:
    corrupt, kinds = CORRUPTIONS[name]

    @settings(few)
    @given(cases(kinds), st.integers(0, 1000))
    def found(case: Case, number: int) -> None:
        cells = list(csv.reader(io.StringIO(case.written().decode(), newline=""), strict=True))
        raw, row = corrupt(cells, number % (len(cells) - 1) + 1)
        lines = [str(finding) for finding in findings(raw, case.sample, case.form, case.target)]
        assert lines
        assert all(line.isprintable() for line in lines)
        if row is not None:
            assert any(re.search(rf"rows? (\d+, )*{row}\b", line) for line in lines), (row, lines)

    found()


# ---------------------------------------------------------------- what is printed

SAMPLE = pd.DataFrame({"image": ["007", "008", "012", "x/1.jpg"], "label": "cat"}, dtype=str)
ANIMALS = Target("multiclass", ("cat", "dog", "Ünder"))
GIVEN = (SAMPLE, Form("label"), ANIMALS)
SHARES = pd.DataFrame({"image": ["1", "2", "3"], "cat": "0.4", "dog": "0.6"}, dtype=str)
PRINTED: dict[str, tuple[bytes, tuple[pd.DataFrame, Form | None, Target | None], list[str]]] = {
    "ours": (b"image,label\n007,cat\n008,dog\n012,cat\nx/1.jpg,cat\n", GIVEN, ["accepted: 4 rows, 2 columns, 48 B"]),
    "from a spreadsheet": (
        b"\xef\xbb\xbfimage;label\r\n7;cat\r\n8;dog\r\n12;cat\r\nx/1.jpg;cat\r\n",
        GIVEN,
        [
            "error: row 1, column A: begins with a byte order mark (BOM), which many readers take for a part of the first column's name; save it as UTF-8"
            ' without BOM: df.to_csv(path, index=False, encoding="utf-8")',
            'error: the file: cells are separated by a semicolon instead of a comma; write commas: df.to_csv(path, index=False, sep=",")',
            'error: row 2, column A (image): 3 ids with lost leading zeros: "7" where the sample has "007", "8" for "008", "12" for "012"; read that column as'
            " text: pd.read_csv(..., dtype=str), in a spreadsheet import it as text",
            'note: the file: lines end with \\r\\n (Windows); pandas reads that as \\n; write \\n alone: df.to_csv(path, index=False, lineterminator="\\n")',
            "refused: 3 errors, 1 note",
        ],
    ),
    "ids and labels of all kinds": (
        b"image,label\n7.0,cat\n008,Dog\nX/1.jpg,bird\n012,dgo\n012,\n",
        GIVEN,
        [
            'error: row 2, column A (image): 1 id as a float: "7.0" where the sample has "007"; read that column as text: pd.read_csv(..., dtype=str), in a'
            " spreadsheet import it as text",
            'error: row 4, column A (image): 1 id in another case: "X/1.jpg" where the sample has "x/1.jpg"; write upper and lower case as they are there',
            'error: row 6, column A (image): 1 id is there more than once: "012" (rows 5, 6); write each once',
            "error: row 6, column B (label): there is no label, the cell is empty; write a label in every row",
            'error: row 3, column B (label): 1 label in another case: "Dog" where the train table has "dog"; write upper and lower case as they are there',
            'error: row 4, column B (label): 2 labels that the train table has not: "bird", "dgo" (2 rows: 4, 5); write one of its labels;'
            " known: cat, dog, Ünder",
            "refused: 6 errors",
        ],
    ),
    "probabilities": (
        b"image,cat,dog\n1,0.5,0.6\n2,nan,1\n3,0.50001,0.5\n",
        (SHARES, Form("probabilities"), Target("multiclass", ("cat", "dog"))),
        [
            'error: row 3, column B (cat): "nan" is NaN; write a number: df.isna().sum() tells where they come from',
            "error: row 2: the probabilities sum to 1.1; scale each row to sum 1",
            "note: row 4: the probabilities sum to 1.00001; write more digits, or scale each row to sum 1",
            "refused: 2 errors, 1 note",
        ],
    ),
    "percentages": (
        b"image,cat,dog\n1,40,60\n2,99.5,0.5\n3,50,50\n",
        (SHARES, None, None),
        [
            'error: row 2, column B (cat): "40" looks like a percentage: numbers go from 0.5 to 99.5; divide by 100; probabilities are 0 to 1;'
            " an AUC metric does not mind",
            "refused: 1 error",
        ],
    ),
    "the sample itself": (
        b"image,label\n007,cat\n008,cat\n012,cat\nx/1.jpg,cat\n",
        (SAMPLE, None, None),
        ["note: the file: every row says cat; see that this is not the sample itself", "accepted: 4 rows, 2 columns, 48 B, 1 note"],
    ),
    "a terminal's commands": (
        "image,label\n007,\x1b[2Jcat\n008,cat\u200b\n012,dog\nx/1.jpg,cat\n".encode(),
        GIVEN,
        [
            'error: row 2, column B (label): 2 labels that the train table has not: "\\x1b[2Jcat", "cat\\u200b" (2 rows: 2, 3); write one of its labels;'
            ' did you mean "cat"?',
            "refused: 1 error",
        ],
    ),
}


@pytest.mark.parametrize("name", PRINTED)
def test_what_is_printed_says_where_what_and_how_to_mend_it(name: str, tmp_path: Path) -> None:
    raw, given, expected = PRINTED[name]
    path = tmp_path / "submission.csv"
    path.write_bytes(raw)
    diagnosis = diagnose(path, *given)
    assert [*map(str, diagnosis.findings), str(diagnosis)] == expected


@pytest.mark.parametrize(
    ("cells", "answers", "said"),
    [
        ("3", ["1.0", "2.0", "0.0"], 'note: row 2, column B (label): "1.0", "2.0", "0.0" written as a float, where the sample has whole numbers'),
        ("3", ["0.25", "0.5", "1"], 'note: column B (label): floats, e.g. "0.25", where the sample has whole numbers'),
        ("3", ["1", "cat", "2"], 'error: row 3, column B (label): "cat" where the sample has whole numbers'),
        ("cat", ["1", "2", "3"], 'error: row 2, column B (label): "1", "2", "3" where the sample has words, e.g. "cat"'),
        ("cat", ["dog", "Dog", "dog"], 'note: row 3, column B (label): "Dog" differs from "dog" in case alone'),
        ("cat", ["dog", "", "cat"], "note: row 3, column B (label): there is no label, the cell is empty"),
        ("0.5", ["1", "2", "0.7"], 'note: row 3, column B (label): "2" is no probability'),
        ("0.5", ["0.1", "0,5", "0.7"], 'error: row 3, column B (label): "0,5" is written with a decimal comma'),
        ("17.5", ["1", "2", "-700"], None),
        ("0", ["0 5", "1", "1 2 3 4 5"], 'note: row 2, column B (label): "0 5", "1 2 3 4 5" is several numbers, where the sample shows one'),
        ("0", ["3,7,9", "3,7", "0"], 'note: row 2, column B (label): "3,7,9", "3,7" is several numbers'),
        ("0", ["0,5", "0,7", "0"], 'error: row 2, column B (label): "0,5", "0,7" where the sample has whole numbers'),
        ("0", ["1.0", "0.0", "1e0"], 'note: row 2, column B (label): "1.0", "0.0", "1e0" written as a float'),
        ("0", ["1", "nan", "2"], 'error: row 3, column B (label): there is no label, the cell is "nan"'),
        ("0", ["1 2", "", "2"], "note: row"),
        ("cat", ["None", "cat", "dog"], 'note: row 2, column B (label): "None" looks like no label'),
        ("1 2 3", ["5", "6", "1 2"], None),
        (" cat", [" dog", "cat", " cat"], 'note: row 2, column B (label): " dog" has spaces before or after'),
        ("cat", ["dog ", "cat", "dog"], 'error: row 2, column B (label): "dog " has spaces before or after'),
        ("0.5", ["1.0000001", "0.2", "-0.000001"], 'note: row 2, column B (label): "1.0000001" is outside 0 to 1 by no more than 1e-06'),
        ("nan", ["0.5", "0.2", "1"], None),
    ],
)
def test_without_a_config_the_form_is_inferred_from_sample_and_file(cells: str, answers: list[str], said: str | None) -> None:
    sample = pd.DataFrame({"image": ["a", "b", "c"], "label": cells}, dtype=str)
    lines = list(map(str, findings(written(sample.assign(label=answers)), sample, judgement=True)))
    assert [line for line in lines if said is None or not line.startswith(said)] == []
    assert bool(lines) == (said is not None)


def test_a_refused_file_never_gets_its_name(tmp_path: Path) -> None:
    path = tmp_path / "submission.csv"
    path.write_text("before")
    with pytest.raises(UserError, match=r"submission refused: error: row 3, column B \(label\)") as caught:
        write_valid(path, SAMPLE.assign(label=["cat", "", "dog", "cat"]), *GIVEN)
    assert "\n" not in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["submission.csv"]
    assert path.read_text() == "before"
    with pytest.raises(UserError, match="another order of rows"):
        write_valid(path, SAMPLE[::-1], *GIVEN)
    write_valid(path, SAMPLE, *GIVEN)
    assert path.read_text() == written(SAMPLE).decode()


def test_the_real_sample_of_a_real_competition_is_accepted_as_the_sample(trash: Path) -> None:
    path = trash / "sample_submission.csv"
    diagnosis = diagnose(path, read_table(path))
    assert "every row says cardboard" in diagnosis.findings[-1].what
    assert all(finding.level == "note" for finding in diagnosis.findings)
    assert str(diagnosis).startswith("accepted: 485 rows, 2 columns, ")
