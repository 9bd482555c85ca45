"""What is predicted: cells of a table to numbers, and predictions back to labels."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.config_data import Competition, Task
from pipeline.errors import UserError, did_you_mean

MOST_GRADES = 1000  # a wider range of whole numbers is taken as it is, without the grades that no row has
SEPARATOR = "|"  # between the labels of one row, in the index and in folds.csv
Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Target:
    """The task and its outputs, in order: the classes, the labels, or the one name of a number."""

    task: Task
    classes: tuple[str, ...]
    may_be_empty: bool = False
    """Multilabel: whether some train rows have no label at all."""
    thresholds: tuple[float, ...] | None = None
    """Multilabel: from which probability on each label is given; binary: one, of the positive class. None: one half."""
    cut_points: tuple[float, ...] | None = None
    """Ordinal: ascending, where on the expected grade (0 to K - 1) the next grade begins [K - 1]. None: half way between grades."""

    def numbers(self, texts: Sequence[str]) -> Numbers:
        """One class: int64 [rows], columns of `classes`; multilabel: float32 0/1 [rows, labels]; regression: float32 [rows, 1]."""
        if self.task == "regression":
            return np.array([float(text) for text in texts], dtype=np.float32).reshape(-1, 1)
        column = {name: number for number, name in enumerate(self.classes)}
        if self.task != "multilabel":
            return np.array([column[text] for text in texts], dtype=np.int64)
        result = np.zeros((len(texts), len(self.classes)), dtype=np.float32)
        for row, text in enumerate(texts):
            result[row, [column[name] for name in split_labels(text)]] = 1.0
        return result

    def decide(self, values: Numbers) -> Numbers:
        """Predictions [rows, outputs] to labels, in the form of `numbers`.

        The most probable class; of two, the positive one from its threshold on; of grades, that between whose cut points the expected
        grade lies; every label from its threshold on, and where there is none but must be, the one nearest to its threshold; a
        regression's value as it is.
        """
        if self.task == "regression":
            return values
        if self.task == "ordinal":
            cuts = np.arange(len(self.classes) - 1) + 0.5 if self.cut_points is None else np.array(self.cut_points)
            return np.asarray(np.searchsorted(cuts, self.expected_grade(values), side="right"), dtype=np.int64)
        if self.task == "binary" and self.thresholds is not None:
            return (values[:, 1].astype(np.float64) >= self.thresholds[0]).astype(np.int64)
        if self.task != "multilabel":
            return np.asarray(values.argmax(axis=1))
        above = values.astype(np.float64) - (0.5 if self.thresholds is None else np.array(self.thresholds))
        chosen = (above >= 0).astype(np.float32)
        if not self.may_be_empty:
            bare = np.flatnonzero(chosen.sum(axis=1) == 0)
            chosen[bare, above[bare].argmax(axis=1)] = 1.0
        return chosen

    def expected_grade(self, values: Numbers) -> Numbers:
        """Ordinal: the mean grade by its probabilities [rows], 0 to K - 1, float64."""
        return np.asarray(values.astype(np.float64) @ np.arange(len(self.classes)) / values.sum(axis=1, dtype=np.float64))

    def labels(self, values: Numbers) -> list[str]:
        """Predictions [rows, outputs] as cells; several labels of a row are joined by SEPARATOR."""
        decided = self.decide(values)
        if self.task == "regression":
            return [f"{value:.9g}" for value in decided[:, 0].astype(np.float64)]
        if self.task != "multilabel":
            return [self.classes[number] for number in decided]
        return [SEPARATOR.join(sorted(self.classes[number] for number in np.flatnonzero(row))) for row in decided]

    def unknown(self, texts: Iterable[str]) -> list[str]:
        """Labels that are none of the classes, sorted."""
        if self.task == "regression":
            return []
        found = {name for text in set(texts) for name in (split_labels(text) if self.task == "multilabel" else [text])}
        return sorted(found - set(self.classes))

    def shares(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Mean of each output over rows [outputs]: what is predicted of a picture that cannot be read."""
        numbers = self.numbers(texts)
        if numbers.ndim == 1:
            numbers = np.eye(len(self.classes))[numbers]
        return np.asarray(numbers.mean(axis=0), dtype=np.float64)


def split_labels(text: str) -> list[str]:
    """The labels of a multilabel row."""
    return text.split(SEPARATOR) if text else []


def read_target(table: pd.DataFrame, competition: Competition, target: str | tuple[str, ...], path: object) -> "pd.Series[str]":
    """The target of every row as one canonical text; UserError names the row that has none or no fitting one."""
    if not isinstance(target, str):
        return _from_columns(table, competition, target, path)
    cells = table[target].str.strip()
    refuse_control(cells, path)
    if competition.task == "multilabel":
        return _from_lists(cells, competition.label_separator, target, path)
    refuse_rows(cells.str.lower().isin(["", "nan"]), cells, path, f'"{target}" is empty', "fill it in or remove the row")
    if competition.task == "regression":
        with np.errstate(over="ignore"):
            numbers = pd.to_numeric(cells, errors="coerce").to_numpy(dtype=np.float64).astype(np.float32)
        refuse_rows(~np.isfinite(numbers), cells, path, f'"{target}" is no number', "mend it or change competition.task")
    return cells


def _from_lists(cells: "pd.Series[str]", separator: str, target: str, path: object) -> "pd.Series[str]":
    refuse_rows(cells.str.lower() == "nan", cells, path, f'"{target}" is nan', "leave the cell empty for no label, or remove the row")
    refuse_rows(cells.str.contains(SEPARATOR, regex=False) & (separator != SEPARATOR), cells, path, f'a label has "{SEPARATOR}"', "rename it")
    parts = [sorted({part.strip() for part in cell.split(separator)} - {""}) for cell in cells]
    return pd.Series([SEPARATOR.join(labels) for labels in parts], index=cells.index, dtype=cells.dtype)


def _from_columns(table: pd.DataFrame, competition: Competition, target: tuple[str, ...], path: object) -> "pd.Series[str]":
    values = table[list(target)].apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    odd = np.asarray((~np.isin(values, (0.0, 1.0))).any(axis=1))
    first = table[target[0]]
    refuse_rows(odd, first, path, "a target column is neither 0 nor 1", "mend it or change competition.target")
    counts = values.sum(axis=1)
    if competition.task != "multilabel":
        refuse_rows(counts != 1, first, path, f"not exactly one of {', '.join(target[:6])} is 1", "mend it or write competition.task=multilabel")
    if any(SEPARATOR in name for name in target):
        raise UserError(f'{path}: a target column has "{SEPARATOR}" in its name; rename it')
    names = np.array(target, dtype=object)
    return pd.Series([SEPARATOR.join(sorted(names[row == 1])) for row in values], index=table.index, dtype=str)


def refuse_control(cells: "pd.Series[str]", path: object) -> None:
    """UserError where an id or a label holds a line break or another control character: no table could carry it on."""
    odd = cells.str.contains(r"[\x00-\x1f\x7f]", regex=True)
    if odd.any():
        row = int(odd.to_numpy().argmax())
        raise UserError(f"{path}, row {row + 2}: {cells.iloc[row]!r} holds a line break or another control character; mend the table")


def refuse_rows(bad: "Numbers | pd.Series[bool]", cells: "pd.Series[str]", path: object, what: str, mend: str) -> None:
    """UserError that names the first bad row, counted as in the file (the header is 1)."""
    if bad.any():
        row = int(np.asarray(bad).argmax())
        raise UserError(f'{path}, row {row + 2}: {what} ("{cells.iloc[row]}"); {mend}')


def define_target(competition: Competition, texts: "pd.Series[str]", columns: Sequence[str] | None) -> Target:
    """The target of the train rows; `columns`: the sample's class columns, whose order and names must fit, or None."""
    task = competition.task
    if task == "regression":
        return Target(task, tuple(competition.target_columns[:1]))
    found = {name for text in texts.unique() for name in (split_labels(text) if task == "multilabel" else [text])}
    classes = _in_order(competition, found)
    if columns is not None:
        if odd := sorted(set(columns) ^ set(classes)):
            where = "the sample but in no training row" if odd[0] in columns else "the train table but not in the sample"
            raise UserError(f'class "{odd[0]}" is in {where}; check competition.target, or list every class in competition.classes')
        classes = tuple(columns) if task != "ordinal" else classes
    if len(classes) < 2:
        raise UserError(f"the train table has the one class {list(classes)}; check competition.target")
    return Target(task, _positive_last(competition, classes), bool((texts == "").any()))


def _in_order(competition: Competition, found: set[str]) -> tuple[str, ...]:
    """The classes: as the config lists them, as the target columns stand, by number for grades, else as text."""
    given = competition.classes or (None if isinstance(competition.target, str) else competition.target)
    if given is not None:
        if unknown := sorted(found - set(given)):
            raise UserError(f'competition.classes: "{unknown[0]}" is in the train table but not listed{did_you_mean(unknown[0], given)}')
        return tuple(given)
    if competition.task != "ordinal":
        return tuple(sorted(found))
    try:
        numbers = sorted(found, key=float)
        if all(name == str(int(float(name))) for name in found) and float(numbers[-1]) - float(numbers[0]) < MOST_GRADES:
            return tuple(str(grade) for grade in range(int(numbers[0]), int(numbers[-1]) + 1))  # a grade that no row has keeps its place
        return tuple(numbers)
    except ValueError as error:
        raise UserError(f"competition.classes: grades that are no numbers need their order ({error}); write classes: [lowest, ..., highest]") from None


def _positive_last(competition: Competition, classes: tuple[str, ...]) -> tuple[str, ...]:
    if competition.task != "binary":
        return classes
    if len(classes) != 2:
        raise UserError(f"competition.task: binary wants two classes, but there are {len(classes)}, e.g. {', '.join(classes[:4])}; write multiclass")
    positive = competition.positive or classes[1]
    if positive not in classes:
        raise UserError(f'competition.positive: "{positive}" is no class of the train table; its classes are {" and ".join(classes)}')
    return tuple(sorted(classes, key=lambda name: name == positive))


def with_classes(target: Target, classes: Sequence[str]) -> Target:
    """The same target with its outputs in another order."""
    return replace(target, classes=tuple(classes))
