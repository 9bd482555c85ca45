"""Rows to look at: the most confident mistakes, and labels that look wrong, each with its picture."""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from pipeline.data.eda.facts import Finding, number, percent, several, short
from pipeline.data.images import CorruptImage, Pixels
from pipeline.data.targets import split_labels
from pipeline.report.label_errors import Pair, large_residuals, noisy_pairs, suspects
from pipeline.report.run import Rows, Run

if TYPE_CHECKING:
    from pipeline.data.eda.pictures import Picture

MOST_PICTURES = 24
MOST_ROWS = 40  # of the table of suspected labels
MOST_PAIRS = 12


@dataclass(frozen=True)
class Mistakes:
    """Pictures of the worst rows."""

    title: str
    how: str
    total: int
    pictures: tuple["Picture", ...]
    unreadable: int


@dataclass(frozen=True)
class Suspect:
    """A line of the table of labels that look wrong."""

    id: str
    label: str
    suggested: str
    own: str
    other: str
    fold: int
    copies: str
    """Labels of other copies of the picture."""


@dataclass(frozen=True)
class Suspects:
    """Labels that look wrong."""

    total: int
    rows: int
    """Different rows among them."""
    shown: tuple[Suspect, ...]
    pairs: tuple[Pair, ...]
    more_pairs: int
    estimated: float
    contradicted: int
    """Suspects with a copy of another label."""
    pictures: tuple["Picture", ...]
    unreadable: int
    findings: tuple[Finding, ...]


# ---------------------------------------------------------------- mistakes


def describe_mistakes(run: Run, rows: Rows) -> Mistakes:
    """The wrong rows whose label was surest; multilabel: the largest log loss; ordinal: the farthest; regression: the largest errors."""
    order, how = _worst(rows)
    position = {name: row for row, name in enumerate(rows.ids)}
    copies = _copies(run.groups, run.truth)
    pictures, unreadable = _pictures((rows.ids[row] for row in order), run.read, lambda name: _words(rows, position[name], copies(name)))
    title = "Largest errors" if rows.target.task == "regression" else "Most confident mistakes"
    return Mistakes(title, how, len(order), pictures, unreadable)


def _worst(rows: Rows) -> tuple[list[int], str]:
    """Row numbers, the worst first, and how they were ranked."""
    task = rows.target.task
    if task == "regression":
        return np.argsort(-np.abs(rows.values[:, 0].astype(np.float64) - rows.numbers[:, 0]), kind="stable").tolist(), "the distance of prediction and truth"
    wrong = np.flatnonzero(rows.wrong)
    values = rows.values[wrong].astype(np.float64)
    if task == "multilabel":
        given = np.where(rows.numbers[wrong] == 1, values, 1 - values)
        return wrong[np.argsort(np.log(np.clip(given, 1e-15, 1)).mean(axis=1), kind="stable")].tolist(), "their mean log loss over labels"
    sure = values[np.arange(len(wrong)), rows.decided[wrong]]
    if task == "ordinal":
        far = np.abs(rows.decided[wrong] - rows.numbers[wrong])
        return wrong[np.lexsort((-sure, -far))].tolist(), "the number of grades between label and prediction, then the probability of the predicted one"
    return wrong[np.argsort(-sure, kind="stable")].tolist(), "the probability of the predicted class"


def _words(rows: Rows, row: int, copies: str) -> tuple[str, ...]:
    """The caption of a row."""
    task, name = rows.target.task, rows.ids[row]
    last = (f"{short(name, 40)}, fold {rows.fold[row]}", *([f"copies: {short(copies, 40)}"] if copies else []))
    if task == "regression":
        predicted, true = float(rows.values[row, 0]), float(rows.numbers[row, 0])
        return (f"true {number(true)}", f"predicted {number(predicted)}, off by {number(predicted - true)}", *last)
    if task == "multilabel":
        true, given = rows.numbers[row] == 1, rows.decided[row] == 1
        lines = [
            _listed(words, rows, row, np.flatnonzero(mask).tolist()) for words, mask in (("missed", true & ~given), ("wrongly", given & ~true)) if mask.any()
        ]
        return (short(" + ".join(split_labels(rows.texts[row])) or "no label", 40), *lines, *last)
    label = int(rows.decided[row])
    return (short(rows.texts[row], 40), f"predicted {short(rows.target.classes[label], 40)}, {rows.values[row, label]:.3f}", *last)


def _listed(words: str, rows: Rows, row: int, columns: Sequence[int]) -> str:
    shown = ", ".join(f"{short(rows.target.classes[column], 24)} {rows.values[row, column]:.2f}" for column in columns[:3])
    return f"{words}: {shown}" + (f" and {len(columns) - 3} more" if len(columns) > 3 else "")


def _copies(groups: Mapping[str, Hashable], truth: Mapping[str, str]) -> Callable[[str], str]:
    """Of an id, the labels of other copies of its picture where they are not its own."""
    members: dict[Hashable, list[str]] = defaultdict(list)
    for name in sorted(groups):
        if name in truth:
            members[groups[name]].append(name)

    def labels(name: str) -> str:
        others = {truth[other] for other in members.get(groups[name], ())} - {truth[name]} if name in groups else set()
        return ", ".join(short(label, 24) or "no label" for label in sorted(others)[:3])

    return labels


def _pictures(ids: Iterable[str], read: Callable[[str], Pixels], caption: Callable[[str], tuple[str, ...]]) -> tuple[tuple["Picture", ...], int]:
    """The first 24 that can be read, and how many on the way could not."""
    from pipeline.data.eda.pictures import thumbnail

    pictures: list[Picture] = []
    unreadable = 0
    for name in ids:
        if len(pictures) == MOST_PICTURES or unreadable == MOST_PICTURES:
            break
        try:
            pictures.append(thumbnail(read(name), short(name), caption=caption(name)))
        except CorruptImage:
            unreadable += 1
    return tuple(pictures), unreadable


# ---------------------------------------------------------------- labels that look wrong


def describe_suspects(run: Run, rows: Rows) -> Suspects:
    """Confident learning on the blend's out-of-fold probabilities; of a regression the residuals far out."""
    regression = rows.target.task == "regression"
    table = large_residuals(rows) if regression else suspects(rows)
    pairs, estimated = ([], float("nan")) if regression else noisy_pairs(rows)
    copies = _copies(run.groups, run.truth)
    position = {name: row for row, name in enumerate(rows.ids)}
    shown = tuple(_suspect(line, rows, position, copies) for line in table.head(MOST_ROWS).to_dict("records"))
    captions: dict[str, tuple[str, ...]] = {}
    for line in table.head(4 * MOST_PICTURES).to_dict("records"):
        captions.setdefault(str(line["id"]), _suspect_words(_suspect(line, rows, position, copies), regression))
    pictures, unreadable = _pictures(captions, run.read, captions.__getitem__)
    contradicted = sum(bool(copies(str(name))) for name in table["id"].unique()) if run.groups else 0
    count = int(table["id"].nunique())
    return Suspects(
        len(table), count, shown, tuple(pairs[:MOST_PAIRS]), max(0, len(pairs) - MOST_PAIRS), estimated, contradicted, pictures, unreadable,
        _findings(count, len(rows), estimated, contradicted, regression),
    )  # fmt: skip


def _suspect(line: Mapping[Hashable, object], rows: Rows, position: Mapping[str, int], copies: Callable[[str], str]) -> Suspect:
    name, row = str(line["id"]), position[str(line["id"])]
    if rows.target.task == "regression":
        own, other = number(float(rows.values[row, 0] - rows.numbers[row, 0])), f"{pd.to_numeric(line['standardised']):+.1f}"  # type: ignore[call-overload]
        return Suspect(name, number(float(rows.numbers[row, 0])), number(float(rows.values[row, 0])), own, other, int(rows.fold[row]), copies(name))
    own, other = (f"{float(line[key]):.3f}" for key in ("own", "other"))  # type: ignore[arg-type]
    label, suggested = str(line["label"]), str(line["suggested"])
    if rows.target.task == "multilabel":
        label, suggested = label or f"without {suggested}", suggested or f"without {label}"
    return Suspect(name, label, suggested, own, other, int(rows.fold[row]), copies(name))


def _suspect_words(one: Suspect, regression: bool) -> tuple[str, ...]:
    last = (f"{short(one.id, 40)}, fold {one.fold}", *([f"copies: {short(one.copies, 40)}"] if one.copies else []))
    if regression:
        return (f"true {one.label}", f"predicted {one.suggested}, {one.other} standard deviations", *last)
    return (f"labelled {short(one.label, 40)}, {one.own}", f"looks like {short(one.suggested, 40)}, {one.other}", *last)


def _findings(count: int, total: int, estimated: float, contradicted: int, regression: bool) -> tuple[Finding, ...]:
    if not count:
        return ()
    if regression:
        text = f"{several(count, 'row has', 'rows have')} a residual far outside the others: look whether their truth is right."
        return (Finding("note", text, "labels"),)
    text = f"{several(count, 'row')} ({percent(count / total)}) may carry a wrong label"
    text += f"; the estimate of wrong labels is {percent(estimated)}" if np.isfinite(estimated) else ""
    text += f"; {several(contradicted, 'of them has', 'of them have')} a copy with another label" if contradicted else ""
    return (
        Finding(
            "decide" if count > 0.01 * total or contradicted else "note",
            text + ". A hard picture looks no different from a wrong label: look before you change any.",
            "labels",
        ),
    )
