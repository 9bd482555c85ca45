"""Folds: which train row is held out when. The same rows and seed give the same folds in any row order.

Rows that belong together (copies of a picture, equal `folds.group` columns) are one item that goes into one fold as a whole.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.config_data import Folds, Task
from pipeline.data.tables import METADATA
from pipeline.data.targets import split_labels
from pipeline.errors import UserError

log = logging.getLogger(__name__)
Integers = npt.NDArray[np.int64]


def assign_folds(rows: pd.DataFrame, section: Folds, task: Task, copies: Mapping[str, str]) -> pd.DataFrame:
    """Table id, target, group, fold, sorted by id; every row is held out once, every group in one fold.

    rows: id and target as text, and the columns table.<name> that the section names; copies: group by id of rows that are
    copies of a picture. group is "" for a row that stands alone. UserError where there are fewer items than folds.
    """
    table = rows.sort_values("id", kind="stable").reset_index(drop=True)
    groups = _groups(table, section, copies) if "group" in section.strategy else np.arange(len(table))
    if section.strategy == "column":
        fold = _own_column(table, section)
    else:
        items = len(np.unique(groups))
        if items < section.n_splits:
            what = "rows" if items == len(table) else "groups of rows that stay together"
            raise UserError(f"folds.n_splits: {section.n_splits} folds need as many {what}, but there are {items}")
        strata = _strata(table["target"], section, task) if "stratified" in section.strategy else [np.zeros(1, dtype=np.int64)] * len(table)
        fold = spread(strata, groups, section.n_splits, section.seed)
    sizes = np.bincount(groups)
    names = np.where(sizes[groups] > 1, table["id"].to_numpy(dtype=object)[groups], "")
    _check(table["target"], fold, groups, section, task)
    return pd.DataFrame({"id": table["id"], "target": table["target"], "group": names.astype(str), "fold": fold.astype(np.int16)})


def needed_columns(rows: pd.DataFrame, section: Folds) -> list[str]:
    """The further columns of the train table that the folds follow from; UserError for one that is not there."""
    asked = {"folds.group": section.group, "folds.column": () if section.column is None else (section.column,)}
    for key, names in asked.items():
        for name in names:
            if METADATA + name not in rows.columns or (rows[METADATA + name] == "").all():
                have = ", ".join(column.removeprefix(METADATA) for column in rows.columns if column.startswith(METADATA))
                raise UserError(f'{key}: the train table has no further column "{name}"; it has {have or "none"}')
    return [METADATA + name for names in asked.values() for name in names]


def place_extra(extra: pd.DataFrame, train: pd.DataFrame, assigned: pd.DataFrame, section: Folds) -> pd.DataFrame:
    """Table id, target, fold of the extra rows, sorted by id: fold is the one that must not train on it, or -1.

    A row that shares a `folds.group` value with train rows is not trained on by the fold that holds these out; one that shares
    values with rows of several folds is left out.
    """
    extra = extra.sort_values("id", kind="stable").reset_index(drop=True)
    fold_of = train["id"].map(dict(zip(assigned["id"], assigned["fold"], strict=True)))
    found = pd.DataFrame(index=extra.index)
    for name in (METADATA + column for column in section.group):
        known = dict(zip(train[name], fold_of, strict=True))
        known.pop("", None)
        found[name] = extra[name].map(known)
    several = found.nunique(axis=1) > 1
    if several.any():
        log.warning("folds     %d extra rows share groups with several folds and are left out", several.sum())
    fold = found.bfill(axis=1).iloc[:, 0].fillna(-1) if len(found.columns) else pd.Series(-1, index=extra.index)
    return pd.DataFrame({"id": extra["id"], "target": extra["target"], "fold": fold.astype("int16")})[~several].reset_index(drop=True)


def _groups(table: pd.DataFrame, section: Folds, copies: Mapping[str, str]) -> Integers:
    """For each row the number of the first row of its group; groups are joined wherever they share a row."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    keys: list[pd.Series] = [table["id"].map(copies)]
    for name in section.group:
        keys.append(table[METADATA + name].where(table[METADATA + name] != ""))
    edges = [np.zeros((0, 2), dtype=np.int64)]
    for key in keys:
        first = pd.Series(np.arange(len(table))).groupby(key, sort=False).transform("first")
        known = first.notna().to_numpy()
        edges.append(np.stack([np.flatnonzero(known), first[known].astype(np.int64)], axis=1))
    pairs = np.concatenate(edges)
    graph = coo_array((np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(table), len(table)))
    component = connected_components(graph, directed=False)[1]
    first_row = np.full(component.max() + 1, len(table), dtype=np.int64)
    np.minimum.at(first_row, component, np.arange(len(table)))
    return np.asarray(first_row[component], dtype=np.int64)


def _strata(targets: "pd.Series[str]", section: Folds, task: Task) -> list[Integers]:
    """What each row counts towards: its class, its labels, or its quantile bin."""
    if task == "regression":
        ranks = targets.astype(float).rank(method="first").to_numpy()
        bins = np.minimum((ranks - 1) * section.bins // len(ranks), section.bins - 1).astype(np.int64)
        return list(bins.reshape(-1, 1))
    parts = [split_labels(text) or [""] for text in targets] if task == "multilabel" else [[text] for text in targets]
    number = {name: index for index, name in enumerate(sorted({name for part in parts for name in part}))}
    return [np.array([number[name] for name in part], dtype=np.int64) for part in parts]


def spread(strata: Sequence[Integers], groups: Integers, n_splits: int, seed: int) -> Integers:
    """Fold of every row, groups whole, each stratum as even as its items allow.

    Items go one by one, those of the rarest stratum first and among them the largest first, to the fold that has least of
    that stratum, then least of all the item's strata, then fewest rows (iterative stratification: Sechidis, Tsoumakas and
    Vlahavas, 2011, with groups as items). Single rows of one stratum end with counts that differ by at most one.
    """
    items, item_of_row = np.unique(groups, return_inverse=True)
    num_strata = 1 + max(int(part.max()) for part in strata)
    totals = np.bincount(np.concatenate(strata), minlength=num_strata)
    contents: list[dict[int, int]] = [{} for _ in items]
    for item, part in zip(item_of_row.tolist(), strata, strict=True):
        for stratum in part.tolist():
            contents[item][stratum] = contents[item].get(stratum, 0) + 1
    sizes = np.bincount(item_of_row, minlength=len(items))
    random = np.random.default_rng(seed)
    rarest = np.array([min(content, key=lambda stratum: (totals[stratum], stratum)) for content in contents])
    order = np.lexsort((random.permutation(len(items)), -sizes, rarest, totals[rarest]))
    counts, rows = np.zeros((num_strata, n_splits)), np.zeros(n_splits)
    preference = random.permutation(n_splits)  # among equal folds; else the first would always be the largest
    result = np.empty(len(items), dtype=np.int64)
    for item in order.tolist():
        content = contents[item]
        of_all = sum(count * counts[stratum] / totals[stratum] for stratum, count in content.items()) if len(content) > 1 else counts[rarest[item]]
        fold = int(np.lexsort((preference, rows, of_all, counts[rarest[item]]))[0])
        for stratum, count in content.items():
            counts[stratum, fold] += count
        rows[fold] += sizes[item]
        result[item] = fold
    return np.asarray(result[item_of_row])


def _own_column(table: pd.DataFrame, section: Folds) -> Integers:
    """The competition's own folds, numbered in order of their values."""
    values = table[METADATA + str(section.column)]
    if (empty := values == "").any():
        raise UserError(f'folds.column: "{section.column}" is empty for id "{table["id"][empty.to_numpy().argmax()]}"; fill it in')
    numeric = pd.to_numeric(values, errors="coerce")
    distinct = sorted(values.unique(), key=float) if bool(numeric.notna().all()) else sorted(values.unique())
    if len(distinct) != section.n_splits:
        raise UserError(f'folds.column: "{section.column}" has {len(distinct)} values; write folds.n_splits={len(distinct)}')
    return np.asarray(values.map({value: number for number, value in enumerate(distinct)}), dtype=np.int64)


def _check(targets: "pd.Series[str]", fold: Integers, groups: Integers, section: Folds, task: Task) -> None:
    """Asserts what folds promise, and says what the data does not allow."""
    assert ((fold >= 0) & (fold < section.n_splits)).all(), "a row is never held out"
    assert len(np.unique(fold)) == section.n_splits, "a fold is empty"
    if "group" in section.strategy:
        assert (fold == fold[groups]).all(), "a group straddles two folds"
    if "stratified" not in section.strategy or task == "regression":
        return
    labels = targets.str.split("|").explode() if task == "multilabel" else targets
    sizes = labels[labels != ""].value_counts()
    rare = sizes[sizes < section.n_splits].sort_index()
    if len(rare) == len(sizes):
        raise UserError(
            f'folds.n_splits: no class has {section.n_splits} members (the largest, "{sizes.index[0]}", has {sizes.iloc[0]});'
            " use fewer folds or folds.strategy=group"
        )
    if len(rare):
        log.warning('folds     %d classes have fewer members than folds and are missing from some, e.g. "%s" (%d)', len(rare), rare.index[0], rare.iloc[0])
    if task != "multilabel" and len(np.unique(groups)) == len(groups):
        counts = pd.crosstab(targets.to_numpy(dtype=str), fold).to_numpy()
        assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all(), "a class is spread unevenly over the folds"
