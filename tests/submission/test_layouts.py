"""What a competition would take raises no false alarm: layouts of real competitions, samples of any making, scales that an AUC does not mind."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kinds import findings, written

from pipeline.data.tables import read_table
from pipeline.data.targets import Target
from pipeline.submission.doctor import diagnose, write_valid
from pipeline.submission.findings import Finding
from pipeline.submission.formats import Form
from pipeline.submission.sheet import read_original

ROWS = 40
SPECIES = ("Black-grass", "Common Chickweed", "Loose Silky-bent", "Sugar beet")
DISEASES = ("healthy", "multiple_diseases", "rust", "scab")
BREEDS = tuple(f"breed_{number}" for number in range(120))
LEAVES = tuple(f"Acer_{number}" for number in range(99))
HOTELS = tuple(str(number) for number in range(18807, 18907))
LEAF_LABELS = ("complex", "frog_eye_leaf_spot", "healthy", "rust", "scab")
random = np.random.default_rng(0)


def one_of(classes: tuple[str, ...]) -> list[str]:
    return random.choice(classes, ROWS).tolist()


def some_of(classes: tuple[str, ...], least: int, most: int) -> list[str]:
    return [" ".join(random.choice(classes, random.integers(least, most + 1), replace=False)) for _ in range(ROWS)]


def floats(values: np.ndarray) -> list[str]:
    return [repr(float(value)) for value in values]


def shares(classes: tuple[str, ...]) -> dict[str, list[str]]:
    """Softmax in float32, as a network gives it."""
    values = random.dirichlet(np.ones(len(classes)), ROWS).astype(np.float32)
    return {name: floats(values[:, column]) for column, name in enumerate(classes)}


def columns(classes: tuple[str, ...], cell: str) -> dict[str, str]:
    return dict.fromkeys(classes, cell)


AUC = Form("score", any_scale=True)
BINARY = Target("binary", ("0", "1"))
LAYOUTS: dict[str, tuple[Form, Target, str, dict[str, str], dict[str, list[str]]]] = {
    "classify-leaves": (Form("label"), Target("multiclass", LEAVES), "image", {"label": LEAVES[3]}, {"label": one_of(LEAVES)}),
    "plant-pathology-2020": (
        Form("probabilities", any_scale=True),
        Target("multiclass", DISEASES),
        "image_id",
        columns(DISEASES, "0.25"),
        shares(DISEASES),
    ),
    "plant-pathology-2021": (
        Form("label"),
        Target("multilabel", LEAF_LABELS, may_be_empty=True),
        "image",
        {"labels": "healthy"},
        {"labels": some_of(LEAF_LABELS, 0, 3)},
    ),
    "cassava": (Form("label"), Target("multiclass", tuple("01234")), "image_id", {"label": "4"}, {"label": one_of(tuple("01234"))}),
    "aptos2019": (Form("label"), Target("ordinal", tuple("01234")), "id_code", {"diagnosis": "0"}, {"diagnosis": one_of(tuple("01234"))}),
    "siim": (AUC, BINARY, "image_name", {"target": "0"}, {"target": floats(random.normal(0, 4, ROWS))}),
    "siim, ranks": (AUC, BINARY, "image_name", {"target": "0"}, {"target": floats(random.permutation(ROWS) + 1)}),
    "dog-breed": (Form("probabilities"), Target("multiclass", BREEDS), "id", columns(BREEDS, "0.00833333333333333"), shares(BREEDS)),
    "leaf": (Form("probabilities"), Target("multiclass", LEAVES), "id", columns(LEAVES, "0.0101010101010101"), shares(LEAVES)),
    "plant-seedlings": (Form("label"), Target("multiclass", SPECIES), "file", {"species": "Sugar beet"}, {"species": one_of(SPECIES)}),
    "digit-recognizer": (Form("label"), Target("multiclass", tuple("0123456789")), "ImageId", {"Label": "0"}, {"Label": one_of(tuple("0123456789"))}),
    "petfinder": (
        Form("score"),
        Target("regression", ("Pawpularity",)),
        "Id",
        {"Pawpularity": "65.74"},
        {"Pawpularity": floats(random.uniform(1, 100, ROWS))},
    ),
    "dogs-vs-cats": (Form("score"), BINARY, "id", {"label": "0.5"}, {"label": floats(random.random(ROWS).astype(np.float32))}),
    "histopathologic": (AUC, BINARY, "id", {"label": "0"}, {"label": floats(random.random(ROWS) * 12)}),
    "hotel-id": (
        Form("top_k"),
        Target("multiclass", HOTELS),
        "image",
        {"hotel_id": " ".join(HOTELS[:5])},
        {"hotel_id": some_of(HOTELS, 1, 5)},
    ),
}


def layout(name: str) -> tuple[Form, Target, pd.DataFrame, pd.DataFrame]:
    """Form, target, sample, a good file."""
    form, target, of, asked, given = LAYOUTS[name]
    ids = [f"{number:03d}.jpg" for number in range(ROWS)]
    return form, target, pd.DataFrame({of: ids, **asked}, dtype=str), pd.DataFrame({of: ids, **given}, dtype=str)


def errors(found: list[Finding]) -> list[str]:
    return [str(finding) for finding in found if finding.level == "error"]


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("ruled", [True, False], ids=["config", "no config"])
def test_sample_and_good_file_of_every_competition_are_accepted(name: str, ruled: bool) -> None:
    form, target, sample, good = layout(name)
    rules = (form, target) if ruled else (None, None)
    for table in (sample, good):
        assert errors(findings(written(table), sample, *rules, judgement=True)) == []
    if ruled:
        assert list(map(str, findings(written(good), sample, form, target))) == [], "a file of ours is written only without notes"


def test_an_auc_takes_any_scale_and_a_loss_does_not() -> None:
    form, target, sample, good = layout("plant-pathology-2020")
    ranks = good.assign(**{name: floats(0.9 + np.arange(ROWS) / 7) for name in DISEASES})
    said = findings(written(ranks), sample, form, target, judgement=True)
    assert [(finding.level, finding.judgement) for finding in said] == [("note", True)] * len(said)
    assert len(said) == 2
    assert len(errors(findings(written(ranks), sample, Form("probabilities"), target))) == 2
    assert all(line.endswith("; an AUC metric does not mind") for line in errors(findings(written(ranks), sample)))


@pytest.mark.parametrize(
    ("asked", "given", "level"),
    [
        (("0", "1"), ("0.9", "0.9"), None),
        (("0", "0"), ("3.5", "8"), "note"),
        (("0.5", "0.5"), ("3.5", "8"), "note"),
        (("0.5", "0.5"), ("0.9", "0.9"), "note"),
        (("0.3", "0.7"), ("0.9", "0.9"), "error"),
        (("0.3", "0.7"), ("-3", "4"), "error"),
        (("3", "8"), ("-1", "0.2"), None),
        (("", ""), ("-1", "0.2"), None),
    ],
)
def test_without_a_config_several_columns_are_as_strict_as_the_sample_says(asked: tuple[str, ...], given: tuple[str, ...], level: str | None) -> None:
    sample = pd.DataFrame({"id": ["a", "b"], "x": asked[0], "y": asked[1]}, dtype=str)
    table = sample.assign(x=[given[0], asked[0] or "1"], y=[given[1], asked[1] or "0"])
    assert [finding.level for finding in findings(written(table), sample)] == ([] if level is None else [level])
    assert errors(findings(written(sample), sample)) == []


@pytest.mark.parametrize("name", ["dog-breed", "dogs-vs-cats"])
def test_rounding_beyond_0_and_1_is_a_matter_of_judgement_up_to_a_millionth(name: str) -> None:
    form, target, sample, good = layout(name)
    column = good.columns[1]
    for cells, level in [(["1.0000001", "-0.000001"], "note"), (["1.00001", "0"], "error"), (["-0.00001", "0"], "error")]:
        rows = good.copy()
        rows.iloc[:2, 1:] = "0"
        rows.loc[:1, column] = cells
        said = [finding for finding in findings(written(rows), sample, form, target, judgement=True) if "sum to" not in finding.what]
        assert [(finding.level, finding.judgement) for finding in said] == [(level, level == "note")]


def test_a_label_twice_is_counted_once_by_who_ranks_and_refused_by_who_does_not() -> None:
    form, target, sample, good = layout("hotel-id")
    twice = good.assign(hotel_id=[f"{HOTELS[7]} {HOTELS[7]}", *good["hotel_id"][1:]])
    assert [finding.level for finding in findings(written(twice), sample, form, target)] == ["note"]
    form, target, sample, good = layout("plant-pathology-2021")
    twice = good.assign(labels=["rust rust", *good["labels"][1:]])
    assert [finding.level for finding in findings(written(twice), sample, form, target)] == ["error"]


@pytest.mark.parametrize(
    "raw",
    [
        b"image, label\n1, cat\n2, cat\n",
        b"image ,label\n1,cat\n2,cat\n",
        b"\xef\xbb\xbfimage,label\n1,cat\n2,cat\n",
        b"image,label\r\n1,cat\r\n2,cat\r\n",
        b'"image","label"\n"1","a, ""b"""\n"2","cat"\n',
        b"Unnamed: 0,image,label\n0,1,cat\n1,2,cat\n",
        b",image,label\n0,1,cat\n1,2,cat\n",
        b"image,label,\n1,cat,\n2,cat,\n",
        b"image,label\n1,nan\n2,\n",
        b"image,x,y\n1,,0.5\n2,nan,0.5\n",
        b"image,x,y\n1,inf,0.5\n2,0,cat\n",
        b"image,label\n1,0\n2,1.0\n\n",
        b"image,label\n1,\n2,",
        b"image,label\n1,caf\xc3\xa9 \n2, cat\n",
    ],
)
def test_a_sample_has_no_error_as_its_own_submission(raw: bytes, tmp_path: Path) -> None:
    from pipeline.stages.check import check

    path = tmp_path / "sample.csv"
    path.write_bytes(raw)
    assert errors(check(path, path, None).findings) == []


def test_ours_has_the_header_of_the_sample_as_it_is_and_others_are_compared_with_that(tmp_path: Path) -> None:
    path, ours = tmp_path / "sample.csv", tmp_path / "ours.csv"
    path.write_bytes(b"\xef\xbb\xbfimage, label\n1,cat\n2,cat\n")
    sample = read_table(path)
    original = read_original(path, sample)
    form, target = Form("label"), Target("multiclass", ("cat", "dog"))
    write_valid(ours, sample.assign(label=["cat", "dog"]), sample, form, target, original)
    assert ours.read_bytes() == b"image, label\n1,cat\n2,dog\n"
    ours.write_bytes(b"\xef\xbb\xbfimage,label\n1,cat\n2,dog\n")
    found = diagnose(ours, sample, form, target, original).findings
    assert [(finding.level, finding.where) for finding in found] == [("note", "row 1, column A"), ("note", "row 1, column B")]
    ours.write_bytes(b"image, Label\n1,cat\n2,dog\n")
    assert errors(diagnose(ours, sample, form, target, original).findings)
