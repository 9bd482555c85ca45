"""Cut points between grades and thresholds of labels, fitted to the metric that wants labels, and labels that no own fold decided.

What is fitted is as little as the metric can use, since each number is fitted to noise as well:

- ordinal: the K - 1 cut points on the expected grade, one after the other, each scanned exactly, until none gains;
- binary: the threshold of the positive class, scanned exactly;
- multilabel: for macro F1 a threshold per label, since it is a mean of the labels' own F1; for micro F1, F1 over samples and accuracy
  one for all labels: the best rule for F1 over all cells gives every label from one and the same probability on (Lipton, Elkan and
  Naryanaswamy, Optimal thresholding of classifiers to maximize F1 measure, 2014), and a label with few rows cannot lead it astray.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.data.targets import Numbers, Target
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.weighted import FROM_TALLY, Tally

Floats = npt.NDArray[np.float64]

FLATTER = "fitted on single networks' predictions; a mean over folds, as on test rows, is flatter, so these may lie too far out there"
"""What a reader of fitted thresholds and cut points must know."""

EQUAL = 1e-12  # scores that differ by less are one
MOST_SWEEPS = 100  # over all cut points; a handful is usual
EDGE = 1e-6  # how far above the highest grade a cut point may lie, so that no row gets it
ABOVE_ONE = 1 + 1e-6  # the same of a threshold
CELLS = 2_000_000  # candidates x grades, or rows x labels, that are worked on at once


def decides(problem: Problem) -> bool:
    """Whether the metric wants labels that something fitted can decide: cut points or thresholds."""
    known = problem.metric.name in FROM_TALLY or (problem.target.task == "multilabel" and problem.metric.name == "samples_f1")
    return problem.metric.needs == "labels" and problem.target.task in ("ordinal", "multilabel", "binary") and known


def fit_decision(values: npt.NDArray[np.float32], problem: Problem) -> Target:
    """The target with the cut points or thresholds under which these rows score best; never worse on them than the default.

    values: [rows, outputs]. Each lies in the middle of the values that decide alike; of equally good ones, nearest to the default.
    """
    assert decides(problem)
    default = _default(problem.target)
    if problem.target.task == "ordinal":
        fitted = replace(default, cut_points=_cut_points(default.expected_grade(values), problem))
    elif problem.target.task == "binary":
        fitted = replace(default, thresholds=(_binary_threshold(values[:, 1], problem),))
    elif problem.metric.name == "macro_f1":
        fitted = replace(default, thresholds=tuple(_label_threshold(column, has) for column, has in zip(values.T, problem.numbers.T == 1, strict=True)))
    else:
        fitted = replace(default, thresholds=(_common_threshold(values, problem),) * values.shape[1])
    # labels of bare rows, and of a probability of exactly one half, follow rules of their own
    return fitted if _score(fitted, values, problem) >= _score(default, values, problem) - EQUAL else default


def cross_fitted_decision(blended: Mapping[int, npt.NDArray[np.float32]], problem: Problem) -> Numbers:
    """Labels, in the form of `target.numbers`, that the targets of a row's own fold had no part in.

    blended: by fold the predictions [rows, outputs] of all rows, of the blend whose weights did not see that fold. With one fold
    there is nothing to fit on, and the default decides.
    """
    result = np.zeros_like(problem.numbers)
    for fold in problem.folds:
        inside = problem.fold == fold
        target = _default(problem.target) if inside.all() else fit_decision(blended[fold][~inside], problem.take(np.flatnonzero(~inside)))
        result[inside] = target.decide(blended[fold][inside])
    return result


def _default(target: Target) -> Target:
    return replace(target, thresholds=None, cut_points=None)


def _score(target: Target, values: npt.NDArray[np.float32], problem: Problem) -> float:
    return replace(problem, target=target).score(values) * problem.metric.sign


# ---------------------------------------------------------------- one number


def _choose(scores: Floats, steps: Floats, default: float, limits: tuple[float, float]) -> float:
    """The bound that scores best; scores [steps + 1]: of bounds that lie below step 0, below step 1, ..., above the last.

    steps: ascending, what is compared with the bound; a value that equals it is above. All bounds above one step and not above the
    next decide alike: the default where it is among the best, else the middle of that interval among the best which is nearest to it.
    limits: where the first interval begins and the last one ends.
    """
    if scores[np.searchsorted(steps, default)] >= scores.max() - EQUAL:
        return default
    best = np.flatnonzero(scores >= scores.max() - EQUAL)
    low = np.concatenate([[min(limits[0], steps[0])], steps])[best]
    high = np.concatenate([steps, [limits[1]]])[best]
    nearest = int(np.argmin(np.maximum(low - default, default - high)))
    return _middle(float(low[nearest]), float(high[nearest]))


def _middle(low: float, high: float) -> float:
    """Above `low`, even where the two are neighbours."""
    middle = (low + high) / 2
    return middle if middle > low else high


def _below_steps(ordered: Numbers) -> npt.NDArray[np.int64]:
    """How many of ascending values lie below each different one, and then all of them [steps + 1]."""
    return np.concatenate([np.flatnonzero(np.diff(ordered, prepend=-np.inf) > 0), [len(ordered)]])


def _as_compared(threshold: float, values: npt.NDArray[np.float32]) -> float:
    """The threshold in single precision, as `Target.decide` compares it, between the same two of the values."""
    single, below = np.float32(threshold), values[values < np.float64(threshold)]
    return float(single) if len(below) == 0 or single > below.max() else float(np.nextafter(below.max(), np.float32(np.inf)))


def _scan(values: npt.NDArray[np.float32], has: npt.NDArray[np.bool_], score: Callable[[Floats, Floats], Floats]) -> float:
    """The best threshold of one probability [rows]; score: (rows found, rows given) of every candidate to its score."""
    order = np.argsort(values, kind="stable")
    ordered = values[order].astype(np.float64)
    left_out = _below_steps(ordered)
    lost = np.concatenate([[0], np.cumsum(has[order])])[left_out]
    scores = score((has.sum() - lost).astype(np.float64), (len(values) - left_out).astype(np.float64))
    return _as_compared(_choose(scores, ordered[left_out[:-1]], 0.5, (0.0, ABOVE_ONE)), values)


def _binary_threshold(positive: npt.NDArray[np.float32], problem: Problem) -> float:
    has = problem.numbers == 1
    rows, owners = float(len(has)), float(has.sum())

    def score(found: Floats, given: Floats) -> Floats:
        truth = np.broadcast_to([rows - owners, owners], (len(found), 2))
        right = np.stack([rows - owners - (given - found), found], axis=1)
        return _signed(problem, Tally(truth, np.stack([rows - given, given], axis=1), right))

    return _scan(positive, has, score)


def _label_threshold(column: npt.NDArray[np.float32], has: npt.NDArray[np.bool_]) -> float:
    """Of one label, by its own F1; a label that no row has keeps one half."""
    owners = float(has.sum())
    return _scan(column, has, lambda found, given: np.asarray(2 * found / np.maximum(owners + given, 1)))


def _signed(problem: Problem, tally: Tally) -> Floats:
    return np.asarray(problem.metric.sign * FROM_TALLY[problem.metric.name](tally))


# ---------------------------------------------------------------- one threshold for all labels


def _common_threshold(values: npt.NDArray[np.float32], problem: Problem) -> float:
    """Scanned where true labels lie: between two of them, a higher threshold only takes wrong labels away.

    Where every row must have a label, its most probable one is given whatever the threshold is.
    """
    has = problem.numbers == 1
    seen = values.copy()
    if not problem.target.may_be_empty:
        seen[np.arange(len(seen)), seen.argmax(axis=1)] = np.inf
    tried = np.unique(np.append(seen[has], [0.5, np.inf])).astype(np.float64)
    scores = problem.metric.sign * COMMON[problem.metric.name](seen, has, tried)
    best = tried[scores >= scores.max() - EQUAL * len(values)]
    chosen = float(best[np.argmin(np.abs(best - 0.5))])
    if chosen == 0.5:
        return chosen
    rest = seen[np.isfinite(seen)]
    low = float(np.max(rest, initial=0.0, where=rest < chosen))
    return _as_compared(_middle(low, min(chosen, max(ABOVE_ONE, low))), rest)


def _micro_f1_of(seen: npt.NDArray[np.float32], has: npt.NDArray[np.bool_], tried: Floats) -> Floats:
    given, found = (part.size - np.searchsorted(np.sort(part, axis=None), tried) for part in (seen, seen[has]))
    return np.asarray(len(seen) * 2 * found / np.maximum(has.sum() + given, 1))


def _rows_right(seen: npt.NDArray[np.float32], has: npt.NDArray[np.bool_], tried: Floats) -> Floats:
    """How many rows have all their labels right: those whose threshold is above all wrong labels and not above any true one."""
    wrong, true = np.where(has, -np.inf, seen).max(axis=1), np.where(has, seen, np.inf).min(axis=1)
    possible = wrong < true
    return np.asarray(np.searchsorted(np.sort(wrong[possible]), tried) - np.searchsorted(np.sort(true[possible]), tried), dtype=np.float64)


def _sample_f1(seen: npt.NDArray[np.float32], has: npt.NDArray[np.bool_], tried: Floats) -> Floats:
    """Sum over rows of F1, less a constant, from what each label adds to its row as the threshold comes down to it."""
    added = np.zeros(len(tried) + 1)
    step = max(1, CELLS // seen.shape[1])
    for start in range(0, len(seen), step):
        part, owned = seen[start : start + step], has[start : start + step]
        order = np.argsort(-part, axis=1, kind="stable")
        found = np.take_along_axis(owned, order, axis=1).cumsum(axis=1)
        owners = owned.sum(axis=1, keepdims=True)
        after = 2 * found / (owners + np.arange(1, seen.shape[1] + 1))
        place = np.searchsorted(tried, np.take_along_axis(part, order, axis=1), side="right")
        none = (owners == 0).astype(np.float64)  # nothing given where nothing is asked for is right
        added += np.bincount(place.ravel(), np.diff(after, axis=1, prepend=none).ravel(), minlength=len(added))
    return np.asarray(added[:0:-1].cumsum()[::-1])


COMMON: dict[str, Callable[[npt.NDArray[np.float32], npt.NDArray[np.bool_], Floats], Floats]] = {
    "micro_f1": _micro_f1_of,
    "samples_f1": _sample_f1,
    "accuracy": _rows_right,
}
"""Metrics with one threshold for all labels: (probabilities [rows, labels], infinite where given in any case; true ones; ascending
thresholds) to the metric of each threshold, times the number of rows, but for a constant."""


# ---------------------------------------------------------------- cut points


def _cut_points(grades: Floats, problem: Problem) -> tuple[float, ...]:
    """The better of two climbs: from the default, and from cut points that give each grade as often as it occurs; grades: expected [rows]."""
    order = np.argsort(grades, kind="stable")
    ordered, truth = grades[order], problem.numbers[order]
    classes = len(problem.target.classes)
    default: Floats = np.arange(classes - 1, dtype=np.float64) + 0.5
    below = np.cumsum(np.bincount(truth, minlength=classes))[:-1]
    edges = np.concatenate([[0.0], ordered, [classes - 1 + EDGE]])
    as_often: Floats = np.asarray((edges[below] + edges[below + 1]) / 2, dtype=np.float64)
    climbs = [_climb(start, ordered, truth, problem) for start in (default, as_often)]
    scores = [_score_of_cuts(cuts, ordered, truth, problem) for cuts in climbs]
    return tuple(map(float, climbs[scores[1] > scores[0] + EQUAL]))


def _climb(start: Floats, ordered: Floats, truth: npt.NDArray[np.int64], problem: Problem) -> Floats:
    """Moves one cut point after the other to its best place between its neighbours, until a sweep over all gains nothing."""
    cuts, score = start.copy(), -np.inf
    for _ in range(MOST_SWEEPS):
        for number in range(len(cuts)):
            cuts[number] = _best_cut(number, cuts, ordered, truth, problem)
        before, score = score, _score_of_cuts(cuts, ordered, truth, problem)
        if score <= before + EQUAL:
            break
    return cuts


def _given(cuts: Floats, ordered: Floats) -> npt.NDArray[np.int64]:
    """The grade of every row, of ascending expected grades."""
    return np.searchsorted(cuts, ordered, side="right")


def _score_of_cuts(cuts: Floats, ordered: Floats, truth: npt.NDArray[np.int64], problem: Problem) -> float:
    labels, classes = _given(cuts, ordered), len(problem.target.classes)
    owned, given, right = (np.bincount(part, minlength=classes).astype(np.float64) for part in (truth, labels, truth[truth == labels]))
    return float(_signed(problem, Tally(owned, given, right, float(truth @ labels))))


def _best_cut(number: int, cuts: Floats, ordered: Floats, truth: npt.NDArray[np.int64], problem: Problem) -> float:
    """The best place for the cut between grades `number` and the next, those of the others as they are."""
    classes = len(problem.target.classes)
    low = cuts[number - 1] if number else 0.0
    high = cuts[number + 1] if number + 1 < len(cuts) else classes - 1 + EDGE
    inside = slice(*np.searchsorted(ordered, [low if number else -np.inf, high]))
    here = ordered[inside]
    if len(here) == 0:
        return float(cuts[number])
    labels = _given(cuts, ordered)
    labels[inside] = number + 1
    sums = [np.bincount(part, minlength=classes).astype(np.float64) for part in (truth, labels, truth[truth == labels])]
    product, lower = float(truth @ labels), _below_steps(here)
    # how many of the rows that fall to the lower grade have it, have the higher one, and the sum of their true grades
    owned, missed, total = (np.concatenate([[0], np.cumsum(part)])[lower] for part in (truth[inside] == number, truth[inside] == number + 1, truth[inside]))
    scores = np.empty(len(lower))
    step = max(1, CELLS // classes)
    for part in (slice(start, start + step) for start in range(0, len(lower), step)):
        given, right = (np.tile(known, (len(lower[part]), 1)) for known in sums[1:])
        given[:, number] += lower[part]
        given[:, number + 1] -= lower[part]
        right[:, number] += owned[part]
        right[:, number + 1] -= missed[part]
        scores[part] = _signed(problem, Tally(np.broadcast_to(sums[0], given.shape), given, right, product - total[part]))
    return _choose(scores, here[lower[:-1]], float(np.clip(number + 0.5, low, high)), (low, high))
