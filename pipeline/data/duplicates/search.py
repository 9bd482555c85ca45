"""All pairs of 64-bit hashes within a radius, exactly, without comparing all pairs.

Multi-index hashing after Greene et al. (1994) and Norouzi et al. (2012), with sorting in place of hash tables: the bits are
dealt into blocks; hashes that differ in at most `radius` bits agree in all but `radius` blocks, so that sorting by every
choice of the other blocks brings each pair together at least once.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.data.duplicates.hashing import BITS, VIEWS, Hashes, dihedral
from pipeline.runtime import cores, ordered_map

Places = npt.NDArray[np.int64]
Pairs = tuple[Places, Places, npt.NDArray[np.uint8]]

NEAREST = 16
_REPRESENTATIVES = 8  # of pictures with one hash: each is compared with the first few and with its predecessor
_ACROSS = 2  # of each of two near hashes
_CHUNK = 1 << 16  # compared at a time; its hashes stay in the second-level cache
_PLACE = 24  # bits
_FEW = 4096  # places below which numpy's calls cost more than their work
_MOST = 2_000_000  # pairs that are collected before all but the nearest are let go


def pairs_within(hashes: Hashes, radius: int, nearest: int = NEAREST) -> Pairs:
    """Pairs (left, right, distance) of places in `hashes` [N], left < right, at most `radius` bits apart; sorted.

    Call it with unique hashes: equal ones are all paired with each other. Exact, but where a hash has over `nearest`
    neighbours on its left or its right: a pair that is among the `nearest` of neither of its two is left out, which bounds memory.
    """
    return _search(hashes, None, radius, nearest)


def pairs_between(left: Hashes, right: Hashes, radius: int, nearest: int = NEAREST) -> Pairs:
    """The same across two arrays: places in `left` [N] and in `right` [M], at most `radius` bits apart; sorted."""
    return _search(left, right, radius, nearest)


@dataclass(frozen=True)
class Candidates:
    """Pairs of pictures to look at: places [N] each, bits apart, and the view (of VIEWS) of the right one that is near."""

    left: Places
    right: Places
    distance: npt.NDArray[np.int64]
    view: npt.NDArray[np.int64]

    def take(self, places: Places) -> "Candidates":
        """Those at the given places."""
        return Candidates(self.left[places], self.right[places], self.distance[places], self.view[places])


def candidates(hashes: Hashes, radius: int, mirrored: bool) -> Candidates:
    """Pairs of pictures whose hashes [N] are near; equal hashes are searched as one, a crowd is paired with its first few.

    With `mirrored`, flipped and turned right ones, too. Places must be in an order that does not depend on chance.
    """
    unique, which = np.unique(hashes, return_inverse=True)
    members = np.argsort(which, kind="stable")
    starts = np.searchsorted(which[members], np.arange(len(unique) + 1))
    found = [_within_crowds(members, starts)]
    for view in range(len(VIEWS) if mirrored else 1):
        if VIEWS[view] == "rotate_270":
            continue  # the left one turned by 90 degrees: found as such
        if view == 0:
            left, right, distance = pairs_within(unique, radius)
        else:
            left, right, distance = pairs_between(unique, dihedral(unique)[view], radius)
            once = left != right if VIEWS[view] == "rotate_90" else left < right
            left, right, distance = left[once], right[once], distance[once]
        found += _between_crowds(members, starts, (left, right, distance), view)
    return Candidates(*(np.concatenate([part[column] for part in found]).astype(np.int64) for column in range(4)))


def _within_crowds(members: Places, starts: Places) -> tuple[Places, Places, Places, Places]:
    sizes = np.diff(starts)
    first = np.repeat(starts[:-1], sizes)
    rank = np.arange(len(members)) - first
    lefts, rights = [members[:0]], [members[:0]]
    for number in range(_REPRESENTATIVES):
        later = rank > number
        lefts.append(members[first[later] + number])
        rights.append(members[later])
    rest = np.flatnonzero(rank > _REPRESENTATIVES)
    left, right = np.concatenate([*lefts, members[rest - 1]]), np.concatenate([*rights, members[rest]])
    return left, right, np.zeros_like(left), np.zeros_like(left)


def _between_crowds(members: Places, starts: Places, pairs: Pairs, view: int) -> Iterator[tuple[Places, Places, Places, Places]]:
    sizes = np.diff(starts)
    left, right, distance = pairs
    for one, two in itertools.product(range(_ACROSS), repeat=2):
        there = (sizes[left] > one) & (sizes[right] > two)
        lefts, rights = members[starts[left[there]] + one], members[starts[right[there]] + two]
        yield lefts, rights, distance[there].astype(np.int64), np.full(len(lefts), view)


def _search(left: Hashes, right: Hashes | None, radius: int, nearest: int) -> Pairs:
    others = left if right is None else right
    assert max(len(left), len(others)) <= 1 << _PLACE, "a place has 24 bits"
    blocks, agreeing = _plan(radius, len(others))
    masks = [sum(1 << bit for bit in range(block, BITS, blocks)) for block in range(blocks)]
    choices = list(itertools.combinations(range(blocks), agreeing))

    def table(choice: tuple[int, ...]) -> list[Pairs]:
        return [_first_seen(left, others, found, choice, masks) for found in _in_one_table(left, right, [masks[block] for block in choice], radius)]

    kept, waiting, count = _none(), [_none()], 0
    for found in ordered_map(table, choices, cores()):
        waiting += found
        count += sum(len(part[0]) for part in found)
        if count > _MOST:
            kept, waiting, count = _nearest([kept, *waiting], nearest), [], 0
    return _nearest([kept, *waiting], nearest)


def _plan(radius: int, count: int) -> tuple[int, int]:
    """Number of blocks, and how many of them agree: more tables cost sorting, fewer cost comparisons (in nanoseconds)."""

    def cost(agreeing: int) -> float:
        blocks = radius + agreeing
        together = 4 * count / 2 ** (BITS / blocks * agreeing)  # real hashes crowd: four times what chance would give
        return math.comb(blocks, agreeing) * (150 + 5 * together)

    agreeing = min((number for number in range(1, 6) if radius + number <= BITS), key=cost)
    return radius + agreeing, agreeing


def _in_one_table(left: Hashes, right: Hashes | None, masks: list[int], radius: int) -> Iterator[Pairs]:
    """Pairs within the radius among those that agree in the masked bits, in chunks."""
    order, keys = _sorted_by(left, masks)
    if right is None:
        other_order, others = order, left[order]
        starts = np.arange(1, len(keys) + 1)
        ends = np.repeat(*_runs(keys))
        lefts = others
    else:
        other_order, other_keys = _sorted_by(right, masks)
        lefts, others = left[order], right[other_order]
        starts, ends = np.searchsorted(other_keys, keys, "left"), np.searchsorted(other_keys, keys, "right")
    for begin in range(0, len(lefts), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        found = list(_compare(lefts[part], others, starts[part], ends[part], radius))
        if found:
            places, partners, distance = (np.concatenate([piece[column] for piece in found]) for column in range(3))
            one, two = order[places + begin], other_order[partners]
            yield (one, two, distance) if right is not None else (np.minimum(one, two), np.maximum(one, two), distance)


def _compare(lefts: Hashes, others: Hashes, starts: Places, ends: Places, radius: int) -> Iterator[Pairs]:
    """Each of `lefts` with its run of `others`: all first partners, all second ones, ...; what few long runs leave, run by run."""
    places = np.flatnonzero(starts < ends)
    partners, ends = starts[places], ends[places]
    while len(places) > _FEW:
        yield from _near_ones(lefts, others, places, partners, radius)
        partners = partners + 1
        more = partners < ends
        if not more.all():
            places, partners, ends = places[more], partners[more], ends[more]
    sizes = ends - partners
    blocks = np.cumsum(sizes) // _CHUNK
    for block in np.unique(blocks):
        chosen = blocks == block
        size = sizes[chosen]
        offsets = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        yield from _near_ones(lefts, others, np.repeat(places[chosen], size), np.repeat(partners[chosen], size) + offsets, radius)


def _near_ones(lefts: Hashes, others: Hashes, places: Places, partners: Places, radius: int) -> Iterator[Pairs]:
    distance = np.bitwise_count(lefts[places] ^ others[partners])
    near = np.flatnonzero(distance <= radius)
    if len(near):
        yield places[near], partners[near], distance[near]


def _sorted_by(hashes: Hashes, masks: list[int]) -> tuple[Places, Hashes]:
    """Places in the order of the masked bits, and these bits as sorted keys."""
    key = np.zeros(len(hashes), dtype=np.uint64)
    for mask in masks:
        key = key * np.uint64(0x9E3779B97F4A7C15) ^ (hashes & np.uint64(mask))
    key = (key ^ (key >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)  # 40 bits of a mix; a chance agreement costs one comparison
    packed = (key & np.uint64(0xFFFFFFFFFF000000)) | np.arange(len(hashes), dtype=np.uint64)
    packed.sort()
    return (packed & np.uint64(0xFFFFFF)).astype(np.int64), packed >> np.uint64(24)


def _runs(keys: Hashes) -> tuple[Places, Places]:
    """Where each run of equal keys ends, and how long it is."""
    ends = np.append(np.flatnonzero(keys[1:] != keys[:-1]) + 1, len(keys))[: len(keys)]
    return ends, np.diff(ends, prepend=0)


def _first_seen(left: Hashes, right: Hashes, pairs: Pairs, choice: tuple[int, ...], masks: list[int]) -> Pairs:
    """The pairs that no earlier table has brought together: those whose first agreeing blocks are these."""
    differing = left[pairs[0]] ^ right[pairs[1]]
    first = np.ones(len(differing), dtype=bool)
    for block in range(choice[-1] + 1):
        agrees = differing & np.uint64(masks[block]) == 0
        first &= agrees if block in choice else ~agrees
    return pairs[0][first], pairs[1][first], pairs[2][first]


def _nearest(parts: list[Pairs], nearest: int) -> Pairs:
    """The pairs that are among the nearest of one of their two, sorted by left, right."""
    left, right, distance = (np.concatenate([part[column] for part in parts]) for column in range(3))
    keep = _rank(left, right, distance) < nearest
    keep |= _rank(right, left, distance) < nearest
    left, right, distance = left[keep], right[keep], distance[keep]
    order = np.argsort(left << _PLACE | right)
    return left[order], right[order], distance[order]


def _rank(of: Places, others: Places, distance: npt.NDArray[np.uint8]) -> Places:
    """Of each pair among those of its one place, nearest first; one sort of packed keys, five times as fast as three."""
    order = np.argsort((of << 8 | distance) << _PLACE | others)
    starts = np.flatnonzero(np.diff(of[order], prepend=-1))
    rank = np.empty(len(of), dtype=np.int64)
    rank[order] = np.arange(len(of)) - np.repeat(starts, np.diff(starts, append=len(of)))
    return rank


def _none() -> Pairs:
    return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8)
