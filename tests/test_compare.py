"""Knowing where one stands: rows from what is on disk, the table, the ledger, the medals as a yardstick."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import small_settings

from pipeline.artifacts import Manifest, Workspace
from pipeline.cli import Arguments, submit_all
from pipeline.config import Config, Thresholds
from pipeline.config_files import write_config
from pipeline.errors import UserError
from pipeline.files import write_json, write_text
from pipeline.stages.compare import compare, report
from pipeline.stages.ensemble import chosen_score
from pipeline.stages.ledger import note_score, read_ledger
from pipeline.stages.standing import Standing
from pipeline.stages.tables import KINDS, describe_groups, medals, place_in_words, short_place

ROOT = Path(__file__).parent.parent
LONG = "mobilenetv2_100-192x256-layer-decay-and-cutmix"


def write_manifest(folder: Path, day: int, settings: dict[str, Any], inputs: dict[str, Any], digest: str, **record: Any) -> None:
    record = {"seconds": 1.5, "finished": f"2026-11-{day:02d}T12:00:00+0000", **record}
    Manifest("", 1, "f", settings, inputs, digest, record).write(folder / "manifest.json")


def score_of(cv: float | None, metric: str, folds: int = 2, interval: tuple[float, float] | None = None, optimistic: tuple[str, ...] = ()) -> dict[str, Any]:
    value = float("nan") if cv is None else cv
    score = {"metric": metric, "cv": value, "folds": [value] * folds, "mean": value, "spread": 0.0125, "rows": 100, "optimistic": optimistic}
    return score | ({"interval": interval} if interval else {})


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small files wait for the disk longer than for anything else."""
    monkeypatch.setattr("pipeline.files._sync", lambda path: None)


class Outputs:
    """A competition's folder as the stages leave it, without training."""

    def __init__(self, root: Path, metric: str = "accuracy", thresholds: dict[str, float] | None = None) -> None:
        self.work, self.metric, self.thresholds = Workspace(root), metric, thresholds

    def experiment(self, name: str, cv: float | None = None, trained: int = 2, day: int = 1, metric: str | None = None, **score: Any) -> None:
        settings = small_settings(Path("input"), Path("outputs"))
        settings["experiment"] = name
        settings["competition"] |= {"metric": metric or self.metric, "thresholds": self.thresholds}
        folder = self.work.experiment(name)
        write_text(folder / "config.yaml", write_config(Config.model_validate(settings)))
        for fold in range(trained):
            network = self.work.network(name, 0, f"fold_{fold}")
            write_manifest(network, day, {}, {"folds": "a"}, f"{name}{fold}", seconds=600.0, parameters=2_230_000)
        if cv is not None:
            self.predictions(name, f"flips-{day}", cv, day, trained, metric or self.metric, **score)

    def predictions(self, name: str, key: str, cv: float, day: int, trained: int, metric: str, kept: int | None = None, **score: Any) -> Path:
        place = self.work.predictions(name, key)
        write_json(place / "cv.json", score_of(cv, metric, trained, **score))
        networks = {f"seed_0_fold_{fold}": f"{name}{fold}" for fold in range(trained)}
        record = {"views": ["identity", "horizontal_flip"], "networks": [f"seed 0 fold {fold}" for fold in range(trained if kept is None else kept)]}
        write_manifest(place, day, {"views": ["auto"]}, {"networks": networks}, f"{name}-{key}", **record)
        return place

    def ensemble(self, names: dict[str, float], cv: float, low: float, high: float, day: int = 1) -> None:
        folder = self.work.ensemble(names)
        singles = {name: score_of(single, self.metric, interval=(single - 0.02, single + 0.02)) for name, single in names.items()}
        equal, submitted = score_of(cv - 0.5, self.metric), score_of(cv, self.metric, interval=(low, high))
        scores = {"metric": self.metric, "chosen": "equal", "experiments": singles, "schemes": {"equal": equal}, "submitted": submitted}
        write_json(folder / "cv.json", scores)
        write_manifest(folder, day, {"names": list(names)}, {"predictions": [f"{name}-flips-1" for name in names]}, "+".join(names) + str(day))

    def submission(self, stamp: str, name: str) -> str:
        path = self.work.kept_submission(stamp, name)
        write_text(path, "id,label\n")
        return path.name

    def latest(self, file: str, cv: float, digest: str = "") -> None:
        record = {"seconds": 0.1, "finished": "2026-11-09T12:00:00+0000", "kept": file, "cv": score_of(cv, self.metric)}
        Manifest("submit", 1, "f", {}, {"predictions": digest}, "d", record).write(self.work.submission_manifest)


@pytest.fixture
def outputs(tmp_path: Path) -> Outputs:
    """Two experiments, one that trains still, an ensemble of the two, its submission, and an older one of something that has changed."""
    made = Outputs(tmp_path / "outputs" / "leaves", thresholds={"gold": 0.96, "silver": 0.94, "bronze": 0.92, "median": 0.8})
    made.experiment("small", 0.91)
    made.experiment(LONG, 0.93, optimistic=("train.checkpoint=best",))
    made.experiment("half", trained=1)
    made.ensemble({"small": 0.91, LONG: 0.93}, 0.945, 0.935, 0.961)
    made.submission("20261101T090000", "small")
    file = made.submission("20261102T090000", f"small+{LONG}")
    made.latest(file, 0.945, f"small+{LONG}1")
    return made


def rows_of(outputs: Outputs) -> dict[tuple[str, str], Standing]:
    return {(row.kind, row.name): row for group in compare(outputs.work)[0] for row in group.rows}


# ---------------------------------------------------------------- what is on disk


def test_every_kind_has_its_score_and_its_cost_and_half_trained_experiments_have_none_yet(outputs: Outputs) -> None:
    rows = rows_of(outputs)
    small, blend = rows["experiment", "small"], rows["ensemble", f"small+{LONG}"]
    assert (small.cv, small.spread, small.trained, small.planned, small.seconds, small.parameters) == (0.91, 0.0125, 2, 2, 1200.0, 2_230_000)
    assert small.views == ("identity", "horizontal_flip")
    assert (small.low, small.high) == pytest.approx((0.89, 0.93)), "the ensemble has drawn the interval of the same CV"
    assert (blend.cv, blend.low, blend.high, blend.trained, blend.seconds, blend.parameters) == (0.945, 0.935, 0.961, 4, 2400.0, 4_460_000)
    half = rows["experiment", "half"]
    assert (half.cv, half.trained, half.planned, half.metric) == (None, 1, 2, "accuracy")
    assert [row.remark for row in rows.values()] == [""] * len(rows)


@pytest.mark.slow
def test_a_real_run_is_read_as_it_was_written(small: Config) -> None:
    submit_all(Arguments([small], frozenset()))
    groups, skipped = compare(Workspace(small.outputs / "digits"))
    assert skipped == []
    cv = chosen_score(small.outputs / "digits" / "ensembles" / "small")
    assert [(row.kind, row.cv, row.spread, row.low, row.trained, row.planned, row.views, row.remark) for row in groups[0].rows] == [
        (kind, cv["cv"], cv["spread"], cv["interval"][0], 2, 2, ("identity",), "") for kind in KINDS
    ]


def test_a_submission_has_the_score_of_what_it_was_made_of_or_none_once_that_has_changed(outputs: Outputs) -> None:
    name = f"small+{LONG}"
    assert rows_of(outputs)["submission", name].cv == 0.945
    assert rows_of(outputs)["submission", "small"].cv is None, "its ensemble is gone"
    outputs.work.submission_manifest.unlink()
    assert rows_of(outputs)["submission", name].cv == 0.945, "the ensemble is older than the file"
    note_score(outputs.work, "latest", public=0.95)
    outputs.ensemble({"small": 0.91, LONG: 0.93}, 0.7, 0.6, 0.8, day=3)
    assert rows_of(outputs)["submission", name].cv == 0.945, "the ledger remembers"
    outputs.work.ledger.unlink()
    assert rows_of(outputs)["submission", name].cv is None


def test_the_newest_predictions_count_whatever_their_names_and_times_of_their_files(outputs: Outputs) -> None:
    outputs.predictions("small", "a", 0.5, 2, 2, "accuracy")
    outputs.predictions("small", "z", 0.6, 1, 2, "accuracy")
    assert rows_of(outputs)["experiment", "small"].cv == 0.5
    assert rows_of(outputs)["ensemble", f"small+{LONG}"].remark == "blended before small predicted anew"


def test_a_cv_of_other_networks_or_of_some_folds_is_marked(outputs: Outputs) -> None:
    outputs.experiment("partial", 0.99, trained=1)
    write_manifest(outputs.work.network("small", 0, "fold_1"), 5, {}, {"folds": "a"}, "retrained", parameters=1)
    rows = rows_of(outputs)
    assert rows["experiment", "partial"].remark == "the CV is of 1 of 2 folds"
    assert "replaced" in rows["experiment", "small"].remark
    text = "\n".join(describe_groups(compare(outputs.work)[0], 200))
    assert "0.9900~" in text
    assert "~ the CV is of 1 of 2 folds (partial)" in text
    assert "no CV yet: half (1 of 2 networks)" in text
    assert "0.9300*" in text
    assert f"* optimistic: train.checkpoint=best ({LONG})" in text


@pytest.mark.parametrize(
    ("place", "content"),
    [
        ("experiments/small/predictions/flips-1/cv.json", '{"metric": "accuracy", "cv": 0.9'),
        ("experiments/small/predictions/flips-1/cv.json", '{"metric": "shininess", "cv": 1, "folds": [], "mean": 1, "spread": 0, "rows": 1}'),
        ("experiments/small/predictions/flips-1/cv.json", "[1, 2]"),
        ("experiments/small/predictions/flips-1/manifest.json", ""),
        ("experiments/small/seed_0/fold_1/manifest.json", '{"stage": "train"}'),
        ("experiments/small/seed_0/fold_1/manifest.json", None),
        ("ensembles/a/manifest.json", "null"),
        ("ensembles/b/values.npy", "not finished"),
        ("experiments/holiday/photo.jpg", "foreign"),
        ("submissions/mine.csv", "id,label"),
    ],
)
def test_what_is_damaged_or_foreign_is_skipped_with_a_line_and_the_rest_is_compared(outputs: Outputs, place: str, content: str | None) -> None:
    path = outputs.work.root / place
    if content is None:
        write_manifest(path.parent, 1, {}, {}, "x", finished="yesterday")
    else:
        write_text(path, content)
    groups, skipped = compare(outputs.work)
    assert len(skipped) == 1
    assert skipped[0].startswith(str(outputs.work.root / place.split("/")[0]))
    assert LONG in {row.name for row in groups[0].rows}


def test_predictions_that_cannot_be_read_give_way_to_the_next_older_ones(outputs: Outputs) -> None:
    outputs.predictions("small", "newest", 0.99, 8, 2, "accuracy").joinpath("cv.json").unlink()
    place = outputs.predictions("small", "second", 0.98, 7, 2, "accuracy")
    write_manifest(place, 7, {"views": ["auto"]}, {}, "of an older program")
    write_json(place / "views.json", [])
    groups, skipped = compare(outputs.work)
    assert [Path(line.partition(":")[0]).name for line in skipped] == ["newest", "second"]
    rows = {(row.kind, row.name): row for row in groups[0].rows}
    small, blend = rows["experiment", "small"], rows["ensemble", f"small+{LONG}"]
    assert (small.cv, small.trained, small.remark) == (0.91, 2, "its newest predictions cannot be read; the CV is of older ones")
    assert (blend.trained, blend.seconds, blend.parameters) == (4, 2400.0, 4_460_000)
    assert blend.remark == "blended before small predicted anew", "those that cannot be read are newer all the same"


@pytest.mark.parametrize("content", ["", "competition:\n  metric: accuracy\n  thresh", "experiment: small\ncompetition:\n  metric: accuracy\nfolds:\n", None])
def test_without_a_whole_config_the_score_and_cost_are_there_and_the_plan_is_unknown(outputs: Outputs, content: str | None) -> None:
    for name in ("small", LONG, "half"):
        config = outputs.work.experiment(name) / "config.yaml"
        config.unlink()
        if content is not None:
            config.write_text(content)
    groups, skipped = compare(outputs.work)
    rows = {(row.kind, row.name): row for row in groups[0].rows}
    small, blend = rows["experiment", "small"], rows["ensemble", f"small+{LONG}"]
    assert (small.cv, small.trained, small.planned, small.remark, skipped) == (0.91, 2, None, "", [])
    assert (blend.trained, blend.planned, blend.seconds) == (4, None, 2400.0)
    assert groups[0].levels == []
    assert any(" 2 of ?" in line for line in describe_groups(groups, 200))


def test_thresholds_are_of_a_config_with_the_same_metric_and_an_unknown_metric_has_none(tmp_path: Path) -> None:
    made = Outputs(tmp_path / "leaves", thresholds={"gold": 0.96, "median": 0.8})
    made.experiment("other", trained=1, day=5)
    config = made.work.experiment("other") / "config.yaml"
    config.write_text(config.read_text().replace("metric: accuracy", "metric: map_at_7"))
    [group], _ = compare(made.work)
    assert (group.metric, group.levels) == ("", [])
    made.thresholds = None
    made.experiment("known", 0.9)
    [group], _ = compare(made.work)
    assert (group.metric, group.levels) == ("accuracy", [])


def test_an_experiment_that_has_no_time_to_predict_says_so(outputs: Outputs) -> None:
    outputs.predictions("small", "hours", 0.92, 6, 2, "accuracy", kept=0)
    assert rows_of(outputs)["experiment", "small"].remark == "predict.max_hours leaves it no time: it is in no ensemble"
    assert "0.9200~" in "\n".join(describe_groups(compare(outputs.work)[0], 200))


def test_predictions_of_fewer_networks_than_are_trained_or_planned_are_marked(outputs: Outputs) -> None:
    outputs.predictions("small", "flips-1", 0.9, 1, 1, "accuracy")
    config = outputs.work.experiment(LONG) / "config.yaml"
    config.write_text(config.read_text().replace("  seeds:\n  - 0\n", "  seeds:\n  - 0\n  - 1\n"))
    rows = rows_of(outputs)
    assert rows["experiment", "small"].remark == "predicted by 1 of 2 trained networks"
    assert (rows["experiment", LONG].planned, rows["experiment", LONG].remark) == (4, "predicted by 2 of 4 networks")
    assert rows["ensemble", f"small+{LONG}"].remark == f"blends small, {LONG}: see there"


def test_experiments_of_an_older_program_are_compared_all_the_same(outputs: Outputs) -> None:
    config = outputs.work.experiment("small") / "config.yaml"
    config.write_text(config.read_text().replace("models: auto", "models: fitted\n  gone: 1"))
    assert rows_of(outputs)["experiment", "small"].planned == 2


# ---------------------------------------------------------------- the table


@pytest.mark.parametrize(("metric", "first"), [("accuracy", ["high", "low"]), ("log_loss", ["low", "high"])])
def test_the_best_comes_first_by_the_metrics_own_sign_and_what_has_no_score_last(tmp_path: Path, metric: str, first: list[str]) -> None:
    made = Outputs(tmp_path / "leaves", metric)
    made.experiment("open", trained=1, day=4)
    made.experiment("high", 0.5, day=1)
    made.experiment("low", 0.1, day=2)
    assert [row.name for row in compare(made.work)[0][0].rows] == [*first, "open"]
    assert [row.name for row in compare(made.work, "date")[0][0].rows] == ["open", "low", "high"]
    assert [row.name for row in compare(made.work, "name")[0][0].rows] == ["high", "low", "open"]


def test_two_metrics_are_two_tables(outputs: Outputs) -> None:
    outputs.experiment("other", 0.2, metric="log_loss")
    groups = compare(outputs.work)[0]
    assert [(group.metric, [row.name for row in group.rows if row.kind == "experiment"]) for group in groups[:2]] == [
        ("accuracy", [LONG, "small", "half"]),
        ("log_loss", ["other"]),
    ]
    assert groups[1].levels == [], "no thresholds in the order of that metric"


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_no_line_is_wider_than_the_terminal_and_name_and_cv_are_always_there(outputs: Outputs, width: int) -> None:
    note_score(outputs.work, "latest", public=0.9512, private=0.9498, note="a note")
    lines = describe_groups(compare(outputs.work)[0], width)
    assert max(map(len, lines)) <= width
    head = next(line for line in lines if line.startswith("name"))
    assert "CV" in head
    assert ("parameters" in head) == (width == 200)
    assert "public" in head
    assert ("yardstick" in head) == (width >= 100)
    assert "20261102T090000-" in "".join(lines), "by which a score is noted"
    table = lines[lines.index(head) + 1 : lines.index(head) + 7]
    assert len({line.index("0.9", len(head.partition("kind")[0])) for line in table if "0.9" in line}) == 1, "numbers stand below each other"
    assert (LONG in "\n".join(table)) == (width == 200)


def test_the_csv_has_every_row_and_full_precision_whatever_the_width(outputs: Outputs, tmp_path: Path) -> None:
    outputs.experiment("third", 1 / 3)
    report(tmp_path / "outputs", "leaves", 40, copy=tmp_path / "copy.csv")
    with outputs.work.comparison.open(newline="") as file:
        rows = {(row["kind"], row["name"]): row for row in csv.DictReader(file)}
    assert float(rows["experiment", "third"]["cv"]) == 1 / 3
    assert rows["experiment", LONG]["optimistic"] == "train.checkpoint=best"
    assert rows["ensemble", f"small+{LONG}"]["yardstick"] == "silver+-"
    assert len(rows) == len(rows_of(outputs))
    assert (tmp_path / "copy.csv").read_bytes() == outputs.work.comparison.read_bytes()


# ---------------------------------------------------------------- the yardstick


@pytest.mark.parametrize(
    ("metric", "cv", "interval", "short", "words"),
    [
        ("accuracy", 0.93, (0.921, 0.939), "bronze", "between bronze and silver"),
        ("accuracy", 0.93, (0.921, 0.965), "bronze+", "between bronze and silver; interval reaches gold"),
        ("accuracy", 0.93, (0.7, 0.97), "bronze+-", "between bronze and silver; interval reaches gold and falls short of median"),
        ("accuracy", 0.96, (0.95, 0.97), "gold-", "gold or better; interval falls short of gold"),
        ("accuracy", 0.79, None, "below", "worse than median"),
        ("rmse", 17.0, (16.9, 17.2), "silver+-", "between silver and gold; interval reaches gold and falls short of bronze"),
        ("rmse", 16.95, None, "gold", "gold or better"),
        ("rmse", 18.0, (17.05, 19.0), "below+", "worse than median; interval reaches silver"),
    ],
)
def test_where_a_cv_and_its_interval_lie_is_said_for_both_signs(metric: str, cv: float, interval: Any, short: str, words: str) -> None:
    given = {"accuracy": (0.96, 0.94, 0.92, 0.8), "rmse": (16.95, 17.066, 17.097, 17.703)}[metric]
    levels = medals(Thresholds(**dict(zip(("gold", "silver", "bronze", "median"), given, strict=True))), metric)
    low, high = interval or (None, None)
    row = Standing("experiment", "a", metric=metric, cv=cv, low=low, high=high)
    assert short_place(row, levels) == short
    assert place_in_words(row, levels) == words


def test_the_legend_calls_medals_a_yardstick_and_thresholds_in_the_wrong_order_are_left_out(outputs: Outputs) -> None:
    text = " ".join(describe_groups(compare(outputs.work)[0], 200))
    assert f"best: small+{LONG}, CV 0.945 [0.935, 0.961]: between silver and gold; interval reaches gold and falls short of silver" in text
    assert "not a leaderboard" in text
    groups, skipped = compare(outputs.work, thresholds=("accuracy", Thresholds(gold=0.1, bronze=0.9)))
    assert groups[0].levels == []
    assert "is not in the order of accuracy" in skipped[0]


# ---------------------------------------------------------------- the ledger


def test_a_later_note_updates_the_row_and_keeps_what_was_not_given(outputs: Outputs) -> None:
    note_score(outputs.work, "latest", public=0.95, note="first, with a comma")
    note_score(outputs.work, "20261101", public=0.5)
    again = note_score(outputs.work, f"small+{LONG}", private=0.94)
    assert (again.public, again.private, again.note, again.cv) == (0.95, 0.94, "first, with a comma", 0.945)
    assert [one.submission for one in read_ledger(outputs.work)] == [f"20261102T090000-small+{LONG}.csv", "20261101T090000-small.csv"]
    assert read_ledger(outputs.work)[0] == again
    row = rows_of(outputs)["submission", f"small+{LONG}"]
    assert (row.public, row.private, row.gap) == (0.95, 0.94, pytest.approx(-0.005))


def test_a_ledger_from_a_spreadsheet_is_read_and_its_own_columns_are_kept(outputs: Outputs) -> None:
    lines = ["\ufeffidea;public;submission;note;cv;time;;", "more epochs;0,95;20261101T090000-small.csv;;0,91;01.11.2026 09:00;;", ";;;;;;;"]
    text = "".join(f"{line}\r\n" for line in [*lines, "elsewhere;0,8;by hand;;;;;"])
    outputs.work.ledger.write_bytes(text.encode())
    assert [(one.public, one.cv, one.further) for one in read_ledger(outputs.work)] == [
        (0.95, 0.91, {"idea": "more epochs"}),
        (0.8, None, {"idea": "elsewhere"}),
    ]
    note_score(outputs.work, "20261101T090000-small.csv", private=0.9)
    assert outputs.work.ledger.read_text().splitlines()[0] == "idea,public,submission,note,cv,time,name,metric,private"
    first, second = read_ledger(outputs.work)
    assert (first.public, first.private, first.cv, first.further) == (0.95, 0.9, 0.91, {"idea": "more epochs"})
    assert (second.submission, second.public, second.further) == ("by hand", 0.8, {"idea": "elsewhere"})
    assert rows_of(outputs)["submission", "by hand"].public == 0.8


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"time,public\n1,2\n",
        b"submission,public,public\na,1,2\n",
        b"submission,public\na,good\n",
        b"submission,public\na,nan\n",
        b"submission,public\na,1\na,2\n",
        b"submission,public\n,1\n",
        b"submission,public\na,1,2,3\n",
        b'submission,note\na,"cut off in the mid',
        "submission,note\na,gr\u00fcn\n".encode("latin-1"),
        b"PK\x03\x04\x00\x00",
    ],
)
def test_a_damaged_ledger_is_refused_in_one_line_and_left_alone(outputs: Outputs, content: bytes) -> None:
    outputs.work.ledger.write_bytes(content)
    for action in (lambda: note_score(outputs.work, "latest", public=0.9), lambda: compare(outputs.work)):
        with pytest.raises(UserError, match=r"ledger\.csv") as error:
            action()
        assert "\n" not in str(error.value)
    assert outputs.work.ledger.read_bytes() == content


@pytest.mark.slow
def test_processes_that_note_at_once_lose_nothing(tmp_path: Path) -> None:
    made = Outputs(tmp_path / "leaves")
    for minute in range(12):
        made.submission(f"20261101T09{minute:02d}00", "small")
    program = "import sys\nfrom pathlib import Path\nfrom pipeline.artifacts import Workspace\nfrom pipeline.stages.ledger import note_score\n"
    program += "work, first = Workspace(Path(sys.argv[1])), int(sys.argv[2])\nfor minute in range(12):\n"
    program += "    note_score(work, f'20261101T09{minute:02d}', **{'public' if (minute + first) % 2 else 'private': minute / 100})\n"
    processes = [subprocess.Popen([sys.executable, "-c", program, str(made.work.root), str(number)]) for number in range(2)]
    assert [process.wait() for process in processes] == [0, 0]
    ledger = sorted(read_ledger(made.work), key=lambda one: one.submission)
    assert [(one.public, one.private) for one in ledger] == [(minute / 100, minute / 100) for minute in range(12)]


@pytest.mark.parametrize(("public", "words"), [([0.1, 0.2, 0.3], "+1.00 (Spearman): they agree"), ([0.3, 0.2, 0.1], "-1.00 (Spearman): they do not agree")])
def test_whether_cv_and_leaderboard_rank_alike_is_said_from_three_submissions_on(tmp_path: Path, public: list[float], words: str) -> None:
    made = Outputs(tmp_path / "leaves")
    made.experiment("a", 0.9)
    rows = "".join(f"s{number},accuracy,0.9{number},{score}\n" for number, score in enumerate(public))
    write_text(made.work.ledger, "submission,metric,cv,public\n" + rows)
    assert f"CV and public score of 3 submissions: rank correlation {words}" in describe_groups(compare(made.work)[0], 200)
    write_text(made.work.ledger, "submission,metric,cv,public\n" + rows.rpartition("s2")[0])
    assert "Spearman" not in "".join(describe_groups(compare(made.work)[0], 200))


# ---------------------------------------------------------------- the script


def test_the_script_prints_and_notes_and_imports_neither_torch_nor_scikit_learn(outputs: Outputs, tmp_path: Path) -> None:
    for number in range(100):
        shutil.copytree(outputs.work.experiment("small"), outputs.work.experiment(f"many{number}"))
    script = str(ROOT / "scripts" / "compare.py")
    words = [script, "leaves", "--outputs", str(tmp_path / "outputs"), "--note-score", "latest", "public=0,95", "note=with two words"]
    program = f"import runpy, sys\nsys.argv = {words!r}\ntry:\n    runpy.run_path({script!r}, run_name='__main__')\n"
    program += "except SystemExit as end:\n    assert not end.code, end.code\nassert not {'torch', 'sklearn', 'scipy'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "100"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "public 0.95" in done.stdout.splitlines()[0]
    assert "many99" in done.stdout
    assert outputs.work.comparison.exists()


@pytest.mark.parametrize(
    ("message", "competition", "words"),
    [
        ('no competition "roses", but empty, leaves', "roses", None),
        ("run python scripts/run_folds.py CONFIG", "empty", None),
        ("2 submissions fit; write one of 20261102T090000-small+", "leaves", ["2026", "public=1"]),
        ("no such submission; write one of 20261102T090000-small+", "leaves", ["smal", "public=1"]),
        ("no submission yet", "empty", ["latest", "public=1"]),
        ('"publik=1": write public=0.93', "leaves", ["latest", "publik=1"]),
        ('public is a number, but got "best"', "leaves", ["latest", "public=best"]),
        ("write what to note", "leaves", ["latest"]),
    ],
)
def test_what_is_wrong_is_one_line_that_names_what_is_there(outputs: Outputs, message: str, competition: str, words: list[str] | None) -> None:
    (outputs.work.root.parent / "empty").mkdir()
    with pytest.raises(UserError) as error:
        report(outputs.work.root.parent, competition, 100, words=words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not outputs.work.ledger.exists()


def test_the_script_ends_with_2_and_one_line_where_the_user_can_mend_it(outputs: Outputs, tmp_path: Path) -> None:
    write_text(tmp_path / "digits.yaml", write_config(Config.model_validate(small_settings(Path("input"), Path("outputs")))))
    command = [
        sys.executable,
        str(ROOT / "scripts" / "compare.py"),
        "leaves",
        "--outputs",
        str(tmp_path / "outputs"),
        "--config",
        str(tmp_path / "digits.yaml"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert done.stderr.startswith("error: ")
    assert "is of the competition digits, not of leaves" in done.stderr
