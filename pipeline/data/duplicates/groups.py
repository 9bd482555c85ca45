"""Copies among the rows: exact ones by their pixels, near ones by hash and then by looking; what becomes of them.

What is decided for train rows follows from train rows alone, and for extra rows from train and extra rows. Test rows decide
nothing. Extra and test rows are laid onto the groups of the train rows afterwards and never join two of them.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipeline.config import Dedup
from pipeline.data.duplicates.hashing import BITS, Hashes, dihedral
from pipeline.data.duplicates.search import candidates
from pipeline.data.duplicates.verify import verified
from pipeline.data.images import Pixels

if TYPE_CHECKING:
    from pandas.core.groupby.generic import SeriesGroupBy

log = logging.getLogger(__name__)

COLUMNS = ("group", "id", "split", "label", "kind", "distance", "conflict", "action")
SMALLEST_SIDE = 64
"""Pixels; a picture with a shorter side is compared by its exact pixels alone."""

_ALWAYS_FINE = 10  # rows in a group, however few rows there are
_ALL_PAIRS = 1000  # pictures in a group; in a larger one verified pairs alone are looked at
_TRAIN, _EXTRA, _TEST = range(3)
_SPLITS = {"train": 0, "extra": 1, "test": 2}

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Pictures:
    """Rows with the same pixels are one picture; first those with train rows, then others with extra rows, each in the order of first ids."""

    of_row: Places
    hashes: Hashes
    paths: list[str]
    is_large: npt.NDArray[np.bool_]
    tested: npt.NDArray[np.bool_]
    """Whether one of its rows is of test."""
    trained: int
    labelled: int

    def search_of(self, left: Places, right: Places) -> Places:
        """Which search is asked for each pair, left < right: among train, of extra in train, with test; -1: between extra rows, none."""
        of_extra = (left < self.trained) & (right < self.labelled)
        of_test = (right >= self.labelled) | self.tested[left] | self.tested[right]
        return np.select([right < self.trained, of_extra, of_test], [_TRAIN, _EXTRA, _TEST], -1)


@dataclass(frozen=True)
class _Near:
    """Verified pairs of pictures, left < right, each with its bits apart."""

    left: Places
    right: Places
    distance: Places

    @classmethod
    def of(cls, *parts: "_Near") -> "_Near":
        """All of them together."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("left", "right", "distance")))


def find_duplicates(index: pd.DataFrame, read: Callable[[str], Pixels], section: Dedup) -> pd.DataFrame:
    """The rows that have a copy, in groups, with what becomes of each (`prepared/duplicates.csv`); see COLUMNS.

    `index` has split (train, extra, test), id, path, target, height, width (pixels), problem, pixels (`pixel_digest`) and hash
    (`perceptual_hash`, uint64); `read` gives the pixels of a path. Distances are bits of 64 to the nearest member, in
    groups of over 1,000 pictures to the nearest that a second look has verified.
    """
    rows = _readable(index)
    pictures = _pictures(rows)
    if section.near != "off" and not pictures.is_large.all():
        small = int((~pictures.is_large[pictures.of_row]).sum())
        log.info("dedup     %d images with a side under %d px: compared by exact pixels alone", small, SMALLEST_SIDE)
    of_train, of_extra, of_test = (_matches(pictures, read, section, number) for number in (_TRAIN, _EXTRA, _TEST))
    rows["component"] = _components(pictures, of_train, _Near.of(of_extra, of_test))[pictures.of_row]
    rows["picture"] = pictures.of_row
    rows["action"] = _actions(rows, section, np.concatenate([np.arange(pictures.trained), of_extra.right]))
    rows = rows[rows.groupby("component")["id"].transform("size") > 1]
    table = _numbered(_described(rows, pictures.hashes, _Near.of(of_train, of_extra, of_test), section))
    if section.near == "together":
        _warn_of_large(table, int((index["split"] == "train").sum()), section)
    return table


def fold_groups(duplicates: pd.DataFrame, index: pd.DataFrame, section: Dedup) -> dict[str, str]:
    """Train ids that must lie in one fold, each with its group's number; other rows are free. Needs train rows alone.

    Near groups that are too large, and those that are only listed, fall back to their exact sets.
    """
    trained = index[index["split"] == "train"]
    train = duplicates[duplicates["split"] == "train"].copy()
    train["pixels"] = trained.set_index("id")["pixels"].loc[train["id"]].to_numpy()
    groups, sets = train.groupby("group"), train.groupby(["group", "pixels"])
    is_whole = (groups["pixels"].transform("nunique") > 1) & (groups["id"].transform("size") <= _largest(section, len(trained))) & (section.near == "together")
    train["bound"] = np.where(is_whole, groups.ngroup(), groups.ngroups + sets.ngroup())
    kept = train[(is_whole | (_policies(sets["label"], section) == "together")) & (train["action"] == "keep")]
    kept = kept[kept.groupby("bound")["id"].transform("size") > 1].sort_values("id")
    numbers = pd.Series(pd.factorize(kept["bound"])[0], index=kept["id"]).sort_values(kind="stable")
    return {str(name): str(number) for name, number in numbers.items()}


def summary(duplicates: pd.DataFrame) -> str:
    """What was found, for one line of the log."""
    train = duplicates[duplicates["split"] == "train"]
    sizes = train.groupby("group")["id"].transform("size")
    together = train[sizes > 1]
    exact = together[together["kind"] == "exact"].groupby("group")
    near = together[together["kind"] == "near"]
    near = together[together["group"].isin(near["group"])]
    conflicts, dropped = int(exact["conflict"].any().sum()), int((train["action"] == "drop").sum())
    tested = duplicates[(duplicates["split"] == "test") & duplicates["group"].isin(train["group"])]
    parts = [
        f"{exact.ngroups} exact groups ({conflicts} with conflicting labels, {dropped} rows dropped)",
        f"{near['group'].nunique()} near groups ({int((near['action'] == 'keep').sum())} rows kept)",
        f"{len(tested)} test rows with a copy in train",
    ]
    extra = int(((duplicates["split"] == "extra") & (duplicates["action"] == "drop")).sum())
    return ", ".join(parts + ([f"{extra} extra rows dropped"] if extra else []))


def _readable(index: pd.DataFrame) -> pd.DataFrame:
    rows = index.loc[index["problem"] == "", ["split", "id", "path", "target", "height", "width", "pixels", "hash"]].copy()
    rows["order"] = rows["split"].map(_SPLITS)
    return rows.sort_values(["order", "id"], kind="stable").reset_index(drop=True)


def _pictures(rows: pd.DataFrame) -> _Pictures:
    """Rows are sorted by split, so that the pictures of train rows get the first numbers, those of extra rows the next."""
    of_row, digests = pd.factorize(rows["pixels"])
    first = rows.drop_duplicates("pixels")
    tested = np.zeros(len(digests), dtype=bool)
    tested[of_row[rows["split"] == "test"]] = True
    return _Pictures(
        of_row.astype(np.int64),
        first["hash"].to_numpy(np.uint64),
        first["path"].tolist(),
        first[["height", "width"]].min(axis=1).to_numpy() >= SMALLEST_SIDE,
        tested,
        int((first["split"] == "train").sum()),
        int((first["split"] != "test").sum()),
    )


def _matches(pictures: _Pictures, read: Callable[[str], Pixels], section: Dedup, number: int) -> _Near:
    """Verified pairs of one search, made without the pictures of later ones, which could crowd out some of its pairs."""
    is_asked = (True, pictures.labelled > pictures.trained, bool(pictures.tested[pictures.trained :].any()))[number]
    if section.near == "off" or not is_asked:
        return _Near(*(np.empty(0, np.int64) for _ in range(3)))
    searched = (pictures.trained, pictures.labelled, len(pictures.paths))[number]
    places = np.flatnonzero(pictures.is_large[:searched])
    found = candidates(pictures.hashes[places], section.radius, section.mirrored)
    one, two = places[found.left], places[found.right]
    found = found.take(np.flatnonzero(pictures.search_of(np.minimum(one, two), np.maximum(one, two)) == number))
    found = found.take(np.flatnonzero(verified(found, [pictures.paths[place] for place in places], read)))
    one, two = places[found.left], places[found.right]
    return _Near(np.minimum(one, two), np.maximum(one, two), found.distance)


def _components(pictures: _Pictures, of_train: _Near, others: _Near) -> Places:
    """The group of each picture: components of the train pictures; others join one of these, or form their own."""
    labels = np.full(len(pictures.paths), -1, dtype=np.int64)
    labels[: pictures.trained] = _connected(of_train.left, of_train.right, pictures.trained)
    order = np.lexsort((others.right, others.left, others.distance))
    left, right = others.left[order], others.right[order]
    while (joining := (labels[left] >= 0) != (labels[right] >= 0)).any():
        known = np.where(labels[left] >= 0, left, right)[joining]
        new, nearest = np.unique(np.where(labels[left] >= 0, right, left)[joining], return_index=True)
        labels[new] = labels[known[nearest]]
    free = labels < 0
    between = free[left] & free[right]
    labels[free] = (labels.max(initial=-1) + 1 + _connected(left[between], right[between], len(labels)))[free]
    return labels


def _connected(left: Places, right: Places, count: int) -> Places:
    graph = coo_array((np.ones(len(left), dtype=np.int8), (left, right)), shape=(count, count))
    return np.asarray(connected_components(graph, directed=False)[1], dtype=np.int64)


def _actions(rows: pd.DataFrame, section: Dedup, copied: Places) -> "pd.Series[str]":
    """keep or drop; train rows by the train rows of their picture, extra rows of a `copied` picture go, others by the extra rows of theirs."""
    is_extra = rows["split"] == "extra"
    is_copy = is_extra & rows["picture"].isin(copied)
    chosen = rows[(rows["split"] != "test") & ~is_copy]
    same = chosen.groupby("picture")
    policy = _policies(same["target"], section)
    drop = (same["id"].transform("size") > 1) & ((policy == "drop") | ((policy == "first") & (same.cumcount() > 0)))
    action = pd.Series("keep", index=rows.index)
    action[is_copy] = "drop"
    action[drop.index[drop]] = "drop"
    return action


def _policies(labels: "SeriesGroupBy[str, Any]", section: Dedup) -> npt.NDArray[np.str_]:
    """What is done with the set of each row, by its labels."""
    return np.where(labels.transform("nunique") > 1, section.conflict, section.exact)


def _described(rows: pd.DataFrame, hashes: Hashes, pairs: _Near, section: Dedup) -> pd.DataFrame:
    """Rows with kind, distance and conflict; in a group of several train rows, these look at each other alone."""
    if rows.empty:
        return rows
    is_train = rows["split"] == "train"
    trained = is_train.groupby(rows["component"]).transform("sum")
    alone = is_train & (trained > 1)
    others = rows[rows["component"].isin(rows.loc[~alone, "component"])]
    conflicts = [rows["target"].where(asked).groupby(rows["component"]).transform("nunique") > 1 for asked in (is_train, rows["split"] != "test")]
    rows = rows.assign(conflict=np.where(is_train, *conflicts), trained=trained)
    return pd.concat([_compared(part, members, hashes, pairs, section) for part, members in ((rows[alone], rows[alone]), (rows[~alone], others))])


def _compared(rows: pd.DataFrame, members: pd.DataFrame, hashes: Hashes, pairs: _Near, section: Dedup) -> pd.DataFrame:
    """Rows with kind and distance, each among the members of its group."""
    exact = rows["picture"].map(members["picture"].value_counts()) > 1
    pictures = members.drop_duplicates("picture").sort_values("component")
    components = np.full(len(hashes), -1, dtype=np.int64)
    components[pictures["picture"]] = pictures["component"]
    nearest = np.full(len(hashes), BITS, dtype=np.int64)
    within = np.flatnonzero((components[pairs.left] >= 0) & (components[pairs.left] == components[pairs.right]))
    for places in (pairs.left, pairs.right):
        np.minimum.at(nearest, places[within], pairs.distance[within])
    nearest = nearest[pictures["picture"]]
    _compare_all(nearest, hashes[pictures["picture"]], pictures["component"].to_numpy(), section.mirrored)
    distance = rows["picture"].map(pd.Series(nearest, index=pictures["picture"]))
    return rows.assign(kind=np.where(exact, "exact", "near"), distance=np.where(exact, 0, distance))


def _compare_all(nearest: Places, hashes: Hashes, groups: Places, mirrored: bool) -> None:
    """Lowers bits to the nearest other of a group, in place, by all pairs of each group but those of over `_ALL_PAIRS`.

    Sorted by group; each is compared with its first follower, then each with its second, ... .
    """
    _, starts, sizes = np.unique(groups, return_index=True, return_counts=True)
    ends = np.repeat(starts + sizes, sizes)
    views = dihedral(hashes) if mirrored else hashes[None]
    places = np.flatnonzero(np.repeat(sizes, sizes) <= _ALL_PAIRS)
    for step in range(1, _ALL_PAIRS):
        places = places[places + step < ends[places]]
        if not len(places):
            break
        distance = np.bitwise_count(hashes[places] ^ views[:, places + step]).min(axis=0)
        nearest[places] = np.minimum(nearest[places], distance)
        nearest[places + step] = np.minimum(nearest[places + step], distance)


def _numbered(rows: pd.DataFrame) -> pd.DataFrame:
    """The table: groups of several train rows first, so that their numbers do not depend on test, then by the smallest id."""
    if rows.empty:
        return pd.DataFrame({name: pd.Series(dtype="bool" if name == "conflict" else "int64" if name in ("group", "distance") else "str") for name in COLUMNS})
    first = rows.sort_values(["order", "id"]).drop_duplicates("component")
    ordered = first.assign(few=first["trained"] < 2).sort_values(["few", "order", "id"])["component"]
    numbers = pd.Series(np.arange(len(ordered)), index=ordered.to_numpy())
    table = (
        rows.assign(group=rows["component"].map(numbers))
        .astype({"group": "int64", "distance": "int64", "conflict": "bool"})
        .sort_values(["group", "order", "id"])
    )
    return table.rename(columns={"target": "label"})[list(COLUMNS)].reset_index(drop=True)


def _largest(section: Dedup, trained: int) -> float:
    return max(_ALWAYS_FINE, section.largest_group * trained)


def _warn_of_large(table: pd.DataFrame, trained: int, section: Dedup) -> None:
    train = table[table["split"] == "train"]
    sizes = train[train["group"].isin(train.loc[train["kind"] == "near", "group"])].groupby("group").size()
    large = sizes[sizes > _largest(section, trained)]
    if len(large):
        log.warning(
            "dedup     %d near groups are too large to be true (%d rows in the largest): listed, not kept together;"
            " look at them, then lower dedup.radius, raise dedup.largest_group (%g) or set dedup.near=off",
            len(large), large.max(), section.largest_group,
        )  # fmt: skip
