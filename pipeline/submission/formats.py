"""Submission formats, and the checks without which no file is written."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.errors import UserError
from pipeline.predictions import Predictions

ROW_SUM_TOLERANCE = 1e-3


def choose_format(asked: str, sample: pd.DataFrame, metric: str) -> str:
    """label or probabilities: what the config says, else what the sample's columns say."""
    if asked != "auto":
        return asked
    if len(sample.columns) > 2:
        return "probabilities"
    if metric == "log_loss":
        raise UserError(
            f"submission.format: {metric} wants probabilities, but the sample has the one column"
            f' "{sample.columns[-1]}"; write submission.format=label if labels are meant'
        )
    return "label"


def class_order(targets: "pd.Series[str]", sample: pd.DataFrame, form: str) -> tuple[str, ...]:
    """The classes: in the sample's column order for probabilities, else sorted as text. UserError if they disagree."""
    classes = sorted(targets.unique())
    if len(classes) < 2:
        raise UserError(f"the train table has the one class {classes}; check competition.target")
    if form == "label":
        if len(sample.columns) != 2:
            raise UserError(f"submission.format: label writes one column, but the sample has {len(sample.columns) - 1}; write probabilities or auto")
        return tuple(classes)
    columns = list(sample.columns[1:])
    if odd := sorted(set(columns) ^ set(classes)):
        where = "the sample but in no training row" if odd[0] in columns else "the train table but not in the sample"
        raise UserError(f'class "{odd[0]}" is in {where}; check competition.target and competition.sample_submission')
    return tuple(columns)


def to_table(predictions: Predictions, sample: pd.DataFrame, form: str) -> pd.DataFrame:
    """The submission as text, joined to the sample's ids by id, in the sample's order and columns."""
    ids = sample[sample.columns[0]].tolist()
    joined = predictions.of(ids)
    if form == "label":
        labels = np.asarray(joined.classes, dtype=object)[joined.values.argmax(axis=1)]
        return pd.DataFrame({sample.columns[0]: ids, sample.columns[1]: labels})
    values = joined.values.astype(np.float64)
    values /= values.sum(axis=1, keepdims=True)
    columns = {name: [f"{value:.9g}" for value in values[:, joined.classes.index(name)]] for name in sample.columns[1:]}
    return pd.DataFrame({sample.columns[0]: ids, **columns})


@dataclass(frozen=True)
class Finding:
    """Something that the competition would refuse, and how to mend it."""

    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.what}; {self.mend}"


def check_table(table: pd.DataFrame, sample: pd.DataFrame, form: str, classes: tuple[str, ...]) -> list[Finding]:
    """What is wrong with a submission; all cells are text, rows are counted as in the file (header is 1)."""
    if list(table.columns) != list(sample.columns):
        have, want = ",".join(table.columns)[:120], ",".join(sample.columns)[:120]
        return [Finding(f"the columns are {have}", f"write {want}, in this order")]
    findings = _check_ids(table[table.columns[0]], sample[sample.columns[0]])
    body = table[table.columns[1:]]
    if form == "label":
        odd = ~body.iloc[:, 0].isin(classes)
        if odd.any():
            row = int(odd.to_numpy().argmax())
            findings.append(Finding(f'row {row + 2}: "{body.iloc[row, 0]!s}" is no label of the train table', f"write one of {', '.join(classes[:6])}"))
        return findings
    return findings + _check_probabilities(body)


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


def _check_probabilities(body: pd.DataFrame) -> list[Finding]:
    values = body.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        row, column = (int(part) for part in np.argwhere(bad)[0])
        return [Finding(f'row {row + 2}: "{body.iloc[row, column]!s}" in column {body.columns[column]} is no finite number', "write a probability")]
    outside = (values < 0) | (values > 1)
    if outside.any():
        row, column = (int(part) for part in np.argwhere(outside)[0])
        return [Finding(f"row {row + 2}: {values[row, column]:g} in column {body.columns[column]} is no probability", "write 0 to 1")]
    sums = values.sum(axis=1)
    off = np.abs(sums - 1) > ROW_SUM_TOLERANCE
    if off.any():
        row = int(off.argmax())
        return [Finding(f"row {row + 2}: the probabilities sum to {sums[row]:.6g}", "scale each row to sum 1")]
    return []


def require_valid(table: pd.DataFrame, sample: pd.DataFrame, form: str, classes: tuple[str, ...]) -> None:
    """UserError with every finding unless the competition would take the table."""
    if findings := check_table(table, sample, form, classes):
        raise UserError("submission refused: " + " | ".join(str(finding) for finding in findings))
