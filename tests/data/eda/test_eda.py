import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from chromium import Chromium, find_chromium
from conftest import small_settings

from pipeline.config import Competition, Config
from pipeline.data.eda.copies import describe_copies
from pipeline.data.eda.facts import count_rows, find_unreadable, histogram, measure_sizes, percent
from pipeline.data.eda.labels import MOST_SHEETS, constant_score, describe_labels, sheet_groups
from pipeline.data.eda.pictures import thumbnail
from pipeline.data.eda.report import with_code, write_report
from pipeline.data.eda.sample import MOST_PICTURES, auc_variance, channel_statistics, draw_sample, separate
from pipeline.data.images import CorruptImage, Pixels, decode, read

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = "\"'><img src=x onerror=alert(1)>"
COLUMNS = ["group", "id", "split", "label", "kind", "distance", "conflict", "action"]
NO_COPIES = pd.DataFrame(columns=COLUMNS)
TASKS = {"multiclass": "accuracy", "binary": "roc_auc", "multilabel": "macro_f1", "ordinal": "quadratic_kappa", "regression": "rmse"}


def settings(task: str = "multiclass", **sections: dict[str, Any]) -> Config:
    values = small_settings(Path("input/toy"), Path("outputs"))
    values["competition"] |= {"task": task, "metric": TASKS[task]}
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return Config.model_validate(values)


def index(train: list[str], test: int = 0, shape: tuple[int, int] = (8, 8)) -> pd.DataFrame:
    """An index with these train targets and so many test rows."""
    split = ["train"] * len(train) + ["test"] * test
    number = [str(i) for i in range(len(split))]
    table = {"split": split, "id": number, "path": number, "target": train + [""] * test, "digest": number}
    return pd.DataFrame(table | {"height": shape[0], "width": shape[1], "problem": "", "pixels": number, "hash": 0})


def noise(path: str, shape: tuple[int, int] = (8, 8)) -> Pixels:
    return np.random.default_rng(int(path)).integers(256, size=(*shape, 3), dtype=np.uint8)


def copies(*groups: tuple[str, list[tuple[str, str, str, str]]]) -> pd.DataFrame:
    """Groups of (kind, [(id, split, label, action)])."""
    rows = []
    for number, (kind, members) in enumerate(groups):
        conflict = len({label for _, split, label, _ in members if split != "test"}) > 1
        rows += [(number, name, split, label, kind, 3 * (kind == "near"), conflict, action) for name, split, label, action in members]
    return pd.DataFrame(rows, columns=COLUMNS)


def texts(findings: Any) -> str:
    return " ".join(finding.text for finding in findings)


def none_dropped(rows: pd.DataFrame) -> pd.Series:
    return pd.Series(False, index=rows.index)


# ---------------------------------------------------------------- facts


def test_rows_are_counted_per_split_with_unreadable_ones_apart() -> None:
    rows = index(["a", "a", "b"], test=2)
    rows.loc[1, "problem"] = "zero bytes"
    rows.loc[2, "digest"] = "0"  # the same file as row 0
    train, test = count_rows(rows, settings()).splits
    assert (train.rows, train.readable, train.files) == (3, 2, 1)
    assert (test.rows, test.readable, test.files) == (2, 2, 2)


def test_a_repeating_column_that_train_and_test_do_not_share_is_offered_as_a_group() -> None:
    rows = index(["a"] * 100, test=40)
    rows["table.patient"] = [f"{split}{i % 25}" for i, split in enumerate(rows["split"])]
    rows["table.camera"] = [f"{i % 25}" for i in range(140)]
    found = texts(count_rows(rows, settings()).findings)
    assert '"patient"' in found
    assert '"camera"' not in found
    assert not count_rows(rows, settings(folds={"group": ["patient"]})).findings


def test_classes_are_counted_and_those_smaller_than_the_folds_named() -> None:
    rows = index(["a"] * 6 + ["b"] * 3 + ["c"], test=5)
    labels = describe_labels(rows, settings(), ["a", "b", "c", "d"], none_dropped(rows))
    assert [(bar.name, bar.count, bar.share) for bar in labels.bars] == [("a", 6, 0.6), ("b", 3, 0.3), ("c", 1, 0.1), ("d", 0, 0.0)]
    assert '1 class has fewer rows than `folds.n_splits: 2`, so some folds validate without: "c"' in texts(labels.findings)
    assert '1 class has no readable train row: "d"' in texts(labels.findings)


def test_a_class_that_deduplication_empties_below_the_folds_is_named() -> None:
    rows = index(["a"] * 6 + ["b"] * 3)
    dropped = none_dropped(rows) | rows["id"].isin(["7", "8"])
    assert '"b"' in texts(describe_labels(rows, settings(), ["a", "b"], dropped).findings)
    assert not describe_labels(rows, settings(), ["a", "b"], none_dropped(rows)).findings


def test_thousands_of_classes_show_the_largest_and_the_rarest() -> None:
    rows = index([f"c{i:04d}" for i in range(1000) for _ in range(1 + (i < 3))])
    classes = sorted(set(rows["target"]))
    labels = describe_labels(rows, settings(), classes, none_dropped(rows))
    assert len(labels.bars) == 40
    assert labels.bars[0].count == 2
    assert labels.bars[-1].count == 1
    groups, how = sheet_groups(rows, "multiclass", classes, np.random.default_rng(0))
    assert len(groups) == len({group.name for group in groups}) == MOST_SHEETS
    assert "24 of 1,000 classes" in how


def test_ordinal_classes_keep_their_order() -> None:
    rows = index(["2", "2", "2", "0", "1", "1"])
    assert [bar.name for bar in describe_labels(rows, settings("ordinal"), ["0", "1", "2"], none_dropped(rows)).bars] == ["0", "1", "2"]


def test_multilabel_rows_count_once_per_label() -> None:
    rows = index(["a|b", "a", "", "a|b"])
    labels = describe_labels(rows, settings("multilabel"), ["a", "b"], none_dropped(rows))
    assert [(bar.name, bar.count, bar.share) for bar in labels.bars] == [("a", 3, 0.75), ("b", 2, 0.5)]
    assert ("labels per row", "1.25 on average, 2 at most") in labels.quantities
    assert labels.combinations[0] == ("a + b", 2, 0.5)
    assert ("(none)", 1, 0.25) in labels.combinations


def test_regression_targets_are_summed_up_and_binned_by_quantile() -> None:
    rows = index([str(i) for i in range(100)])
    labels = describe_labels(rows, settings("regression"), ["y"], none_dropped(rows))
    assert ("median", "49.5") in labels.quantities
    assert "scores 28.87" in " ".join(labels.config)  # the standard deviation of 0..99
    groups, _ = sheet_groups(rows, "regression", ["y"], np.random.default_rng(0))
    assert [int(group.members.sum()) for group in groups] == [20] * 5


@pytest.mark.parametrize(
    ("task", "metric", "expected"),
    [
        ("multiclass", "accuracy", 0.5),
        ("multiclass", "balanced_accuracy", 1 / 3),
        ("multiclass", "macro_f1", 2 * 0.5 / 1.5 / 3),
        ("multiclass", "log_loss", 1.0297),  # the entropy of .5 .3 .2
        ("multiclass", "map_at_3", 0.5 + 0.3 / 2 + 0.2 / 3),
        ("multiclass", "roc_auc", 0.5),
        ("ordinal", "quadratic_kappa", 0.0),
        ("multilabel", "macro_f1", None),
    ],
)
def test_the_score_without_pictures_is_the_best_constant_answer(task: str, metric: str, expected: float | None) -> None:
    competition = Competition.model_validate({**small_settings(Path("x"), Path("y"))["competition"], "task": task, "metric": metric})
    score = constant_score(pd.Series([50, 30, 20], index=["a", "b", "c"]), competition, 100)
    assert score == (None if expected is None else pytest.approx(expected, abs=1e-4))


def test_what_fit_does_is_measured() -> None:
    rows = index(["a"] * 4, shape=(100, 200))
    square = {"cache_size": 100, "size": 100}
    assert "cuts off 50 % of the area" in " ".join(measure_sizes(rows, settings(images={**square, "fit": "crop"}).images).config)  # type: ignore[union-attr]
    assert "leaves 50 % of the input black" in " ".join(measure_sizes(rows, settings(images={**square, "fit": "pad"}).images).config)  # type: ignore[union-attr]
    assert "by a factor of 2.00" in " ".join(measure_sizes(rows, settings(images=square).images).config)  # type: ignore[union-attr]
    starved = measure_sizes(rows, settings(images={"cache_size": 50, "size": 100, "fit": "crop"}).images)
    assert "too small for `images.size`: all pictures" in texts(starved.findings)  # type: ignore[union-attr]


def test_unreadable_pictures_stop_the_run_or_are_left_out_as_the_config_says() -> None:
    rows = index(["a", "b"], test=1)
    rows["problem"] = ["zero bytes", "", "truncated"]
    fails = find_unreadable(rows, settings().images)
    assert fails.findings[0].level == "stop"
    assert fails.shown[0] == ("train", "0", "0", "zero bytes")
    skips = find_unreadable(rows, settings(images={"corrupt": "skip"}).images)
    assert "leaves 1 labelled row out" in " ".join(skips.config)
    assert "1 test row has no picture: never left out" in " ".join(skips.config)


def test_copies_are_sorted_by_what_matters_about_them() -> None:
    table = copies(
        ("exact", [("0", "train", "a", "drop"), ("1", "train", "b", "drop")]),
        ("exact", [("2", "train", "a", "keep"), ("3", "train", "a", "drop")]),
        ("near", [("4", "train", "a", "keep"), ("9", "test", "", "keep")]),
        ("near", [("5", "train", "a", "keep"), ("6", "train", "a", "keep")]),
    )
    found = describe_copies(table, settings(), 10)
    assert found.totals == {"conflict": 1, "across": 1, "exact": 1, "near": 1}
    assert (found.num_exact, found.num_near, found.num_dropped) == (2, 2, 3)
    assert "1 group of identical pictures carries different labels; `dedup.conflict: drop` drops 2 rows" in texts(found.findings)
    assert "1 group of copies has members in both train and test" in texts(found.findings)


@pytest.mark.parametrize(
    ("strategy", "near", "warned"), [("stratified_group", "together", False), ("stratified", "together", True), ("stratified_group", "report", True)]
)
def test_copies_that_may_fall_into_different_folds_are_a_warning(strategy: str, near: str, warned: bool) -> None:
    table = copies(("near", [("0", "train", "a", "keep"), ("1", "train", "a", "keep")]), ("near", [("2", "train", "a", "keep"), ("9", "test", "", "keep")]))
    found = texts(describe_copies(table, settings(folds={"strategy": strategy}, dedup={"near": near}), 10).findings)
    assert ("1 group of copies may fall into different folds" in found) == warned


# ---------------------------------------------------------------- pixels


SIZE_8 = {"cache_size": 8, "size": 8}


def sample_of(read_one: Callable[[str], Pixels], train: int = 150, test: int = 150) -> Any:
    rows = index(["a"] * train, test)
    return draw_sample(rows, read_one, settings(images=SIZE_8).images, np.random.default_rng(0))


def test_channel_means_are_those_of_the_pictures() -> None:
    halves = np.zeros((8, 8, 3), dtype=np.uint8)
    halves[:4] = [255, 102, 0]
    channels = channel_statistics(sample_of(lambda path: halves, 3, 0), settings(images=SIZE_8))
    (_, count, mean, deviation) = channels.table[0]
    assert count == 3
    assert mean == pytest.approx((0.5, 0.2, 0.0))
    assert deviation == pytest.approx((0.5, 0.2, 0.0))


def test_pictures_of_one_kind_cannot_be_told_apart() -> None:
    found = separate(sample_of(noise), seed=0)
    assert found is not None
    assert found.low < 0.5
    assert found.verdict == "Train and test look alike"
    assert not found.findings


@pytest.mark.slow
def test_darker_test_pictures_are_told_apart_by_their_brightness() -> None:
    found = separate(sample_of(lambda path: noise(path) // (2 if int(path) >= 150 else 1)), seed=0)
    assert found is not None
    assert found.low > 0.95
    assert found.findings
    _, alone, train, test, beyond = found.features[0]
    assert alone > 0.99
    assert beyond
    assert float(train) != float(test)


def test_the_auc_interval_is_that_of_hanley_and_mcneil() -> None:
    assert auc_variance(0.5, 100, 100) == pytest.approx(201 / (12 * 100 * 100))  # the rank sum's variance without ties


def test_a_large_competition_is_sampled() -> None:
    rows = pd.concat([index(["a"] * 5000, 500)], ignore_index=True)
    found = draw_sample(rows, lambda path: noise("0"), settings().images, np.random.default_rng(0))
    assert found is not None
    assert len(found.splits) == MOST_PICTURES
    assert (found.splits == "test").sum() == 500
    assert found.total == 5500


def test_tiny_pictures_are_kept_to_the_pixel_and_large_ones_bounded() -> None:
    import base64

    tiny, large = noise("1"), noise("2", (900, 500))
    kept = thumbnail(tiny, "tiny")
    assert kept.pixelated
    assert (decode(base64.b64decode(kept.uri.partition(",")[2])) == tiny).all()
    shrunk = thumbnail(large, "large")
    assert shrunk.uri.startswith("data:image/jpeg")
    assert len(base64.b64decode(shrunk.uri.partition(",")[2])) <= 7000
    assert shrunk.width / shrunk.height == pytest.approx(500 / 900, abs=0.02)


def test_shares_are_0_and_100_only_when_they_are() -> None:
    assert [percent(share) for share in (0, 0.0004, 0.054, 0.5, 0.9999, 1)] == ["0 %", "under 0.1 %", "5.4 %", "50 %", "over 99.9 %", "100 %"]


def test_histograms_share_their_bins_and_their_scale() -> None:
    chart = histogram("h", [("a", "train", np.array([0, 0, 0, 9])), ("b", "test", np.array([0, 9]))], bins=2)
    assert chart.curves[0].shares == pytest.approx((1.0, 1 / 3))
    assert chart.curves[1].shares == pytest.approx((2 / 3, 2 / 3))


# ---------------------------------------------------------------- the page


def page(tmp_path: Path, config: Config, rows: pd.DataFrame, classes: list[str], table: pd.DataFrame = NO_COPIES, reader: Any = noise) -> str:
    write_report(tmp_path / "eda.html", config, rows, table, reader, classes)
    return (tmp_path / "eda.html").read_text(encoding="utf-8")


def test_everything_from_files_is_escaped(tmp_path: Path) -> None:
    rows = index([SCRIPT, BREAKOUT] * 25, test=9).astype({"id": object})
    rows["id"] = [f"{i}{SCRIPT}{BREAKOUT}" for i in rows.index]
    rows[f"table.{SCRIPT}"] = BREAKOUT
    rows.loc[3, ["problem", "path"]] = [f"{SCRIPT}", f"{BREAKOUT}/{SCRIPT}"]
    table = copies(("exact", [(rows["id"][0], "train", SCRIPT, "drop"), (rows["id"][1], "train", BREAKOUT, "drop")]))
    text = page(tmp_path, settings(), rows, [SCRIPT, BREAKOUT], table)
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert "<img src=x" not in text
    assert text.count("<img ") == len(
        re.findall(r'<img src="data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=]+" width="\d+" height="\d+" alt="[^"<>]*" title="[^"<>]*"', text)
    )


def test_code_marks_are_set_after_escaping() -> None:
    assert with_code("`<b>` & `c`") == "<code>&lt;b&gt;</code> &amp; <code>c</code>"


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_gives_a_page_that_needs_nothing_else(task: str, tmp_path: Path) -> None:
    targets = {"multilabel": ["a|b", "a", "b", ""], "regression": ["1.5", "2", "70", "-3"], "binary": ["a", "b", "b", "b"]}.get(task, ["a", "b", "c", "c"])
    classes = {"regression": ["y"], "binary": ["a", "b"], "multilabel": ["a", "b"]}.get(task, ["a", "b", "c"])
    text = page(tmp_path, settings(task), index(targets * 12, test=9), classes)
    assert {link.partition(",")[0].partition("#")[0] for link in re.findall(r'(?:src|href)="([^"]*)"', text)} <= {"", "data:", "data:image/png;base64"}
    assert "url(" not in text
    assert "://" not in text
    assert "Too few pictures for a classifier" in text


@pytest.mark.parametrize("case", ["no test rows", "nothing readable", "one row", "one class"])
def test_poor_data_gives_a_page(case: str, tmp_path: Path) -> None:
    rows = index(["a"] * (1 if case == "one row" else 6) + (["b"] if case == "nothing readable" else []), test=0 if case == "no test rows" else 2)
    if case == "nothing readable":
        rows["problem"], rows["height"], rows["width"] = "zero bytes", 0, 0
    assert "Augmentation" in page(tmp_path, settings(), rows, ["a", "b"])


def test_a_picture_that_breaks_after_the_index_is_left_out(tmp_path: Path) -> None:
    def breaks(path: str) -> Pixels:
        if int(path) % 3 == 0:
            raise CorruptImage("gone")
        return noise(path)

    text = page(
        tmp_path, settings(), index(["a", "b"] * 9, test=4), ["a", "b"], copies(("near", [("0", "train", "a", "keep"), ("1", "train", "b", "keep")])), breaks
    )
    assert text.count("<img ") > 10


def test_an_augmentation_that_cannot_be_applied_is_the_first_finding(tmp_path: Path) -> None:
    config = settings(augment={"train": [{"name": "RandomCrop", "height": 99, "width": 99}]})
    text = page(tmp_path, config, index(["a", "b"] * 9), ["a", "b"])
    assert text.index("Stops a run") < text.index("augment.train: cannot be applied") < text.index("<nav")


@pytest.mark.slow
def test_a_crowd_stays_below_five_megabytes(tmp_path: Path) -> None:
    long = "a_very_long_name/" * 20
    rows = index([f"{long}{i % 30}" for i in range(600)], test=39, shape=(300, 200))
    rows["id"] = [f"{long}{i}" for i in rows.index]
    rows.loc[::7, "problem"] = long
    train, test = (rows.loc[(rows["problem"] == "") & (rows["split"] == split), "id"].tolist() for split in ("train", "test"))
    groups = []
    for k in range(60):  # in turn: conflicts, exact copies, near copies, copies across train and test
        members = [(name, "train", str(place * (k % 4 == 0)), "keep") for place, name in enumerate(train[4 * k : 4 * k + 4])]
        groups.append(("exact" if k % 4 < 2 else "near", [*members[:3], (test[k // 4], "test", "", "keep")] if k % 4 == 3 else members))
    pictures = [noise(str(i), (300, 200)) for i in range(8)]  # noise is what JPEG is worst at
    text = page(tmp_path, settings(), rows, sorted(set(rows["target"])), copies(*groups), lambda path: pictures[int(path) % 8])
    assert text.count("<img ") > 350
    assert len(text.encode()) < 5_000_000


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    rows = index(["a", "b"] * 30, test=45)
    assert page(tmp_path, settings(), rows, ["a", "b"]) == page(tmp_path, settings(), rows, ["a", "b"])


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    program = find_chromium()
    if program is None:
        pytest.skip("no chromium on the PATH: install one to look at the report in a browser")
    with Chromium(program, tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def digits_report(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report on real pictures with one of everything: copies, an unreadable file, long names, metadata."""
    tables = [pd.read_csv(digits / f"{split}.csv", dtype=str).assign(split=split) for split in ("train", "test")]
    rows = pd.concat(tables, ignore_index=True).rename(columns={"label": "target"}).fillna({"target": ""})
    rows = rows.assign(path="images/" + rows["id"] + ".png", digest=rows["id"], height=8, width=8, problem="", pixels=rows["id"], hash=0)
    rows["table.a_column_with_quite_a_long_name_and_no_space_in_it"] = "unbroken" * 30
    rows.loc[5, ["problem", "height", "width"]] = ["truncated, after " + "a" * 200, 0, 0]
    ids = rows["id"].tolist()
    table = copies(
        ("exact", [(ids[0], "train", "1", "drop"), (ids[1], "train", "2", "drop")]),
        ("near", [(ids[2], "train", "1", "keep"), (ids[3], "train", "1", "keep"), (ids[-1], "test", "", "keep")]),
    )
    config = settings(images={"fit": "crop"}, augment={"train": [{"name": "HorizontalFlip"}], "mixing": {"mixup": 0.4}})
    path = tmp_path_factory.mktemp("report") / "eda.html"
    write_report(path, config, rows, table, lambda name: read(digits / name), [str(i) for i in range(10)])
    return path


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_loads_without_a_complaint_and_fits_the_screen(width: int, chromium: Chromium, digits_report: Path) -> None:
    chromium.open(digits_report.as_uri(), width)
    assert chromium.complaints() == []
    assert [address for address in chromium.requests() if not address.startswith("data:")] == [digits_report.as_uri()]
    assert chromium.evaluate("window.innerWidth") == width
    assert chromium.evaluate("document.documentElement.scrollWidth") <= width
    assert chromium.evaluate("document.images.length") > 100
    assert chromium.evaluate("[...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).length") == 0
    assert chromium.evaluate("document.querySelectorAll('nav a').length") == chromium.evaluate("document.querySelectorAll('main section[id]').length")


def test_the_browser_notices_a_page_that_is_too_wide_or_broken(chromium: Chromium, tmp_path: Path) -> None:
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<meta name=viewport content='width=device-width'><img src='data:image/png;base64,AAAA'><p style='width: 420px'>wide</p><script>nothing()</script>"
    )
    chromium.open(bad.as_uri(), 390)
    assert chromium.evaluate("document.documentElement.scrollWidth") > 390
    assert chromium.evaluate("document.images[0].naturalWidth") == 0
    assert "nothing is not defined" in " ".join(chromium.complaints())


def test_small_pictures_are_said_to_be_compared_by_exact_pixels_alone() -> None:
    nothing = pd.DataFrame(columns=["group", "id", "split", "label", "kind", "distance", "conflict", "action"])
    assert "3 pictures with a side under 64 px" in " ".join(describe_copies(nothing, settings(), 10, 3).config)
    assert "side under" not in " ".join(describe_copies(nothing, settings(), 10, 0).config)
