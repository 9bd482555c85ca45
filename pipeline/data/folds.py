"""Folds: which train row is held out when. The same rows and seed give the same folds in any row order."""

import logging

import numpy as np
import pandas as pd

from pipeline.config import Folds
from pipeline.errors import UserError

log = logging.getLogger(__name__)


def assign_folds(rows: pd.DataFrame, section: Folds) -> pd.DataFrame:
    """Table id, target, fold, sorted by id; every row is held out once.

    rows: id and target as text. UserError if there are fewer rows, or members of every class, than folds.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    table = rows[["id", "target"]].sort_values("id", kind="stable").reset_index(drop=True)
    if len(table) < section.n_splits:
        raise UserError(f"folds.n_splits: {section.n_splits} folds need as many rows, but there are {len(table)}")
    sizes = table["target"].value_counts()
    rare = sizes[sizes < section.n_splits]
    if section.strategy == "stratified" and len(rare):
        if len(rare) == len(sizes):
            raise UserError(
                f'folds.n_splits: no class has {section.n_splits} members (the largest, "{sizes.index[0]}", has {sizes.iloc[0]});'
                " use fewer folds or folds.strategy=kfold"
            )
        log.warning('folds     %d classes have fewer members than folds and are missing from some, e.g. "%s" (%d)', len(rare), rare.index[0], rare.iloc[0])
    splitter = {"stratified": StratifiedKFold, "kfold": KFold}[section.strategy](section.n_splits, shuffle=True, random_state=section.seed)
    codes = np.unique(table["target"].to_numpy(dtype=str), return_inverse=True)[1]
    fold = np.full(len(table), -1, dtype=np.int16)
    for number, (_, held_out) in enumerate(_quiet_split(splitter, codes)):
        assert (fold[held_out] == -1).all(), "a row is held out twice"
        fold[held_out] = number
    assert (fold >= 0).all(), "a row is never held out"
    if section.strategy == "stratified":
        _assert_stratified(codes, fold, section.n_splits)
    return table.assign(fold=fold)


def _quiet_split(splitter: object, codes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        return list(splitter.split(np.zeros(len(codes)), codes))  # type: ignore[attr-defined]


def _assert_stratified(codes: np.ndarray, fold: np.ndarray, n_splits: int) -> None:
    """Every class is spread as evenly as its count allows: fold counts differ by at most one."""
    counts = np.zeros((codes.max() + 1, n_splits), dtype=np.int64)
    np.add.at(counts, (codes, fold), 1)
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all(), "a class is spread unevenly over the folds"
