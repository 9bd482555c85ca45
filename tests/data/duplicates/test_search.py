"""The search finds exactly the pairs that comparing all with all finds, and stays bounded in a crowd."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.duplicates.hashing import VIEWS, Hashes, dihedral, perceptual_hash
from pipeline.data.duplicates.search import candidates, pairs_between, pairs_within
from pipeline.data.images import read

ALL = 10**9


def crowded(count: int, seed: int, flips: int = 12) -> Hashes:
    """Unique hashes in shuffled order, many of them few bits apart."""
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 2**64, max(1, count // 10), dtype=np.uint64)[rng.integers(0, max(1, count // 10), count)]
    for _ in range(flips):
        bit = np.uint64(1) << rng.integers(0, 64, count).astype(np.uint64)
        hashes = hashes ^ np.where(rng.random(count) < 0.5, bit, np.uint64(0))
    return rng.permutation(np.unique(hashes))


def pairs(found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> list[tuple[int, int, int]]:
    return [(int(left), int(right), int(distance)) for left, right, distance in zip(*found, strict=True)]


def by_brute_force(left: Hashes, right: Hashes, radius: int) -> list[tuple[int, int, int]]:
    distance = np.bitwise_count(left[:, None] ^ right[None])
    return [(int(i), int(j), int(distance[i, j])) for i, j in np.argwhere(distance <= radius)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 300), st.integers(0, 12), st.integers(0, 10**6))
def test_the_pairs_are_those_of_brute_force(count: int, radius: int, seed: int) -> None:
    hashes = crowded(count, seed)
    assert pairs(pairs_within(hashes, radius, ALL)) == [pair for pair in by_brute_force(hashes, hashes, radius) if pair[0] < pair[1]]


@pytest.mark.parametrize("radius", [0, 3, 8])
def test_the_pairs_across_are_those_of_brute_force(radius: int) -> None:
    hashes = crowded(900, 1)
    left, right = hashes[:300], np.append(hashes[250:], hashes[:10])
    assert pairs(pairs_between(left, right, radius, ALL)) == by_brute_force(left, right, radius)


@pytest.mark.parametrize("radius", [4, 8, 10])
def test_the_pairs_of_real_digits_are_those_of_brute_force(digits: Path, radius: int) -> None:
    hashes = np.unique(np.array([perceptual_hash(read(path)) for path in sorted((digits / "images").iterdir())[:1200]], dtype=np.uint64))
    found = pairs(pairs_within(hashes, radius, ALL))
    assert found == [pair for pair in by_brute_force(hashes, hashes, radius) if pair[0] < pair[1]]
    assert found or radius < 8


def test_a_long_run_and_many_short_ones_are_both_searched_in_full() -> None:
    rng = np.random.default_rng(2)
    close = np.unique(rng.integers(0, 2**10, 700, dtype=np.uint64))
    hashes = rng.permutation(np.unique(np.concatenate([close, rng.integers(0, 2**64, 9000, dtype=np.uint64)])))
    found = pairs(pairs_within(hashes, 3, ALL))
    assert found == [pair for pair in by_brute_force(hashes, hashes, 3) if pair[0] < pair[1]]


def test_the_nearest_of_every_hash_stay_when_there_are_too_many() -> None:
    hashes = np.arange(1 << 9, dtype=np.uint64)
    left, right, distance = pairs_within(hashes, 4, nearest=9)
    assert len(left) <= 2 * 9 * len(hashes) < len(pairs_within(hashes, 4, ALL)[0])
    assert set(np.concatenate([left, right]).tolist()) == set(range(len(hashes)))
    assert (distance == 1).sum() == 9 * len(hashes) // 2


def test_a_crowd_of_equal_hashes_costs_a_few_pairs_each() -> None:
    found = candidates(np.zeros(20_000, dtype=np.uint64), 8, mirrored=False)
    assert len(found.left) <= 9 * 20_000
    assert set(np.concatenate([found.left, found.right]).tolist()) == set(range(20_000))


def test_near_and_equal_hashes_become_candidates_once() -> None:
    hashes = np.array([7, 7, 6, 2**60 + 2**50 + 2**40], dtype=np.uint64)
    found = candidates(hashes, 2, mirrored=False)
    assert sorted((min(i, j), max(i, j), int(d)) for i, j, d in zip(found.left, found.right, found.distance, strict=True)) == [(0, 1, 0), (0, 2, 1), (1, 2, 1)]


@pytest.mark.parametrize("view", range(len(VIEWS)))
def test_every_view_is_found_when_mirrored_ones_are_sought(view: int) -> None:
    own = np.random.default_rng(3).integers(0, 2**64, 1, dtype=np.uint64)
    hashes = np.concatenate([own, dihedral(own)[view] ^ np.uint64(5)])
    found = candidates(hashes, 3, mirrored=True)
    assert {(min(i, j), max(i, j)) for i, j in zip(found.left.tolist(), found.right.tolist(), strict=True)} == {(0, 1)}
    seen = dihedral(hashes)[found.view, found.right]
    np.testing.assert_array_equal(np.bitwise_count(seen ^ hashes[found.left]), found.distance)
    assert (len(candidates(hashes, 3, mirrored=False).left) > 0) == (view == 0)
