"""The test set that is mounted: its rows, the sample that they are to be written into, and a few of them to look at."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.config_data import CLASS_TASKS, Competition, Images
from pipeline.data.images import CorruptImage, shrink
from pipeline.data.pictures import Pictures
from pipeline.data.tables import Tables, open_source, read_table, require_same_ids, unlabelled_rows
from pipeline.data.targets import split_labels
from pipeline.errors import UserError
from pipeline.kaggle.bundle import Bundle
from pipeline.predictions import Predictions
from pipeline.submission.formats import class_columns, make_sample
from pipeline.submission.sheet import Original, read_original

EXAMPLES = 8
EXAMPLE_SIDE = 128  # of an example's shorter side, pixels


@dataclass(frozen=True)
class TestSet:
    """The rows to predict."""

    rows: pd.DataFrame
    """id, path, and problem: why a picture cannot be read, "" if it can."""
    sample: pd.DataFrame
    original: Original | None

    @property
    def ids(self) -> list[str]:
        """In the order of the test table."""
        return list(self.rows["id"])

    @property
    def readable(self) -> pd.DataFrame:
        """The rows whose pictures can be read."""
        return self.rows[self.rows["problem"] == ""]


def read_rows(section: Competition, bundle: Bundle) -> TestSet:
    """The test table and the sample, joined as before training; no rows where there are none. UserError where they disagree."""
    if not section.root.is_dir():
        raise UserError(f"{section.root}: no such folder; attach the competition {bundle.slug} (Add Input -> Competitions)")
    sample_path = section.root / (section.sample_submission or "")
    sample = None if section.sample_submission is None else read_table(sample_path)
    if sample is not None and len(sample.columns) < 2:
        raise UserError(f"{sample_path}: needs an id column and one to predict, but has {list(sample.columns)}")
    if _is_empty(section, sample):
        rows = pd.DataFrame(columns=["split", "id", "path"], dtype=str)
    else:
        first = "0" if sample is not None and "0" in set(sample.iloc[:, 0]) else "1"
        rows = unlabelled_rows(section, sample, sample_path, first)[["split", "id", "path"]].reset_index(drop=True)
        require_same_ids(Tables(rows, sample, sample_path))
    if sample is None:
        return TestSet(rows, make_sample(list(rows["id"]), section.id or "id", bundle.target, bundle.form.name), None)
    columns = class_columns(sample, bundle.form.name)
    if columns is not None and (odd := sorted(set(columns) ^ set(bundle.target.classes))):
        raise UserError(f'{sample_path}: "{odd[0]}" is a column of the sample or a class of the networks, but not both; is this the competition {bundle.slug}?')
    return TestSet(rows, sample, read_original(sample_path, sample))


def _is_empty(section: Competition, sample: pd.DataFrame | None) -> bool:
    """Whether nothing is asked for: the sample has no rows, or where there is none, the test table."""
    if sample is not None:
        return sample.empty
    return section.test_table is None or open_source(section.root, section.test_table, section).table.index.empty


@dataclass(frozen=True)
class Example:
    """A row to look at."""

    id: str
    path: Path | None
    """Of its picture; None where that lies in a table or was unpacked for a while."""
    label: str
    probability: float | None
    """Of the label; None where there is none: several labels, numbers, ranks."""
    pixels: npt.NDArray[np.uint8]
    """The picture, RGB [height, width, 3], shrunk."""


def examples_of(found: Predictions, test: TestSet, bundle: Bundle, section: Competition, competition: Path) -> tuple[Example, ...]:
    """The first rows that can be read."""
    rows = test.readable.head(EXAMPLES)
    position = {name: row for row, name in enumerate(found.ids)}
    values = found.values[[position[name] for name in rows["id"]]]
    labels = bundle.target.labels(values) if len(rows) else []
    pictures = Pictures(section, Images())
    shown = []
    for name, path, label, row in zip(rows["id"], rows["path"], labels, values, strict=True):
        try:
            pixels = shrink(pictures.read(path), EXAMPLE_SIDE)
        except CorruptImage:
            continue
        file = competition / path
        chosen = bundle.target.classes.index(label) if bundle.target.task in CLASS_TASKS else None
        probability = float(row[chosen]) if chosen is not None and abs(float(row.sum()) - 1) < 1e-3 else None
        words = bundle.form.separator.join(split_labels(label)) if bundle.target.task == "multilabel" else label
        shown.append(Example(name, file if file.is_file() else None, words, probability, pixels))
    return tuple(shown)
