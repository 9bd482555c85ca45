"""Every kind of submission, small: its form, its target, a sample, and predictions for it."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from pipeline.data.targets import Target
from pipeline.predictions import TEST, Predictions
from pipeline.submission.doctor import check_file
from pipeline.submission.findings import Finding
from pipeline.submission.formats import Form, to_table

IDS = ("007", "7", "b,c", "10")
CLASSES = ("cat", "dog", "ä")
GRADES = ("0", "1", "2", "10")
KINDS: dict[str, tuple[Form, Target, pd.DataFrame]] = {
    "label": (Form("label"), Target("multiclass", CLASSES), pd.DataFrame({"image": IDS, "label": "cat"})),
    "probabilities": (Form("probabilities"), Target("multiclass", CLASSES), pd.DataFrame({"image": IDS, "dog": "0", "ä": "0", "cat": "1"})),
    "grade": (Form("label"), Target("ordinal", GRADES), pd.DataFrame({"image": IDS, "label": "0"})),
    "score": (Form("score"), Target("binary", ("no", "yes")), pd.DataFrame({"image": IDS, "label": "0.5"})),
    "top_k": (Form("top_k", 2), Target("multiclass", CLASSES), pd.DataFrame({"image": IDS, "label": "cat dog"})),
    "labels": (Form("label"), Target("multilabel", CLASSES), pd.DataFrame({"image": IDS, "label": "cat"})),
    "labels or none": (Form("label", separator="|"), Target("multilabel", CLASSES, True), pd.DataFrame({"image": IDS, "label": ""})),
    "label columns": (Form("probabilities"), Target("multilabel", CLASSES), pd.DataFrame({"image": IDS, "dog": "0", "ä": "0", "cat": "1"})),
    "indicators": (Form("indicators"), Target("multiclass", CLASSES), pd.DataFrame({"image": IDS, "dog": "0", "ä": "0", "cat": "0"})),
    "several indicators": (Form("indicators"), Target("multilabel", CLASSES), pd.DataFrame({"image": IDS, "dog": "0", "ä": "0", "cat": "0"})),
    "number": (Form("score"), Target("regression", ("price",)), pd.DataFrame({"image": IDS, "price": "0"})),
}


def predictions(kind: str = "label", seed: int = 0, ids: tuple[str, ...] = IDS, classes: tuple[str, ...] | None = None) -> Predictions:
    target = KINDS[kind][1]
    classes = classes or target.classes
    generator = np.random.default_rng(seed)
    if target.task == "regression":
        values = generator.normal(100, 50, (len(ids), 1))
    else:
        values = generator.random((len(ids), len(classes))) if target.task == "multilabel" else generator.dirichlet(np.ones(len(classes)), len(ids))
    return Predictions(ids, classes, values.astype(np.float32), np.full(len(ids), TEST, dtype=np.int16))


def of_values(kind: str, values: list[list[float]], ids: tuple[str, ...] = IDS) -> Predictions:
    return Predictions(ids, KINDS[kind][1].classes, np.array(values, dtype=np.float32), np.full(len(ids), TEST, dtype=np.int16))


def table_of(kind: str, source: Predictions | None = None) -> pd.DataFrame:
    form, target, sample = KINDS[kind]
    return to_table(source or predictions(kind), sample, form, target)


def written(table: pd.DataFrame) -> bytes:
    """The table as the pipeline writes it."""
    return table.to_csv(index=False, lineterminator="\n").encode()


def findings(
    raw: bytes,
    sample: pd.DataFrame,
    form: Form | None = None,
    target: Target | None = None,
    judgement: bool = False,
) -> list[Finding]:
    """What the doctor says of a file with these bytes; what is a matter of judgement only if asked for."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        path.write_bytes(raw)
        return [finding for finding in check_file(path, sample, form, target) if judgement or not finding.judgement]


def findings_of(table: pd.DataFrame, kind: str) -> list[Finding]:
    """What the doctor says of a table of this kind."""
    form, target, sample = KINDS[kind]
    return findings(written(table), sample, form, target)
