"""What a student learns from its teacher: which test rows, and what targets; nothing here reads files."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.config import Distillation, PseudoLabels
from pipeline.data.targets import Numbers, Target
from pipeline.errors import UserError
from pipeline.predictions import Predictions, concatenate

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Lessons:
    """Where a student's lessons are; plain data, cheap to send to another process.

    digests: by fold_0, fold_1, ... and all, the content of what that network learns; optimistic: why the teacher's CV, and so the
    student's, flatters it.
    """

    folder: Path
    digests: Mapping[str, str]
    optimistic: tuple[str, ...] = ()


def check_selection(section: PseudoLabels, target: Target) -> None:
    """UserError for keys that a regression cannot follow: nothing says which of its rows are sure."""
    if target.task != "regression":
        return
    chosen = {"confidence": section.confidence > 0, "share": section.share < 1, "balanced": section.balanced, "hard": section.hard}
    if keys := [key for key, holds in chosen.items() if holds]:
        raise UserError(f"teacher.pseudo_labels.{keys[0]}: a regression's numbers do not say how sure they are; leave the key out to take every test row")


def confidence(target: Target, values: Floats) -> Floats:
    """How sure each row is [rows]: the probability of the class that it is decided for; multilabel: mean over labels of the likelier side."""
    if target.task == "multilabel":
        return np.asarray(np.maximum(values, 1 - values).mean(axis=1), dtype=np.float32)
    return np.asarray(values[np.arange(len(values)), target.decide(values)], dtype=np.float32)


def select(section: PseudoLabels, target: Target, values: Floats) -> npt.NDArray[np.int64]:
    """Numbers of the rows to learn from, ascending; values: predictions [rows, outputs].

    At most `share` of the rows, the surest first, equally sure ones in the order of rows; none below `confidence`. balanced: that
    share of the rows of each predicted class, at least one; a multilabel row counts for the rarest of its labels.
    """
    if target.task == "regression":
        return np.arange(len(values))
    sure = confidence(target, values)
    group = _predicted_group(target, values) if section.balanced else np.zeros(len(values), dtype=np.int64)
    taken = []
    for number in np.unique(group):
        rows = np.flatnonzero(group == number)
        most = math.floor(section.share * len(rows) + 1e-9)
        taken.append(rows[np.argsort(-sure[rows], kind="stable")][: max(1, most) if section.balanced else most])
    chosen = np.concatenate(taken) if taken else np.zeros(0, dtype=np.int64)
    return np.asarray(np.sort(chosen[sure[chosen] >= section.confidence]), dtype=np.int64)


def _predicted_group(target: Target, values: Floats) -> npt.NDArray[np.int64]:
    """The predicted class of each row; of several labels the one that fewest rows have, and one more number for no label."""
    decided = target.decide(values)
    if decided.ndim == 1:
        return decided.astype(np.int64)
    has = np.column_stack([decided > 0, (decided == 0).all(axis=1)])
    return np.asarray(np.where(has, has.sum(axis=0), len(has) + 1).argmin(axis=1), dtype=np.int64)


def pseudo_targets(section: PseudoLabels, target: Target, values: Floats) -> Floats:
    """What to learn of test rows [rows, outputs]: the predictions themselves, or with `hard` what they are decided for."""
    return soft(target, target.decide(values)) if section.hard else values


def distilled(section: Distillation, truth: Floats, taught: Floats) -> Floats:
    """Targets [rows, outputs]: the truth, and in it `weight` of what the teacher says (Hinton et al., arXiv:1503.02531, temperature 1)."""
    return ((1 - section.weight) * truth.astype(np.float64) + section.weight * taught).astype(np.float32)


def soft(target: Target, numbers: Numbers) -> Floats:
    """Targets as `Target.numbers` gives them, as float32 [rows, outputs]: a class becomes a row of one 1."""
    if numbers.ndim == 2:
        return numbers.astype(np.float32)
    return np.asarray(np.eye(len(target.classes), dtype=np.float32)[numbers])


def nested_pairs(num_folds: int) -> list[tuple[int, int]]:
    """The two folds that each nested teacher does without, n (n - 1) / 2 pairs, each in ascending order."""
    return [(first, second) for first in range(num_folds) for second in range(first + 1, num_folds)]


def nested_lesson(student: int, pieces: Mapping[tuple[int, int], Predictions]) -> Predictions:
    """Every row outside the student's fold, predicted by the teacher that saw neither the row's fold nor the student's.

    pieces: by the two folds that a teacher did without, its predictions of the rows of both.
    """
    return concatenate([piece.in_fold(fold) for pair, piece in sorted(pieces.items()) if student in pair for fold in pair if fold != student])
