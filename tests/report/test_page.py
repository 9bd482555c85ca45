import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import METRICS, digits_run, invented, noise, predictions

from pipeline.data.images import CorruptImage, Pixels
from pipeline.report.page import write_report
from pipeline.report.run import Run

SCRIPT = "<script>alert(1)</script>"
BREAKOUT = "\"'><img src=x onerror=alert(1)>"
UNICODE = "Größe 猫 \N{RIGHT-TO-LEFT OVERRIDE}x {{ 7 * 7 }}"
LONG = "a_very_long_name/" * 20


def page(path: Path, run: Run) -> str:
    write_report(path / "report.html", run)
    return (path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("task", list(METRICS))
def test_every_task_gives_a_page_that_needs_nothing_else(task: str, tmp_path: Path) -> None:
    text = page(tmp_path, invented(task, thresholds={"gold": 0.95}))
    anchors = set(re.findall(r'<section id="([^"]+)"', text))
    assert {"blend", "curves", "mistakes", "labels", "views", "folds"} <= anchors
    assert anchors == set(re.findall(r'<li><a href="#([^"]+)"', text))
    assert ("calibration" in anchors) == (task != "regression")
    assert {link.partition(",")[0].partition("#")[0] for link in re.findall(r'(?:src|href)="([^"]*)"', text)} <= {"", "data:", "data:image/png;base64"}
    assert "url(" not in text
    assert "://" not in text


@pytest.mark.parametrize("task", ["multiclass", "binary", "multilabel", "ordinal"])
def test_everything_from_files_is_escaped(task: str, tmp_path: Path) -> None:
    run = invented(task, names=[SCRIPT, BREAKOUT, UNICODE, LONG][: 2 if task == "binary" else 4])
    odd = SCRIPT + BREAKOUT
    experiments = [replace(one, name=f"{one.name}{odd}", summary=((odd, odd),), views={**(one.views or {}), "merge": odd}) for one in run.experiments]
    schemes = {odd: {**run.score, "optimistic": [odd]}}
    ensemble = {**run.ensemble, "chosen": odd, "asked": odd, "experiments": {}, "schemes": schemes, "notes": [odd], "weights": {odd: {}}}
    text = page(tmp_path, replace(run, title=odd, competition=odd, experiments=experiments, ensemble=ensemble, thresholds={odd: 0.9}, notes=[odd]))
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert "<img src=x" not in text
    assert task == "binary" or ("猫" in text and "{{ 7 * 7 }}" in text)
    pictures = re.findall(r'<img src="data:image/(?:png|jpeg);base64,[A-Za-z0-9+/=]+" width="\d+" height="\d+" alt="[^"<>]*" title="[^"<>]*"', text)
    assert text.count("<img ") == len(pictures) > 0


def test_a_run_of_one_experiment_with_nothing_around_it_gives_a_page(tmp_path: Path) -> None:
    run = invented("multiclass")
    bare = replace(run.experiments[0], histories={}, views=None, seconds=None, parameters=None, summary=(), score={"cv": 0.9})
    one_fold = replace(run.out_of_fold, fold=np.zeros(len(run.out_of_fold), dtype=np.int16))
    score = {"metric": "accuracy", "cv": 0.9, "folds": [0.9], "mean": 0.9, "spread": 0.0, "rows": 200, "optimistic": []}
    text = page(tmp_path, replace(run, experiments=[bare], ensemble={}, score=score, out_of_fold=one_fold))
    assert "No training history was handed over" in text
    assert "What the ensemble gained" not in text


@pytest.mark.parametrize("task", list(METRICS))
def test_scores_that_are_not_defined_give_a_page(task: str, tmp_path: Path) -> None:
    run = invented(task)
    nothing: dict[str, Any] = {**run.score, "cv": None, "interval": [float("nan")] * 2, "folds": [float("nan")] * 5, "mean": float("nan"), "spread": None}
    histories = {name: table.assign(valid_loss=np.nan, **{METRICS[task]: np.nan}) for name, table in run.experiments[0].histories.items()}
    experiments = [replace(one, score=nothing, histories=histories) for one in run.experiments]
    ensemble = {**run.ensemble, "experiments": {}, "schemes": {"equal": nothing}}
    text = page(tmp_path, replace(run, score=nothing, experiments=experiments, ensemble=ensemble, thresholds={"gold": 0.9}))
    assert "No score" in text
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text)


@pytest.mark.parametrize("case", ["all right", "all wrong", "one class has every row", "one row"])
def test_extreme_predictions_give_a_page(case: str, tmp_path: Path) -> None:
    run = invented("binary", 1 if case == "one row" else 60)
    if case == "one class has every row":
        run = replace(run, truth=dict.fromkeys(run.truth, "c000"))
    right = np.array([int(run.truth[name] == "c001") for name in run.out_of_fold.ids])
    if case in ("all right", "all wrong"):
        decided = right if case == "all right" else 1 - right
        run = replace(run, decided=decided, out_of_fold=replace(run.out_of_fold, values=np.eye(2, dtype=np.float32)[decided]))
    text = page(tmp_path, run)
    assert ("No row is wrong" in text) == (case == "all right" or (case == "one row" and (run.decided == right).all()))


def test_decisions_say_that_a_mean_over_folds_is_flatter(tmp_path: Path) -> None:
    run = invented("ordinal")
    decisions = {"chosen": "fitted", "default": run.score, "fitted": run.score, "cut_points": [0.4, 1.45, 2.61]}
    text = page(tmp_path, replace(run, ensemble={**run.ensemble, "decisions": decisions}))
    assert "from c001 to c002 1.450" in text
    assert "flatter" in text
    assert "flatter" not in page(tmp_path, run)


def test_thresholds_are_those_of_the_test_rows(tmp_path: Path) -> None:
    run = invented("multilabel")
    given = {"chosen": "fitted", "default": run.score, "fitted": run.score, "thresholds": [0.111, 0.222, 0.333, 0.444]}
    assert all(f"<td>{value:.3f}</td>" in page(tmp_path, replace(run, ensemble={**run.ensemble, "decisions": given})) for value in given["thresholds"])
    default = {**given, "chosen": "default"}
    assert "<td>0.111</td>" not in page(tmp_path, replace(run, ensemble={**run.ensemble, "decisions": default}))


def test_ranks_are_not_called_probabilities(tmp_path: Path) -> None:
    run = invented("binary")
    assert "expected calibration error" in page(tmp_path, run)
    assert "ranks, not probabilities" in page(tmp_path, replace(run, ensemble={**run.ensemble, "chosen": "ranks"}))
    first, second = run.experiments
    assert "ranks, not probabilities" in page(tmp_path, replace(run, experiments=[replace(first, views={**(first.views or {}), "merge": "ranks"}), second]))


def test_pictures_that_cannot_be_read_are_counted_and_left_out(tmp_path: Path) -> None:
    def breaks(name: str) -> Pixels:
        if int(name[-1]) % 2:
            raise CorruptImage("gone")
        return noise(name)

    text = page(tmp_path, invented("regression", read=breaks))
    assert "could not be read" in text
    assert text.count("<img ") == 24

    def gone(name: str) -> Pixels:
        raise CorruptImage("gone")

    assert "<img " not in page(tmp_path, invented("multiclass", 400, read=gone))


def test_the_same_run_gives_the_same_bytes_in_whichever_order_it_comes(tmp_path: Path) -> None:
    run = invented("multiclass", 400)
    order = np.random.default_rng(3).permutation(400)
    other = replace(
        run, out_of_fold=run.out_of_fold.take(order), decided=run.decided[order], truth=dict(reversed(run.truth.items())),
        experiments=[replace(one, out_of_fold=one.out_of_fold.take(order[::-1])) for one in reversed(run.experiments)],
    )  # fmt: skip
    assert page(tmp_path, run) == page(tmp_path, run) == page(tmp_path, other)


@pytest.mark.slow
def test_a_thousand_classes_and_a_hundred_thousand_rows_stay_below_five_megabytes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    classes = tuple(f"{LONG}{number}" for number in range(1000))
    ids = [f"{LONG}{number}" for number in range(100_000)]
    truth_numbers = random.integers(1000, size=len(ids))
    values = random.random((len(ids), 1000), dtype=np.float32)
    values[np.arange(len(ids)), truth_numbers] += random.random(len(ids), dtype=np.float32)
    values /= values.sum(axis=1, keepdims=True)
    whole = predictions(ids, classes, values, np.arange(len(ids)) % 5)
    small = invented("multiclass", names=classes[:4], read=lambda name: noise(name[-3:], (300, 400)))
    truth = {name: classes[number] for name, number in zip(ids, truth_numbers, strict=True)}
    experiments = [
        replace(small.experiments[0], name=f"{LONG}{number}", out_of_fold=whole, summary=[(f"{LONG}{key}", LONG) for key in range(60)]) for number in range(3)
    ]
    names = [one.name for one in experiments]
    ensemble = {**small.ensemble, "notes": [LONG] * 300, "weights": {"equal": dict.fromkeys(names, 1 / 3)}}
    run = replace(
        small, target=replace(small.target, classes=classes), truth=truth, out_of_fold=whole, decided=values.argmax(axis=1), experiments=experiments,
        ensemble=ensemble, groups=dict(zip(ids, np.arange(len(ids)) // 3, strict=True)),
    )  # fmt: skip
    text = page(tmp_path, run)
    assert text.count("<img ") == 48
    assert len(text.encode()) < 5_000_000


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sys.path.append(str(Path(__file__).parents[1] / "data" / "eda"))
    from chromium import Chromium, find_chromium

    program = find_chromium()
    if program is None:
        pytest.skip("no chromium on the PATH: install one to look at the report in a browser")
    with Chromium(program, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The digits, and every task with names that are hard to fit."""
    folder = tmp_path_factory.mktemp("reports")
    long = "unbroken" * 30
    runs = {"digits": digits_run(thresholds={"gold": 0.95, "silver": 0.9})}
    for task in METRICS:
        names = [f"{long}{number}" for number in range(2 if task == "binary" else 12)]
        run = invented(task, names=names, title=long, competition=long, thresholds={long: 0.9}, notes=[long])
        runs[task] = replace(run, experiments=[replace(one, name=one.name + long, summary=((long, long),)) for one in run.experiments])
    for name, run in runs.items():
        write_report(folder / f"{name}.html", run)
    return {name: folder / f"{name}.html" for name in runs}


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("name", ["digits", *METRICS])
def test_the_page_loads_without_a_complaint_and_fits_the_screen(name: str, width: int, browser: Any, reports: dict[str, Path]) -> None:
    browser.open(reports[name].as_uri(), width)
    assert browser.complaints() == []
    assert [address for address in browser.requests() if not address.startswith("data:")] == [reports[name].as_uri()]
    assert browser.evaluate("window.innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("[...document.images].filter(image => !(image.complete && image.naturalWidth > 0)).length") == 0
    assert browser.evaluate("document.querySelectorAll('nav a').length") == browser.evaluate("document.querySelectorAll('main section[id]').length")
    outside = "[...document.querySelectorAll('svg path, svg text')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    assert browser.evaluate(outside) == 0
