"""Charts of a study's course: scores by trial, steps within trials, score against seconds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.report.charts import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Chart, Scale, dot, line, scale_across, scale_up, score_text, ticks_of
from pipeline.tuning.trials import TrialRow, ranked

AGES = 5  # shades, the latest trials the darkest
LANE = 14.0  # height of a line of marks below the scores
MOST_LINES = 30  # of each kind in the chart of steps
HEIGHT = 190.0

Point = tuple[float, float]


@dataclass(frozen=True)
class Scores:
    """The part of the score axis that is worth its room; what is worse lies on its edge."""

    low: float
    high: float
    beyond: int

    def inside(self, value: float) -> float:
        """The value, or the edge that it lies behind."""
        return min(max(value, self.low), self.high)


def scores_of(complete: Sequence[TrialRow], sign: int) -> Scores:
    """From the best score to the worst, without those that lie more than five times as far from the best as the worst of the better three quarters."""
    values = np.array([row.values[0] for row in complete] or [0.0])
    best, quartile = sign * float((sign * values).max()), float(sign * np.quantile(sign * values, 0.25))
    limit = quartile - 4 * (best - quartile)
    kept = values[sign * (values - limit) >= 0] if best != quartile else values
    return Scores(float(kept.min()), float(kept.max()), len(values) - len(kept))


def points(places: Sequence[Point]) -> str:
    """SVG path of points that the style sheet's round line ends make discs of; an eighth of the bytes of discs."""
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)


def aged(rows: Sequence[TrialRow], places: Mapping[int, Point]) -> tuple[tuple[str, str], ...]:
    """Shapes of trials by number, later ones darker."""
    ages = {row.number: AGES * place // len(rows) for place, row in enumerate(sorted(rows, key=lambda row: row.number))}
    return tuple((f"points age-{age}", points([places[number] for number in sorted(places) if ages[number] == age])) for age in range(AGES))


def history_chart(rows: Sequence[TrialRow], sign: int, own: TrialRow | None, metric: str) -> Chart | None:
    """Scores by number of trial, the best so far, and marks of trials without a score; None where no trial has ended."""
    complete = [row for row in rows if row.state == "complete"]
    lanes = [state for state in ("pruned", "failed") if any(row.state == state for row in rows)]
    if not complete and not lanes:
        return None
    scores = scores_of(complete, sign)
    across, up = scale_across(min(row.number for row in rows), max(row.number for row in rows)), scale_up(scores.low, scores.high)
    places = {row.number: (across(row.number), up(scores.inside(row.values[0]))) for row in complete}
    shapes = [("mean line-extra", _best_so_far(complete, sign, across, up, scores))] if complete else []
    if own is not None:
        shapes.append(("dash", f"M{LEFT} {up(scores.inside(own.values[0])):.1f}H{WIDTH - RIGHT}"))
    shapes.append(("points", points(list(places.values()))))
    floor = HEIGHT - BOTTOM if complete else TOP  # without scores there are only marks
    marks, key = [], [("fill-train", "complete"), ("fill-extra", "best so far")] if complete else []
    for place, state in enumerate(lanes):
        y = floor + LANE * (place + 0.5)
        marks.append((round(y, 1), state))
        shapes.append((f"mark-{state}", "".join(_mark(across(row.number), y, state) for row in rows if row.state == state)))
    best = ranked(rows, sign)[:1]
    shapes += [("ring", dot(*places[row.number], 5.0)) for row in best]
    what = f"{metric} of {len(complete)} complete trials" + "".join(f", the best {score_text(row.values[0])} in trial {row.number}" for row in best)
    ticks = (*(ticks_of(up, 4) if complete else ()), *marks)
    return Chart("Score by trial", tuple(shapes), _whole(across), ticks, what, "trial", floor + LANE * len(lanes) + BOTTOM, tuple(key))


def _whole(across: Scale) -> tuple[tuple[float, str], ...]:
    return ticks_of(across, whole=True)


def _mark(x: float, y: float, state: str) -> str:
    return f"M{x:.1f} {y - 4:.1f}v8" if state == "pruned" else f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"


def _best_so_far(complete: Sequence[TrialRow], sign: int, across: Scale, up: Scale, scores: Scores) -> str:
    path, best = "", None
    for row in sorted(complete, key=lambda row: row.number):
        value = row.values[0]
        if best is None or sign * (value - best) > 0:
            path += f"{'M' if best is None else 'H'}{across(row.number):.1f}{' ' if best is None else 'V'}{up(scores.inside(value)):.1f}"
            best = value
    return f"{path}H{across(across.high):.1f}"


def steps_chart(rows: Sequence[TrialRow], sign: int, unit: str) -> Chart | None:
    """What trials reported on their way, a line each: the best, other complete ones, pruned ones; None where none has two steps.

    unit: of a step, fold or epoch. Of each kind the best or latest 30.
    """
    long = [row for row in rows if len(row.steps) > 1]
    complete = ranked(long, sign)[:MOST_LINES]
    pruned = [row for row in rows if row.state == "pruned" and row.steps][-MOST_LINES:]
    if not complete and not any(len(row.steps) > 1 for row in pruned):
        return None
    shown = [*complete, *pruned]
    values = np.array([value for row in shown for value in row.steps.values() if np.isfinite(value)])
    if not len(values):
        return None
    worse, best = float(np.quantile(sign * values, 0.02)), float((sign * values).max())  # the first epochs of one trial must not flatten all others
    low, high = sorted((sign * worse, sign * best))
    steps = [step for row in shown for step in row.steps]
    across, up = scale_across(min(steps), max(steps)), scale_up(low, high)

    def path(part: Sequence[TrialRow]) -> str:
        numbers = [(sorted(row.steps), [min(max(row.steps[step], low), high) for step in sorted(row.steps)]) for row in part]
        return "".join(line(across, up, x, y) for x, y in numbers)

    shapes = (("thin line-train", path(complete[1:])), ("thin solid-thin line-test", path(pruned)), ("mean line-train", path(complete[:1])))
    key = [("fill-train", "complete, the best thick")] * bool(complete) + [("fill-test", "pruned")] * bool(pruned)
    what = f"{len(complete)} complete and {len(pruned)} pruned trials over {max(steps) - min(steps) + 1} steps"
    return Chart(f"What trials reported, by {unit}", shapes, _whole(across), ticks_of(up, 4), what, unit, key=tuple(key))


def front_chart(rows: Sequence[TrialRow], front: Sequence[TrialRow], sign: int, metric: str) -> Chart | None:
    """Score against seconds, and the trials that no other beats in both; None without a complete trial."""
    complete = [row for row in rows if row.state == "complete"]
    if not complete:
        return None
    scores, seconds = scores_of(complete, sign), [row.values[1] for row in complete]
    logarithmic = min(seconds) > 0 and max(seconds) > 10 * min(seconds)
    across = Scale(min(seconds), max(seconds), LEFT + 6, WIDTH - RIGHT - 6, True) if logarithmic else scale_across(min(seconds), max(seconds))
    up = scale_up(scores.low, scores.high)
    places = {row.number: (across(row.values[1]), up(scores.inside(row.values[0]))) for row in complete}
    by_seconds = sorted(front, key=lambda row: (row.values[1], row.number))
    start = places[by_seconds[0].number]
    stairs = f"M{start[0]:.1f} {start[1]:.1f}" + "".join(f"H{places[row.number][0]:.1f}V{places[row.number][1]:.1f}" for row in by_seconds[1:])
    rings = "".join(dot(*places[row.number], 5.0) for row in by_seconds)
    shapes = (("mean line-extra", stairs), *aged(complete, places), ("ring", rings))
    what = f"{len(front)} of {len(complete)} complete trials that no other beats in both"
    return Chart(f"{metric} against seconds" + (", logarithmic" * logarithmic), shapes, ticks_of(across, 4), ticks_of(up, 4), what, "seconds of training")
