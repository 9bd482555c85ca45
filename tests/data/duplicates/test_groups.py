"""Groups, policies and fold groups: what train rows are decided by, and that nothing else decides it."""

import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pipeline.config import Dedup
from pipeline.data.duplicates import groups
from pipeline.data.duplicates.groups import COLUMNS, find_duplicates, fold_groups, summary
from pipeline.data.duplicates.hashing import perceptual_hash, pixel_digest
from pipeline.data.images import Pixels, read


def scene(number: int) -> Pixels:
    """A picture with detail everywhere, unlike that of any other number."""
    coarse = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (160, 120), interpolation=cv2.INTER_CUBIC), dtype=np.uint8)


def brighter(pixels: Pixels, share: float = 1.08) -> Pixels:
    return np.clip(pixels * share, 0, 255).astype(np.uint8)


def smaller(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA), dtype=np.uint8)


class Set:
    """A small data set in memory: rows as (split, id, label, pixels)."""

    def __init__(self, *rows: tuple[str, str, str, Pixels]) -> None:
        self.pictures = {f"{split}/{name}": pixels for split, name, _, pixels in rows}
        self.index = pd.DataFrame([self.row(*row) for row in rows])

    def row(self, split: str, name: str, label: str, pixels: Pixels) -> dict[str, Any]:
        height, width, _ = pixels.shape
        shape = {"height": height, "width": width, "problem": "", "pixels": pixel_digest(pixels), "hash": np.uint64(perceptual_hash(pixels))}
        return {"split": split, "id": name, "path": f"{split}/{name}", "target": "" if split == "test" else label, **shape}

    def find(self, index: pd.DataFrame | None = None, **section: Any) -> pd.DataFrame:
        return find_duplicates(self.index if index is None else index, self.pictures.__getitem__, Dedup(**section))

    def bound(self, index: pd.DataFrame | None = None, **section: Any) -> list[set[str]]:
        index = self.index if index is None else index
        bound = fold_groups(self.find(index, **section), index, Dedup(**section))
        return [{name for name, own in bound.items() if own == group} for group in dict.fromkeys(bound.values())]


def actions(table: pd.DataFrame) -> dict[str, str]:
    return dict(zip(table["split"] + "/" + table["id"], table["action"], strict=True))


@pytest.fixture(scope="module")
def mixed() -> Set:
    """Every relation at once: exact, conflicting, near, a chain through test, and extra rows of every kind."""
    one, two, three, four = scene(1), scene(2), scene(3), scene(4)
    return Set(
        ("train", "b", "x", one), ("train", "a", "x", one), ("train", "c", "y", smaller(one)),
        ("train", "d", "x", two), ("train", "e", "y", two),
        ("train", "f", "x", three), ("train", "g", "z", scene(9)),
        ("test", "t1", "", three), ("test", "t2", "", brighter(one)), ("test", "t3", "", scene(8)), ("test", "t4", "", brighter(scene(8))),
        ("extra", "u1", "x", one), ("extra", "u2", "x", brighter(scene(9))), ("extra", "u3", "x", four), ("extra", "u4", "x", four),
        ("extra", "u5", "x", brighter(four)), ("extra", "u6", "x", smaller(scene(8))),
    )  # fmt: skip


def test_every_row_with_a_copy_is_listed_in_its_group(mixed: Set) -> None:
    table = mixed.find()
    assert tuple(table.columns) == COLUMNS
    found = [set(part["id"]) for _, part in table.groupby("group")]
    assert found == [{"a", "b", "c", "t2", "u1"}, {"d", "e"}, {"f", "t1"}, {"g", "u2"}, {"u3", "u4"}, {"t3", "t4", "u6"}]


def test_kind_distance_and_conflict_describe_each_row(mixed: Set) -> None:
    table = mixed.find().set_index("id")
    assert table.loc[["a", "b", "d", "e", "f", "t1", "u1", "u3"], "kind"].eq("exact").all()
    assert table.loc[["c", "t2", "u2", "t3"], "kind"].eq("near").all()
    assert table.loc[table["kind"] == "exact", "distance"].eq(0).all()
    assert table.loc[["d", "e", "a", "b", "c"], "conflict"].all()
    assert not table.loc[["f", "g", "u3", "u4"], "conflict"].any()
    hashes = mixed.index.set_index("id")["hash"]
    assert table.loc["c", "distance"] == int(hashes["c"] ^ hashes["a"]).bit_count()


def test_by_default_the_first_id_stays_conflicts_go_and_copies_of_train_rows_are_no_extra(mixed: Set) -> None:
    found = actions(mixed.find())
    assert {name for name, action in found.items() if action == "drop"} == {
        "train/b", "train/d", "train/e", "extra/u1", "extra/u2", "extra/u4",
    }  # fmt: skip
    assert found["extra/u6"] == "keep", "what copies test rows alone is listed and stays"


def test_what_stays_of_a_group_shares_a_fold(mixed: Set) -> None:
    assert mixed.bound() == [{"a", "c"}]
    assert mixed.bound(exact="together", conflict="together") == [{"a", "b", "c"}, {"d", "e"}]
    assert mixed.bound(exact="together", near="report") == [{"a", "b"}]
    assert mixed.bound(near="off") == []


def test_report_drops_no_train_row(mixed: Set) -> None:
    found = actions(mixed.find(exact="report", conflict="report", near="report"))
    assert not [name for name, action in found.items() if action == "drop" and name.startswith("train")]


def without(data: Set, splits: tuple[str, ...]) -> pd.DataFrame:
    return data.index[~data.index["split"].isin(splits)]


@pytest.mark.parametrize("gone", [("test",), ("extra",), ("test", "extra")])
@pytest.mark.parametrize("section", [{}, {"exact": "together", "conflict": "together"}, {"near": "report"}, {"mirrored": True}])
def test_train_groups_and_actions_do_not_depend_on_other_rows(mixed: Set, gone: tuple[str, ...], section: dict[str, Any]) -> None:
    fewer = without(mixed, gone)
    assert mixed.bound(fewer, **section) == mixed.bound(**section)
    with_all, alone = mixed.find(**section), mixed.find(fewer, **section)
    several = with_all[with_all["split"] == "train"].groupby("group")["id"].transform("size") > 1
    trained = with_all[with_all["split"] == "train"][several].reset_index(drop=True)
    lone = alone[alone["split"] == "train"]
    lone = lone[lone.groupby("group")["id"].transform("size") > 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(trained, lone)


def dropped(table: pd.DataFrame) -> set[str]:
    return {name for name, action in actions(table).items() if action == "drop"}


def test_extra_rows_that_copy_test_rows_follow_the_policy_among_themselves() -> None:
    one, two = scene(1), scene(2)
    data = Set(
        ("test", "t1", "", one), ("test", "t2", "", two),
        ("extra", "a", "x", one), ("extra", "b", "x", one), ("extra", "c", "x", two), ("extra", "d", "y", two), ("extra", "e", "x", brighter(two)),
    )  # fmt: skip
    table = data.find()
    assert set(table["id"]) == set(data.index["id"])
    assert dropped(table) == {"extra/b", "extra/c", "extra/d"}
    assert dropped(data.find(exact="report", conflict="together")) == set()


def test_a_crowd_of_test_hashes_does_not_hide_the_train_row_that_an_extra_row_copies() -> None:
    """A search keeps the nearest few of each hash; those of test rows must not take the places of others."""
    data = Set(("train", "a", "x", brighter(scene(1))), ("extra", "b", "x", scene(1)))
    middle = int(data.index["hash"].iloc[1])
    data.index.loc[0, "hash"] = np.uint64(middle ^ 0b111111 << 58)
    crowd = []
    for number, (one, two) in enumerate(itertools.combinations(range(12), 2)):
        for end in data.index.to_dict("records"):
            name = f"{end['id']}{number:02d}"
            data.pictures[f"test/{name}"] = np.zeros((64, 64, 3), dtype=np.uint8)
            crowd.append(end | {"split": "test", "id": name, "path": f"test/{name}", "pixels": name, "hash": np.uint64(int(end["hash"]) ^ 1 << one ^ 1 << two)})
    crowded = pd.concat([data.index, pd.DataFrame(crowd)], ignore_index=True).astype({"hash": np.uint64})
    assert dropped(data.find()) == dropped(data.find(crowded)) == {"extra/b"}


@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["train", "extra", "test"]), st.integers(0, 3), st.integers(0, 3), st.sampled_from("xxy")), min_size=2, max_size=16
    ),
    exact=st.sampled_from(["first", "together", "report"]),
    conflict=st.sampled_from(["drop", "together", "report"]),
    near=st.sampled_from(["together", "report", "off"]),
)
@settings(max_examples=30, deadline=None)
@pytest.mark.slow
def test_test_rows_decide_nothing(rows: list[tuple[str, int, int, str]], exact: str, conflict: str, near: str) -> None:
    edits: tuple[Callable[[Pixels], Pixels], ...] = (lambda pixels: pixels, brighter, smaller, lambda pixels: brighter(pixels, 0.9))
    data = Set(*((split, f"{place:02d}", label, edits[edit](scene(number))) for place, (split, number, edit, label) in enumerate(rows)))
    section = {"exact": exact, "conflict": conflict, "near": near}
    alone = without(data, ("test",))
    assume(len(alone))
    with_test, table = data.find(**section), data.find(alone, **section)
    assert dropped(with_test) == dropped(table)
    assert with_test.loc[with_test["split"] == "test", "action"].eq("keep").all()
    assert fold_groups(with_test, data.index, Dedup(**section)) == fold_groups(table, alone, Dedup(**section))


def one_by_one(table: pd.DataFrame, hashes: dict[str, int]) -> list[int]:
    """Bits to the nearest member, row by row: among train rows where there are several, else among all."""
    found = []
    for row in table.to_dict("records"):
        group = table[table["group"] == row["group"]]
        train = group[group["split"] == "train"]
        members = train if row["split"] == "train" and len(train) > 1 else group
        found.append(min((hashes[row["id"]] ^ hashes[name]).bit_count() for name in members["id"] if name != row["id"]))
    return found


@pytest.mark.parametrize("all_pairs", [1, 3, 1000])
def test_distances_are_those_to_the_nearest_member_and_in_large_groups_to_the_nearest_verified_one(monkeypatch: pytest.MonkeyPatch, all_pairs: int) -> None:
    monkeypatch.setattr(groups, "_ALL_PAIRS", all_pairs)
    monkeypatch.setattr(groups, "verified", lambda found, paths, read: np.ones(len(found.left), dtype=bool))
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 1 << 63, 12, dtype=np.uint64)[rng.integers(0, 12, 150)]
    for _ in range(4):
        hashes ^= np.uint64(1) << rng.integers(0, 64, 150, dtype=np.uint64)
    names = [f"{number:03d}" for number in range(150)]
    same = {"path": names, "pixels": names, "target": "x", "height": 100, "width": 100, "problem": ""}
    index = pd.DataFrame({"split": rng.choice(["train", "train", "extra", "test"], 150), "id": names, "hash": hashes, **same})
    table = find_duplicates(index, scene, Dedup())  # type: ignore[arg-type]
    assert table.groupby("group").size().max() > 10
    nearest = pd.Series(one_by_one(table, dict(zip(names, hashes.tolist(), strict=True))))
    looked_at = (table["split"] == "train") | (all_pairs == 1000)
    assert (table["distance"] == nearest)[looked_at].all()
    assert table["distance"].between(nearest, Dedup().radius).all(), "two extra rows are no verified pair"


def test_many_small_groups_take_no_time_each() -> None:
    """100,000 pairs take 2 s; 20,000 took minutes when pandas was asked once per group."""
    names = [f"{number:06d}" for number in range(40_000)]
    rng = np.random.default_rng(0)
    pixels, hashes = np.repeat(names[:20_000], 2), np.repeat(rng.integers(0, 1 << 63, 20_000, dtype=np.uint64), 2)
    index = pd.DataFrame(
        {"split": "train", "id": names, "path": names, "target": "x", "height": 100, "width": 100, "problem": "", "pixels": pixels, "hash": hashes}
    )
    section, start = Dedup(exact="together", near="off"), time.perf_counter()
    table = find_duplicates(index, lambda path: scene(0), section)
    assert len(fold_groups(table, index, section)) == 40_000
    assert summary(table).startswith("20000 exact groups")
    assert time.perf_counter() - start < 10


def test_a_test_row_does_not_join_two_train_rows() -> None:
    whole = scene(5)
    closer, farther = whole[5:-5, 7:-7].copy(), np.pad(whole, ((6, 6), (6, 6), (0, 0)))
    ends = [("train", "closer", "x", closer), ("train", "farther", "x", farther)]
    middle = ("test", "middle", "", whole)
    for end in ends:
        assert len(Set(end, middle).find(radius=16)) == 2, "each link of the chain holds"
    assert Set(*ends).find(radius=16).empty, "and its ends are no pair"
    chain = Set(*ends, middle)
    assert chain.bound(radius=16) == []
    found = chain.find(radius=16)
    assert sorted(found["split"]) == ["test", "train"], "the test row is reported with the nearer end alone"


@pytest.mark.slow
def test_random_sets_are_decided_by_train_rows_alone_whatever_the_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(8):
        rows = []
        for number in range(24):
            pixels = scene(int(rng.integers(0, 7)))
            pixels = [pixels, brighter(pixels), smaller(pixels), brighter(pixels, 0.9)][rng.integers(0, 4)]
            rows.append((str(rng.choice(["train", "train", "test", "extra"])), f"{number:02d}", str(rng.choice(["x", "y"], p=[0.8, 0.2])), pixels))
        data = Set(*rows)
        shuffled = data.index.sample(frac=1, random_state=1)
        pd.testing.assert_frame_equal(data.find(), data.find(shuffled))
        assert data.bound() == data.bound(shuffled) == data.bound(without(data, ("test", "extra")))


def test_small_pictures_are_compared_by_exact_pixels_alone_and_said(caplog: pytest.LogCaptureFixture) -> None:
    tiny = np.ascontiguousarray(scene(1)[:60])
    data = Set(("train", "a", "x", tiny), ("train", "b", "x", tiny), ("train", "c", "x", brighter(tiny)))
    with caplog.at_level(logging.INFO, logger="pipeline.data.duplicates.groups"):
        assert set(data.find()["id"]) == {"a", "b"}
    assert "3 images with a side under 64 px" in caplog.text


def test_a_large_near_group_is_listed_and_not_kept_together(caplog: pytest.LogCaptureFixture) -> None:
    copies = [brighter(scene(1), 0.9 + 0.01 * number) for number in range(12)]
    data = Set(*(("train", f"{number:02d}", "x", pixels) for number, pixels in enumerate(copies)), ("train", "same", "x", copies[0]))
    table = data.find(exact="together")
    assert len(table) == 13
    assert table["action"].eq("keep").all()
    assert "dedup.largest_group" in caplog.text
    assert data.bound(exact="together") == [{"00", "same"}]
    assert len(data.bound(exact="together", largest_group=1.0)[0]) == 13


def test_a_crowd_of_blank_pictures_is_no_group() -> None:
    rng = np.random.default_rng(0)
    blanks = [np.clip(np.full((64, 64, 3), 250) + rng.integers(0, 2, (64, 64, 3)), 0, 255).astype(np.uint8) for _ in range(500)]
    data = Set(*(("train", f"{number:04d}", "x", pixels) for number, pixels in enumerate(blanks)))
    assert data.find().empty


def test_mirrored_copies_are_found_when_asked_for() -> None:
    data = Set(("train", "a", "x", scene(1)), ("train", "b", "x", np.ascontiguousarray(np.rot90(scene(1)))), ("train", "c", "x", scene(2)[:, ::-1].copy()))
    assert data.find().empty
    assert data.bound(mirrored=True) == [{"a", "b"}]


def test_unreadable_rows_are_ignored(mixed: Set) -> None:
    index = mixed.index.copy()
    index.loc[index["id"] == "b", ["problem", "height", "width", "pixels"]] = ["zero bytes", 0, 0, ""]
    index.loc[index["id"] == "c", ["problem", "height", "width", "pixels"]] = ["zero bytes", 0, 0, ""]
    assert not {"b", "c"} & set(mixed.find(index)["id"])


def test_no_copies_make_an_empty_table_of_the_same_columns() -> None:
    data = Set(("train", "a", "x", scene(1)), ("test", "b", "", scene(2)))
    assert tuple(data.find().columns) == COLUMNS
    assert data.bound() == []
    assert summary(data.find()).startswith("0 exact groups")


def test_the_table_survives_its_csv(mixed: Set, tmp_path: Path) -> None:
    table = mixed.find()
    table.to_csv(tmp_path / "duplicates.csv", index=False)
    back = pd.read_csv(tmp_path / "duplicates.csv", dtype={"id": str, "label": str}, keep_default_na=False)
    assert fold_groups(back, mixed.index, Dedup()) == fold_groups(table, mixed.index, Dedup())


def index_of(table: pd.DataFrame, split: str, path: Callable[[str], Path], label: str | None) -> pd.DataFrame:
    rows = []
    for row in table.to_dict("records"):
        name = str(row[table.columns[0]])
        pixels = read(path(name))
        hashes = {"pixels": pixel_digest(pixels), "hash": np.uint64(perceptual_hash(pixels))}
        target = str(row[label]) if label else ""
        rows.append({"split": split, "id": name, "path": str(path(name)), "target": target, "height": pixels.shape[0], "width": pixels.shape[1], **hashes})
    return pd.DataFrame(rows).assign(problem="")


def test_the_three_exact_pairs_of_trash_are_found_with_two_labels_each(trash: Path) -> None:
    table = pd.read_csv(trash / "train.csv", dtype=str)
    index = index_of(table, "train", lambda name: trash / "images" / name, "label")
    found = find_duplicates(index, lambda path: read(Path(path)), Dedup())
    exact = found[found["kind"] == "exact"]
    assert [len(part) for _, part in exact.groupby("group")] == [2, 2, 2]
    assert exact["conflict"].all()
    assert exact["action"].eq("drop").all()
    assert found.groupby("group").size().max() == 2
    assert "3 exact groups (3 with conflicting labels, 6 rows dropped), 10 near groups" in summary(found)
