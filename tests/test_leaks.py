"""What reaches training and what reaches validation: extra rows, copies, and a CV that copies would flatter."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import small_settings
from PIL import Image

from pipeline.cli import Arguments, predict_all, run_script, submit_all
from pipeline.config import Config
from pipeline.config_files import write_config
from pipeline.files import read_json
from pipeline.stages.prepare import prepare, read_duplicates, workspace


def with_extra(root: Path) -> tuple[list[str], list[str]]:
    """Moves 100 digits from the train table into extra.csv, beside copies of 50 train and 30 test digits under other names."""
    train, test = (pd.read_csv(root / f"{name}.csv", dtype=str) for name in ("train", "test"))
    moved, left = train.iloc[:100], train.iloc[100:]
    copies = [*left["id"].iloc[:50], *test["id"].iloc[:30]]
    for name in copies:
        Image.open(root / "images" / f"{name}.png").save(root / "images" / f"copy{name}.png", optimize=True)
    label = dict(zip(train["id"], train["label"], strict=True))
    rows = [*moved[["id", "label"]].itertuples(index=False), *((f"copy{name}", label.get(name, "0")) for name in copies)]
    pd.DataFrame(rows, columns=["id", "label"]).to_csv(root / "extra.csv", index=False)
    left.to_csv(root / "train.csv", index=False)
    return moved["id"].tolist(), copies


def test_extra_rows_are_never_validated_on_copies_of_train_rows_are_left_out_and_copies_of_test_rows_stay(own_digits: Path, tmp_path: Path) -> None:
    moved, copies = with_extra(own_digits)
    of_train, of_test = ({f"extra0/copy{name}" for name in part} for part in (copies[:50], copies[50:]))
    settings = small_settings(own_digits, tmp_path / "outputs")
    settings["competition"]["extra_train"] = [{"table": "extra.csv"}]
    config = Config.model_validate(settings)
    prepared = prepare(config)
    kept = set(prepared.extra["id"])
    assert kept <= {f"extra0/{name}" for name in moved} | of_test
    assert not kept & of_train
    assert len(kept - of_test) > 90, "a few digits equal others by chance, no more"
    assert len(kept & of_test) > 25
    listed = read_duplicates(workspace(config).duplicates)
    assert of_test <= set(listed.loc[listed["split"] == "extra", "id"])
    assert not prepared.folds["id"].str.startswith("extra").any()
    assert not set(prepared.folds["id"]) & set(moved)


def test_an_extra_class_that_is_not_of_the_train_table_is_refused(own_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with_extra(own_digits)
    table = pd.read_csv(own_digits / "extra.csv", dtype=str)
    table.assign(label="eleven").to_csv(own_digits / "extra.csv", index=False)
    settings = small_settings(own_digits, tmp_path / "outputs")
    settings["competition"]["extra_train"] = [{"table": "extra.csv"}]
    config = tmp_path / "extra.yaml"
    config.write_text(write_config(Config.model_validate(settings)))
    assert run_script("", submit_all, [str(config)]) == 2
    assert 'competition.extra_train: "eleven" is no class of the train table' in capsys.readouterr().err


def edited(pixels: np.ndarray[Any, Any], edit: str) -> Image.Image:
    height, width = pixels.shape[:2]
    image = Image.fromarray(pixels)
    if edit == "crop":
        return image.crop((3, 2, width - 3, height - 2))
    if edit == "resize":
        return image.resize((width // 2, height // 2), Image.Resampling.BOX)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=50)
    return Image.open(buffer)


def copied(trash: Path, root: Path, num_originals: int) -> None:
    """Photographs, each with three edited copies, under labels by lot: nothing can be learned but the photographs themselves."""
    random = np.random.default_rng(0)
    names = sorted(path.name for path in (trash / "images").iterdir())
    (root / "images").mkdir(parents=True)
    rows, lots = [], random.permutation(["a", "b"] * (num_originals // 2))
    for number, name in enumerate(random.permutation(names)[:num_originals]):
        pixels = np.asarray(Image.open(trash / "images" / name).convert("RGB"))
        for edit in ("none", "jpeg", "crop", "resize"):
            row = f"{number:03d}{edit}.png"
            edited(pixels, edit).save(root / "images" / row) if edit != "none" else Image.fromarray(pixels).save(root / "images" / row)
            rows.append((row, lots[number]))
    table = pd.DataFrame(rows, columns=["id", "label"])
    table.to_csv(root / "train.csv", index=False)


@pytest.mark.slow
def test_labels_by_lot_score_at_chance_where_copies_stay_together_and_far_above_where_they_do_not(trash: Path, tmp_path: Path) -> None:
    copied(trash, tmp_path / "copies", 160)
    settings = small_settings(tmp_path / "copies", tmp_path / "outputs")
    settings["competition"] |= {"name": "copies", "image_path": "images/{id}", "test_table": None, "sample_submission": None, "solution": None}
    settings |= {"train": {"epochs": 20, "batch_size": 32, "ema": 0.9}, "optimizer": {"learning_rate": 3e-3}}
    settings["images"] |= {"cache_size": 48, "size": 48}
    scores = {}
    for strategy in ("stratified_group", "stratified"):
        config = Config.model_validate({**settings, "experiment": strategy, "folds": {"n_splits": 4, "strategy": strategy}})
        scores[strategy] = read_json(predict_all(Arguments([config], frozenset()))[0].folder / "cv.json")["cv"]
    print(scores)
    assert scores["stratified"] > 0.75, "a copy of nearly every validation row was trained on"
    assert scores["stratified_group"] < 0.62, "of 160 photographs by lot half are right, give or take three times a twenty-fifth"


def twins(root: Path, num_pairs: int, conflicting: bool) -> list[str]:
    """Gives the first train digits a copy each under another name, with the same label or another; returns the copies' ids."""
    train = pd.read_csv(root / "train.csv", dtype=str)
    first = train.iloc[:num_pairs]
    for name in first["id"]:
        Image.open(root / "images" / f"{name}.png").save(root / "images" / f"{name}twin.png")
    copies = first.assign(id=first["id"] + "twin", label=first["label"].map(lambda label: "x" + label) if conflicting else first["label"])
    pd.concat([train, copies]).to_csv(root / "train.csv", index=False)
    return copies["id"].tolist()


def test_where_every_train_row_is_dropped_one_line_names_the_key(own_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    twins(own_digits, 10_000, conflicting=True)
    config = tmp_path / "twins.yaml"
    config.write_text(write_config(Config.model_validate(small_settings(own_digits, tmp_path / "outputs") | {"experiment": "twins"})))
    assert run_script("", submit_all, [str(config), "competition.solution=null"]) == 2
    assert "write dedup.conflict=together" in capsys.readouterr().err


@pytest.mark.slow
def test_a_changed_picture_of_a_dropped_row_trains_nothing_again(own_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dropped = twins(own_digits, 3, conflicting=False)[0]
    config = tmp_path / "twins.yaml"
    config.write_text(write_config(Config.model_validate(small_settings(own_digits, tmp_path / "outputs"))))
    assert run_script("", submit_all, [str(config)]) == 0
    path = own_digits / "images" / f"{dropped}.png"
    Image.open(path).save(path, optimize=True, compress_level=1)
    capsys.readouterr()
    assert run_script("", submit_all, [str(config)]) == 0
    assert "train     up to date" in capsys.readouterr().err


@pytest.mark.slow
def test_another_metric_after_the_last_checkpoint_is_no_failure(own_digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "small.yaml"
    config.write_text(write_config(Config.model_validate(small_settings(own_digits, tmp_path / "outputs"))))
    assert run_script("", submit_all, [str(config)]) == 0
    for manifest in (tmp_path / "outputs" / "digits" / "experiments").rglob("fold_*/manifest.json"):
        manifest.unlink()
    assert run_script("", submit_all, [str(config), "competition.metric=macro_f1"]) == 0
    assert "CV          macro_f1" in capsys.readouterr().out
