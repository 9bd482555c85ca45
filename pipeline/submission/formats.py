"""Submission formats: which one, and how predictions become its cells."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipeline.config import ranks_looked_at
from pipeline.config_data import Task
from pipeline.data.targets import Numbers, Target, split_labels
from pipeline.errors import UserError
from pipeline.predictions import Predictions
from pipeline.training.metrics import METRICS

OF_VALUES = ("log_loss", "roc_auc", "average_precision", "probabilistic_f1")  # metrics that want a probability rather than a label
COLUMNS_OF_CLASSES = ("probabilities", "indicators")  # forms with a column per class
SOFTMAX_ERROR = 1e-3  # what rows of probabilities may miss of sum 1


@dataclass(frozen=True)
class Form:
    """How predictions become cells."""

    name: str
    """label, probabilities, indicators, score or top_k."""
    k: int = 5
    """Classes in a top_k cell."""
    separator: str = " "
    """Between several labels in a cell."""
    any_scale: bool = False
    """Whether the metric looks at the order of rows alone, so that logits and ranks will do."""


def choose_format(asked: str, sample: pd.DataFrame | None, task: Task, metric: str) -> str:
    """label, probabilities, indicators, score or top_k: what the config says, else what task, metric and the sample's columns say."""
    if sample is not None and len(sample.columns) > 2 and task == "regression":
        raise UserError(f"competition.task: regression predicts one number, but the sample has the columns {', '.join(sample.columns[1:6])}")
    if asked != "auto":
        return asked
    if task == "regression":
        return "score"
    if sample is not None and len(sample.columns) > 2:
        return "indicators" if METRICS[metric].needs == "labels" else "probabilities"
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
    if form in COLUMNS_OF_CLASSES:
        return list(sample.columns[1:])
    if len(sample.columns) != 2:
        raise UserError(f"submission.format: {form} writes one column, but the sample has {len(sample.columns) - 1}; write probabilities, indicators or auto")
    return None


def make_sample(ids: Sequence[str], id_column: str, target: Target, form: str) -> pd.DataFrame:
    """A sample submission for a competition that has none: the test ids, and the columns that the form writes."""
    columns = target.classes if form in COLUMNS_OF_CLASSES or target.task == "regression" else ("label",)
    return pd.DataFrame({id_column: list(ids), **dict.fromkeys(columns, "")}, dtype=str)


def to_table(predictions: Predictions, sample: pd.DataFrame, form: Form, target: Target) -> pd.DataFrame:
    """The submission as text, joined to the sample's ids by id, in the sample's order and columns."""
    ids = sample[sample.columns[0]].tolist()
    joined = predictions.of(ids)
    columns = [joined.classes.index(name) for name in target.classes]
    joined = replace(joined, classes=target.classes, values=np.ascontiguousarray(joined.values[:, columns]))  # one order of summing
    if form.name in COLUMNS_OF_CLASSES:
        columns_of = _indicators if form.name == "indicators" else _probabilities
        values = columns_of(joined, form, target)
        return pd.DataFrame({sample.columns[0]: ids, **{name: _as_text(values[:, joined.classes.index(name)]) for name in sample.columns[1:]}})
    return pd.DataFrame({sample.columns[0]: ids, sample.columns[1]: _one_column(joined, form, target)})


def _probabilities(joined: Predictions, form: Form, target: Target) -> Numbers:
    """Rows of one class scaled to sum 1, unless they are no probabilities and need not be."""
    values = joined.values.astype(np.float64)
    sums = values.sum(axis=1, keepdims=True)
    if target.task == "multilabel" or (form.any_scale and (np.abs(sums - 1) > SOFTMAX_ERROR).any()):
        return values
    return np.asarray(values / sums)


def _indicators(joined: Predictions, _form: Form, target: Target) -> Numbers:
    """1 for each label that is decided on, else 0 [rows, classes]."""
    decided = target.decide(joined.values)
    return decided if target.task == "multilabel" else np.eye(len(target.classes))[decided]


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
