"""A survey as a config file with comments, checked by the program's own reader, and as a summary to read."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from pipeline.config import CLASS_TASKS, Config
from pipeline.config_data import Competition
from pipeline.config_files import load_config
from pipeline.data.pictures import is_idx
from pipeline.data.survey.look import Survey
from pipeline.data.survey.recipe import Look, look_at_idx, look_at_pictures, recipe
from pipeline.data.survey.text import one_line, scalar
from pipeline.data.tables import Tables, require_same_ids
from pipeline.data.targets import define_target
from pipeline.errors import UserError
from pipeline.files import write_text

KEYS: tuple[str, ...] = ("id", "target", "task", "classes", "positive", "label_separator", "metric", "image_path")
KEYS += ("train_table", "test_table", "sample_submission", "pixel_columns", "pixel_shape")
WIDEST = 150
BASE = ["train: {epochs: 12, batch_size: 32, ema: 0.99, clip_norm: 5.0}", "schedule: {name: cosine, warmup: 1}"]


@dataclass(frozen=True)
class Written:
    """The config, and what the program's reader says to it."""

    config: Config
    rows: pd.DataFrame | None
    """Split, id, path of every row; None where the tables are refused."""
    missing: dict[str, int]
    """Rows of each split without a picture."""
    seen: Look
    problem: str


def write_survey(found: Survey, name: str, output: Path) -> Written:
    """Writes the config atomically once it has been loaded and the tables were read with it; never a half one."""
    draft = output.with_name(f"{output.stem}.draft.yaml")
    try:
        write_text(draft, render(found, name, output, Look((), False), 0, False))
        config = load_config(draft, [f"experiment={scalar(output.stem)}"])
        rows, missing, problem = _read(config)
        paths = [] if rows is None else rows.loc[rows["split"] == "train", "path"].tolist()
        seen = _look(found, paths)
        skip = 0 < missing.get("train", 0) < len(paths) / 5
        write_text(draft, render(found, name, output, seen, len(found.roles.train), skip))
        config = load_config(draft, [f"experiment={scalar(output.stem)}"])
        draft.rename(output)
    finally:
        draft.unlink(missing_ok=True)
    return Written(config, rows, missing, seen, problem)


def _look(found: Survey, paths: Sequence[str]) -> Look:
    if is_idx(found.roles.train_table):
        return look_at_idx(found.folder.root / found.roles.train_table)
    if found.value("pixel_columns") is None:
        return look_at_pictures(found.folder, paths or found.folder.pictures)
    shape = found.value("pixel_shape")
    side = shape[0] if isinstance(shape, list) else round(found.roles.num_pixels**0.5)
    return Look(((side, side),), not isinstance(shape, list))


def _read(config: Config) -> tuple[pd.DataFrame | None, dict[str, int], str]:
    """Rows, rows without a picture, and the reader's objection if it has one."""
    competition = config.competition
    try:
        tables = Tables.read(competition)
    except UserError as error:
        return None, {}, str(error)
    rows, problem = tables.rows, ""
    there = pd.Series([(competition.root / _file(competition, path)).is_file() for path in rows["path"]], index=rows.index)
    missing = {split: int((~there & (rows["split"] == split)).sum()) for split in ("train", "test")}
    columns = None if tables.sample is None or config.submission.format != "probabilities" else list(tables.sample.columns[1:])
    try:
        require_same_ids(tables)
        define_target(competition, rows.loc[rows["split"] == "train", "target"], columns)
    except UserError as error:
        problem = str(error)
    return rows, missing, problem


def _file(competition: Competition, path: str) -> str:
    """The file of a row's path, as Pictures has it: a # and a row only for tables, since it may stand in a file's name."""
    name, mark, row = path.rpartition("#")
    return name if mark and row.isdigit() and (is_idx(name) or competition.pixel_columns is not None) else path


# ---------------------------------------------------------------- the file


def render(found: Survey, name: str, output: Path, seen: Look, num_rows: int, skip: bool) -> str:
    """The config's text."""
    goal, folder = found.goal, found.folder
    has_base = (output.parent / "base.yaml").exists()
    lines = ["# yaml-language-server: $schema=schema.json"] if (output.parent / "schema.json").exists() else []
    lines += [
        f"# {one_line(f'{name}: written by scripts/new_competition.py from what lies in {folder.root}; not run yet')}",
        "# Check the metric first: a folder does not say it.",
    ]
    lines += [f"# - mend first: {one_line(note)}" for note in found.mend] + [f"# - {one_line(note)}" for note in found.notes]
    lines += ["_base_: base.yaml"] if has_base else BASE[1:]
    lines += ["competition:", f"  name: {scalar(name)}", f"  root: {scalar(str(folder.root))}"]
    for key in KEYS:
        if key in found.keys:
            lines += _commented(f"  {key}: {scalar(found.keys[key][0])}", found.keys[key][1])
    lines += ["folds:", f"  n_splits: {_num_splits(found)}"]
    if found.groups:
        lines += _commented(f"  group: {scalar(found.groups)}", found.group_why)
    labels = _labels(found)
    lines += recipe(seen, num_rows, labels, goal.task in CLASS_TASKS, goal.form == "label", skip)
    if not has_base:
        lines = [line.replace("train: {", "train: {ema: 0.99, clip_norm: 5.0, ") if line.startswith("train: {") else line for line in lines]
    lines += ["submission:", *_commented(f"  format: {goal.form}", goal.form_why)]
    lines += [f"  k: {goal.k}"] if goal.k is not None else []
    return "\n".join(lines) + "\n"


def _commented(line: str, why: str) -> list[str]:
    if not why:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    why = one_line(why)
    return [f"{line} # {why}"] if len(line) + len(why) + 3 <= WIDEST else [f"{indent}# {why}", line]


def _num_splits(found: Survey) -> int:
    return 5 if len(found.roles.train) >= 25 else 2


def _labels(found: Survey) -> list[str]:
    target = found.goal.target
    if found.goal.task == "regression":
        return []
    return list(target) if isinstance(target, tuple) else [str(label) for label in found.roles.train[target].unique()[:2000]]


# ---------------------------------------------------------------- the summary


def summary(found: Survey, written: Written, output: Path) -> list[str]:
    """Lines to print: what was found, what is doubtful, and the next command."""
    goal, competition = found.goal, written.config.competition
    lines = [_line("train", f"{competition.train_table}: {found.roles.why}; {_pictures(written, 'train')}")]
    source = competition.test_table or competition.sample_submission or "none"
    lines += [_line("test", f"{source}: {_pictures(written, 'test')}")]
    lines += [_line("id", f"{competition.id or 'numbered'}; pictures at {competition.image_path or 'the tables themselves'}")]
    shown = scalar(found.value("target"))
    lines += [_line("target", f"{shown[:80]}: {goal.target_why}"), _line("task", f"{goal.task}: {goal.task_why}")]
    lines += [_line("metric", f"{goal.metric}, a guess; for this task also: {goal.other_metrics}")]
    lines += [_line("submission", f"{goal.form}{f' of {goal.k}' if goal.k else ''}: {goal.form_why}")]
    lines += [_line("groups", f"{', '.join(found.groups)}: {found.group_why}" if found.groups else "none found")]
    lines += [_line("pictures", str(written.seen))]
    config = written.config
    network = f"{config.model.backbone}, {'random weights' if config.model.weights is None else config.model.weights}"
    lines += [_line("recipe", f"{network}, {config.images.shape[0]}x{config.images.shape[1]} px, {config.train.epochs} epochs, {config.folds.n_splits} folds")]
    lines += [_line("note", note) for note in found.notes]
    mend = _mend(found, written)
    lines += [_line("mend first", what) for what in mend]
    absent = written.missing.get("test", 0)
    if absent and not mend:
        lines += [_line("note", f"{absent:,} test rows have no picture here; with images.corrupt=skip they get the mean of the training targets")]
    return [*lines, _line("written", str(output)), "", one_line(_command(found, written, output, bool(mend)))]


def _mend(found: Survey, written: Written) -> list[str]:
    """What stands in the way of a run."""
    said = [*found.mend] + ([written.problem] if written.problem else [])
    if (absent := written.missing.get("train", 0)) and written.config.images.corrupt == "fail":
        said.append(f"{absent:,} train rows have no picture here; unpack them, check competition.image_path, or write images.corrupt=skip to go without")
    return said


def _command(found: Survey, written: Written, output: Path, mend: bool) -> str:
    """The next command, one that runs; after a mend, the survey again."""
    competition = written.config.competition
    if mend:
        words = [str(found.folder.root), "--name", competition.name, "--output", str(output), "--force"]
        return f".venv/bin/python scripts/new_competition.py {shlex.join(words)}"
    if competition.test_table is None and competition.sample_submission is None:
        return f".venv/bin/python scripts/run_folds.py {shlex.quote(str(output))}"
    skip = written.missing.get("test", 0) and written.config.images.corrupt == "fail"
    return f"make submit CONFIG={shlex.quote(str(output))}" + (' ARGS="images.corrupt=skip"' if skip else "")


def _line(word: str, text: str) -> str:
    return f"{word:<11} {one_line(text)}"


def _pictures(written: Written, split: str) -> str:
    if written.rows is None:
        return "pictures not counted"
    total = int((written.rows["split"] == split).sum())
    return f"pictures of {total - written.missing[split]:,} of {total:,} rows are there"
