"""Which classes are taken for which, and how well each is found."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.data.eda.facts import Finding, percent, quoted, several
from pipeline.report.charts import Chart, line, scale_across, scale_up, ticks_of
from pipeline.report.run import Rows

MOST_IN_GRID = 30  # classes of a confusion matrix that is shown whole
MOST_PAIRS = 30
MOST_BESIDE_GRID = 10  # pairs, where the grid shows them all
SHORT_NAME = 4  # characters of a class that may head a column
MOST_CLASSES = 40  # lines of the table of classes
ROC_POINTS = 200

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cell:
    """Rows of one class that were given one label."""

    count: int
    share: float
    """Of the rows of the class."""
    right: bool


@dataclass(frozen=True)
class Confused:
    """Rows of one class that were taken for another."""

    true: str
    predicted: str
    count: int
    share: float
    """Of the rows of the class."""
    back: int
    """Rows of the other class that were taken for this one."""


@dataclass(frozen=True)
class PerClass:
    """How well one class is found."""

    name: str
    rows: int
    found: int
    """Rows that were given it, and rightly."""
    given: int
    """Rows that were given it."""
    precision: float
    recall: float
    f1: float
    threshold: float | None = None
    average_precision: float | None = None


@dataclass(frozen=True)
class Classes:
    """The confusion matrix or its largest entries, and a line per class."""

    names: tuple[str, ...]
    """Of the grid's lines; empty without a grid."""
    heads: tuple[str, ...]
    """Of the grid's columns: the names, or their numbers where names are long."""
    grid: tuple[tuple[Cell, ...], ...]
    pairs: tuple[Confused, ...]
    more_pairs: int
    wrong: int
    rows: int
    far: tuple[tuple[str, int, float], ...]
    """Ordinal: how many grades off, rows, share."""
    lines: tuple[PerClass, ...]
    """The worst first."""
    more: int
    means: tuple[float | None, ...]
    """Of precision, recall and F1 over the classes that have rows."""
    roc: Chart | None
    area: float | None
    findings: tuple[Finding, ...]


def describe_classes(rows: Rows, thresholds: Sequence[float] | None = None) -> Classes:
    """Everything about classes or labels; not for a regression. thresholds: of each label, one half without."""
    multilabel = rows.target.task == "multilabel"
    matrix = None if multilabel else confusion(rows)
    if matrix is None:
        truth, given = rows.numbers == 1, rows.decided == 1
        found, positive, predicted = ((truth & given).sum(axis=0), truth.sum(axis=0), given.sum(axis=0))
    else:
        found, positive, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    lines = _per_class(rows, found, positive, predicted, thresholds)
    pairs = [] if matrix is None else _confused(rows.target.classes, matrix)
    grid = () if matrix is None or len(matrix) > MOST_IN_GRID else tuple(_grid_line(matrix, place) for place in range(len(matrix)))
    most = MOST_BESIDE_GRID if grid else MOST_PAIRS
    with_rows = [one for one in lines if one.rows]
    means = tuple(float(np.mean([getattr(one, name) for one in with_rows])) if with_rows else None for name in ("precision", "recall", "f1"))
    roc, area = _roc(rows) if rows.target.task == "binary" else (None, None)
    return Classes(
        rows.target.classes if grid else (),
        _heads(rows.target.classes) if grid else (),
        grid,
        tuple(pairs[:most]),
        max(0, len(pairs) - most),
        int(rows.wrong.sum()),
        len(rows),
        _far(rows) if rows.target.task == "ordinal" else (),
        tuple(_with_average_precision(one, rows) for one in lines[:MOST_CLASSES]) if multilabel else tuple(lines[:MOST_CLASSES]),
        max(0, len(lines) - MOST_CLASSES),
        means,
        roc,
        area,
        (*_missed(lines), *_most_confused(pairs, int(rows.wrong.sum()))),
    )


def confusion(rows: Rows) -> Counts:
    """Rows by true class and label [classes, classes]."""
    count = len(rows.target.classes)
    return np.bincount(rows.numbers * count + rows.decided, minlength=count * count).reshape(count, count)


def _grid_line(matrix: Counts, true: int) -> tuple[Cell, ...]:
    total = max(1, int(matrix[true].sum()))
    return tuple(Cell(int(count), int(count) / total, true == place) for place, count in enumerate(matrix[true]))


def _heads(names: tuple[str, ...]) -> tuple[str, ...]:
    return names if all(len(name) <= SHORT_NAME for name in names) else tuple(str(place + 1) for place in range(len(names)))


def _confused(names: tuple[str, ...], matrix: Counts) -> list[Confused]:
    """Every pair of classes of which the first is taken for the second, the most frequent first."""
    off = matrix - np.diag(np.diag(matrix))
    total = matrix.sum(axis=1)
    at = sorted(zip(*np.nonzero(off), strict=True), key=lambda cell: (-off[cell], cell))
    return [Confused(names[i], names[j], int(off[i, j]), float(off[i, j] / total[i]), int(off[j, i])) for i, j in at]


def _per_class(rows: Rows, found: Counts, positive: Counts, predicted: Counts, thresholds: Sequence[float] | None) -> list[PerClass]:
    """Every class, the worst F1 first; of equal ones the larger class. What is not defined counts as 0, as in scikit-learn."""
    precision, recall = (found / np.maximum(1, part) for part in (predicted, positive))
    f1 = 2 * found / np.maximum(1, predicted + positive)
    names = rows.target.classes
    multilabel = rows.target.task == "multilabel"
    lines = [
        PerClass(
            names[i], int(positive[i]), int(found[i]), int(predicted[i]), float(precision[i]), float(recall[i]), float(f1[i]),
            (0.5 if thresholds is None else thresholds[i]) if multilabel else None,
        )
        for i in range(len(names))
    ]  # fmt: skip
    return sorted(lines, key=lambda one: (one.rows == 0, one.f1, -one.rows, one.name))


def _with_average_precision(one: PerClass, rows: Rows) -> PerClass:
    from sklearn.metrics import average_precision_score

    column = rows.target.classes.index(one.name)
    has = rows.numbers[:, column] == 1
    return replace(one, average_precision=float(average_precision_score(has, rows.values[:, column])) if has.any() else None)


def _far(rows: Rows) -> tuple[tuple[str, int, float], ...]:
    distance = np.abs(rows.numbers - rows.decided)
    counts = np.bincount(distance)
    words = ["right", "one grade off", *(f"{several(off, 'grade')} off" for off in range(2, len(counts)))]
    return tuple((words[off], int(count), int(count) / len(rows)) for off, count in enumerate(counts) if count)


def _roc(rows: Rows) -> tuple[Chart | None, float | None]:
    """The ROC curve of the pooled rows and the area under it; nothing where a class has no row."""
    from sklearn.metrics import roc_auc_score, roc_curve

    if len(np.unique(rows.numbers)) < 2:
        return None, None
    false, true, _ = roc_curve(rows.numbers, rows.values[:, 1])
    grid = np.unique(np.concatenate([np.linspace(0, 1, ROC_POINTS), np.geomspace(1e-4, 1, 50)]))
    steps = np.interp(grid, false, true)
    steps[0] = 0.0
    height = 300.0
    across, up = scale_across(0, 1), scale_up(0, 1, height)
    keep = np.unique(np.concatenate([[0], np.flatnonzero(np.abs(np.diff(steps)) > 0), np.flatnonzero(np.abs(np.diff(steps)) > 0) + 1, [len(grid) - 1]]))
    shown = [(float(grid[i]), float(steps[i])) for i in keep]
    path = "M" + "L".join(f"{across(x):.1f} {up(y):.1f}" for x, y in shown)
    shapes = (("dash", line(across, up, [0, 1], [0, 1])), ("mean line-train", path))
    area = float(roc_auc_score(rows.numbers, rows.values[:, 1]))
    words = f"ROC curve, area {area:.4f}"
    title = "ROC curve: share of the positive rows that are found"
    return Chart(title, shapes, ticks_of(across), ticks_of(up), words, "share of the negative rows that are taken for positive", height), area


def _missed(lines: list[PerClass]) -> tuple[Finding, ...]:
    never = [one for one in lines if one.rows and not one.found]
    if not never:
        return ()
    names = quoted([one.name for one in sorted(never, key=lambda one: (-one.rows, one.name))])
    text = f"{several(len(never), 'class is', 'classes are')} never found, of {several(sum(one.rows for one in never), 'row')} in all: {names}."
    return (Finding("decide", text, "classes"),)


def _most_confused(pairs: list[Confused], wrong: int) -> tuple[Finding, ...]:
    if len(pairs) < 3 or pairs[0].count < 5 or pairs[0].count < wrong / 20:
        return ()
    one = pairs[0]
    text = f"{several(one.count, 'row')} of {quoted([one.true])} taken for {quoted([one.predicted])}: {percent(one.count / wrong)} of all mistakes."
    return (Finding("note", text, "confusion"),)
