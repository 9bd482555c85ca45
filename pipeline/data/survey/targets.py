"""What is to be predicted: the target, the task, the form of a submission and a metric that fits, each with its reason."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.config import METRIC_TASKS, Task
from pipeline.data.survey.tables import Roles, class_column
from pipeline.data.survey.text import few

LABEL_NAMES = ("target", "label", "labels", "class", "classes", "category", "species", "breed", "diagnosis", "tags", "y", "name")
CLASS_WORDS = re.compile(r"label|class|category|species|breed|type|kind|(^|_)ids?$|_id", re.IGNORECASE)
GRADE_WORDS = re.compile(r"grade|severity|level|diagnosis|score|stage|rating|rank|quality|degree", re.IGNORECASE)
NUMBER_WORDS = re.compile(r"score|age|count|price|weight|value|percent|ratio|pawpularity|popularity|number|amount|density|yield|height|width", re.IGNORECASE)
NOT_A_LABEL = re.compile(r"fold|split|path|file|url|date|time|width|height|license|source|comment|unnamed|index|usage|bbox|x_?min|y_?min", re.IGNORECASE)
NEGATIVE = {"0", "0.0", "no", "n", "none", "negative", "neg", "normal", "healthy", "benign", "false", "absent", "control", "real", "good", "ok", "non"}
SEPARATORS = (" ", ", ", ",", ";", "|", "/")


@dataclass
class Goal:
    """The answers, and beside each why it was given."""

    target: str | tuple[str, ...]
    target_why: str
    task: Task = "multiclass"
    task_why: str = ""
    form: str = "label"
    form_why: str = ""
    k: int | None = None
    separator: str | None = None
    classes: list[str] | None = None
    classes_why: str = ""
    """In the sample's order, where train rows do not show them all."""
    positive: str | None = None
    metric: str = "accuracy"
    notes: list[str] = field(default_factory=list)

    @property
    def other_metrics(self) -> str:
        """Metrics that would fit the task, too."""
        return ", ".join(name for name, tasks in METRIC_TASKS.items() if self.task in tasks and name != self.metric)


def find_goal(roles: Roles) -> Goal | None:
    """Target, task, form and metric of the train rows; None where no column looks like a label."""
    found = _find_target(roles)
    if found is None:
        return None
    goal = Goal(*found)
    if isinstance(goal.target, tuple):
        _columns_task(goal, roles.train)
    else:
        _column_task(goal, roles.train[goal.target].str.strip(), roles, _sample_cells(roles))
    _choose_metric(goal)
    return goal


def _sample_cells(roles: Roles) -> "pd.Series[str] | None":
    """The sample's one column of answers; None without it or with several."""
    sample = None if roles.sample is None else roles.sample.rows
    return None if sample is None or len(sample.columns) != 2 else sample.iloc[:, 1].str.strip()


# ---------------------------------------------------------------- which column


def _find_target(roles: Roles) -> tuple[str | tuple[str, ...], str] | None:
    if roles.target is not None:
        return roles.target, "in each file's name or beside the pictures"
    columns = [str(name) for name in roles.train.columns if name not in (roles.id, "path")]
    if roles.sample is not None:
        by_lower = {name.lower(): name for name in columns}
        wanted = [str(name) for name in roles.sample.rows.columns[1:]]
        there = [by_lower[name.lower()] for name in wanted if name.lower() in by_lower]
        if len(there) == len(wanted) == 1:
            return there[0], f"the column that {roles.sample.name} asks for"
        if len(there) == len(wanted) and all(_is_flag(roles.train[name]) for name in there):
            return tuple(there), f"the {len(there)} columns of {roles.sample.name}, 0 or 1 in each row"
        if len(wanted) > 1 and (column := class_column(roles.train[columns], roles.sample.rows)) is not None:
            return column, f"its values are the columns of {roles.sample.name}"
        if len(wanted) == 1 and (column := _answered(roles.train[columns], roles.sample.rows.iloc[:, 1])) is not None:
            return column, f"its values fill the cells of {roles.sample.name}"
        if there:
            return there[0], f"the first column of {roles.sample.name} that the train table has; one number per row is all that can be predicted"
    return _guess(roles, columns)


def _answered(train: pd.DataFrame, cells: "pd.Series[str]") -> str | None:
    """The train column that the words in the sample's cells come from."""
    words = {word for cell in cells.head(200) for word in (cell, *cell.split(" "))} - {""}
    for column in train.columns:
        values = set(train[column].unique())
        if len(values) > 1 and len(words & values) > len(words) / 2 and not any(_is_number(word) for word in words):
            return str(column)
    return None


def _is_number(word: str) -> bool:
    return re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", word, re.IGNORECASE) is not None


def _guess(roles: Roles, columns: list[str]) -> tuple[str | tuple[str, ...], str] | None:
    """By elimination: what the test table has, ids, paths, times, constants and folds are no labels; then by name."""
    known = set() if roles.test is None else set(roles.test.rows.columns)
    left = [name for name in columns if name not in known] or columns
    left = [name for name in left if not (roles.place is not None and name == roles.place.column)]
    usable = [name for name in left if _may_be_label(roles.train[name], name)]
    if not usable:
        return None
    flags = [name for name in usable if _is_flag(roles.train[name])]
    if len(flags) > 1 and (len(flags) == len(usable) or _one_hot(roles.train, flags)):
        return tuple(flags), "0/1 columns" + (" that the test table has not" if known else "")
    named = [name for word in LABEL_NAMES for name in usable if name.lower() == word]
    named += [name for name in usable if CLASS_WORDS.search(name) or GRADE_WORDS.search(name)]
    others = [name for name in usable if name != (named or usable[-1:])[0]]
    why = "the column that the test table has not" if known and not others else "by its name" if named else "the last column that may be a label"
    return (named or usable[-1:])[0], why + (f"; it could also be {', '.join(others[:5])}" if others else "")


def _may_be_label(cells: "pd.Series[str]", name: str) -> bool:
    distinct = cells.nunique()
    numbers = pd.to_numeric(cells, errors="coerce")
    all_different = distinct == len(cells) and (len(cells) > 20) and bool(numbers.isna().any() or (numbers % 1 == 0).all())
    path_like = cells.str.contains(r"[\\/].*\.\w{3,4}$|^https?:|^\d{4}-\d\d-\d\d", regex=True).mean() > 0.5
    return distinct > 1 and not all_different and not path_like and not NOT_A_LABEL.search(name)


def _is_flag(cells: "pd.Series[str]") -> bool:
    return bool(cells.str.strip().isin(["0", "1", "0.0", "1.0"]).all())


def _one_hot(table: pd.DataFrame, columns: Sequence[str]) -> bool:
    sums = table[list(columns)].apply(pd.to_numeric, errors="coerce").sum(axis=1)
    return bool((sums == 1).all())


# ---------------------------------------------------------------- which task, which form


def _columns_task(goal: Goal, train: pd.DataFrame) -> None:
    assert isinstance(goal.target, tuple)
    one = _one_hot(train, goal.target)
    goal.task = "multiclass" if one else "multilabel"
    goal.task_why = "exactly one of the columns is 1 in every row" if one else "rows with none or several of the columns at 1"
    goal.form, goal.form_why = "probabilities", "a column per class"


def _column_task(goal: Goal, cells: "pd.Series[str]", roles: Roles, sample: "pd.Series[str] | None") -> None:
    values = cells[cells != ""]
    distinct = values.nunique()
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64)
    asked = None if sample is None else pd.to_numeric(sample, errors="coerce").to_numpy(dtype=np.float64)
    wide = roles.sample is not None and len(roles.sample.rows.columns) > 2
    if empty := int((cells == "").sum()):
        goal.notes.append(f'"{goal.target}" is empty in {empty} train rows; only task multilabel may have that')
    if wide and roles.sample is not None and goal.target in roles.sample.rows.columns and distinct > 2:
        goal.task, goal.form = "regression", "score"
        goal.task_why, goal.form_why = "a column of the sample", "one number per row"
        goal.notes.append("the sample asks for several numbers per row, of which one can be predicted; a submission is refused")
    elif wide:
        _class_columns(goal, values, distinct, roles)
    elif sample is not None and (k := _top_k(sample, values)) is not None:
        goal.task, goal.form, goal.k = "multiclass", "top_k", k
        goal.task_why = f"{distinct:,} classes, one per train row"
        goal.form_why = f"a cell of the sample holds {k} of them, separated by spaces"
    elif distinct == 2:
        _two_classes(goal, values, sample, asked)
    elif not np.isnan(numbers).any() and _is_regression(str(goal.target), numbers, asked):
        goal.task, goal.form = "regression", "score"
        goal.task_why = f"{distinct:,} different numbers from {numbers.min():g} to {numbers.max():g}; if they are names of classes: multiclass"
        goal.form_why = "one number per row"
    elif (separator := find_separator(values)) is not None:
        _several_labels(goal, values, separator)
    else:
        _classes(goal, values, numbers)


def _class_columns(goal: Goal, values: "pd.Series[str]", distinct: int, roles: Roles) -> None:
    separator = find_separator(values)
    goal.task, goal.task_why = "multiclass", f"{shares(values)}, one per row"
    if separator is not None:
        _several_labels(goal, values, separator)
    asked = [] if roles.sample is None else [str(name) for name in roles.sample.rows.columns[1:]]
    there = set(values if separator is None else values.str.split(separator).explode().str.strip())
    if there < set(asked):
        goal.classes = asked
        goal.classes_why = f"the sample's columns; no train row has {few(sorted(set(asked) - there), 4)}"
        goal.notes.append(f"the sample has a column for {few(sorted(set(asked) - there), 4)}, but no train row; competition.classes lists every column")
    elif separator is None and distinct == 2:
        goal.task = "binary"
    goal.form, goal.form_why = "probabilities", "the sample has a column per class"


def _two_classes(goal: Goal, values: "pd.Series[str]", sample: "pd.Series[str] | None", asked: "npt.NDArray[np.float64] | None") -> None:
    classes = sorted(values.unique())
    negative = [name for name in classes if name.lower() in NEGATIVE]
    goal.positive = next((name for name in classes if name not in negative), None) if len(negative) == 1 else classes[-1]
    goal.task, goal.task_why = "binary", shares(values)
    texts = sample is not None and sample.isin(classes).all() and asked is not None and bool(np.isnan(asked).any())
    if sample is not None and not texts:
        goal.form, goal.form_why = "score", f"the sample holds {sample.iloc[0]}: the probability of {goal.positive}, or write label if 0 and 1 are asked for"
    else:
        goal.form, goal.form_why = "label", "the sample holds classes" if texts else "without a sample; score for the probability of the positive class"


def _is_regression(name: str, numbers: npt.NDArray[np.float64], asked: "npt.NDArray[np.float64] | None") -> bool:
    """Many different numbers: fractions always; whole ones by the sample's fractions, by name, or by how few rows each has."""
    distinct = len(np.unique(numbers))
    if (numbers % 1 != 0).any():
        return distinct > 2
    if distinct < 12:
        return False
    if asked is not None and bool((asked % 1 != 0).any()):
        return True
    if CLASS_WORDS.search(name):
        return False
    if NUMBER_WORDS.search(name):
        return True
    counted = numbers.min() in (0, 1) and distinct == numbers.max() - numbers.min() + 1
    return distinct > 50 and not counted


def _several_labels(goal: Goal, values: "pd.Series[str]", separator: str) -> None:
    parts = values.str.split(separator).explode().str.strip()
    share = float(values.str.contains(separator, regex=False).mean())
    goal.task, goal.separator = "multilabel", separator
    goal.task_why = f"{parts.nunique()} labels; {share:.0%} of the cells hold several"
    goal.form, goal.form_why = "label", "the labels in one cell"


def _classes(goal: Goal, values: "pd.Series[str]", numbers: npt.NDArray[np.float64]) -> None:
    """Classes, or grades: few whole numbers without a gap under a name that says so."""
    distinct = np.unique(numbers)
    in_order = not np.isnan(numbers).any() and len(distinct) <= 11 and bool((np.diff(distinct) == 1).all())
    goal.form, goal.form_why = "label", "one class per row"
    goal.task_why = shares(values)
    if in_order and GRADE_WORDS.search(str(goal.target)):
        goal.task = "ordinal"
        goal.task_why += f'; grades, as "{goal.target}" says: multiclass if their order means nothing'
    elif in_order:
        goal.task_why += "; ordinal if they are grades in order"
    if (values.value_counts() == 1).any():
        goal.notes.append(f"{int((values.value_counts() == 1).sum())} classes have one row: each is in one fold's validation and never trained on there")


def find_separator(values: "pd.Series[str]") -> str | None:
    """What stands between several labels of a cell; None where cells are single labels, with spaces in their names or not."""
    cells = values.drop_duplicates()
    for separator in SEPARATORS:
        several = [cell.split(separator) for cell in cells if separator in cell.strip()]
        if not several or (separator == " " and any("," in cell for cell in cells)):
            continue
        if any(len(set(parts)) < len(parts) or "" in parts for parts in several):
            continue
        homes: dict[str, int] = {}
        for cell in cells:
            for part in cell.split(separator):
                homes[part] = homes.get(part, 0) + 1
        tokens = {part for parts in several for part in parts}
        shared = sum(homes[part] > 1 for part in tokens) / len(tokens)
        if shared >= 0.8 and len(homes) < len(cells) + sum(len(parts) > 1 for parts in several):
            return separator
    return None


def _top_k(sample: "pd.Series[str]", values: "pd.Series[str]") -> int | None:
    """How many classes a cell of the sample ranks; None where it holds one, or where train cells hold several, too."""
    counts = sample.str.count(" ") + 1
    known = set(values.unique())
    tokens = {token for cell in sample.head(200) for token in cell.split(" ")}
    if counts.max() < 2 or counts.median() < 2 or find_separator(values) is not None or set(sample) <= known:
        return None
    return int(counts.max()) if len(tokens & known) >= len(tokens) / 2 or counts.nunique() == 1 else None


def shares(values: "pd.Series[str]") -> str:
    """How many classes, and how the rows spread over them."""
    counts = values.value_counts()
    if len(counts) == 2:
        return f"2 classes: {counts.iloc[0]:,} rows of {counts.index[0]}, {counts.iloc[1]:,} of {counts.index[1]}"
    return f"{len(counts):,} classes; the rarest has {counts.iloc[-1]:,} rows, the largest {counts.iloc[0]:,}"


def _choose_metric(goal: Goal) -> None:
    by_task = {"binary": "accuracy", "multilabel": "samples_f1", "ordinal": "quadratic_kappa", "regression": "rmse", "multiclass": "accuracy"}
    goal.metric = by_task[goal.task]
    if goal.form == "top_k":
        goal.metric = "map_at_3" if goal.k == 3 else "map_at_5"
    elif goal.form == "score" and goal.task == "binary":
        goal.metric = "roc_auc"
    elif goal.form == "probabilities":
        goal.metric = "roc_auc" if goal.task == "multilabel" else "log_loss"
