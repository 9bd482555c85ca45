"""Views, weights, decisions, limits and new pictures through the stages, on two small experiments with two folds."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import small_settings

from pipeline.cli import Arguments, load_configs, predict_all, run_script, submit_all
from pipeline.errors import UserError
from pipeline.predictions import Predictions
from pipeline.stages.ensemble import ensemble

pytestmark = pytest.mark.slow
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def trained(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two experiments of three folds, trained and predicted; copy it before you write to it."""
    folder = tmp_path_factory.mktemp("blend")
    settings = small_settings(digits, Path("outputs")) | {"folds": {"n_splits": 3}}
    settings["train"] |= {"epochs": 2}
    settings["optimizer"] = {"learning_rate": 5e-3}
    (folder / "a.yaml").write_text(yaml.safe_dump(settings | {"experiment": "a"}))
    (folder / "b.yaml").write_text(yaml.safe_dump(settings | {"experiment": "b", "model": {"backbone": "test_efficientnet", "weights": None}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert run_script("", lambda arguments: predict_all(arguments) and None, ["a.yaml", "b.yaml"]) == 0
    return folder


@pytest.fixture
def work(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in; the current folder."""
    folder = Path(shutil.copytree(trained, tmp_path / "work"))
    monkeypatch.chdir(folder)
    return folder / "outputs" / "digits"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*words: str) -> tuple[int, str]:
        code = run_script("", submit_all, list(words))
        captured = capsys.readouterr()
        return code, captured.err + captured.out

    return call


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def weights_files(work: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in work.rglob("last.pt")}


def test_the_order_of_configs_changes_no_byte_of_the_submission(work: Path, run: Run) -> None:
    assert run("a.yaml", "b.yaml")[0] == 0
    first = (work / "submission.csv").read_bytes()
    code, said = run("b.yaml", "a.yaml")
    assert code == 0
    assert "ensemble  up to date" in said
    assert "submit    up to date" in said
    shutil.rmtree(work / "ensembles")
    assert run("b.yaml", "a.yaml", "--force", "submit")[0] == 0
    assert (work / "submission.csv").read_bytes() == first


def test_experiments_that_are_predicted_together_say_what_they_say_alone(trained: Path, work: Path, run: Run) -> None:
    together = {path.relative_to(work): path.read_bytes() for path in work.rglob("*_test/values.npy")}
    for folder in work.glob("experiments/*/predictions"):
        shutil.rmtree(folder)
    assert run("b.yaml")[0] == 0
    assert run("a.yaml")[0] == 0
    assert {path.relative_to(work): path.read_bytes() for path in work.rglob("*_test/values.npy")} == together
    assert len(together) == 6


def test_auto_shows_each_fold_the_views_that_the_others_chose_and_the_test_rows_those_of_all(work: Path, run: Run) -> None:
    weights = weights_files(work)
    assert run("a.yaml", "predict.tta=auto", "predict.views=[identity, brighter, vertical_flip, zoom_out]")[0] == 0
    assert weights_files(work) == weights, "nothing is trained again"
    [folder] = work.glob("experiments/a/predictions/auto-*")
    views = read(folder / "views.json")
    assert {line["view"] for line in views["views"]} == {"identity", "brighter", "vertical_flip", "zoom_out"}
    assert set(views["by_fold"]) == {"0", "1", "2"}
    assert not list(folder.glob("*_views")), "what was looked at is gone when all networks have predicted"
    for fold, chosen in views["by_fold"].items():
        piece = Predictions.load(folder / f"seed_0_fold_{fold}_oof")
        assert run("a.yaml", f"predict.tta={json.dumps(chosen)}")[0] == 0
        [same] = [path for path in work.glob("experiments/a/predictions/*") if path != folder and read(path / "views.json")["chosen"] == chosen][:1]
        np.testing.assert_array_equal(Predictions.load(same / f"seed_0_fold_{fold}_oof").of(piece.ids).values, piece.values)
    [same] = [path for path in work.glob("experiments/a/predictions/*") if path != folder and read(path / "views.json")["chosen"] == views["chosen"]][:1] or [
        folder
    ]
    np.testing.assert_array_equal(Predictions.load(same / "seed_0_fold_1_test").values, Predictions.load(folder / "seed_0_fold_1_test").values)


def test_what_is_finished_is_blended_while_the_rest_is_still_to_come(work: Path, run: Run) -> None:
    shutil.rmtree(work / "experiments" / "b" / "seed_0" / "fold_1")
    weights = weights_files(work)
    code, said = run("a.yaml", "b.yaml", "--finished")
    assert code == 0
    assert weights_files(work) == weights
    assert "b: 2 of 3 networks are trained" in said
    rows = Predictions.load(work / "ensembles" / "a+b" / "oof")
    assert set(rows.fold.tolist()) == {0, 2}, "the rows that both have predicted"
    assert len(pd.read_csv(work / "submission.csv")) == 359
    kept = {path: path.stat().st_mtime_ns for path in work.rglob("*_test/values.npy")}
    assert run("a.yaml", "b.yaml")[0] == 0
    assert set(Predictions.load(work / "ensembles" / "a+b" / "oof").fold.tolist()) == {0, 1, 2}
    assert {path: path.stat().st_mtime_ns for path in kept} == kept, "what the finished networks said of the test rows is not asked again"


def test_nothing_finished_is_one_line(work: Path, run: Run) -> None:
    code, said = run("a.yaml", "experiment=c", "--finished")
    assert code == 2
    assert "no network is trained" in said.splitlines()[-1]


def test_a_limit_of_time_leaves_something_that_predicts_and_the_score_says_so(work: Path, run: Run) -> None:
    code, said = run("a.yaml", "b.yaml", "predict.tta=flips", "predict.max_hours=1e-9")
    assert code == 0
    assert said.count("leaves no time for") >= 6, "three views, an experiment, two networks at least"
    assert " - optimistic: predict.max_hours" in next(line for line in said.splitlines() if line.startswith("CV"))
    [pieces] = [list(work.glob(f"experiments/{name}/predictions/flips-*/*_test")) for name in ("a", "b") if list(work.glob(f"ensembles/{name}"))]
    assert len(pieces) == 1
    assert len(pd.read_csv(work / "submission.csv")) == 359
    code, said = run("a.yaml", "b.yaml", "predict.tta=flips", "predict.max_hours=10")
    assert code == 0
    assert "leaves no time" not in said


def test_temperatures_leave_the_most_probable_class_of_one_network_and_are_written_down(work: Path, run: Run) -> None:
    assert run("a.yaml", "ensemble.temperature=per_fold")[0] == 0
    temperatures = read(work / "ensembles" / "a" / "weights.json")["temperatures"]["a"]
    assert len(temperatures) == 3
    assert any(abs(value - 1) > 0.01 for value in temperatures.values())
    flat = Predictions.load(work / "ensembles" / "a" / "oof")
    plain = Predictions.load(next(work.glob("experiments/a/predictions/none-*/oof"))).of(flat.ids)
    assert (flat.values.argmax(axis=1) == plain.values.argmax(axis=1)).all()
    assert not np.allclose(flat.values, plain.values, atol=1e-3)


def test_experiments_with_other_rows_are_refused_with_the_reason(work: Path, run: Run) -> None:
    settings = yaml.safe_load(Path("b.yaml").read_text())
    settings["competition"]["train_table"] = "fewer.csv"
    root = Path(shutil.copytree(settings["competition"]["root"], "input"))
    pd.read_csv(root / "train.csv", dtype=str).iloc[:-30].to_csv(root / "fewer.csv", index=False)
    settings["competition"]["root"] = str(root)
    Path("c.yaml").write_text(yaml.safe_dump(settings | {"experiment": "c"}))
    experiments = [predict_all(Arguments(load_configs([name]), frozenset()))[0] for name in ("a.yaml", "c.yaml")]
    with pytest.raises(Exception, match=r"30 ids are (missing|unknown)"):
        ensemble(experiments)


def test_a_kill_while_predicting_again_costs_time_and_nothing_else(work: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("a.yaml")[0] == 0
    before = (work / "submission.csv").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("pipeline.stages.predict.look", lambda group: os._exit(9))
        child = os.fork()
        if child == 0:
            run_script("", submit_all, ["a.yaml", "--force", "predict"])
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    (work / "submission.csv").unlink()
    code, said = run("a.yaml")
    assert code == 0
    assert "predict   up to date" not in said
    assert (work / "submission.csv").read_bytes() == before


def test_experiments_that_learned_other_targets_of_a_row_are_refused(work: Path) -> None:
    settings = yaml.safe_load(Path("b.yaml").read_text())
    root = Path(shutil.copytree(settings["competition"]["root"], "input"))
    table = pd.read_csv(root / "train.csv", dtype=str)
    table.loc[3, "label"] = str((int(table.loc[3, "label"]) + 1) % 10)
    table.to_csv(root / "noisy.csv", index=False)
    settings["competition"] |= {"root": str(root), "train_table": "noisy.csv"}
    settings["folds"] |= {"strategy": "kfold"}
    Path("c.yaml").write_text(yaml.safe_dump(settings | {"experiment": "c"}))
    experiments = [predict_all(Arguments(load_configs([name]), frozenset()))[0] for name in ("a.yaml", "c.yaml")]
    with pytest.raises(UserError, match=f'a and c learned different targets of 1 rows, e.g. of id "{table.loc[3, "id"]}"'):
        ensemble(experiments)


def test_the_page_and_the_marks_follow_what_the_scores_are_of(work: Path, run: Run) -> None:
    assert run("a.yaml", "b.yaml", "ensemble.models=equal")[0] == 0
    page = work / "ensembles" / "a+b" / "report.html"
    assert "balanced_accuracy" not in page.read_text()
    assert run("a.yaml", "b.yaml", "ensemble.models=equal", "competition.metric=balanced_accuracy")[0] == 0
    assert "balanced_accuracy" in page.read_text()
    code, said = run("a.yaml", "b.yaml", "predict.max_hours=1e-9")
    assert code == 0
    lines = [line for line in said.splitlines() if " CV accuracy " in line or line.startswith("CV")]
    assert all(" - optimistic: predict.max_hours" in line for line in lines), "of what is left over, too: it was chosen by these rows"


def test_configs_that_cannot_be_blended_are_refused_before_anything_is_trained(work: Path, run: Run) -> None:
    Path("c.yaml").write_text(Path("a.yaml").read_text().replace("experiment: a", "experiment: c") + "ensemble: {models: equal}\n")
    code, said = run("a.yaml", "c.yaml")
    assert code == 2
    assert "different ways to blend" in said.splitlines()[-1]
    assert not (work / "experiments" / "c").exists()


# ---------------------------------------------------------------- new pictures


def predict(*words: str) -> subprocess.CompletedProcess[str]:
    script = Path(__file__).parents[1] / "scripts" / "predict.py"
    return subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)


def test_new_pictures_are_labelled_as_the_submission_labels_them(digits: Path, work: Path, run: Run, tmp_path: Path) -> None:
    assert run("a.yaml", "b.yaml")[0] == 0
    submitted = pd.read_csv(work / "submission.csv", dtype=str)
    folder = tmp_path / "new"
    (folder / "deep").mkdir(parents=True)
    for row, name in enumerate(submitted["id"]):
        shutil.copy(digits / "images" / f"{name}.png", (folder / "deep" if row % 2 else folder) / f"{name}.png")
    (folder / "torn.png").write_bytes((digits / "images" / "0000.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("no picture")
    done = predict("a.yaml", "b.yaml", str(folder))
    assert done.returncode == 0, done.stderr
    told = pd.read_csv(work / "labelled" / "new.csv", dtype=str, keep_default_na=False)
    torn = told[told["id"] == "torn.png"]
    assert torn["label"].tolist() == [""]
    assert torn["problem"].item() != ""
    labels = dict(zip((Path(name).stem for name in told["id"]), told["label"], strict=True))
    assert [labels[name] for name in submitted["id"]] == submitted["label"].tolist()
    rows = told.drop(torn.index).filter(like="probability of ").astype(float)
    assert rows.shape[1] == 10
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-5)
    shutil.copytree(digits / "images", tmp_path / "images")
    submitted[["id"]].head(20).to_csv(tmp_path / "twenty.csv", index=False)
    done = predict("a.yaml", "b.yaml", str(tmp_path / "twenty.csv"), "--output", str(tmp_path / "out.csv"))
    assert done.returncode == 0, done.stderr
    assert pd.read_csv(tmp_path / "out.csv", dtype=str)["label"].tolist() == submitted["label"].head(20).tolist()


@pytest.mark.parametrize("cell", ["../../etc/passwd", "/etc/hostname"])
def test_a_path_out_of_the_folder_and_a_missing_one_are_one_line(work: Path, tmp_path: Path, digits: Path, cell: str) -> None:
    shutil.copy(digits / "images" / "0000.png", tmp_path / "0000.png")
    (tmp_path / "rows.csv").write_text(f"path\n0000.png\n{cell}\n")
    done = predict("a.yaml", str(tmp_path / "rows.csv"))
    assert done.returncode == 2
    assert "outside the CSV's folder" in done.stderr.splitlines()[-1]


def test_where_ranks_are_merged_a_label_does_not_depend_on_the_pictures_beside(digits: Path, work: Path, tmp_path: Path) -> None:
    settings = yaml.safe_load(Path("a.yaml").read_text())
    settings["competition"]["metric"] = "roc_auc"
    settings |= {"submission": {"format": "label"}, "predict": {"merge": "ranks", "tta": "horizontal"}}
    Path("a.yaml").write_text(yaml.safe_dump(settings))
    names = sorted(path.name for path in (digits / "images").iterdir())[:12]
    for folder, chosen in (("one", names[:1]), ("twelve", names)):
        (tmp_path / folder).mkdir()
        for name in chosen:
            shutil.copy(digits / "images" / name, tmp_path / folder / name)
        done = predict("a.yaml", str(tmp_path / folder))
        assert done.returncode == 0, done.stderr
    one, twelve = (pd.read_csv(work / "labelled" / f"{folder}.csv", dtype={"id": str}).set_index("id") for folder in ("one", "twelve"))
    np.testing.assert_allclose(one.loc[names[0]].to_numpy(float), twelve.loc[names[0]].to_numpy(float), atol=1e-6)
    assert twelve["label"].nunique() > 1
