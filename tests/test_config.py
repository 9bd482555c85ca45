"""The config: YAML 1.2, bases, overrides, errors that name file, key and remedy, and the files in configs/."""

import math
import typing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.config import FORMAT_TASKS, LOSS_TASKS, METRIC_TASKS, Competition, Component, Config, Ensemble, Images, Loss, Optimizer, Predict, Submission, View
from pipeline.config_files import json_schema, load_config, parse_yaml, write_config
from pipeline.errors import UserError

CONFIGS = Path(__file__).parents[1] / "configs"
EXPERIMENTS = sorted(path for path in CONFIGS.glob("*.yaml") if path.name != "base.yaml")
ENOUGH = """\
competition: {name: toy, root: input/toy, id: id, target: label, image_path: "{id}.png", metric: accuracy}
model: {backbone: test_resnet, weights: null}
"""


def written(folder: Path, text: str, name: str = "own.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---------------------------------------------------------------- YAML 1.2


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("-2.5e+1", -25.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("010", 10),
        ("0o17", 15),
        ("0x1F", 31),
        ("-7", -7),
        ("+7", 7),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("Off", "Off"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("1_000", "1_000"),
        ("12:30:45", "12:30:45"),
        ("2020-01-01", "2020-01-01"),
        ('"007"', "007"),
    ],
)
def test_a_scalar_is_what_yaml_1_2_says(text: str, value: Any) -> None:
    got = parse_yaml(text, "text")
    assert got == value
    assert type(got) is type(value)


def test_not_a_number_is_a_float() -> None:
    assert math.isnan(parse_yaml(".nan", "text"))


@pytest.mark.parametrize("text", ["train: {epochs: 1}\ntrain: {epochs: 2}", "train:\n  epochs: 1\n  epochs: 2", "list: [{a: 1, a: 1}]"])
def test_a_key_given_twice_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(UserError, match=r'own\.yaml:\d+:\d+: .*key "\w+" is given twice'):
        parse_yaml(text, "own.yaml")


@pytest.mark.parametrize("text", ["a: [1", "a: b: c", "\ta: 1", "a: @b", "!!python/object/apply:os.system [id]", "a: *unknown", "{[1]: 2}", "a: \x01"])
def test_what_is_no_yaml_is_an_error_that_names_the_file(text: str) -> None:
    with pytest.raises(UserError, match=r"^own\.yaml"):
        parse_yaml(text, "own.yaml")


def test_a_mapping_that_contains_itself_is_refused(tmp_path: Path) -> None:
    assert "own.yaml" in refusal(written(tmp_path, ENOUGH + "train: &again {epochs: *again}\n"))


# ---------------------------------------------------------------- bases


def test_mappings_of_base_and_file_merge_and_the_file_wins(tmp_path: Path) -> None:
    written(tmp_path, ENOUGH + "train: {epochs: 7, batch_size: 16}\n", "base.yaml")
    config = load_config(written(tmp_path, "_base_: base.yaml\ntrain: {epochs: 3}\n"))
    assert (config.train.epochs, config.train.batch_size) == (3, 16)


def test_lists_replace(tmp_path: Path) -> None:
    written(tmp_path, ENOUGH + "augment: {train: [{name: HorizontalFlip}, {name: VerticalFlip}]}\ntrain: {seeds: [0, 1, 2]}\n", "base.yaml")
    config = load_config(written(tmp_path, "_base_: base.yaml\naugment: {train: [{name: Transpose}]}\ntrain: {seeds: [5]}\n"))
    assert [component.name for component in config.augment.train] == ["Transpose"]
    assert config.train.seeds == (5,)


def test_a_component_whose_name_changes_drops_the_old_arguments(tmp_path: Path) -> None:
    written(tmp_path, ENOUGH + "optimizer: {name: adamw, learning_rate: 7e-3, arguments: {betas: [0.9, 0.99]}}\n", "base.yaml")
    config = load_config(written(tmp_path, "_base_: base.yaml\noptimizer: {name: sgd, weight_decay: 0}\n"))
    assert config.optimizer == Optimizer(name="sgd", weight_decay=0.0)


def test_another_backbone_drops_the_old_ones_arguments_and_weights(tmp_path: Path) -> None:
    path = written(tmp_path, ENOUGH.replace("weights: null", "weights: null, arguments: {drop_rate: 0.2}"))
    assert load_config(path).model.arguments == {"drop_rate": 0.2}
    assert load_config(path, ["model.arguments={}"]).model.arguments == {}
    changed = load_config(path, ["model.backbone=resnet18"]).model
    assert (changed.arguments, changed.weights) == ({}, "hub")


def test_a_component_whose_name_stays_keeps_its_arguments(tmp_path: Path) -> None:
    written(tmp_path, ENOUGH + "optimizer: {name: sgd, learning_rate: 7e-3}\n", "base.yaml")
    config = load_config(written(tmp_path, "_base_: base.yaml\noptimizer: {name: sgd, weight_decay: 0}\n"))
    assert (config.optimizer.learning_rate, config.optimizer.weight_decay) == (7e-3, 0.0)


def test_a_competition_that_is_renamed_keeps_its_columns(tmp_path: Path) -> None:
    written(tmp_path, ENOUGH, "base.yaml")
    config = load_config(written(tmp_path, "_base_: base.yaml\ncompetition: {name: other}\n"))
    assert (config.competition.name, config.competition.target) == ("other", "label")


def test_of_two_bases_the_later_wins_and_a_base_may_have_a_base(tmp_path: Path) -> None:
    written(tmp_path, ENOUGH + "train: {epochs: 4, batch_size: 4}\n", "ground.yaml")
    written(tmp_path, "_base_: ground.yaml\ntrain: {epochs: 5, accumulation: 5}\n", "first.yaml")
    written(tmp_path, "train: {epochs: 6}\n", "second.yaml")
    config = load_config(written(tmp_path, "_base_: [first.yaml, second.yaml]\n"))
    assert (config.train.epochs, config.train.accumulation, config.train.batch_size) == (6, 5, 4)


def test_two_ways_to_one_base_are_no_loop(tmp_path: Path) -> None:
    written(tmp_path, ENOUGH, "ground.yaml")
    written(tmp_path, "_base_: ground.yaml\ntrain: {epochs: 5}\n", "first.yaml")
    written(tmp_path, "_base_: ground.yaml\n", "second.yaml")
    assert load_config(written(tmp_path, "_base_: [first.yaml, second.yaml]\n")).train.epochs == 5


@pytest.mark.parametrize("base", ["own.yaml", "other.yaml"])
def test_bases_in_a_loop_are_refused(tmp_path: Path, base: str) -> None:
    written(tmp_path, "_base_: own.yaml\n", "other.yaml")
    assert "_base_ leads back" in refusal(written(tmp_path, f"_base_: {base}\n" + ENOUGH))


@pytest.mark.parametrize("base", ["", "3", "[3]", "{a: 1}", "[[base.yaml]]", "true"])
def test_a_base_that_is_no_file_name_is_refused(tmp_path: Path, base: str) -> None:
    written(tmp_path, "", "base.yaml")
    message = refusal(written(tmp_path, f"_base_: {base}\n" + ENOUGH))
    assert "own.yaml" in message
    assert "_base_" in message


def test_a_base_that_is_not_there_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    written(tmp_path, ENOUGH, "base.yaml")
    assert 'did you mean "base.yaml"?' in refusal(written(tmp_path, "_base_: bace.yaml\n"))


# ---------------------------------------------------------------- the experiment's name and overrides


def test_an_experiment_is_named_by_its_file(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, ENOUGH, "wide_net.yaml")).experiment == "wide_net"
    assert load_config(written(tmp_path, ENOUGH + "experiment: other\n", "wide_net.yaml")).experiment == "other"
    assert load_config(written(tmp_path, ENOUGH, "wide_net.yaml"), ["experiment=third"]).experiment == "third"


def test_an_override_wins_over_file_and_base_and_is_read_as_yaml(tmp_path: Path) -> None:
    written(tmp_path, ENOUGH + "optimizer: {learning_rate: 1}\n", "base.yaml")
    path = written(tmp_path, "_base_: base.yaml\ntrain: {epochs: 9, ema: 0.5}\n")
    config = load_config(path, ["optimizer.learning_rate=3e-4", "train.ema=null", "train.seeds=[1, 2]", "predict.tta=flips"])
    assert config.optimizer.learning_rate == 3e-4
    assert config.train.ema is None
    assert config.train.epochs == 9
    assert config.train.seeds == (1, 2)
    assert config.predict.tta == "flips"


def test_of_two_overrides_the_later_wins(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, ENOUGH), ["train.epochs=3", "train.epochs=4"]).train.epochs == 4


def test_an_override_may_hold_an_equals_sign(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, ENOUGH), ["competition.image_path='{id}=.png'"]).competition.image_path == "{id}=.png"


@pytest.mark.parametrize("override", ["train.epochs", "=3", "train.=3", "train epochs=3", ".epochs=3"])
def test_an_override_that_is_no_assignment_is_refused(tmp_path: Path, override: str) -> None:
    message = refusal(written(tmp_path, ENOUGH), override)
    assert override in message
    assert "key=value" in message


# ---------------------------------------------------------------- errors


def test_an_unknown_key_names_the_file_the_dotted_key_and_the_nearest_one(tmp_path: Path) -> None:
    path = written(tmp_path, ENOUGH + "train: {epoch: 3}\n")
    assert refusal(path) == f'{path}: train.epoch: unknown key "epoch"; did you mean "epochs"?'


def test_an_unknown_key_deep_down_is_compared_with_its_own_section(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, ENOUGH + "augment: {mixing: {mixupp: 1.0}}\n"))
    assert "augment.mixing.mixupp" in message
    assert 'did you mean "mixup"?' in message


def test_an_unknown_key_like_no_other_lists_the_known_ones(tmp_path: Path) -> None:
    message = refusal(written(tmp_path, ENOUGH + "cache: {zzzz: 1}\n"))
    assert "known: mode, quality" in message


@pytest.mark.parametrize(
    ("override", "key", "quoted"),
    [
        ("train.epochs=0", "train.epochs", "0"),
        ("train.epochs=two", "train.epochs", "'two'"),
        ("train.epochs=2.5", "train.epochs", "2.5"),
        ("images.fit=squeeze", "images.fit", "'squeeze'"),
        ("images.size=-3", "images.size", "-3"),
        ("competition.metric=acuracy", "competition.metric", "'acuracy'"),
        ("predict.tta=flip", "predict.tta", "'flip'"),
        ("predict.tta=[]", "predict.tta", "[]"),
        ("folds.n_splits=1", "folds.n_splits", "1"),
        ("loss.smoothing=1.0", "loss.smoothing", "1.0"),
        ("optimizer.learning_rate=.nan", "optimizer.learning_rate", "nan"),
        ("runtime.device=gpu", "runtime.device", "'gpu'"),
        ("train=5", "train", "5"),
        ("experiment=../up", "experiment", "'../up'"),
        ("competition.id=7", "competition.id", "7"),
        ("train.seeds=[1, 1]", "train", "[1, 1]"),
        ("cache.quality=101", "cache.quality", "101"),
    ],
)
def test_a_wrong_value_is_quoted_with_its_key(tmp_path: Path, override: str, key: str, quoted: str) -> None:
    message = refusal(written(tmp_path, ENOUGH), override)
    assert message.startswith(f"override {override}: {key}: ")
    assert f"but got {quoted}" in message


@pytest.mark.parametrize("override", ["train.channels_last=no", "train.channels_last=off", "train.epochs=true", "train.ema=true"])
def test_a_word_is_no_truth_value_and_a_truth_value_no_number(tmp_path: Path, override: str) -> None:
    key = override.partition("=")[0]
    assert f"{key}: " in refusal(written(tmp_path, ENOUGH), override, "schedule.warmup=0")


@pytest.mark.parametrize("key", ["optimizer.learning_rate", "optimizer.weight_decay", "train.clip_norm", "runtime.checkpoint_minutes", "augment.mixing.mixup"])
def test_an_infinite_setting_is_refused(tmp_path: Path, key: str) -> None:
    assert f"{key}: " in refusal(written(tmp_path, ENOUGH), f"{key}=.inf")


def test_a_long_wrong_value_is_shortened(tmp_path: Path) -> None:
    assert len(refusal(written(tmp_path, ENOUGH + f"train: {{epochs: {'x' * 5000}}}\n"))) < 500


@pytest.mark.parametrize("source", ["base", "own", "override"])
def test_an_error_names_the_source_that_its_key_came_from(tmp_path: Path, source: str) -> None:
    base = written(tmp_path, ENOUGH + ("train: {epochs: 0}\n" if source == "base" else "train: {epochs: 1}\n"), "base.yaml")
    own = written(tmp_path, "_base_: base.yaml\ntrain: {batch_size: 3}\n" + ("images: {size: 0}\n" if source == "own" else ""))
    wrong = {"base": base, "own": own, "override": "override cache.quality=0"}[source]
    overrides = ["train.ema=0.5", "cache.quality=0"] if source == "override" else ["train.ema=0.5", "images.fit=pad"]
    assert refusal(own, *overrides).startswith(f"{wrong}: ")


def test_an_unknown_key_of_a_base_names_the_base(tmp_path: Path) -> None:
    base = written(tmp_path, ENOUGH + "train: {epoch: 3}\n", "base.yaml")
    assert refusal(written(tmp_path, "_base_: base.yaml\ntrain: {epochs: 3}\n")).startswith(f"{base}: train.epoch")


def test_a_missing_key_names_it_and_the_file_of_its_section(tmp_path: Path) -> None:
    path = written(tmp_path, ENOUGH.replace("target: label, ", ""))
    assert refusal(path) == f"{path}: competition.target: this key is missing and has no default"


def test_a_missing_section_is_not_blamed_on_an_override(tmp_path: Path) -> None:
    path = written(tmp_path, ENOUGH.partition("model:")[0])
    assert refusal(path, "train.epochs=3").startswith(f"{path}: model: ")


@pytest.mark.parametrize("text", ["- 1\n", "5\n", "text\n"])
def test_a_config_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    assert "a config is a mapping" in refusal(written(tmp_path, text))


def test_an_empty_config_is_refused_with_its_missing_section(tmp_path: Path) -> None:
    assert "own.yaml: competition" in refusal(written(tmp_path, ""))


def test_a_config_that_is_not_there_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    written(tmp_path, ENOUGH, "digits.yaml")
    assert 'did you mean "digits.yaml"?' in refusal(tmp_path / "digit.yaml")
    assert "no such config" in refusal(tmp_path / "no_folder" / "digit.yaml")


def test_a_folder_or_bytes_in_place_of_a_config_are_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in refusal(tmp_path / "bytes.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "\ufeff" + ENOUGH)).competition.name == "toy"


# ---------------------------------------------------------------- sections that must agree


@pytest.mark.parametrize("tta", ["dihedral", "[identity, rotate_90]", "[transpose]"])
def test_views_that_turn_the_picture_need_a_square_input(tmp_path: Path, tta: str) -> None:
    path = written(tmp_path, ENOUGH)
    assert "must be square, but got [32, 48]" in refusal(path, f"predict.tta={tta}", "images.size=[32, 48]")
    assert load_config(path, [f"predict.tta={tta}", "images.size=[32, 32]"]).images.shape == (32, 32)


def test_views_that_only_flip_take_any_input(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, ENOUGH), ["predict.tta=flips", "images.size=[32, 48]"]).images.shape == (32, 48)


@pytest.mark.parametrize("override", ["schedule.warmup=1", "schedule.warmup=100%", "schedule.warmup=1 epoch", "train.freeze=1"])
def test_warm_up_and_freezing_must_end_before_training_does(tmp_path: Path, override: str) -> None:
    message = refusal(written(tmp_path, ENOUGH), "schedule.warmup=0", "train.epochs=1", override)
    assert f"{override.partition('=')[0]} must be below train.epochs" in message


@pytest.mark.parametrize("duration", [0, 0.5, 2, "300 steps", "1 step", "10%", "2.5 %", "1.5 epochs"])
def test_durations_are_epochs_steps_or_shares(tmp_path: Path, duration: float | str) -> None:
    assert load_config(written(tmp_path, ENOUGH), [f"schedule.warmup={duration}", "train.epochs=9"]).schedule.warmup == duration


@pytest.mark.parametrize("duration", ["-1", "10 percent", "steps", "5 minutes"])
def test_other_durations_are_refused(tmp_path: Path, duration: str) -> None:
    assert "schedule.warmup" in refusal(written(tmp_path, ENOUGH), f"schedule.warmup={duration}")


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("train.checkpoint=best", "train.checkpoint=best"),
        ("train.checkpoint=soup", "train.checkpoint=soup"),
        ("train.patience=3", "train.patience"),
        ("schedule.name=plateau", "schedule.name=plateau"),
        ("teacher={experiment: other, distillation: {labels: out_of_fold}}", "teacher.distillation.labels=out_of_fold"),
    ],
)
def test_what_chooses_on_the_rows_it_is_scored_on_is_named(tmp_path: Path, override: str, reason: str) -> None:
    assert load_config(written(tmp_path, ENOUGH), [override]).optimistic == (reason,)


@pytest.mark.parametrize(
    "override", ["train.checkpoint=average", "teacher={experiment: other, distillation: {}}", "teacher={experiment: other, pseudo_labels: {}}"]
)
def test_what_chooses_nothing_there_is_not_called_optimistic(tmp_path: Path, override: str) -> None:
    assert load_config(written(tmp_path, ENOUGH), [override]).optimistic == ()


def test_a_teacher_teaches_something_and_not_itself(tmp_path: Path) -> None:
    path = written(tmp_path, ENOUGH)
    assert "needs pseudo_labels or distillation" in refusal(path, "teacher={experiment: other}")
    assert "cannot teach itself" in refusal(path, "experiment=one", "teacher={experiment: one, pseudo_labels: {}}")


def test_classes_are_not_evened_out_twice(tmp_path: Path) -> None:
    assert "twice" in refusal(written(tmp_path, ENOUGH), "train.sampler=balanced", "loss.class_weights=balanced")


def test_a_metric_that_ranks_classes_says_how_many_a_cell_takes(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, ENOUGH), ["competition.metric=top_3_accuracy"])
    assert config.classes_in_a_cell == 3
    assert "looks at 3 classes" in refusal(written(tmp_path, ENOUGH), "competition.metric=top_3_accuracy", "submission.k=5")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["competition.task=regression"],
            "or multilabel, but competition.task is regression; fitting are rmse, mae, rmsle, r2",
        ),
        (["competition.metric=rmse"], "competition.metric: rmse is for regression, but competition.task is multiclass"),
        (["competition.metric=quadratic_kappa"], "is for ordinal, but competition.task is multiclass"),
        (["competition.task=multilabel", "loss.name=cross_entropy"], "loss.name: cross_entropy is for"),
        (["loss.name=huber"], "loss.name: huber is for regression"),
        (["submission.format=score"], "submission.format: score is for binary or regression"),
        (["competition.task=multilabel", "submission.format=top_k"], "submission.format: top_k is for multiclass"),
        (["competition.task=multilabel", "loss.smoothing=0.1"], "loss.smoothing spreads one class over the others"),
        (["loss.name=focal", "loss.smoothing=0.1"], "loss.smoothing is of cross_entropy, but loss.name is focal; write 0"),
        (["competition.task=regression", "competition.metric=rmse", "loss.class_weights=balanced"], "regression has not; write none"),
        (["competition.task=regression", "competition.metric=rmse", "train.sampler=balanced"], "regression has none; write shuffle"),
    ],
)
def test_metric_loss_and_format_must_fit_the_task(tmp_path: Path, overrides: list[str], message: str) -> None:
    assert message in refusal(written(tmp_path, ENOUGH), *overrides)


@pytest.mark.parametrize(("metric", "task"), [(metric, task) for metric, tasks in METRIC_TASKS.items() for task in tasks])
def test_every_metric_may_be_had_with_each_of_its_tasks(tmp_path: Path, metric: str, task: str) -> None:
    config = load_config(written(tmp_path, ENOUGH), [f"competition.metric={metric}", f"competition.task={task}"])
    assert (config.competition.metric, config.competition.task) == (metric, task)


def test_a_target_may_be_a_list_of_columns_but_not_of_one(tmp_path: Path) -> None:
    path = written(tmp_path, ENOUGH)
    assert load_config(path, ["competition.target=[healthy, rust]"]).competition.target == ("healthy", "rust")
    assert "competition.target" in refusal(path, "competition.target=[healthy]")


@pytest.mark.parametrize(("override", "key"), [("folds.group=[patient]", "folds"), ("folds.column=fold", "folds")])
def test_keys_of_folds_that_the_strategy_would_ignore_are_refused(tmp_path: Path, override: str, key: str) -> None:
    assert key in refusal(written(tmp_path, ENOUGH), override, "folds.strategy=stratified")


def test_a_config_is_frozen(small: Config) -> None:
    with pytest.raises(ValidationError):
        small.train.epochs = 3


# ---------------------------------------------------------------- the resolved config, the schema, configs/


def test_a_resolved_config_reads_back_equal(small: Config, tmp_path: Path) -> None:
    assert load_config(written(tmp_path, write_config(small))) == small


def test_a_resolved_config_with_every_odd_value_reads_back_equal(tmp_path: Path) -> None:
    overrides = [
        "experiment='007'",
        "competition.id='no'",
        "competition.image_path='bälle/{id}: #1.png'",
        "competition.test_table=null",
        "optimizer.learning_rate=1e-7",
        "images.size=[32, 48]",
        "predict.tta=[horizontal_flip, identity]",
        "augment.train=[{name: Affine, scale: [0.9, 1.1]}, {name: OneOf, transforms: [{name: Blur}]}]",
        "model.arguments={drop_rate: 0.1, note: '~'}",
    ]
    config = load_config(written(tmp_path, ENOUGH), overrides)
    assert load_config(written(tmp_path, write_config(config), "again.yaml")) == config


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(column=st.text("0123456789eExo+-._: #'\"~nultrysf", min_size=1, max_size=5) | st.text(min_size=1, max_size=5))
@example(column="1e-3")
@example(column="09")
@example(column="0o7")
def test_any_text_in_a_resolved_config_is_read_back_as_that_text(small: Config, column: str) -> None:
    config = small.model_copy(update={"competition": small.competition.model_copy(update={"target": column})})
    assert parse_yaml(write_config(config), "text")["competition"]["target"] == column


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rate=st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_any_number_in_a_resolved_config_is_read_back_as_that_number(small: Config, rate: float) -> None:
    config = small.model_copy(update={"optimizer": small.optimizer.model_copy(update={"learning_rate": rate})})
    assert parse_yaml(write_config(config), "text")["optimizer"]["learning_rate"] == rate


def test_the_written_schema_is_up_to_date() -> None:
    assert (CONFIGS / "schema.json").read_text(encoding="utf-8") == json_schema(), "run: make schema"


def test_every_setting_is_documented_in_the_schema() -> None:
    schema = parse_yaml(json_schema(), "schema")
    for name, section in schema["$defs"].items():
        assert section.get("description"), name
        for key, setting in section["properties"].items():
            assert setting.get("description"), f"{name}.{key}"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_config_loads_and_its_augmentations_build(path: Path) -> None:
    from pipeline.augment.transforms import Transforms

    config = load_config(path)
    assert config.experiment == path.stem
    Transforms(config.augment.train)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_config_reads_back_equal_once_resolved(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    assert load_config(written(tmp_path, write_config(config))) == config


def test_there_are_configs_to_test() -> None:
    assert CONFIGS / "digits.yaml" in EXPERIMENTS


@pytest.mark.parametrize(
    ("component", "hint"),
    [
        ({"name": "HorizontalFlipp"}, 'did you mean "HorizontalFlip"?'),
        ({"name": "HorizontalFlip", "probability": 0.5}, "probability"),
        ({"name": "OneOf", "transforms": [{"name": "Blurr"}]}, "augment.train[0].transforms[0]"),
        ({"name": "os"}, 'albumentations has no "os"'),
    ],
)
def test_an_augmentation_that_albumentations_does_not_know_is_refused(component: dict[str, Any], hint: str) -> None:
    from pipeline.augment.transforms import Transforms

    with pytest.raises(UserError) as caught:
        Transforms([Component.model_validate(component)])
    assert hint in str(caught.value)


def literals(annotation: Any) -> set[str]:
    """Every text that a Literal inside the annotation allows."""
    if typing.get_origin(annotation) is typing.Literal:
        return set(typing.get_args(annotation))
    return set().union(*(literals(part) for part in typing.get_args(annotation)))


def test_the_names_that_the_config_allows_are_those_that_the_program_knows() -> None:
    from pipeline.data.pictures import PREPROCESS
    from pipeline.inference.tta import PRESETS, VIEWS
    from pipeline.stages.ensemble import WORDS
    from pipeline.training.losses import LOSSES
    from pipeline.training.metrics import METRICS

    assert literals(Competition.model_fields["metric"].annotation) == set(METRICS)
    assert literals(Loss.model_fields["name"].annotation) == set(LOSSES) | {"auto"}
    assert literals(Images.model_fields["preprocess"].annotation) == set(PREPROCESS)
    assert set(METRIC_TASKS) == set(METRICS)
    assert set(LOSS_TASKS) == set(LOSSES) | {"auto"}
    assert set(FORMAT_TASKS) == literals(Submission.model_fields["format"].annotation)
    tasks = literals(Competition.model_fields["task"].annotation)
    assert all(set(fits) <= tasks for table in (METRIC_TASKS, LOSS_TASKS, FORMAT_TASKS) for fits in table.values())
    assert {task for fits in METRIC_TASKS.values() for task in fits} == tasks, "a task that nothing can score is none"
    assert literals(View) == set(VIEWS)
    assert literals(Predict.model_fields["tta"].annotation) == set(PRESETS) | set(VIEWS) | {"auto"}
    assert literals(Ensemble.model_fields["models"].annotation) == set(WORDS)


def test_a_top_k_cell_has_as_many_classes_as_the_metric_looks_at(tmp_path: Path) -> None:
    path = written(tmp_path, ENOUGH.replace("metric: accuracy", "metric: map_at_3"))
    assert load_config(path).classes_in_a_cell == 3
    assert load_config(path, ["submission.k=3"]).classes_in_a_cell == 3
    assert "submission.k: map_at_3 looks at 3 classes, but got 5" in refusal(path, "submission.k=5")


def test_an_empty_separator_is_refused(tmp_path: Path) -> None:
    assert "competition.label_separator" in refusal(written(tmp_path, ENOUGH), 'competition.label_separator=""')


def test_what_predicting_and_blending_cannot_do_for_a_task_or_metric_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, ENOUGH)
    assert "ensemble.models: ranks are for roc_auc and average_precision, but competition.metric is accuracy" in refusal(path, "ensemble.models=ranks")
    assert "predict.merge: ranks are for" in refusal(path, "predict.merge=ranks")
    assert "predict.tta turns pictures by 90 degrees" in refusal(path, "images.size=[192, 256]", "predict.tta=dihedral")
    assert "predict.views turns pictures by 90 degrees" in refusal(path, "images.size=[192, 256]", "predict.views=[rotate_90]")
    assert load_config(path, ["images.size=[192, 256]", "predict.tta=auto"]).predict.views is None
    number = written(tmp_path, ENOUGH.replace("metric: accuracy", "metric: rmse, task: regression"))
    for key, value in (("predict.merge", "logits"), ("ensemble.models", "geometric"), ("ensemble.temperature", "per_fold")):
        assert f"{key}: {value} is of probabilities" in refusal(number, f"{key}={value}")
