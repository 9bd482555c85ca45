"""The way from raw files to a checked submission, as one process and as several."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from conftest import small_settings

from pipeline.cli import predict_all, run_script, submit_all
from pipeline.config import Config, Mixing
from pipeline.config_files import load_config
from pipeline.predictions import Predictions
from pipeline.stages.ensemble import chosen_score


def write(settings: dict[str, Any], path: Path) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def run(*words: object) -> int:
    return run_script("", submit_all, [str(word) for word in words])


def digest_of(paths: list[Path]) -> dict[str, str]:
    return {f"{path.parent.name}/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def values_of(outputs: Path) -> dict[str, str]:
    found = digest_of([*outputs.rglob("values.npy"), *outputs.rglob("submission.csv")])
    assert len(found) > 4
    return found


@pytest.fixture
def config(digits: Path, tmp_path: Path) -> Path:
    return write(small_settings(digits, tmp_path / "outputs"), tmp_path / "small.yaml")


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs" / "digits"


def test_a_run_ends_in_a_submission_that_matches_the_sample(config: Path, digits: Path, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config) == 0
    submission = pd.read_csv(outputs / "submission.csv", dtype=str)
    sample = pd.read_csv(digits / "sample_submission.csv", dtype=str)
    assert list(submission.columns) == list(sample.columns)
    assert submission["id"].tolist() == sample["id"].tolist()
    assert set(submission["label"]) <= set("0123456789")
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()] == ["CV", "true", "seconds", "report", "submission"]


@pytest.mark.parametrize(
    "words",
    [
        ["train.checkpoint=soup", "train.keep=2", "optimizer.head_multiple=3", "optimizer.layer_decay=0.9", "train.freeze=2 steps"],
        ["train.checkpoint=average", "train.full_data=true", "schedule={name: one_cycle, warmup: 30%}", "train.sampler=balanced", "loss.name=focal"],
    ],
    ids=["soup", "average"],
)
@pytest.mark.slow
def test_every_stage_takes_what_the_recipe_offers(config: Path, outputs: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, "train.epochs=2", *words) == 0
    assert not list(outputs.rglob("epoch_*.pt")), "what was not chosen is deleted"
    folds = [json.loads(path.read_text())["record"] for path in outputs.glob("experiments/small/seed_0/fold_*/manifest.json")]
    assert all(set(record["epochs_chosen"]) <= {1, 2} for record in folds)
    printed = capsys.readouterr().out
    assert ("optimistic: train.checkpoint=soup" in printed) == (words[0] == "train.checkpoint=soup")
    assert (outputs / "experiments/small/seed_0/all/manifest.json").exists() == ("train.full_data=true" in words)
    before = digest_of(list(outputs.rglob("last.pt")))
    assert run(config, "train.epochs=2", *words) == 0
    assert digest_of(list(outputs.rglob("last.pt"))) == before


def test_the_printed_cv_is_the_metric_on_every_training_row_predicted_by_the_network_that_did_not_see_it(config: Path, digits: Path, outputs: Path) -> None:
    assert run(config) == 0
    folds = pd.read_csv(next(outputs.glob("folds/*/folds.csv")), dtype={"id": str, "target": str})
    pooled = Predictions.load(next(outputs.glob("ensembles/small/oof")))
    assert sorted(pooled.ids) == sorted(folds["id"])
    assert dict(zip(pooled.ids, pooled.fold.tolist(), strict=True)) == dict(zip(folds["id"], folds["fold"], strict=True))
    for piece in outputs.glob("experiments/small/predictions/*/*_oof"):
        part = Predictions.load(piece)
        held_out = set(folds.loc[folds["fold"] == int(piece.name.split("_")[3]), "id"])
        assert set(part.ids) == held_out


def test_a_second_run_does_nothing_twice(config: Path, outputs: Path) -> None:
    assert run(config) == 0
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file()}
    assert run(config) == 0
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("*") if path.is_file()} == before


def test_new_views_predict_again_and_train_nothing(config: Path, outputs: Path) -> None:
    assert run(config) == 0
    weights = {path: path.stat().st_mtime_ns for path in outputs.rglob("last.pt")}
    first = values_of(outputs)
    assert run(config, "predict.tta=flips") == 0
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("last.pt")} == weights
    assert values_of(outputs) != first


@pytest.mark.slow
def test_a_forced_prediction_replaces_a_damaged_one(config: Path, outputs: Path) -> None:
    assert run(config) == 0
    first = values_of(outputs)
    damaged = next(outputs.glob("experiments/small/predictions/*/seed_0_fold_0_test")) / "values.npy"
    np.save(damaged, np.full_like(np.load(damaged), 0.1))
    assert run(config, "--force", "predict") == 0
    assert values_of(outputs) == first


@pytest.mark.slow
def test_a_cache_that_was_deleted_is_built_again(config: Path, outputs: Path) -> None:
    assert run(config) == 0
    first = values_of(outputs)
    next(outputs.glob("cache/*/train.bin")).unlink()
    shutil.rmtree(outputs / "experiments")
    assert run(config) == 0
    assert values_of(outputs) == first


@pytest.mark.slow
def test_trained_folds_do_not_need_the_weights_file_any_more_and_a_mistyped_one_is_no_random_start(
    config: Path, outputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import timm
    import torch

    weights = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), weights)
    assert run(config, f"model.weights={weights}") == 0
    weights.unlink()
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("last.pt")}
    assert run(config, f"model.weights={weights}") == 0
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("last.pt")} == before
    assert run(config, "experiment=random") == 0
    assert run(config, "experiment=random", "model.weights=mistyped.pth") == 2
    assert "no such file: mistyped.pth" in capsys.readouterr().err


def test_copied_outputs_and_touched_pictures_train_nothing_again(own_digits: Path, tmp_path: Path) -> None:
    config = write(small_settings(own_digits, tmp_path / "outputs"), tmp_path / "small.yaml")
    assert run(config) == 0
    for picture in (own_digits / "images").iterdir():
        picture.touch()
    shutil.copytree(tmp_path / "outputs", tmp_path / "elsewhere")
    assert run(config, f"outputs={tmp_path / 'elsewhere'}") == 0
    copied = {path: path.read_bytes() for path in (tmp_path / "elsewhere").rglob("last.pt")}
    assert {path.name for path in (tmp_path / "elsewhere").rglob("*.pt")} == {"last.pt"}
    for path, data in copied.items():
        assert (tmp_path / "outputs" / path.relative_to(tmp_path / "elsewhere")).read_bytes() == data


@pytest.mark.slow
def test_trained_folds_are_never_overwritten_by_a_changed_config(config: Path, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config) == 0
    before = digest_of(list(outputs.rglob("last.pt")))
    assert run(config, "optimizer.learning_rate=5e-3") == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "optimizer.learning_rate: 0.001 -> 0.005" in message
    assert "experiment=NEW" in message
    assert digest_of(list(outputs.rglob("last.pt"))) == before
    assert run(config, "optimizer.learning_rate=5e-3", "model.arguments={no: 1}", "--force", "train") == 2
    assert digest_of(list(outputs.rglob("last.pt"))) == before, "a mistake must not cost what was trained"
    assert run(config, "--force", "train", "optimizer.learning_rate=5e-3") == 0
    assert digest_of(list(outputs.rglob("last.pt"))) != before


@pytest.mark.slow
@pytest.mark.parametrize("change", ["runtime.workers=1", "runtime.workers=3", "runtime.jobs_per_device=2", "cache.mode=none"])
def test_workers_jobs_and_cache_never_change_a_prediction(config: Path, tmp_path: Path, outputs: Path, change: str) -> None:
    augment = "augment.train=[{name: Affine, rotate: [-10, 10], p: 0.7}, {name: HorizontalFlip}]"
    mixing = "augment.mixing={mixup: 0.4, cutmix: 1.0}"
    assert run(config, augment, mixing) == 0
    assert run(config, augment, mixing, change, f"outputs={tmp_path / 'other'}") == 0
    assert values_of(tmp_path / "other" / "digits") == values_of(outputs)


def test_an_unreadable_test_picture_gets_the_class_shares_and_a_training_one_is_left_out(own_digits: Path, tmp_path: Path) -> None:
    train, test = pd.read_csv(own_digits / "train.csv", dtype=str), pd.read_csv(own_digits / "test.csv", dtype=str)
    lost, blind = train["id"].iloc[3], test["id"].iloc[5]
    (own_digits / "images" / f"{lost}.png").write_bytes(b"")
    (own_digits / "images" / f"{blind}.png").write_bytes((own_digits / "images" / f"{blind}.png").read_bytes()[:60])
    config = write(small_settings(own_digits, tmp_path / "outputs"), tmp_path / "small.yaml")
    assert run(config) == 2
    assert run(config, "images.corrupt=skip") == 0
    outputs = tmp_path / "outputs" / "digits"
    assert lost not in set(pd.read_csv(next(outputs.glob("folds/*/folds.csv")), dtype=str)["id"])
    given = Predictions.load(outputs / "ensembles" / "small").of(test["id"].tolist()).values[5]
    shares = train.loc[train["id"] != lost, "label"].value_counts(normalize=True).sort_index().to_numpy()
    np.testing.assert_allclose(given, shares, atol=2e-3)
    assert set(pd.read_csv(outputs / "prepared" / "problems.csv", dtype=str)["id"]) == {lost, blind}


@pytest.mark.slow
def test_without_one_readable_test_picture_the_class_shares_are_submitted(own_digits: Path, tmp_path: Path) -> None:
    for name in pd.read_csv(own_digits / "test.csv", dtype=str)["id"]:
        (own_digits / "images" / f"{name}.png").unlink()
    config = write(small_settings(own_digits, tmp_path / "outputs"), tmp_path / "small.yaml")
    assert run(config, "images.corrupt=skip") == 0
    assert len(pd.read_csv(tmp_path / "outputs" / "digits" / "submission.csv")) == 359


@pytest.mark.slow
def test_probability_columns_follow_the_sample_whatever_its_order(own_digits: Path, tmp_path: Path) -> None:
    columns = list("7301245689")
    ids = pd.read_csv(own_digits / "test.csv", dtype=str)["id"].iloc[::-1]
    pd.DataFrame({"id": ids, **dict.fromkeys(columns, 0.1)}).to_csv(own_digits / "sample_submission.csv", index=False)
    settings = small_settings(own_digits, tmp_path / "outputs")
    settings["competition"] |= {"metric": "log_loss"}
    settings["train"] |= {"epochs": 6}
    config = write(settings, tmp_path / "small.yaml")
    assert run(config) == 0
    submission = pd.read_csv(tmp_path / "outputs" / "digits" / "submission.csv", dtype={"id": str})
    assert list(submission.columns) == ["id", *columns]
    assert submission["id"].tolist() == ids.tolist()
    np.testing.assert_allclose(submission[columns].sum(axis=1), 1, atol=1e-6)
    truth = pd.read_csv(own_digits / "solution.csv", dtype=str).set_index("id")["label"]
    right = submission[columns].idxmax(axis=1).to_numpy() == truth[submission["id"]].to_numpy()
    assert right.mean() > 0.5, "columns are in another order than the probabilities"


@pytest.mark.slow
def test_a_competition_without_a_test_table_takes_its_ids_from_the_sample_and_its_pictures_from_two_folders(digits: Path, tmp_path: Path) -> None:
    root = tmp_path / "breeds"
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        for name in pd.read_csv(digits / f"{split}.csv", dtype=str)["id"]:
            shutil.copy(digits / "images" / f"{name}.png", root / split / f"{name}.png")
    breeds = {str(number): f"breed, {number} é" for number in range(10)}
    train = pd.read_csv(digits / "train.csv", dtype=str)
    train.assign(breed=train["label"].map(breeds)).drop(columns="label").to_csv(root / "labels.csv", index=False, lineterminator="\r\n")
    ids = pd.read_csv(digits / "test.csv", dtype=str)["id"]
    pd.DataFrame({"id": ids, **dict.fromkeys(reversed(breeds.values()), 0.1)}).to_csv(root / "sample_submission.csv", index=False)
    settings = small_settings(root, tmp_path / "outputs")
    settings["competition"] |= {"name": "breeds", "target": "breed", "image_path": "{split}/{id}.png", "metric": "log_loss"}
    settings["competition"] |= {"train_table": "labels.csv", "test_table": None, "solution": None}
    assert run(write(settings, tmp_path / "breeds.yaml")) == 0
    submission = pd.read_csv(tmp_path / "outputs" / "breeds" / "submission.csv", dtype={"id": str})
    assert list(submission.columns) == ["id", *reversed(breeds.values())]
    assert submission["id"].tolist() == ids.tolist()


@pytest.mark.slow
def test_two_experiments_and_two_seeds_blend_into_one_submission(config: Path, outputs: Path, tmp_path: Path) -> None:
    other = write({"_base_": "small.yaml", "experiment": "other", "train": {"seeds": [1, 2]}}, tmp_path / "other.yaml")
    assert run(config, other, "ensemble.models=equal") == 0
    blend = outputs / "ensembles" / "other+small"
    assert len(Predictions.load(blend)) == 359
    parts = [Predictions.load(path) for path in sorted(outputs.glob("experiments/*/predictions/*/*_test"))]
    assert len(parts) == 6
    singles = [np.mean([part.of(parts[0].ids).values for part in group], axis=0) for group in (parts[:4], parts[4:])]
    np.testing.assert_allclose(Predictions.load(blend).of(parts[0].ids).values, np.mean(singles, axis=0), atol=1e-6)
    scores = yaml.safe_load((blend / "cv.json").read_text())
    assert set(scores["experiments"]) == {"small", "other"}
    assert set(scores["schemes"]) == {"equal", "geometric", "greedy", "simplex", "metric", "stacked", "auto"}
    assert scores["chosen"] == "equal"
    assert run(other, config, "ensemble.models=simplex", "ensemble.folds=score") == 0
    weights = json.loads((blend / "weights.json").read_text())
    assert sum(weights["weights"].values()) == pytest.approx(1)
    assert [sum(networks.values()) for networks in weights["networks"].values()] == pytest.approx([1, 1])


def test_the_saved_config_runs_again_and_finds_everything_done(config: Path, outputs: Path) -> None:
    assert run(config) == 0
    saved = outputs / "experiments" / "small" / "config.yaml"
    assert load_config(saved) == load_config(config)
    before = {path: path.stat().st_mtime_ns for path in outputs.rglob("last.pt")}
    assert run_script("", lambda arguments: predict_all(arguments) and None, [str(saved)]) == 0
    assert {path: path.stat().st_mtime_ns for path in outputs.rglob("last.pt")} == before


def test_every_training_setting_enters_the_fingerprint_and_nothing_else_does(small: Config) -> None:
    from pipeline.executor import Task
    from pipeline.stages.prepare import prepare
    from pipeline.stages.train import train_stage

    prepared = prepare(small)

    def fingerprint(section: str = "train", **changes: Any) -> str:
        changed = small.model_copy(update={section: getattr(small, section).model_copy(update=changes)})
        return train_stage(Task(changed, 0, 0), prepared).fingerprint

    decisive = [
        fingerprint(epochs=2),
        fingerprint(ema=None),
        fingerprint("images", size=24),
        fingerprint("images", mean=(0.1, 0.5, 0.5)),
        fingerprint("model", backbone="test_vit"),
        fingerprint("loss", smoothing=0.1),
        fingerprint("optimizer", learning_rate=2e-3),
        fingerprint("schedule", final_share=0.1),
        fingerprint("augment", mixing=Mixing(mixup=0.1)),
    ]
    assert len({fingerprint(), *decisive}) == len(decisive) + 1
    idle = [
        fingerprint("runtime", workers=3, threads=2),
        fingerprint("predict", tta="flips"),
        fingerprint("ensemble", folds="score"),
        fingerprint(seeds=(0, 1)),
    ]
    assert set(idle) == {fingerprint()}


# ---------------------------------------------------------------- every task, every layout


def relabel(root: Path, cells: dict[str, str], name: str = "label") -> None:
    """The digits with other targets: what each digit is called, in the train table, the sample and the solution."""
    for table in ("train", "sample_submission", "solution"):
        frame = pd.read_csv(root / f"{table}.csv", dtype=str)
        frame.assign(label=frame["label"].map(cells)).rename(columns={"label": name}).to_csv(root / f"{table}.csv", index=False)


def properties(digit: int) -> str:
    """Labels of a digit; 1 has none."""
    members = {"even": (0, 2, 4, 6, 8), "hole": (0, 6, 8, 9), "large": (5, 6, 7, 8, 9), "prime": (2, 3, 5, 7)}
    return " ".join(name for name, digits in members.items() if digit in digits)


TASKS: dict[str, tuple[dict[str, str], dict[str, Any]]] = {
    "binary": ({str(digit): "odd" if digit % 2 else "even" for digit in range(10)}, {"metric": "roc_auc", "positive": "even"}),
    "multilabel": ({str(digit): properties(digit) for digit in range(10)}, {"metric": "samples_f1"}),
    "ordinal": ({str(digit): str(digit + 5) for digit in range(10)}, {"metric": "quadratic_kappa"}),
    "regression": ({str(digit): str(1000 + 2.5 * digit) for digit in range(10)}, {"metric": "rmse"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_learns_and_ends_in_a_checked_submission(own_digits: Path, tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]) -> None:
    cells, given = TASKS[task]
    relabel(own_digits, cells, "what")
    settings = small_settings(own_digits, tmp_path / "outputs")
    settings["competition"] |= {"task": task, "target": "what", **given}
    settings["train"] |= {"epochs": 8}
    settings["optimizer"] = {"learning_rate": 5e-3}
    assert run(write(settings, tmp_path / "small.yaml"), "augment.mixing={mixup: 0.1}") == 0
    submission = pd.read_csv(tmp_path / "outputs" / "digits" / "submission.csv", dtype=str, keep_default_na=False)
    solution = pd.read_csv(own_digits / "solution.csv", dtype=str, keep_default_na=False)
    assert list(submission.columns) == ["id", "what"]
    assert submission["id"].tolist() == pd.read_csv(own_digits / "sample_submission.csv", dtype=str)["id"].tolist()
    found, truth = submission["what"], solution["what"]
    if task == "binary":
        means = found.astype(float).groupby(truth).mean()
        assert found.astype(float).between(0, 1).all()
        assert means["even"] > means["odd"] + 0.2, "the score is that of the positive class"
    elif task == "regression":
        assert found.astype(float).between(1000, 1022.5).all(), "within the range of the training targets"
        assert np.corrcoef(found.astype(float), truth.astype(float))[0, 1] > 0.5
    else:
        assert set(found) <= set(cells.values()) or task == "multilabel"
        assert (found == truth).mean() > 0.25
    true = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}["true"]
    floor = {"binary": 0.75, "multilabel": 0.6, "ordinal": 0.5, "regression": -7.0}[task]
    assert float(true.split()[-1]) * (-1 if task == "regression" else 1) > floor


def as_pixel_columns(root: Path, source: Path, split: str) -> None:
    from pipeline.data.images import read

    table = pd.read_csv(source / f"{split}.csv", dtype=str)
    pixels = np.stack([read(source / "images" / f"{name}.png")[..., 0].ravel() for name in table["id"]])
    columns = pd.DataFrame(pixels, columns=[f"pixel{number}" for number in range(64)])
    labels = table[["label"]] if split == "train" else table[[]]
    pd.concat([labels, columns], axis=1).to_csv(root / f"{split}.csv", index=False)


@pytest.mark.slow
def test_pictures_in_a_table_are_those_in_files_and_their_rows_are_numbered_as_in_the_sample(digits: Path, config: Path, outputs: Path, tmp_path: Path) -> None:
    root = tmp_path / "table"
    root.mkdir()
    for split in ("train", "test"):
        as_pixel_columns(root, digits, split)
    count = len(pd.read_csv(digits / "test.csv"))
    pd.DataFrame({"ImageId": range(1, count + 1), "Label": 0}).to_csv(root / "sample_submission.csv", index=False)
    settings = small_settings(root, tmp_path / "outputs")
    settings["competition"] |= {"name": "table", "id": None, "image_path": None, "pixel_columns": "pixel", "solution": None}
    assert run(write(settings, tmp_path / "table.yaml"), "cache.mode=none", "runtime.workers=1") == 0
    submission = pd.read_csv(tmp_path / "outputs" / "table" / "submission.csv", dtype=str)
    assert list(submission.columns) == ["ImageId", "Label"]
    assert submission["ImageId"].tolist() == [str(number) for number in range(1, count + 1)]
    assert set(submission["Label"]) <= set("0123456789")
    index = pd.read_parquet(tmp_path / "outputs" / "table" / "prepared" / "index.parquet")
    assert run(config) == 0
    files = pd.read_parquet(outputs / "prepared" / "index.parquet")
    assert index["pixels"].tolist() == files["pixels"].tolist()


def test_another_shape_of_the_pixel_columns_is_seen(digits: Path, tmp_path: Path) -> None:
    root = tmp_path / "table"
    root.mkdir()
    for split in ("train", "test"):
        as_pixel_columns(root, digits, split)
    settings = small_settings(root, tmp_path / "outputs")
    settings["competition"] |= {"name": "table", "id": None, "image_path": None, "pixel_columns": "pixel", "solution": None, "sample_submission": None}
    config = load_config(write(settings, tmp_path / "table.yaml"))
    from pipeline.stages.prepare import prepare

    square = prepare(config)
    wide = prepare(config.model_copy(update={"competition": config.competition.model_copy(update={"pixel_shape": (4, 16)})}))
    assert set(square.rows["height"]) == {8}
    assert set(wide.rows["height"]) == {4}
    assert square.cache_digest != wide.cache_digest


@pytest.mark.slow
def test_further_rows_are_trained_on_in_every_fold_and_never_held_out(own_digits: Path, tmp_path: Path, outputs: Path) -> None:
    train = pd.read_csv(own_digits / "train.csv", dtype=str)
    train.iloc[:300].to_csv(own_digits / "old.csv", index=False)
    train.iloc[300:].to_csv(own_digits / "train.csv", index=False)
    settings = small_settings(own_digits, tmp_path / "outputs")
    config = write(settings, tmp_path / "small.yaml")
    assert run(config) == 0
    before = values_of(outputs)
    assert run(config, "competition.extra_train=[{table: old.csv}]", "experiment=more") == 0
    kept = set(pd.read_csv(next(outputs.glob("folds/*/folds.csv")), dtype=str)["id"])
    assert kept == set(train["id"].iloc[300:])
    assert sorted(Predictions.load(outputs / "ensembles" / "more" / "oof").ids) == sorted(kept)
    assert values_of(outputs) != before
    weights = [hashlib.sha256(path.read_bytes()).hexdigest() for path in outputs.rglob("fold_0/last.pt")]
    assert len(set(weights)) == 2, "they change what is learned"


@pytest.mark.slow
def test_further_rows_teach_what_a_few_train_rows_cannot(own_digits: Path, tmp_path: Path, outputs: Path) -> None:
    """Each with its own picture and label: the CV of 60 rows is that of a network that saw 1,000 more."""
    train = pd.read_csv(own_digits / "train.csv", dtype=str).sample(frac=1, random_state=0)
    train.iloc[:1000].to_csv(own_digits / "old.csv", index=False)
    train.iloc[1000:1060].to_csv(own_digits / "train.csv", index=False)
    settings = small_settings(own_digits, tmp_path / "outputs")
    settings["train"] |= {"epochs": 6, "batch_size": 30}
    settings["optimizer"] = {"learning_rate": 5e-3}
    config = write(settings, tmp_path / "small.yaml")
    assert run(config) == 0
    assert run(config, "competition.extra_train=[{table: old.csv}]", "experiment=more") == 0
    alone, taught = (chosen_score(outputs / "ensembles" / name)["cv"] for name in ("small", "more"))
    assert taught > 0.75 > 0.5 > alone


@pytest.mark.slow
def test_rows_of_one_group_and_copies_of_a_picture_are_held_out_together(own_digits: Path, tmp_path: Path, outputs: Path) -> None:
    train = pd.read_csv(own_digits / "train.csv", dtype=str)
    writers = [str(row // 12) for row in range(len(train))]
    train.assign(writer=writers).to_csv(own_digits / "train.csv", index=False)
    one, copy = train["id"].iloc[0], train["id"].iloc[500]
    shutil.copy(own_digits / "images" / f"{one}.png", own_digits / "images" / f"{copy}.png")
    same = train["label"].iloc[0] == train["label"].iloc[500]
    settings = small_settings(own_digits, tmp_path / "outputs")
    words = ["folds.group=[writer]", "dedup.exact=together", "dedup.conflict=together"]
    assert run(write(settings, tmp_path / "small.yaml"), *words) == 0
    folds = pd.read_csv(next(outputs.glob("folds/*/folds.csv")), dtype=str, keep_default_na=False)
    assert len(folds) == len(train)
    assert (folds.groupby(train.assign(writer=writers).set_index("id").loc[folds["id"], "writer"].to_numpy())["fold"].nunique() == 1).all()
    fold = folds.set_index("id")["fold"]
    assert fold[one] == fold[copy], f"copies with {'equal' if same else 'different'} labels"


@pytest.mark.slow
def test_without_a_sample_one_is_made_of_the_test_rows(own_digits: Path, tmp_path: Path, outputs: Path) -> None:
    (own_digits / "sample_submission.csv").unlink()
    config = write(small_settings(own_digits, tmp_path / "outputs"), tmp_path / "small.yaml")
    assert run(config, "competition.sample_submission=null") == 0
    submission = pd.read_csv(outputs / "submission.csv", dtype=str)
    assert list(submission.columns) == ["id", "label"]
    assert submission["id"].tolist() == pd.read_csv(own_digits / "test.csv", dtype=str)["id"].tolist()


@pytest.mark.slow
def test_copies_that_are_left_out_are_in_no_fold(own_digits: Path, tmp_path: Path, outputs: Path) -> None:
    train = pd.read_csv(own_digits / "train.csv", dtype=str)
    twins = train[train["label"] == "3"]["id"].iloc[:2].tolist()
    enemies = [train[train["label"] == label]["id"].iloc[5] for label in "45"]
    for first, second in (twins, enemies):
        shutil.copy(own_digits / "images" / f"{first}.png", own_digits / "images" / f"{second}.png")
    config = write(small_settings(own_digits, tmp_path / "outputs"), tmp_path / "small.yaml")
    assert run(config) == 0
    held_out = set(Predictions.load(outputs / "ensembles" / "small" / "oof").ids)
    assert set(train["id"]) - held_out == {max(twins), *enemies}


def test_without_test_rows_there_is_a_cv_and_nothing_to_submit(digits: Path, config: Path, outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(config), "competition.test_table=null", "competition.sample_submission=null", "competition.solution=null"]
    assert run_script("", lambda arguments: predict_all(arguments) and None, words) == 0
    cv = yaml.safe_load(next(outputs.glob("experiments/small/predictions/*/cv.json")).read_text())
    assert cv["rows"] == len(pd.read_csv(digits / "train.csv"))
    assert run(*words) == 2
    assert "nothing to submit" in capsys.readouterr().err


@pytest.mark.slow
def test_a_compiled_network_learns_what_the_plain_one_does(config: Path, tmp_path: Path) -> None:
    if shutil.which("g++") is None:
        pytest.skip("no g++ on the PATH, which torch.compile needs on a CPU")
    words = ["folds.n_splits=2", "train.epochs=2", "train.freeze=1", "train.checkpoint=average", "train.keep=2"]
    for name in ("plain", "compiled"):
        assert run(config, *words, f"experiment={name}", f"runtime.compile={'true' if name == 'compiled' else 'false'}") == 0
    plain, compiled = (Predictions.load(tmp_path / "outputs" / "digits" / "ensembles" / name / "oof") for name in ("plain", "compiled"))
    assert np.abs(compiled.of(plain.ids).values - plain.values).max() < 0.01
