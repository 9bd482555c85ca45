import html
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config_tuning import Choices, Combinations, Range
from pipeline.tuning.charts_history import scores_of
from pipeline.tuning.charts_space import axes_of, parallel
from pipeline.tuning.findings import edge_of, reasons_of
from pipeline.tuning.page import StudyPage, write_study_page
from pipeline.tuning.trials import TrialRow, ranked

SCRIPT = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"
LONG = "unbroken" * 30
SPACE: dict[str, Any] = {
    "optimizer.learning_rate": Range(low=1e-4, high=3e-2, log=True),
    "optimizer.weight_decay": Range(low=1e-5, high=0.1, log=True),
    "train.epochs": Range(low=8, high=40),
    "augment.strength": Choices(choices={"none": [], "light": [{"name": "Affine"}], "strong": [{"name": "Affine"}, {"name": "CoarseDropout"}]}),
    "backbone": Combinations(settings={"small": {"model.backbone": "resnet18"}, "large": {"model.backbone": "resnet34"}}),
    "augment.mixing.mixup": Range(low=0.05, high=1.0, when={"backbone": "large"}),
}  # fmt: skip
OWN = {"optimizer.learning_rate": 0.003, "optimizer.weight_decay": 0.01, "train.epochs": 20, "augment.strength": "light", "backbone": "small"}


def trial(
    number: int, score: Any, parameters: Mapping[str, Any], state: str = "complete", reason: str = "", steps: Mapping[int, float] | None = None
) -> TrialRow:  # fmt: skip
    """A trial with a record like that of the objective; score: of a complete one, a number or several."""
    values = () if state != "complete" else tuple(score) if isinstance(score, tuple) else (score,)
    folds = [values[0] + offset for offset in (-0.004, 0.001, 0.003)] if values else []
    record: dict[str, Any] = {}
    if values:
        record = {"experiment": f"digits-t{number}", "cv": {"folds": folds, "mean": values[0], "spread": 0.0036}, "training_seconds": 40.0 + number}
    known = steps if steps is not None else dict(enumerate(folds))
    return TrialRow(number, state, values, dict(parameters), dict(known), None if state == "running" else 41.0 + number, reason, record)


def drawn(random: np.random.Generator, number: int) -> dict[str, Any]:
    if number == 0:
        return dict(OWN)
    backbone = str(random.choice(["small", "large"]))
    found = {
        "optimizer.learning_rate": float(10 ** random.uniform(-4, -1.53)), "optimizer.weight_decay": float(10 ** random.uniform(-5, -1)),
        "train.epochs": int(random.integers(8, 41)), "augment.strength": str(random.choice(["none", "light", "strong"])), "backbone": backbone,
    }  # fmt: skip
    return found | ({"augment.mixing.mixup": float(random.uniform(0.05, 1.0))} if backbone == "large" else {})


def score_for(parameters: Mapping[str, Any]) -> float:
    """An accuracy that the learning rate matters most for; far too large ones learn nothing."""
    distance = abs(float(np.log10(parameters["optimizer.learning_rate"])) + 2.3)
    collapsed = parameters["optimizer.learning_rate"] > 0.025
    other = 0.001 * (parameters["backbone"] == "large") - 0.002 * (parameters["augment.strength"] == "strong")
    return 0.31 if collapsed else 0.9955 - 0.012 * distance**2 + other


def comparison(base: float, tuned: float, half: float, metric: str = "accuracy") -> dict[str, Any]:
    base_score, tuned_score = ({"metric": metric, "cv": cv, "folds": [cv] * 3, "mean": cv, "spread": 0.003} for cv in (base, tuned))
    gain = tuned - base
    folds = [gain - 0.001, gain, gain + 0.001]
    return {"base": base_score, "tuned": tuned_score, "difference": gain, "interval": [gain - half, gain + half], "better": 0.83, "folds": folds}


def ended(best: int, base: float, tuned: float, unseen: float, half: float = 0.002) -> dict[str, Any]:
    """What a study ends with."""
    return {
        "best": {"trial": best, "value": tuned, "changes": {"optimizer.learning_rate": [0.003, 0.0041], "augment.train": [[{"name": "Affine"}], []]}},
        "search": comparison(base, tuned, half), "unseen": comparison(base, base + unseen, half), "unseen_seed": 43,
        "tuned_config": "configs/digits-tuned.yaml", "top": [{"trial": best, "value": tuned, "config": "outputs/digits/studies/digits/top/first.yaml"}],
        "ensemble_command": "python scripts/submit.py outputs/digits/studies/digits/top/first.yaml outputs/digits/studies/digits/top/second.yaml",
        "notes": ["Trial 4 was run twice: its worker was killed."], "saved": {"folds": 12, "epochs": 0, "seconds": 130.5},
    }  # fmt: skip


def invented(count: int = 30, **changes: Any) -> StudyPage:
    """A study of the digits that is at its end, with pruned and failed trials; the same arguments give the same study."""
    random, rows = np.random.default_rng(1), []
    for number in range(count):
        parameters = drawn(random, number)
        score = score_for(parameters) + float(random.normal(0, 0.0006))
        if number % 5 == 4 and score < 0.99:
            rows.append(trial(number, None, parameters, "pruned", "its folds are worse", {0: score - 0.002, 1: score}))
        elif number % 13 == 12:
            rows.append(trial(number, None, parameters, "failed", f"out of memory: {number} MiB were asked for"))
        else:
            rows.append(trial(number, score, parameters))
    complete = [row for row in rows if row.values]
    best = max(complete, key=lambda row: row.values[0], default=None)
    shares = {"optimizer.learning_rate": 0.83, "augment.strength": 0.08, "backbone": 0.05, "train.epochs": 0.03, "optimizer.weight_decay": 0.01}
    result = ended(best.number, complete[0].values[0], best.values[0], 0.0011) if best else None
    known = {
        "study": "digits", "competition": "digits", "metric": "accuracy", "signs": (1,), "trials": rows, "dimensions": SPACE, "own": OWN,
        "importances": shares if len(complete) >= 8 else None, "pruner": "folds", "wanted": count, "folds": 3, "epochs": 20, "result": result,
        "storage": "postgresql://someone:secret@host/studies", "command": "python scripts/tune.py configs/digits.yaml --trials 30",
    }  # fmt: skip
    return StudyPage(**(known | changes))


def two_objectives() -> StudyPage:
    page = invented(40)
    complete = [row for row in page.trials if row.values]
    rows = [replace(row, values=(*row.values, 20.0 + 2.5 * float(row.parameters["train.epochs"]))) for row in complete]
    return replace(page, trials=rows, signs=(1, -1), pruner="none")


def failing() -> StudyPage:
    rows = [trial(number, None, OWN, "failed", f"images.size {64 + number}: {SCRIPT}") for number in range(9)]
    return invented(0, trials=rows, importances=None, wanted=20)


def wide() -> StudyPage:
    """500 trials in 15 dimensions, with labels that are hard to fit."""
    random = np.random.default_rng(2)
    space: dict[str, Any] = {f"augment.train.{number}.{LONG}": Range(low=0.0, high=1.0) for number in range(13)}
    space["many"] = Choices(choices={f"{LONG}{SCRIPT}{number}": number for number in range(30)})
    space[SCRIPT] = Choices(choices={SCRIPT: 1, LONG: 2})
    labels = {name: list(dimension.choices) for name, dimension in space.items() if isinstance(dimension, Choices)}
    rows = []
    for number in range(500):
        parameters = {name: str(random.choice(labels[name])) if name in labels else float(random.uniform()) for name in space}
        rows.append(replace(trial(number, float(random.normal(0.9, 0.01)), parameters), record={"experiment": LONG + SCRIPT}))
    result = {**ended(7, 0.9, 0.93, 0.01), "notes": [SCRIPT], "tuned_config": LONG + SCRIPT, "ensemble_command": SCRIPT}
    result["best"]["changes"] = {SCRIPT: [LONG, SCRIPT]}
    odd = {"study": LONG, "competition": SCRIPT, "metric": "accuracy", "storage": SCRIPT, "command": SCRIPT, "pruner": SCRIPT}
    return invented(0, trials=rows, dimensions=space, own={}, importances=dict.fromkeys(space, 1 / 15), result=result, wanted=500, **odd)


def text_of(path: Path, page: StudyPage) -> str:
    write_study_page(path / "report.html", page)
    return (path / "report.html").read_text(encoding="utf-8")


def findings_of(text: str) -> str:
    """The sentences at the head of a page."""
    found = re.search(r'<ul class="findings">.*?</ul>', text, re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", found[0])) if found else ""


def tile(text: str, name: str) -> str:
    found = re.search(rf"<dt>{re.escape(name)}</dt><dd>([^<]*)</dd>", text)
    assert found is not None, name
    return found[1]


def simple(scores: list[Any], space: Mapping[str, Any] | None = None, **changes: Any) -> StudyPage:
    """A study of one dimension, x, that rises with the number of the trial."""
    rows = [trial(number, score, {"x": number / 100}) for number, score in enumerate(scores)]
    space = {"x": Range(low=0.0, high=1.0)} if space is None else space
    return invented(0, **({"trials": rows, "dimensions": space, "own": {"x": 0.0}, "result": None, "importances": None} | changes))


def test_a_page_needs_nothing_else_and_counts_right(tmp_path: Path) -> None:
    page = invented()
    text = text_of(tmp_path, page)
    assert set(re.findall(r'<section id="([^"]+)"', text)) == set(re.findall(r'<li><a href="#([^"]+)"', text))
    assert {link.partition("#")[0] for link in re.findall(r'(?:src|href)="([^"]*)"', text)} <= {"", "data:,"}
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")
    for name, state in (("complete trials", "complete"), ("pruned", "pruned"), ("failed", "failed")):
        assert tile(text, name) == str(len(page.states(state)))
    assert tile(text, "gain on the unseen split") == "+0.0011"
    assert "secret" not in text
    assert "postgresql://someone:PASSWORD@host/studies" in text


def test_whatever_is_said_of_the_folds_that_chose_says_that_it_flatters(tmp_path: Path) -> None:
    page = invented()
    best = ranked(page.trials, 1)[0]
    text = text_of(tmp_path, page)
    lines = [line for line in re.sub(r"<tr.*?</tr>", "", text).splitlines() if f"{best.values[0]:.4f}" in line and "<svg" not in line and "<text" not in line]
    assert lines
    assert all("flatter" in line for line in lines)
    row = next(row for row in re.findall(r"<tr.*?</tr>", text, re.DOTALL) if "the study chose on" in row)
    assert "flatters" in row
    assert "less biased, not unbiased" in text
    only = replace(page, result={**(page.result or {}), "unseen": None})
    assert "The only gain that is known, +" in findings_of(text_of(tmp_path, only))


@pytest.mark.parametrize(("sign", "base", "tuned", "unseen", "half", "said"), [
    (1, 0.90, 0.93, 0.001, 0.002, "gains +0.0010 (-0.0010 to +0.0030): that is within chance"),
    (1, 0.90, 0.93, 0.020, 0.002, "gains +0.0200 (+0.0180 to +0.0220): more than chance"),
    (1, 0.90, 0.93, -0.02, 0.002, "it is worse than the config as it is"),
    (-1, 0.90, 0.87, -0.02, 0.002, "gains +0.0200 (+0.0180 to +0.0220): more than chance"),
    (-1, 0.90, 0.87, 0.02, 0.002, "it is worse than the config as it is"),
    (1, 0.90, 0.93, 0.001, 0.002, "The gain on the folds that the study chose on, +0.0300, flatters: on the unseen split it is +0.0010"),
])  # fmt: skip
def test_gains_are_positive_where_the_tuned_config_is_better(
    sign: int, base: float, tuned: float, unseen: float, half: float, said: str, tmp_path: Path
) -> None:
    page = simple([base, tuned], signs=(sign,), metric="accuracy" if sign > 0 else "rmse", result=ended(1, base, tuned, unseen, half))
    assert said in findings_of(text_of(tmp_path, page))


def test_a_best_value_at_the_end_of_its_range_is_said_and_one_inside_is_not(tmp_path: Path) -> None:
    rate = Range(low=1e-4, high=1e-2, log=True)
    assert [edge_of(rate, value) for value in (1.05e-4, 1e-3, 9.5e-3, None, "text")] == ["lower", "", "upper", "", ""]
    assert [edge_of(Range(low=1, high=9), value) for value in (1, 2, 9)] == ["lower", "", "upper"]
    assert edge_of(Range(low=1, high=3), 3) == ""
    narrow = {"x": Range(low=-0.01, high=1.0)}
    assert "`x`" not in (said := findings_of(text_of(tmp_path, simple([0.9, 0.8, 0.7, 0.6], narrow))))
    assert "The best trial's x lies at the lower end of its range, -0.01" in said
    assert "lower end" not in findings_of(text_of(tmp_path, simple([0.9, 0.8, 0.7, 0.6])))  # 0 is where most keys end
    assert "lower end" not in findings_of(text_of(tmp_path, simple([0.6, 0.7, 0.8, 0.7, 0.7, 0.95])))


def test_studies_that_found_nothing_say_so(tmp_path: Path) -> None:
    assert "the config as it is: none of the 2 others beats it" in findings_of(text_of(tmp_path, simple([0.9, 0.8, 0.7])))
    assert "the config as it is: none of the 2 others beats it" in findings_of(text_of(tmp_path, simple([0.7, 0.8, 0.9], signs=(-1,))))
    assert "All 12 complete trials score the same" in findings_of(text_of(tmp_path, simple([0.5] * 12)))
    assert "2 of 30 trials are finished" in findings_of(text_of(tmp_path, simple([0.5, 0.6], wanted=30)))
    said = findings_of(text_of(tmp_path, failing()))
    assert "No trial is complete" in said
    assert "9 trials failed, most with: images.size 64" in said
    numbers = {"learning_rate": 0.97, "other": 0.03, "idle": 0.0}
    assert '"idle" explains less than 2 %' in findings_of(text_of(tmp_path, replace(invented(40), importances=numbers)))


def test_failures_that_differ_in_numbers_alone_are_one_reason() -> None:
    rows = [trial(number, None, {}, "failed", reason) for number, reason in enumerate(["12 MiB", "13.5 MiB", "NaN loss", "7 MiB"])]
    assert reasons_of(rows) == [("12 MiB", [0, 1, 3]), ("NaN loss", [2])]


def test_one_collapsed_trial_does_not_flatten_the_charts() -> None:
    rows = [trial(number, score, {}) for number, score in enumerate([0.99, 0.98, 0.985, 0.975, 0.1])]
    scores = scores_of(rows, 1)
    assert (scores.low, scores.high, scores.beyond) == (0.975, 0.99, 1)
    mirrored = scores_of([replace(row, values=(-row.values[0],)) for row in rows], -1)
    assert (mirrored.low, mirrored.high, mirrored.beyond) == (-0.99, -0.975, 1)
    assert scores_of(rows[:0], 1).beyond == 0


def test_trials_without_a_conditional_dimension_pass_below_its_axis() -> None:
    page = invented()
    chart = parallel(axes_of(page.dimensions, page.trials, page.importances), page.trials, 1)
    assert chart is not None
    assert chart.names[0][0] == "optimizer.learning_rate"
    assert len(chart.absent) == 1
    lines = "".join(path for _, path in chart.shapes).split("M")[1:]
    assert len(lines) == len(page.states("complete"))
    assert {line.count("L") for line in lines} == {len(page.dimensions)}
    below = sum(max(float(point.split()[1]) for point in line.split("L")) > chart.height - 20 for line in lines)
    assert below == sum("augment.mixing.mixup" not in row.parameters for row in page.states("complete"))


@pytest.mark.parametrize("page", [
    invented(0), invented(1), invented(2, result=None), simple([0.5]), simple([0.5, 0.5], signs=(-1,), metric="rmse"), simple([0.5] * 9, space={}, own={}),
    simple([0.5, 0.6], space={"y": Range(low=1, high=2)}), simple([(0.5, 3.0)], signs=(1, -1)), simple([(0.5, 0.0), (0.5, 0.0)], signs=(1, -1)),
    simple([1234567.8, 2345678.9], signs=(-1,), metric="rmse"), simple([0.1, 0.2], space={"x": Range(low=2.0, high=3.0, log=True)}), failing(),
    invented(0, trials=[trial(0, None, OWN, "running"), trial(1, None, {}, "waiting"), trial(2, None, OWN, "pruned", steps={})], result=None),
    invented(12, pruner="epochs", result={"best": None, "search": None, "unseen": None, "top": [], "notes": [], "saved": None}),
])  # fmt: skip
def test_odd_studies_give_a_page(page: StudyPage, tmp_path: Path) -> None:
    text = text_of(tmp_path, page)
    assert re.search(r"[^a-z](nan|inf|None)[^a-z]", re.sub(r"<style>.*?</style>", "", text, flags=re.DOTALL)) is None


def test_everything_from_people_is_escaped_and_a_large_study_stays_small(tmp_path: Path) -> None:
    text = text_of(tmp_path, wide())
    assert "&lt;script&gt;alert(1)" in text
    assert "<script" not in text
    assert "<img" not in text
    assert len(text.encode()) < 400_000
    assert "<script" not in text_of(tmp_path, failing())


def test_the_same_study_gives_the_same_bytes_in_whichever_order_it_comes(tmp_path: Path) -> None:
    page = invented()
    other = replace(page, trials=list(page.trials)[::-1], importances=dict(reversed((page.importances or {}).items())))
    assert text_of(tmp_path, page) == text_of(tmp_path, page) == text_of(tmp_path, other)


# ---------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    sys.path.append(str(Path(__file__).parents[1] / "data" / "eda"))
    from chromium import Chromium, find_chromium

    program = find_chromium()
    if program is None:
        pytest.skip("no chromium on the PATH: install one to look at the page in a browser")
    with Chromium(program, tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("page", [invented(), two_objectives(), failing(), wide()], ids=["digits", "two objectives", "failing", "wide"])
def test_the_page_loads_without_a_complaint_and_fits_the_screen(page: StudyPage, width: int, browser: Any, tmp_path: Path) -> None:
    write_study_page(tmp_path / "report.html", page)
    browser.open((tmp_path / "report.html").as_uri(), width)
    assert browser.complaints() == []
    assert [address for address in browser.requests() if not address.startswith("data:")] == [(tmp_path / "report.html").as_uri()]
    assert browser.evaluate("window.innerWidth") == width
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('nav a').length") == browser.evaluate("document.querySelectorAll('main section[id]').length")
    outside = "[...document.querySelectorAll('svg path, svg text')].filter(e => e.getBoundingClientRect().right > innerWidth + 1).length"
    assert browser.evaluate(outside) == 0
    if page.study == "digits":  # A4 within the margins
        browser.open((tmp_path / "report.html").as_uri(), 688, media="print")
        assert browser.evaluate("document.documentElement.scrollWidth") <= 688
