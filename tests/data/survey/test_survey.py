"""Folders that nobody has described: odd layouts, names, endings, tables and labels, and what the survey makes of them."""

import gzip
import importlib.util
import struct
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.config_files import load_config
from pipeline.data.survey.look import survey
from pipeline.data.survey.report import Written, summary, write_survey
from pipeline.data.survey.targets import find_separator
from pipeline.data.survey.text import scalar
from pipeline.data.targets import define_target
from pipeline.errors import UserError

NAMES = [f"a{number:03x}f" for number in range(60)]
TEST = [f"b{number:03x}f" for number in range(8)]
KINDS = ["oak", "elm", "ash"]


def pictures(root: Path, paths: Iterable[str], size: tuple[int, int] = (12, 12), mode: str = "RGB") -> None:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size, number % 256 if mode == "L" else (number % 256, 7, 9)).save(root / path)


def table(root: Path, name: str, columns: dict[str, Sequence[object]], **options: Any) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(root / name, index=False, **options)


def labels(count: int = 60, kinds: Sequence[object] = KINDS) -> list[object]:
    return [kinds[row % len(kinds)] for row in range(count)]


def surveyed(root: Path) -> Written:
    """The config written for a folder, loaded and read by the program itself."""
    output = root.parent / "written.yaml"
    return write_survey(survey(root), "toy", output)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder


def usual(root: Path, train: str = "train.csv", sample: str = "sample_submission.csv", **options: Any) -> None:
    """train/ and test/ folders of .jpg, ids without ending, three classes, a sample."""
    pictures(root, [f"train/{name}.jpg" for name in NAMES] + [f"test/{name}.jpg" for name in TEST])
    table(root, train, {"id": NAMES, "label": labels()}, **options)
    table(root, sample, {"id": TEST, "label": ["oak"] * 8}, **options)


def complete(written: Written, train: int = 60, test: int = 8) -> bool:
    """Whether the program reads all rows and every picture is there."""
    assert written.problem == ""
    assert written.rows is not None
    counts = written.rows["split"].value_counts()
    return counts["train"] == train and counts.get("test", 0) == test and set(written.missing.values()) == {0}


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("train", ["labels.csv", "train_labels.csv", "trainLabels.csv", "Training_set.csv", "csv/train.csv", "TRAIN.CSV"])
@pytest.mark.parametrize("sample", ["sampleSubmission.csv", "sample_sub.csv", "submission.csv", "SampleSubmission_v2.csv"])
def test_tables_are_known_by_what_they_hold_whatever_their_names(root: Path, train: str, sample: str) -> None:
    usual(root, train, sample)
    written = surveyed(root)
    competition = written.config.competition
    assert complete(written)
    assert (competition.train_table, competition.sample_submission, competition.test_table) == (train, sample, None)
    assert (competition.id, competition.target, competition.image_path) == ("id", "label", "{split}/{id}.jpg")


def test_a_byte_order_mark_is_no_part_of_the_first_column(root: Path) -> None:
    usual(root, encoding="utf-8-sig")
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.id == "id"


def test_semicolons_are_named_in_one_line_and_refused(root: Path) -> None:
    usual(root, sep=";")
    with pytest.raises(UserError, match="semicolons; only commas are read") as caught:
        survey(root)
    assert "\n" not in str(caught.value)


def test_zips_left_beside_their_folders_are_mentioned_and_not_read(root: Path) -> None:
    usual(root)
    for name in ("train.zip", "later.zip"):
        with zipfile.ZipFile(root / name, "w") as archive:
            archive.writestr("train/x.jpg", b"x")
    assert complete(surveyed(root))
    notes = " ".join(survey(root).notes)
    assert "train.zip: left beside" in notes
    assert "later.zip: not unpacked" in notes


def test_a_folder_with_nothing_but_a_zip_says_which_to_unpack(root: Path) -> None:
    with zipfile.ZipFile(root / "all.zip", "w") as archive:
        archive.writestr("train.csv", "id,label")
    with pytest.raises(UserError, match=r"unpack all\.zip first"):
        survey(root)


def test_a_test_table_whose_ids_differ_gives_way_to_the_sample(root: Path) -> None:
    usual(root)
    table(root, "test.csv", {"id": [*TEST[:6], "other1", "other2"]})
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.test_table is None


def test_further_tables_that_lead_to_pictures_do_not_replace_the_train_table(root: Path) -> None:
    usual(root)
    table(root, "boxes.csv", {"id": NAMES, "x": range(60), "y": range(60)})
    table(root, "label_names.csv", {"label": KINDS, "name": ["Oak", "Elm", "Ash"]})
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.train_table == "train.csv"


# ---------------------------------------------------------------- pictures


@pytest.mark.parametrize(
    ("train", "test", "cell", "expected"),
    [
        ("train/train/{}.jpg", "test/test/{}.jpg", "{}", "{split}/{split}/{id}.jpg"),
        ("jpeg/train/{}.jpg", "jpeg/test/{}.jpg", "{}", "jpeg/{split}/{id}.jpg"),
        ("images/{}.png", "images/{}.png", "{}.png", "images/{id}"),
        ("train/{}.jpg", "test/{}.png", "{}", "{split}/{id}.*"),
        ("data/train_images/{}.JPG", "data/test_images/{}.JPG", "{}.JPG", "data/{split}_images/{id}"),
        ("pics/img_{}.jpg", "pics/img_{}.jpg", "{}", "pics/img_{id}.jpg"),
        ("{}.jpg", "{}.jpg", "{}", "{id}.jpg"),
        ("train/{}.jpg", "test/{}.jpg", "folder/{}.jpg", None),
    ],
)
def test_pictures_are_found_wherever_they_lie(root: Path, train: str, test: str, cell: str, expected: str | None) -> None:
    pictures(root, [train.format(name) for name in NAMES] + [test.format(name) for name in TEST])
    table(root, "train.csv", {"id": [cell.format(name) for name in NAMES], "label": labels()})
    table(root, "sample_submission.csv", {"id": [cell.format(name) for name in TEST], "label": ["oak"] * 8})
    if expected is None:  # a folder that is not there: said in one line
        with pytest.raises(UserError, match="no table leads to the pictures"):
            survey(root)
        return
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.image_path == expected


def test_folders_of_an_ids_first_characters_are_written_as_characters(root: Path) -> None:
    ids = [f"{number * 7919 % 4096:03x}z" for number in range(68)]
    pictures(root, [f"{'train' if row < 60 else 'test'}/{name[0]}/{name[1]}/{name}.png" for row, name in enumerate(ids)])
    table(root, "train.csv", {"image_id": ids[:60], "label": labels()})
    table(root, "sample_submission.csv", {"image_id": ids[60:], "label": ["oak"] * 8})
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.image_path == "{split}/{image_id[0]}/{image_id[1]}/{image_id}.png"


def test_a_column_with_the_files_path_is_no_target_and_may_lead_to_the_picture(root: Path) -> None:
    pictures(root, [f"all/{name}.jpg" for name in NAMES + TEST])
    for name, rows in (("train.csv", NAMES), ("test.csv", TEST)):
        columns: dict[str, Sequence[object]] = {"id": [f"row{n}{name[1]}" for n in range(len(rows))], "file_path": [f"all/{row}.jpg" for row in rows]}
        table(root, name, columns | ({"kind": labels()} if name == "train.csv" else {}))
    table(root, "sample_submission.csv", {"id": [f"row{n}e" for n in range(8)], "kind": ["oak"] * 8})
    written = surveyed(root)
    assert complete(written)
    competition = written.config.competition
    assert (competition.id, competition.image_path, competition.target) == ("id", "{file_path}", "kind")


def test_ids_with_an_ending_in_the_sample_alone_take_the_test_files_as_the_table(root: Path) -> None:
    pictures(root, [f"train/{name}.jpg" for name in NAMES] + [f"test/{name}.jpg" for name in TEST])
    table(root, "train.csv", {"id": NAMES, "label": labels()})
    table(root, "sample_submission.csv", {"id": [f"{name}.jpg" for name in TEST], "label": ["oak"] * 8})
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.test_table == "test/{id}"


def test_a_hidden_test_set_without_its_pictures_keeps_the_train_pictures_place(root: Path) -> None:
    pictures(root, [f"train_images/{name}.jpg" for name in NAMES])
    table(root, "train.csv", {"id": NAMES, "label": labels()})
    table(root, "sample_submission.csv", {"id": TEST[:3], "label": ["oak"] * 3})
    written = surveyed(root)
    assert written.config.competition.image_path == "{split}_images/{id}.jpg"
    assert written.missing == {"train": 0, "test": 3}


def test_masks_and_thumbnails_with_the_same_names_are_not_the_pictures(root: Path) -> None:
    usual(root)
    pictures(root, [f"train_masks/{name}.jpg" for name in NAMES] + [f"train/thumbs/{name}.jpg" for name in NAMES])
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.image_path == "{split}/{id}.jpg"


def test_a_few_missing_train_pictures_are_skipped_and_said(root: Path) -> None:
    usual(root)
    (root / "train" / f"{NAMES[4]}.jpg").unlink()
    written = surveyed(root)
    assert written.missing == {"train": 1, "test": 0}
    assert written.config.images.corrupt == "skip"


# ---------------------------------------------------------------- labels in names


def test_a_folder_per_class_and_a_test_folder_without_a_sample_make_a_competition(root: Path) -> None:
    pictures(root, [f"train/{kind} tree/{name}.png" for name, kind in zip(NAMES, labels(), strict=True)] + [f"test/{name}.png" for name in TEST])
    written = surveyed(root)
    competition = written.config.competition
    assert complete(written)
    assert (competition.train_table, competition.test_table, competition.sample_submission) == ("train/{label}/{file}", "test/{file}", None)
    assert set(written.rows["target"]) == {"oak tree", "elm tree", "ash tree", ""} if written.rows is not None else False


def test_names_that_repeat_between_class_folders_make_the_path_the_id(root: Path) -> None:
    pictures(root, [f"train/{kind}/{number}.png" for kind in KINDS for number in range(20)] + [f"test/{number}.png" for number in range(8)])
    table(root, "sample_submission.csv", {"id": range(8), "label": ["oak"] * 8})
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.image_path == "test/{id}.png"
    assert written.rows is not None
    assert written.rows["id"].iloc[0] == "train/ash/0.png"


def test_a_validation_folder_with_classes_is_offered_as_further_rows(root: Path) -> None:
    pictures(root, [f"{split}/{kind}/{split}{number}.png" for split in ("train", "valid") for kind in KINDS for number in range(20)])
    pictures(root, [f"test/t{number}.png" for number in range(8)])
    assert complete(surveyed(root))
    assert any("valid/ has a folder per class, too" in note for note in survey(root).notes)


@pytest.mark.parametrize("leaf", ["{kind}.{number}.jpg", "{kind}_{number}.jpg", "{number}_{kind}.jpg", "{kind} ({number}).jpg", "{kind}-{number}.jpg"])
def test_a_label_in_the_files_name_is_found(root: Path, leaf: str) -> None:
    pictures(root, ["train/" + leaf.format(kind=kind, number=number) for kind in KINDS for number in range(20)])
    pictures(root, [f"test/{number}.jpg" for number in range(8)])
    written = surveyed(root)
    assert complete(written)
    assert set(survey(root).roles.train["label"]) == set(KINDS)


def test_no_test_rows_at_all_is_said_and_a_config_is_written_all_the_same(root: Path) -> None:
    pictures(root, [f"images/{name}.jpg" for name in NAMES])
    table(root, "train.csv", {"id": NAMES, "label": labels()})
    written = surveyed(root)
    assert written.config.competition.test_table is None
    assert "nothing to predict" in " ".join(survey(root).notes)
    assert written.problem == ""
    assert "scripts/run_folds.py" in summary(survey(root), written, Path("toy.yaml"))[-1]


def test_no_label_anywhere_is_one_line_that_says_what_to_write(root: Path) -> None:
    pictures(root, [f"images/{name}.jpg" for name in NAMES])
    with pytest.raises(UserError, match=r"write a train\.csv") as caught:
        survey(root)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------- targets, tasks, forms


def goal_of(root: Path, cells: Sequence[object], sample: Sequence[object] | None, column: str = "label") -> Any:
    pictures(root, [f"train/{name}.jpg" for name in NAMES[: len(cells)]] + [f"test/{name}.jpg" for name in TEST])
    table(root, "train.csv", {"id": NAMES[: len(cells)], column: cells})
    if sample is not None:
        table(root, "sample_submission.csv", {"id": TEST, column: sample})
    written = surveyed(root)
    assert complete(written)
    return written.config


@pytest.mark.parametrize(
    ("column", "cells", "sample", "task", "metric", "form"),
    [
        ("label", labels(), ["oak"] * 8, "multiclass", "accuracy", "label"),
        ("label", labels(kinds=range(5)), [0] * 8, "multiclass", "accuracy", "label"),
        ("severity", labels(kinds=range(5)), [0] * 8, "ordinal", "quadratic_kappa", "label"),
        ("has_cactus", labels(kinds=[0, 1]), [0.5] * 8, "binary", "roc_auc", "score"),
        ("label", labels(kinds=[0, 1]), [0] * 8, "binary", "roc_auc", "score"),
        ("state", labels(kinds=["healthy", "ailing"]), ["healthy"] * 8, "binary", "accuracy", "label"),
        ("weight", [1 + row * 3 % 53 for row in range(60)], [20.5] * 8, "regression", "rmse", "score"),
        ("pm25", [row * 1.37 % 11 for row in range(60)], [0] * 8, "regression", "rmse", "score"),
        ("class_id", [row % 40 for row in range(60)], [0] * 8, "multiclass", "accuracy", "label"),
        ("tags", labels(kinds=["haze", "haze water", "water road", "road"]), ["haze"] * 8, "multilabel", "samples_f1", "label"),
        ("labels", labels(kinds=["a,b", "b,c", "a,c", "c"]), ["a,b"] * 8, "multilabel", "samples_f1", "label"),
        ("hotel", labels(kinds=range(101, 121)), ["101 102 103 104 105"] * 8, "multiclass", "map_at_5", "top_k"),
        ("whale", labels(kinds=["w_1", "w_2", "new", "w_4"]), ["new w_1 w_2"] * 8, "multiclass", "map_at_3", "top_k"),
    ],
)
def test_the_task_follows_from_the_cells_the_column_and_the_sample(
    root: Path, column: str, cells: list[object], sample: list[object], task: str, metric: str, form: str
) -> None:
    config = goal_of(root, cells, sample, column)
    assert (config.competition.target, config.competition.task) == (column, task)
    assert (config.competition.metric, config.submission.format) == (metric, form)


def test_the_healthy_class_is_not_the_positive_one(root: Path) -> None:
    assert goal_of(root, labels(kinds=["Healthy", "ailing"]), [0.5] * 8).competition.positive == "ailing"


def test_other_metrics_and_the_other_reading_of_grades_stand_in_the_comments(root: Path) -> None:
    goal_of(root, labels(kinds=range(5)), [0] * 8, "grade")
    text = (root.parent / "written.yaml").read_text()
    assert "multiclass if their order means nothing" in text
    assert "log_loss" in text


def test_a_class_column_per_sample_column_makes_probabilities(root: Path) -> None:
    usual(root)
    table(root, "sample_submission.csv", {"id": TEST, **{kind: [1 / 3] * 8 for kind in ("elm", "oak", "ash")}})
    config = surveyed(root).config
    assert (config.competition.target, config.competition.metric, config.submission.format) == ("label", "log_loss", "probabilities")


@pytest.mark.parametrize(("second", "task"), [(lambda row: int(row % 2 == 1), "multiclass"), (lambda row: int(row % 3 == 0), "multilabel")])
def test_columns_of_zeros_and_ones_are_one_class_or_several_labels_as_their_sums_say(root: Path, second: Any, task: str) -> None:
    pictures(root, [f"train/{name}.jpg" for name in NAMES] + [f"test/{name}.jpg" for name in TEST])
    table(root, "train.csv", {"id": NAMES, "rust": [int(row % 2 == 0) for row in range(60)], "scab": [second(row) for row in range(60)]})
    table(root, "sample_submission.csv", {"id": TEST, "rust": [0.5] * 8, "scab": [0.5] * 8})
    config = surveyed(root).config
    assert (config.competition.target, config.competition.task, config.submission.format) == (("rust", "scab"), task, "probabilities")


def test_metadata_times_paths_and_folds_are_no_labels_without_a_sample(root: Path) -> None:
    pictures(root, [f"train/{name}.jpg" for name in NAMES] + [f"test/{name}.jpg" for name in TEST])
    about = {"age": [row % 7 for row in range(60)], "source_url": [f"http://x/{row % 5}.jpg" for row in range(60)], "fold": [row % 5 for row in range(60)]}
    times = [f"2020-01-{1 + row % 9:02d} 10:00:00" for row in range(60)]
    table(root, "train.csv", {"id": NAMES, "taken": times, **about, "kind": labels(), "note": ["none"] * 60})
    table(root, "test.csv", {"id": TEST, "age": [3] * 8})
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.target == "kind"
    assert any("strategy: column, column: fold" in note for note in survey(root).notes)


@pytest.mark.parametrize("column", ["patient_id", "Subject", "shop", "session_id", "plant_no"])
def test_columns_whose_values_repeat_like_patients_are_kept_together(root: Path, column: str) -> None:
    usual(root)
    table(root, "train.csv", {"id": NAMES, column: [f"p{row // 3}" for row in range(60)], "label": labels()})
    config = surveyed(root).config
    assert config.folds.group == (column,)


def test_of_several_group_columns_the_patient_comes_first_and_the_others_are_mentioned(root: Path) -> None:
    usual(root)
    groups = {
        "session": [f"s{row // 2}" for row in range(60)],
        "patient": [f"p{row // 4}" for row in range(60)],
        "hospital": [f"h{row % 3}" for row in range(60)],
    }
    table(root, "train.csv", {"id": NAMES, **groups, "label": labels()})
    assert surveyed(root).config.folds.group == ("patient",)
    notes = " ".join(survey(root).notes)
    assert '"session" repeats, too' in notes
    assert '"hospital" has 3 values, too few' in notes


def test_a_group_column_that_is_another_name_of_the_class_is_left_alone(root: Path) -> None:
    usual(root)
    kinds = [f"k{row % 12}" for row in range(60)]
    table(root, "train.csv", {"id": NAMES, "specimen": [kind.upper() for kind in kinds], "label": kinds})
    assert surveyed(root).config.folds.group == ()


@pytest.mark.parametrize(
    ("cells", "separator"),
    [
        (["Shepherds Purse", "Sugar beet", "Maize", "Fat Hen", "Common wheat", "Common Chickweed"], None),
        (["golden retriever", "flat-coated retriever", "beagle", "pug"], None),
        (["scab", "rust", "scab rust", "healthy"], " "),
        (["clear primary", "clear primary water", "haze primary", "haze water"], " "),
        (["1|2", "2|3", "1", "3"], "|"),
    ],
)
def test_spaces_in_a_classes_name_are_no_separator(cells: list[str], separator: str | None) -> None:
    assert find_separator(pd.Series(cells)) == separator


# ---------------------------------------------------------------- pictures that are no files


def test_colour_pixel_columns_are_a_picture_of_three_channels(root: Path) -> None:
    random = np.random.default_rng(0)
    for name, rows in (("train.csv", 40), ("test.csv", 6)):
        pixels = {f"p{k}": random.integers(0, 256, rows) for k in range(7 * 7 * 3)}
        table(root, name, ({"label": labels(rows)} if name == "train.csv" else {}) | pixels)
    written = surveyed(root)
    competition = written.config.competition
    assert (competition.id, competition.pixel_columns, competition.pixel_shape) == (None, "p", (7, 7, 3))
    assert complete(written, 40, 6)


def test_numbers_beside_each_id_are_no_pixels_where_pictures_are_there(root: Path) -> None:
    usual(root)
    table(root, "train.csv", {"id": NAMES, "label": labels(), **{f"margin{k}": np.linspace(0, 0.1, 60) for k in range(64)}})
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.pixel_columns is None


def test_idx_files_are_read_with_the_labels_beside_them(root: Path) -> None:
    for prefix, count in (("train", 40), ("t10k", 6)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 9, 9), dtype=np.uint8)
        (root / f"{prefix}-images-idx3-ubyte.gz").write_bytes(gzip.compress(struct.pack(">HBBIII", 0, 8, 3, count, 9, 9) + pixels.tobytes()))
        (root / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(struct.pack(">HBBI", 0, 8, 1, count) + bytes(row % 3 for row in range(count))))
    written = surveyed(root)
    competition = written.config.competition
    assert (competition.train_table, competition.test_table) == ("train-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte.gz")
    assert written.rows is not None
    assert written.rows["split"].value_counts().to_dict() == {"train": 40, "test": 6}


# ---------------------------------------------------------------- recipe, file, script


def test_small_grey_characters_get_random_weights_and_no_flip(root: Path) -> None:
    pictures(root, [f"train/{name}.png" for name in NAMES] + [f"test/{name}.png" for name in TEST], (28, 28), "L")
    table(root, "train.csv", {"id": NAMES, "label": labels(kinds=range(10))})
    table(root, "sample_submission.csv", {"id": TEST, "label": [0] * 8})
    config = surveyed(root).config
    assert config.model.weights is None
    assert "HorizontalFlip" not in [component.name for component in config.augment.train]
    assert config.predict.tta == "none"


@pytest.mark.parametrize(("size", "fit"), [((400, 300), "crop"), ((900, 300), "pad")])
def test_large_pictures_get_a_pretrained_network_of_their_shape(root: Path, size: tuple[int, int], fit: str) -> None:
    pictures(root, [f"train/{name}.jpg" for name in NAMES] + [f"test/{name}.jpg" for name in TEST], size)
    table(root, "train.csv", {"id": NAMES, "label": labels()})
    table(root, "sample_submission.csv", {"id": TEST, "label": ["oak"] * 8})
    config = surveyed(root).config
    assert config.model.weights == "hub"
    assert config.images.fit == fit
    assert config.images.shape == ((224, 288) if fit == "crop" else (224, 224))


@pytest.mark.parametrize(
    "text", ["no", "1e-3", "007", "a: b", "{id}", "x # y", "null", "~", "ä", "a\nb", "a\x85b", "a\u2028b", "\x7f\x1b", "😀\u200b", 'quo"te', "", " ", "[a]"]
)
def test_any_text_is_written_so_that_it_is_read_back(text: str) -> None:
    from pipeline.config_files import parse_yaml

    assert parse_yaml(f"key: {scalar(text)} # why", "test") == {"key": text}


def test_the_script_writes_prints_the_next_command_and_does_not_overwrite(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(__file__).parents[3] / "scripts" / "new_competition.py"
    spec = importlib.util.spec_from_file_location("script", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    usual(root)
    output = tmp_path / "own.yaml"
    words = [str(root), "--name", "trees", "--output", str(output)]
    assert script.main(words) == 0
    assert capsys.readouterr().out.rstrip().endswith(f"make submit CONFIG={output}")
    config = load_config(output)
    assert (config.competition.name, config.experiment) == ("trees", "own")
    before = output.read_text()
    assert script.main(words) == 2
    assert "--force" in capsys.readouterr().err
    assert output.read_text() == before
    assert script.main([*words, "--force"]) == 0
    assert script.main([str(root / "nowhere")]) == 2
    assert [file.name for file in tmp_path.glob("*.yaml")] == ["own.yaml"]


def test_the_summary_counts_pictures_and_names_the_metric_a_guess(root: Path) -> None:
    usual(root)
    lines = "\n".join(summary(survey(root), surveyed(root), Path("configs/toy.yaml")))
    assert "pictures of 60 of 60 rows are there" in lines
    assert "pictures of 8 of 8 rows are there" in lines
    assert "accuracy, a guess" in lines


# ---------------------------------------------------------------- layouts of further real competitions


def test_a_list_of_drivers_with_class_folders_is_read_by_its_table(root: Path) -> None:
    kinds = [f"c{row % 3}" for row in range(60)]
    files = [f"img_{100 + row}.jpg" for row in range(68)]
    pictures(root, [f"imgs/train/{kind}/{file}" for kind, file in zip(kinds, files, strict=False)] + [f"imgs/test/{file}" for file in files[60:]])
    table(root, "driver_imgs_list.csv", {"subject": [f"p{row // 5:03d}" for row in range(60)], "classname": kinds, "img": files[:60]})
    table(root, "sample_submission.csv", {"img": files[60:], "c0": [0.1] * 8, "c1": [0.1] * 8, "c2": [0.1] * 8})
    written = surveyed(root)
    competition = written.config.competition
    assert complete(written)
    assert (competition.id, competition.target, competition.image_path) == ("img", "classname", "imgs/{split}/**/{img}")
    assert written.config.folds.group == ("subject",)


def test_a_sample_whose_column_is_called_predictions_is_answered_by_the_column_with_its_words(root: Path) -> None:
    pictures(root, [f"{split}_images/{name}.jpg" for split, names in (("train", NAMES), ("test", TEST)) for name in names])
    whales = [f"w{row % 12:x}a" for row in range(60)]
    table(root, "train.csv", {"image": [f"{name}.jpg" for name in NAMES], "species": labels(), "individual_id": whales})
    table(root, "sample_submission.csv", {"image": [f"{name}.jpg" for name in TEST], "predictions": ["w1a w2a w3a w4a w5a"] * 8})
    config = surveyed(root).config
    assert (config.competition.target, config.submission.format, config.submission.k) == ("individual_id", "top_k", 5)


def test_an_id_may_name_the_folder_of_its_picture(root: Path) -> None:
    pictures(root, [f"train/{name}/view.png" for name in NAMES] + [f"test/{name}/view.png" for name in TEST])
    table(root, "train.csv", {"id": NAMES, "label": labels()})
    table(root, "sample_submission.csv", {"id": TEST, "label": ["oak"] * 8})
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.image_path == "{split}/{id}/view.png"


def test_train_and_test_folders_in_capitals_with_the_same_names_stay_apart(root: Path) -> None:
    pictures(root, [f"Train/{number}.jpg" for number in range(60)] + [f"Test/{number}.jpg" for number in range(8)])
    table(root, "train.csv", {"id": range(60), "label": labels()})
    table(root, "test.csv", {"id": range(8)})
    table(root, "sample_submission.csv", {"id": range(8), "label": ["oak"] * 8})
    written = surveyed(root)
    assert written.rows is not None
    paths = written.rows.set_index("split")["path"]
    assert paths["train"].str.startswith("Train/").all()
    assert paths["test"].str.startswith("Test/").all()


def test_an_unnamed_column_of_row_numbers_is_neither_id_nor_target(root: Path) -> None:
    usual(root)
    table(root, "train.csv", {"": range(60), "id": NAMES, "label": labels()})
    pictures(root, [f"other/{number}.jpg" for number in range(60)])
    written = surveyed(root)
    assert complete(written)
    assert (written.config.competition.id, written.config.competition.target) == ("id", "label")


def test_classes_in_folders_within_folders_are_all_found(root: Path) -> None:
    places = [("tree", "oak"), ("tree", "elm"), ("herb", "mint"), ("herb", "dill")]
    pictures(root, [f"train/{kind}/{name}/{kind}{name}{number}.png" for kind, name in places for number in range(15)])
    pictures(root, [f"test/{number}.png" for number in range(8)])
    written = surveyed(root)
    assert complete(written)
    assert set(survey(root).roles.train["label"]) == {"oak", "elm", "mint", "dill"}


def test_class_folders_beside_the_test_folder_are_refused_in_one_line(root: Path) -> None:
    pictures(root, [f"{kind}/{kind}{number}.png" for kind in KINDS for number in range(10)] + [f"test/{number}.png" for number in range(8)])
    with pytest.raises(UserError, match='"test" lies beside the folders of the classes'):
        survey(root)


def test_files_that_are_no_pictures_in_class_folders_are_left_out(root: Path) -> None:
    pictures(root, [f"train/{kind}/{kind}{number}.png" for kind in KINDS for number in range(20)] + [f"test/{number}.png" for number in range(8)])
    (root / "train" / "oak" / "notes.txt").write_text("x")
    assert complete(surveyed(root))


def test_two_rows_of_one_picture_are_named_before_anything_runs(root: Path) -> None:
    usual(root)
    table(root, "train.csv", {"id": [*NAMES, NAMES[0]], "label": labels(61)})
    written = surveyed(root)
    assert "the id is there twice" in written.problem


def test_many_labels_for_patients_in_columns_are_multilabel_with_their_group(root: Path) -> None:
    pictures(root, [f"{split}/{name}.jpg" for split, names in (("train", NAMES), ("test", TEST)) for name in names])
    flags = {"ETT - Normal": [row % 2 for row in range(60)], "NGT": [row % 3 // 2 for row in range(60)], "CVC": [row % 5 // 3 for row in range(60)]}
    table(root, "train.csv", {"StudyInstanceUID": NAMES, **flags, "PatientID": [f"q{row // 2}" for row in range(60)]})
    table(root, "sample_submission.csv", {"StudyInstanceUID": TEST, **{name: [0] * 8 for name in flags}})
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.task == "multilabel"
    assert written.config.competition.metric == "roc_auc"
    assert written.config.folds.group == ("PatientID",)


def test_dicom_files_are_said_to_be_no_pictures(root: Path) -> None:
    (root / "train").mkdir()
    (root / "train" / "1.dcm").write_bytes(b"DICM")
    with pytest.raises(UserError, match=r"most of its files end in \.dcm"):
        survey(root)


def test_numbers_without_the_zeros_of_the_files_names_are_said_to_lack_them(root: Path) -> None:
    pictures(root, [f"train/{number:04d}.png" for number in range(1, 61)])
    table(root, "train.csv", {"id": range(1, 61), "label": labels()})
    with pytest.raises(UserError, match='says "1" where the file is called 0001'):
        survey(root)


# ---------------------------------------------------------------- what a review found


def test_a_hash_in_a_files_name_is_part_of_it(root: Path) -> None:
    names = [f"#{number:03d}.png" if number < 3 else f"{number:03d}.png" for number in range(30)]
    pictures(root, [f"images/{name}" for name in names])
    table(root, "train.csv", {"image": names, "label": labels(30)})
    written = surveyed(root)
    assert written.missing == {"train": 0, "test": 0}
    assert written.config.images.corrupt == "fail"
    assert len(written.seen.shapes) == 30


@pytest.mark.parametrize("classes", [10, 26])
def test_pictures_of_idx_files_get_the_recipe_of_small_characters(root: Path, classes: int) -> None:
    for prefix, count in (("train", 60), ("t10k", 6)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (root / f"{prefix}-images-idx3-ubyte").write_bytes(struct.pack(">HBBIII", 0, 8, 3, count, 28, 28) + pixels.tobytes())
        (root / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, count) + bytes(row % classes for row in range(count)))
    written = surveyed(root)
    config = written.config
    assert (written.seen.shapes, written.seen.grey) == (((28, 28),), True)
    assert (config.model.weights, config.images.shape, config.predict.tta) == (None, (32, 32), "none")
    assert "HorizontalFlip" not in [component.name for component in config.augment.train]


@pytest.mark.parametrize("mark", ["\n", "\r", "\x85", "\u2028"])
def test_a_line_break_in_a_name_writes_no_line_of_its_own(tmp_path: Path, mark: str) -> None:
    root = tmp_path / f"folder{mark}seed: 7"
    root.mkdir()
    usual(root)
    table(root, "train.csv", {"id": NAMES, f"patient{mark}seed: 8\x1b[2J": [f"p{row % 3}" for row in range(60)], "label": labels()}, quoting=1)
    (root / f"x{mark}seed: 9.tsv").write_text("x")
    written = surveyed(root)
    text = (tmp_path / "written.yaml").read_bytes().decode()
    assert "seed: 9.tsv" in text
    assert not any(line.startswith("seed") for line in text.splitlines())
    printed = summary(survey(root), written, Path("toy.yaml"))
    assert all(line.isprintable() for line in printed)
    assert any("seed: 8" in line for line in printed)


def test_ids_with_an_ending_in_the_train_table_alone_find_both_by_any_ending(root: Path) -> None:
    pictures(root, [f"images/{number:03d}.png" for number in range(38)])
    table(root, "train.csv", {"image": [f"{number:03d}.png" for number in range(30)], "label": labels(30)})
    table(root, "sample_submission.csv", {"id": [f"{number:03d}" for number in range(30, 38)], "label": ["oak"] * 8})
    written = surveyed(root)
    assert complete(written, 30, 8)
    assert written.config.competition.image_path == "images/{image}.*"
    assert summary(survey(root), written, Path("toy.yaml"))[-1] == "make submit CONFIG=toy.yaml"


def test_any_ending_is_not_taken_where_it_would_lead_to_two_files(root: Path) -> None:
    pictures(root, [f"images/{number:03d}.{ending}" for ending in ("png", "gif") for number in range(40)])
    table(root, "train.csv", {"image": [f"{number:03d}.png" for number in range(30)], "label": labels(30)})
    table(root, "sample_submission.csv", {"id": [f"{number:03d}" for number in range(30, 38)], "label": ["oak"] * 8})
    lines = summary(survey(root), surveyed(root), Path("toy.yaml"))
    assert any(line.startswith("mend first  train pictures are images/{image}") for line in lines)
    assert "make submit" not in lines[-1]


def test_where_no_path_leads_to_both_splits_the_next_command_is_the_survey_again(root: Path) -> None:
    pictures(root, [f"a/{number:03d}.png" for number in range(30)] + [f"b/{number:03d}.png" for number in range(30, 40)])
    table(root, "train.csv", {"image": [f"{number:03d}" for number in range(30)], "label": labels(30)})
    table(root, "sample_submission.csv", {"image": [f"{number:03d}" for number in range(30, 38)], "label": ["oak"] * 8})
    pictures(root, ["c/030.png", "a/b/031.png", "a/031.png"])
    written = surveyed(root)
    lines = summary(survey(root), written, Path("toy.yaml"))
    assert any(line.startswith("mend first  train pictures are a/{image}.png") for line in lines)
    assert "make submit" not in lines[-1]


def test_train_rows_without_pictures_are_mended_first(root: Path) -> None:
    usual(root)
    for name in NAMES[:20]:
        (root / "train" / f"{name}.jpg").unlink()
    lines = summary(survey(root), surveyed(root), Path("toy.yaml"))
    assert any(line.startswith("mend first  20 train rows have no picture") for line in lines)
    assert lines[-1].startswith(".venv/bin/python scripts/new_competition.py")
    assert lines[-1].endswith("--name toy --output toy.yaml --force")


@pytest.mark.parametrize("num_test", [1, 3])
def test_a_hidden_test_set_ends_in_a_command_that_runs(root: Path, num_test: int) -> None:
    pictures(root, [f"train/{name}.jpg" for name in NAMES])
    table(root, "train.csv", {"id": NAMES, "label": labels()})
    table(root, "sample_submission.csv", {"id": TEST[:num_test], "label": ["oak"] * num_test})
    written = surveyed(root)
    lines = summary(survey(root), written, Path("toy.yaml"))
    assert lines[-1] == 'make submit CONFIG=toy.yaml ARGS="images.corrupt=skip"'
    assert any(f"{num_test} test rows have no picture here" in line for line in lines)
    assert written.config.images.corrupt == "fail"


@pytest.mark.parametrize("order", [("dog", "bird", "cat"), ("cat", "dog", "bird")])
@pytest.mark.parametrize("in_folders", [False, True])
def test_a_class_that_the_sample_alone_has_is_counted(root: Path, order: Sequence[str], in_folders: bool) -> None:
    kinds = labels(kinds=["cat", "dog"])
    if in_folders:
        pictures(root, [f"train/{kind}/{name}.jpg" for name, kind in zip(NAMES, kinds, strict=True)] + [f"test/{name}.jpg" for name in TEST])
    else:
        pictures(root, [f"train/{name}.jpg" for name in NAMES] + [f"test/{name}.jpg" for name in TEST])
        table(root, "train.csv", {"id": NAMES, "flag": labels(kinds=[0, 1]), "animal": kinds})
    table(root, "sample_submission.csv", {"id": TEST, **{kind: [0.3] * 8 for kind in order}})
    written = surveyed(root)
    assert complete(written)
    competition = written.config.competition
    assert (competition.task, competition.classes, written.config.submission.format) == ("multiclass", tuple(order), "probabilities")
    assert written.rows is not None
    train = written.rows.loc[written.rows["split"] == "train", "target"]
    assert define_target(competition, train, order).classes == tuple(order)
    assert "no train row has bird" in (root.parent / "written.yaml").read_text()


@pytest.mark.parametrize("cell", ["{}", "{}.jpg", "hold/{}.jpg"])
def test_a_test_table_with_another_id_column_gives_its_files(root: Path, cell: str) -> None:
    pictures(root, [f"all/{name}.jpg" for name in NAMES] + [f"hold/{name}.jpg" for name in TEST])
    table(root, "train.csv", {"image": NAMES, "label": labels()})
    table(root, "test.csv", {"file": [cell.format(name) for name in TEST]})
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.test_table == ("hold/{image}.jpg" if cell == "{}" else "hold/{image}")
    assert "test.csv lists; it has no column image" in (root.parent / "written.yaml").read_text()


def test_a_test_table_with_another_id_column_whose_files_no_pattern_fits_is_mended_first(root: Path) -> None:
    pictures(root, [f"all/{name}.jpg" for name in NAMES + TEST])
    table(root, "train.csv", {"image": NAMES, "label": labels()})
    table(root, "test.csv", {"file": TEST})
    lines = summary(survey(root), surveyed(root), Path("toy.yaml"))
    said = next(line for line in lines if line.startswith("mend first"))
    assert 'test.csv has no column "image" as train.csv has; its columns are file; rename "file" there to "image"' in said
    assert "put the test pictures" not in "".join(lines)
    assert "new_competition.py" in lines[-1]


def test_a_sample_that_numbers_the_rows_of_the_test_table_is_asked_of_the_train_table_too(root: Path) -> None:
    pictures(root, [f"all/{name}.jpg" for name in NAMES + TEST])
    table(root, "train.csv", {"image": NAMES, "label": labels()})
    table(root, "test.csv", {"row": range(8), "file": TEST})
    table(root, "sample_submission.csv", {"row": range(8), "label": ["oak"] * 8})
    lines = summary(survey(root), surveyed(root), Path("toy.yaml"))
    assert any('rename "file" there to "image", and give train.csv a column "row"' in line for line in lines)
    assert "make submit" not in lines[-1]


def test_a_test_table_with_another_id_column_gives_way_to_a_sample_that_fits_and_is_named(root: Path) -> None:
    pictures(root, [f"all/{name}.jpg" for name in NAMES + TEST])
    table(root, "train.csv", {"image": NAMES, "label": labels()})
    table(root, "test.csv", {"file": TEST})
    table(root, "sample_submission.csv", {"image": TEST, "label": ["oak"] * 8})
    assert complete(surveyed(root))
    assert any('test.csv has no column "image"' in note and "sample's ids serve" in note for note in survey(root).notes)


@pytest.mark.parametrize("ending", ["", ".png"])
def test_backslashes_in_paths_are_named_and_labels_are_no_ids_without_zeros(root: Path, ending: str) -> None:
    pictures(root, [f"train/{number:03d}.png" for number in range(30)])
    table(root, "train.csv", {"image": [f"train\\{number:03d}{ending}" for number in range(30)], "label": labels(30, ["1", "2", "3"])})
    with pytest.raises(UserError, match=r"backslashes .*write image with /") as caught:
        survey(root)
    assert "zeros" not in str(caught.value)


def test_a_counter_in_a_name_takes_digits_alone_so_that_labels_keep_their_marks(root: Path) -> None:
    kinds = ["golden_retriever", "pug", "flat_coated_retriever"]
    pictures(root, [f"train/{number}_{kind}.jpg" for kind in kinds for number in range(20)])
    pictures(root, [f"test/{number}.jpg" for number in range(8)])
    written = surveyed(root)
    assert complete(written)
    assert written.config.competition.train_table == "train/{number:d}_{label}.jpg"
    assert set(survey(root).roles.train["label"]) == set(kinds)


def test_a_label_that_no_pattern_takes_whole_is_mended_first(root: Path) -> None:
    pictures(root, [f"train/{kind}{number}.jpg" for kind in KINDS for number in range(20)] + [f"test/{number}.jpg" for number in range(8)])
    lines = summary(survey(root), surveyed(root), Path("toy.yaml"))
    assert any(line.startswith("mend first") and "whole" in line for line in lines)


def test_files_beside_those_with_a_label_in_their_names_are_said_to_be_left_out(root: Path) -> None:
    pictures(root, [f"train/{kind}_{number}.jpg" for kind in KINDS for number in range(20)] + ["train/cover_a.jpg"])
    pictures(root, [f"test/{number}.jpg" for number in range(8)])
    assert complete(surveyed(root))
    assert any("train/cover_a.jpg" in note for note in survey(root).notes)
