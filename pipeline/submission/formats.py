"""Submission formats, and the checks without which no file is written."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipeline.config import ranks_looked_at
from pipeline.config_data import Task
from pipeline.data.targets import Target, split_labels
from pipeline.errors import UserError
from pipeline.predictions import Predictions

ROW_SUM_TOLERANCE = 1e-3
OF_VALUES = ("log_loss", "roc_auc", "average_precision", "probabilistic_f1")  # metrics that want a probability rather than a label


@dataclass(frozen=True)
class Form:
    """How predictions become cells."""

    name: str
    """label, probabilities, score or top_k."""
    k: int = 5
    """Classes in a top_k cell."""
    separator: str = " "
    """Between several labels in a cell."""


def choose_format(asked: str, sample: pd.DataFrame | None, task: Task, metric: str) -> str:
    """label, probabilities, score or top_k: what the config says, else what task, metric and the sample's columns say."""
    if sample is not None and len(sample.columns) > 2 and task == "regression":
        raise UserError(f"competition.task: regression predicts one number, but the sample has the columns {', '.join(sample.columns[1:6])}")
    if asked != "auto":
        return asked
    if task == "regression":
        return "score"
    if sample is not None and len(sample.columns) > 2:
        return "probabilities"
    if metric in OF_VALUES and task == "binary":
        return "score"
    if ranks_looked_at(metric):
        return "top_k"
    if metric in OF_VALUES and sample is not None:
        raise UserError(
            f"submission.format: {metric} wants probabilities, but the sample has the one column"
            f' "{sample.columns[-1]}"; write submission.format=label if labels are meant, or competition.task=binary'
        )
    return "probabilities" if metric in OF_VALUES else "label"


def class_columns(sample: pd.DataFrame | None, form: str) -> list[str] | None:
    """The sample's columns that are classes, or None; UserError where the form and the sample disagree."""
    if sample is None:
        return None
    if form == "probabilities":
        return list(sample.columns[1:])
    if len(sample.columns) != 2:
        raise UserError(f"submission.format: {form} writes one column, but the sample has {len(sample.columns) - 1}; write probabilities or auto")
    return None


def make_sample(ids: Sequence[str], id_column: str, target: Target, form: str) -> pd.DataFrame:
    """A sample submission for a competition that has none: the test ids, and the columns that the form writes."""
    columns = target.classes if form == "probabilities" or target.task == "regression" else ("label",)
    return pd.DataFrame({id_column: list(ids), **dict.fromkeys(columns, "")}, dtype=str)


def to_table(predictions: Predictions, sample: pd.DataFrame, form: Form, target: Target) -> pd.DataFrame:
    """The submission as text, joined to the sample's ids by id, in the sample's order and columns."""
    ids = sample[sample.columns[0]].tolist()
    joined = predictions.of(ids)
    columns = [joined.classes.index(name) for name in target.classes]
    joined = replace(joined, classes=target.classes, values=joined.values[:, columns])
    if form.name == "probabilities":
        values = joined.values.astype(np.float64)
        if target.task != "multilabel":
            values /= values.sum(axis=1, keepdims=True)
        return pd.DataFrame({sample.columns[0]: ids, **{name: _as_text(values[:, joined.classes.index(name)]) for name in sample.columns[1:]}})
    return pd.DataFrame({sample.columns[0]: ids, sample.columns[1]: _one_column(joined, form, target)})


def _one_column(joined: Predictions, form: Form, target: Target) -> list[str]:
    if form.name == "score":
        return _as_text(joined.values[:, -1])
    if form.name == "top_k":
        order = np.argsort(-joined.values, axis=1, kind="stable")[:, : form.k]
        return [form.separator.join(joined.classes[number] for number in row) for row in order]
    labels = target.labels(joined.values)
    return [form.separator.join(split_labels(label)) for label in labels] if target.task == "multilabel" else labels


def _as_text(values: "np.ndarray[tuple[int, ...], np.dtype[np.floating]]") -> list[str]:
    return [f"{value:.9g}" for value in values.astype(np.float64)]


@dataclass(frozen=True)
class Finding:
    """Something that the competition would refuse, and how to mend it."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}"


def check_table(table: pd.DataFrame, sample: pd.DataFrame, form: Form, target: Target) -> list[Finding]:
    """What is wrong with a submission; all cells are text, rows are counted as in the file (header is 1)."""
    if list(table.columns) != list(sample.columns):
        have, want = ",".join(table.columns)[:120], ",".join(sample.columns)[:120]
        return [Finding(f"the columns are {have}", f"write {want}, in this order")]
    findings = _check_ids(table[table.columns[0]], sample[sample.columns[0]])
    body = table[table.columns[1:]]
    if form.name in ("label", "top_k"):
        return findings + _check_labels(body.iloc[:, 0], form, target)
    return findings + _check_numbers(body, target)


def _check_labels(cells: "pd.Series[str]", form: Form, target: Target) -> list[Finding]:
    several = form.name == "top_k" or target.task == "multilabel"
    known, most = set(target.classes), form.k if form.name == "top_k" else len(target.classes)
    for row, cell in enumerate(cells):
        labels = [label for label in str(cell).split(form.separator) if label] if several else [str(cell)]
        if odd := [label for label in labels if label not in known]:
            return [Finding(f'row {row + 2}: "{odd[0]}" is no label of the train table', f"write one of {', '.join(target.classes[:6])}")]
        if len(set(labels)) != len(labels) or len(labels) > most:
            return [Finding(f'row {row + 2}: "{cell}" has a label twice, or more than {most}', "write each once, the most probable first")]
        if not labels and not (target.task == "multilabel" and target.may_be_empty):
            return [Finding(f"row {row + 2}: there is no label", f"write one of {', '.join(target.classes[:6])}")]
    return []


def _check_ids(ids: "pd.Series[str]", wanted: "pd.Series[str]") -> list[Finding]:
    findings = []
    if len(ids) != len(wanted):
        findings.append(Finding(f"there are {len(ids)} rows, but the sample has {len(wanted)}", "write one row per id of the sample"))
    doubled = ids.duplicated()
    if doubled.any():
        row = int(doubled.to_numpy().argmax())
        findings.append(Finding(f'row {row + 2}: id "{ids.iloc[row]}" is there twice', "write each id once"))
    if missing := sorted(set(wanted) - set(ids)):
        findings.append(Finding(f'{len(missing)} ids of the sample are missing, e.g. "{missing[0]}"', "predict them too"))
    if unknown := sorted(set(ids) - set(wanted)):
        findings.append(Finding(f'{len(unknown)} ids are not in the sample, e.g. "{unknown[0]}"', "leave them out"))
    if not findings and list(ids) != list(wanted):
        row = next(row for row, (a, b) in enumerate(zip(ids, wanted, strict=True)) if a != b)
        findings.append(Finding(f'row {row + 2}: id "{ids.iloc[row]}" stands where the sample has "{wanted.iloc[row]}"', "keep the sample's order"))
    return findings


def _check_numbers(body: pd.DataFrame, target: Target) -> list[Finding]:
    values = body.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = (int(part) for part in np.argwhere(bad)[0])
        return [Finding(f'row {row + 2}: "{body.iloc[row, column]!s}" in column {body.columns[column]} is no finite number', "write a number")]
    if target.task == "regression":
        return []
    outside = (values < 0) | (values > 1)
    if outside.any():
        row, column = (int(part) for part in np.argwhere(outside)[0])
        return [Finding(f"row {row + 2}: {values[row, column]:g} in column {body.columns[column]} is no probability", "write 0 to 1")]
    if target.task == "multilabel" or body.shape[1] == 1:
        return []
    sums = values.sum(axis=1)
    off = np.abs(sums - 1) > ROW_SUM_TOLERANCE
    if off.any():
        row = int(off.argmax())
        return [Finding(f"row {row + 2}: the probabilities sum to {sums[row]:.6g}", "scale each row to sum 1")]
    return []


def require_valid(table: pd.DataFrame, sample: pd.DataFrame, form: Form, target: Target) -> None:
    """UserError with every finding unless the competition would take the table."""
    if findings := check_table(table, sample, form, target):
        raise UserError("submission refused: " + " | ".join(str(finding) for finding in findings))
