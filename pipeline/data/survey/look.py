"""A look at a competition's folder that nobody has described yet, and a config for it with the reason beside each key."""

import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

import pandas as pd

from pipeline.data.paths import files_like, list_files
from pipeline.data.survey.files import Folder, Table, look
from pipeline.data.survey.places import Place, find_place, join_any_ending, join_places
from pipeline.data.survey.tables import Roles, find_roles, pattern_of_rows
from pipeline.data.survey.targets import Goal, find_goal
from pipeline.data.survey.text import few
from pipeline.errors import UserError

GROUP_WORDS = re.compile(
    r"patient|subject|participant|person|individual|animal|specimen|case|user|plant|video|study|series|slide|session|scene|shop|camera|hospital|site|group",
    re.IGNORECASE,
)
ID_WORDS = re.compile(r"id|image|img|file|name|picture|photo|path", re.IGNORECASE)
FOLD_WORDS = re.compile(r"k?fold(_?id|s)?|fold_?\d*", re.IGNORECASE)
FEWEST_GROUPS = 10
LARGEST_GROUP = 0.3  # of the rows


@dataclass
class Survey:
    """What was found: keys of the section competition with reasons, and what a person should know."""

    folder: Folder
    roles: Roles
    goal: Goal
    keys: dict[str, tuple[object, str]] = field(default_factory=dict)
    groups: list[str] = field(default_factory=list)
    group_why: str = ""
    notes: list[str] = field(default_factory=list)
    mend: list[str] = field(default_factory=list)
    """What must be mended before anything can run."""

    def value(self, key: str) -> object:
        """The value found for a key; None where there is none."""
        return self.keys[key][0] if key in self.keys else None


def survey(root: Path) -> Survey:
    """Looks at the folder; UserError where no label can be found in it."""
    folder = look(root)
    roles = find_roles(folder)
    if roles is None:
        further = [name for name in list_files(root) if name.lower().endswith((".json", ".xml", ".txt"))]
        said = "; ".join(_hints(folder) + folder.notes[:2] + ([f"{further[0]} is no CSV and was not read"] if further else []))
        said = f" ({said})" if said else ""
        raise UserError(f"{root}: no table leads to the pictures, and no folder or file name looks like a label{said}; write a train.csv with id and label")
    goal = find_goal(roles)
    if goal is None:
        raise UserError(f"{root / roles.train_table}: no column looks like a label ({', '.join(roles.train.columns[:8])}); write competition.target by hand")
    found = Survey(folder, roles, goal, notes=[*folder.notes, *roles.notes, *goal.notes], mend=[*roles.mend])
    _tables_and_pictures(found)
    _target_keys(found)
    _groups(found)
    return found


def _hints(folder: Folder) -> list[str]:
    """A sentence where a table's ids are the pictures' names but for backslashes or leading zeros."""
    bare = {stem.lstrip("0"): stem for stem in (PurePosixPath(picture).stem for picture in folder.pictures) if stem.isdigit()}
    for table in folder.tables:
        for number, column in enumerate(table.rows.columns):
            cells = table.rows[column]
            if not cells.is_unique or not (number == 0 or ID_WORDS.search(column)):
                continue
            first, most = cells.head(50), min(25, len(cells) / 2)
            paths = [value for value in first if "\\" in value and PureWindowsPath(value).name in folder.by_name]
            if len(paths) > most:
                return [f'{table.name} writes paths with backslashes ("{paths[0]}"): write {column} with /']
            padded = [value for value in first if value in bare and bare[value] != value]
            if len(padded) > most:
                return [f'{table.name} says "{padded[0]}" where the file is called {bare[padded[0]]}: write {column} with its zeros']
    return []


# ---------------------------------------------------------------- tables and pictures


def _tables_and_pictures(found: Survey) -> None:
    roles = found.roles
    found.keys["train_table"] = (roles.train_table, roles.why)
    sample = roles.sample
    if sample is not None:
        found.keys["sample_submission"] = (sample.name, f"{len(sample.rows):,} rows, columns {few(list(sample.rows.columns), 4)}")
    else:
        found.keys["sample_submission"] = (None, "there is none, so one is made of the test rows")
    if roles.pixel_columns is not None or roles.test_table is not None:
        _rows_with_pixels(found)
        return
    asked = _asked_rows(found)
    test = None if asked is None else find_place(found.folder, asked, "test", [_picture_column(roles, asked)])
    if asked is not None and (test is None or test.share < 0.5):
        found.notes.append(f"{len(asked):,} test rows, but few or none of their pictures are here: a hidden test set, or not unpacked")
        test = None
    if roles.unnamed_test is not None:
        _without_test_table(found, roles.unnamed_test, test, asked is None)
    elif asked is None:
        _test_by_pattern(found)
    found.keys["id"] = (
        roles.id,
        "a file's path in training, the sample's ids in the test" if roles.target and roles.id not in roles.train else "names each row",
    )
    _image_path(found, test, asked)


def _without_test_table(found: Survey, table: Table, test: Place | None, unlisted: bool) -> None:
    """A test table without the train table's id: the files that it lists, or the sample, may serve in its place; else it must be mended."""
    roles = found.roles
    said = f'{table.name} has no column "{roles.id}" as {roles.train_table} has; its columns are {few(list(table.rows.columns), 6)}'
    if unlisted and (pattern := pattern_of_rows(found.folder, table, roles.id)) is not None:
        found.keys["test_table"] = (pattern, f"the files that {table.name} lists; it has no column {roles.id}")
    elif test is not None:
        found.notes.append(f"{said}; the sample's ids serve in its place")
    elif (place := find_place(found.folder, table.rows, "test")) is not None and place.share > 0.5:
        found.keys.setdefault("test_table", (None, f"{table.name} has no column {roles.id}"))
        row = None if roles.sample is None else str(roles.sample.rows.columns[0])
        too = f', and give {roles.train_table} a column "{row}" with its rows\' own' if row in table.rows and row not in (roles.id, place.column) else ""
        found.mend.append(f'{said}; rename "{place.column}" there to "{roles.id}"{too}')
    else:
        found.notes.append(f"{said}; so it was not used")
        if unlisted:
            _test_by_pattern(found)


def _picture_column(roles: Roles, asked: pd.DataFrame) -> str:
    """The column that names a test row's picture: as in the train table, or the id."""
    return roles.place.column if roles.place is not None and roles.place.column in asked.columns else str(roles.id)


def _rows_with_pixels(found: Survey) -> None:
    roles = found.roles
    found.keys["id"] = (roles.id, "no column is one; rows are numbered" if roles.id is None else "names each row")
    test = roles.test_table or (roles.test.name if roles.test is not None else None)
    found.keys["test_table"] = (test, "its rows are predicted" if test else "there is none")
    if test is None:
        _nothing_to_predict(found)
    if roles.pixel_columns is not None:
        found.keys["pixel_columns"] = (roles.pixel_columns, f"{roles.num_pixels} columns of whole numbers up to 255")
        side = round((roles.num_pixels / 3) ** 0.5)
        if 3 * side * side == roles.num_pixels:
            found.keys["pixel_shape"] = ([side, side, 3], "three numbers per pixel")


def _asked_rows(found: Survey) -> pd.DataFrame | None:
    """The rows to predict: the test table's, or the sample's ids; None where there is neither."""
    roles = found.roles
    sample = None if roles.sample is None else roles.sample.rows
    if roles.test is not None:
        ids = set(roles.test.rows[roles.id])
        if sample is None or ids == set(sample.iloc[:, 0]):
            found.keys["test_table"] = (roles.test.name, f"{len(roles.test.rows):,} rows" + ("" if sample is None else ", the sample's ids"))
            return roles.test.rows
        differ = len(ids ^ set(sample.iloc[:, 0]))
        found.keys["test_table"] = (None, f"{roles.test.name} and the sample differ in {differ:,} ids, and the sample's are asked for")
    elif sample is not None:
        found.keys["test_table"] = (None, "no table of test rows; the ids come from the sample")
    else:
        return None
    assert sample is not None, "the other cases have returned"
    return sample[[sample.columns[0]]].set_axis(pd.Index([roles.id]), axis=1)


def _test_by_pattern(found: Survey) -> None:
    """No test table and no sample: the pictures of a test folder are the rows."""
    roles = found.roles
    used = set(roles.train["path"]) if "path" in roles.train else set()
    tests = [file for file in found.folder.pictures if "test" in str(PurePosixPath(file).parent).lower() and file not in used]
    if not tests:
        found.keys["test_table"] = (None, "there is neither a test table nor a test folder")
        _nothing_to_predict(found)
        return
    name = roles.id if roles.id is not None and re.fullmatch(r"[A-Za-z_]\w*", roles.id) and roles.id != "path" else "file"
    heads = {str(PurePosixPath(file).parent) for file in tests}
    head = next(iter(heads)) if len(heads) == 1 else f"{_shared_folder(heads)}/**"
    endings = {PurePosixPath(file).suffix for file in tests}
    whole = roles.place is None or "." in str(roles.train[roles.place.column].iloc[0]) or len(endings) > 1
    leaf = f"{{{name}}}" if whole else f"{{{name}}}{endings.pop()}"
    found.keys["test_table"] = (f"{head}/{leaf}", f"{len(tests):,} files are the rows to predict, since no table and no sample lists them")


def _shared_folder(folders: set[str]) -> str:
    parts = [PurePosixPath(folder).parts for folder in folders]
    shared = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        shared.append(level[0])
    return "/".join(shared)


def _nothing_to_predict(found: Survey) -> None:
    if found.roles.sample is None:
        found.notes.append("nothing to predict was found: put the test pictures into a folder test/, or write competition.test_table, before you run it")


def _image_path(found: Survey, test: Place | None, asked: pd.DataFrame | None) -> None:
    roles = found.roles
    if roles.place is None:  # names of files are the train table
        if test is not None:
            found.keys["image_path"] = (test.templates[0], "of the test pictures; a train row is a file")
        elif asked is not None:
            found.keys["image_path"] = (f"test/{{{roles.id}}}.*", "a guess: none of the test pictures is here")
        return
    joined = join_places(found.folder, roles.place, test)
    if joined is not None:
        found.keys["image_path"] = (joined, f"named by {roles.place.column}" + ("; {split} is train or test" if "{split}" in joined else ""))
        return
    assert test is not None, "one split alone always joins"
    found.keys["image_path"] = (roles.place.templates[0], "of the train pictures")
    pattern = test.templates[0]
    if re.fullmatch(r"[^{}*]*\{\w+\}[^{}*]*", pattern) and len(files_like(found.folder.root, pattern)) == len(asked if asked is not None else ()):
        found.keys["test_table"] = (pattern, "the test pictures' names, which no image_path fits together with the train pictures")
    elif (joined := join_any_ending(found.folder, roles.place, test)) is not None:
        found.keys["image_path"] = (joined, f"named by {roles.place.column}, in one split with its ending and in the other without")
    else:
        found.mend.append(f"train pictures are {roles.place.templates[0]}, test pictures {pattern}: no one image_path leads to both; rename a folder")


# ---------------------------------------------------------------- target, groups


def _target_keys(found: Survey) -> None:
    goal = found.goal
    target = list(goal.target) if isinstance(goal.target, tuple) else goal.target
    found.keys["target"] = (target, goal.target_why)
    found.keys["task"] = (goal.task, goal.task_why)
    if goal.task == "binary" and goal.positive is not None and goal.form != "probabilities":
        found.keys["positive"] = (goal.positive, "the class whose probability is submitted; a guess from its name" if goal.form == "score" else "by its name")
    if goal.classes is not None:
        found.keys["classes"] = (goal.classes, goal.classes_why)
    if goal.separator is not None:
        found.keys["label_separator"] = (goal.separator, "between the labels of a cell")
    found.keys["metric"] = (goal.metric, f"a guess from task and sample; write the competition's own, which may be {goal.other_metrics}")


def _groups(found: Survey) -> None:
    """The column whose repeated values should stay in one fold; others, and folds that the competition gives, are only mentioned."""
    roles, goal = found.roles, found.goal
    targets = {goal.target} if isinstance(goal.target, str) else set(goal.target)
    candidates = []
    for column in (str(name) for name in roles.train.columns if name not in targets | {roles.id, "path"}):
        cells = roles.train[column][roles.train[column] != ""]
        counts = cells.value_counts()
        if FOLD_WORDS.fullmatch(column) and 2 <= len(counts) <= 20:
            found.notes.append(
                f'"{column}" looks like the competition\'s own folds ({len(counts)}); to use them: folds: {{strategy: column, column: {column}}}'
            )
        if not (match := GROUP_WORDS.search(column)) or len(counts) < 3 or len(counts) > 0.95 * len(cells):
            continue
        if reason := _no_group(found, column, counts):
            found.notes.append(f'"{column}" has {len(counts):,} values, {reason}; folds.group: [{column}] would keep each in one fold')
        else:
            candidates.append((GROUP_WORDS.pattern.index(match[0].lower()), column, len(counts), len(cells)))
    for position, (_, column, distinct, rows) in enumerate(sorted(candidates)):
        if position == 0:
            found.groups.append(column)
            found.group_why = f"{distinct:,} different values in {rows:,} rows; rows of one must not stand on both sides of a fold"
        else:
            found.notes.append(f'"{column}" repeats, too ({distinct:,} values): add it to folds.group if rows that share it are alike')


def _no_group(found: Survey, column: str, counts: "pd.Series[int]") -> str:
    """Why whole values of the column cannot be held out; empty if they can."""
    if len(counts) < FEWEST_GROUPS:
        return "too few to hold whole ones out"
    if counts.iloc[0] > LARGEST_GROUP * counts.sum():
        return f"of which one holds {counts.iloc[0] / counts.sum():.0%} of the rows"
    train, target = found.roles.train, found.goal.target
    if isinstance(target, str) and found.goal.task != "regression" and (train.groupby(target)[column].nunique() == 1).mean() > 0.5:
        return "each of most classes has one of them alone"
    return ""
