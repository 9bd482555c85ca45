"""Predictions that know which row, which fold and which classes they are for."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import UserError
from pipeline.files import atomic, digest

TEST = -1  # the fold of a test row


@dataclass(frozen=True)
class Predictions:
    """Probabilities, or numbers in the target's unit, by id.

    ids: text, unique; classes: text, the columns of values, for a regression its one name; values: float32 [rows, classes];
    fold: int16 [rows], the fold in which a row was held out, -1 for test.
    """

    ids: tuple[str, ...]
    classes: tuple[str, ...]
    values: npt.NDArray[np.float32]
    fold: npt.NDArray[np.int16]

    def __post_init__(self) -> None:
        assert self.values.dtype == np.float32
        assert self.fold.dtype == np.int16
        assert self.values.shape == (len(self.ids), len(self.classes)), (self.values.shape, len(self.ids), len(self.classes))
        assert self.fold.shape == (len(self.ids),)
        if len(set(self.ids)) != len(self.ids):
            doubled = Counter(self.ids).most_common(1)[0][0]
            raise UserError(f'predictions: id "{doubled}" is there twice; an id names one row')
        if not np.isfinite(self.values).all():
            row = int(np.argwhere(~np.isfinite(self.values))[0, 0])
            raise UserError(f'predictions: the row of id "{self.ids[row]}" is not finite; train that fold again')

    def __len__(self) -> int:
        return len(self.ids)

    def of(self, ids: Sequence[str]) -> "Predictions":
        """The same predictions in the order of `ids`; a missing or unknown id raises UserError."""
        if tuple(ids) == self.ids:
            return self
        position = {name: row for row, name in enumerate(self.ids)}
        _refuse_difference(position.keys(), ids)
        order = np.array([position[name] for name in ids], dtype=np.int64)
        return Predictions(tuple(ids), self.classes, self.values[order], self.fold[order])

    def in_classes(self, classes: Sequence[str]) -> "Predictions":
        """The same predictions with the columns in the order of `classes`; UserError unless they are the same classes."""
        if tuple(classes) == self.classes:
            return self
        if set(self.classes) != set(classes):
            odd = sorted(set(self.classes) ^ set(classes))[0]
            raise UserError(f'predictions: class "{odd}" is in one model and not in another; blend models of the same classes')
        columns = [self.classes.index(name) for name in classes]
        return Predictions(self.ids, tuple(classes), np.ascontiguousarray(self.values[:, columns]), self.fold)

    def in_fold(self, fold: int) -> "Predictions":
        """The rows held out in `fold`; -1 gives the test rows."""
        return self.take(np.flatnonzero(self.fold == fold))

    def outside_fold(self, fold: int) -> "Predictions":
        """The rows that are not held out in `fold`."""
        return self.take(np.flatnonzero(self.fold != fold))

    def take(self, rows: npt.NDArray[np.int64]) -> "Predictions":
        """The rows of these numbers, in their order."""
        return Predictions(tuple(self.ids[row] for row in rows), self.classes, self.values[rows], self.fold[rows])

    def by_id(self) -> "Predictions":
        """The same rows sorted by id."""
        return self.of(sorted(self.ids))

    def digest(self) -> str:
        """SHA-256 of ids, classes, folds and values."""
        values = hashlib.sha256(self.values.tobytes()).hexdigest()
        return digest([self.ids, self.classes, self.fold.tolist(), values])

    def save(self, folder: Path) -> None:
        """Writes `values.npy`, then `rows.parquet` (id, fold, and the classes in its metadata)."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        with atomic(folder / "values.npy") as temporary, temporary.open("wb") as file:
            np.save(file, self.values, allow_pickle=False)
        rows = pa.table({"id": pa.array(self.ids, pa.string()), "fold": pa.array(self.fold, pa.int16())})
        with atomic(folder / "rows.parquet") as temporary:
            pq.write_table(rows.replace_schema_metadata({"classes": json.dumps(self.classes)}), temporary)

    @classmethod
    def load(cls, folder: Path, mapped: bool = False) -> "Predictions":
        """What `save` wrote, `mapped` from the disk or read into memory; raises FileNotFoundError where it is not complete."""
        import pyarrow.parquet as pq

        rows = pq.read_table(folder / "rows.parquet")
        values = np.load(folder / "values.npy", mmap_mode="r" if mapped else None, allow_pickle=False)
        classes = tuple(json.loads(rows.schema.metadata[b"classes"]))
        return cls(tuple(rows["id"].to_pylist()), classes, values, rows["fold"].to_numpy().astype(np.int16))


def concatenate(parts: Sequence[Predictions]) -> Predictions:
    """Rows of several predictions, one after the other; an id in two of them raises UserError."""
    assert len({part.classes for part in parts}) == 1, "predictions of one model have one order of classes"
    ids = tuple(name for part in parts for name in part.ids)
    return Predictions(ids, parts[0].classes, np.concatenate([p.values for p in parts]), np.concatenate([p.fold for p in parts]))


def align(parts: Sequence[Predictions]) -> list[Predictions]:
    """The same rows and classes, in the first one's order; different ids or classes raise UserError. Each keeps its folds."""
    first = parts[0]
    return [first, *(other.in_classes(first.classes).of(first.ids) for other in parts[1:])]


def _refuse_difference(have: Iterable[str], want: Sequence[str]) -> None:
    known, wanted = set(have), set(want)
    if len(wanted) != len(want):
        raise UserError("predictions: an id is asked for twice; an id names one row")
    if missing := wanted - known:
        raise UserError(f'predictions: {len(missing)} ids are missing, e.g. "{min(missing)}"; predict them first')
    if unknown := known - wanted:
        raise UserError(f'predictions: {len(unknown)} ids are unknown, e.g. "{min(unknown)}"; they belong to other folds or another test table')
