"""Charts of a study's space: the score over each dimension, and all dimensions side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.config_tuning import Choices, Combinations, Range
from pipeline.data.eda.facts import short
from pipeline.report.charts import LEFT, RIGHT, TOP, WIDTH, Chart, Scale, dot, scale_up, score_text, ticks_of
from pipeline.tuning.charts_history import Point, Scores, aged, scores_of
from pipeline.tuning.trials import Parameter, TrialRow, ranked

MOST_SLICES, MOST_AXES, MOST_LABELS = 15, 10, 30
LETTER = 6.2  # width of a letter in units of the drawing, roughly
PARALLEL = 240.0  # height
GROUPS = (
    (0.1, "parallel best", "best tenth"),
    (0.25, "parallel good", "to a quarter"),
    (0.5, "parallel fair", "to a half"),
    (1.0, "parallel rest", "the others"),
)

Dimension = Range | Choices | Combinations


@dataclass(frozen=True)
class Axis:
    """A dimension with the trials' values on it. labels: of choices, () for a range; low, high: of a range, with whatever trials had outside of it."""

    name: str
    condition: str
    labels: tuple[str, ...]
    low: float = 0.0
    high: float = 1.0
    logarithmic: bool = False
    whole: bool = False

    def place(self, value: Parameter | None) -> float | None:
        """0 to 1; None for what does not lie on it."""
        if self.labels:
            return (self.labels.index(str(value)) + 0.5) / len(self.labels) if str(value) in self.labels else None
        if value is None or isinstance(value, str) or not self.low <= value <= self.high:
            return None
        return Scale(self.low, self.high, 0.0, 1.0, self.logarithmic)(value)

    @property
    def words(self) -> str:
        """Its ends or its labels, from low to high."""
        if self.labels:
            more = f" and {len(self.labels) - MOST_LABELS} more" if len(self.labels) > MOST_LABELS else ""
            return ", ".join(short(label, 40) for label in self.labels[:MOST_LABELS]) + more
        return f"{self.low:.4g} to {self.high:.4g}{', logarithmic' * self.logarithmic}"


def axes_of(dimensions: Mapping[str, Dimension], rows: Sequence[TrialRow], importances: Mapping[str, float] | None) -> list[Axis]:
    """An axis for each dimension, the most important first; the others as the config lists them."""
    shares = importances or {}
    names = sorted(dimensions, key=lambda name: -shares.get(name, 0.0))
    return [_axis(name, dimensions[name], [row.parameters[name] for row in rows if name in row.parameters]) for name in names]


def _axis(name: str, dimension: Dimension, values: Sequence[Parameter]) -> Axis:
    condition = " and ".join(f"{key} is {' or '.join(labels)}" for key, labels in dimension.condition().items())
    if isinstance(dimension, Range):
        numbers = [value for value in values if not isinstance(value, str)]
        low, high = min(float(dimension.low), *numbers, float(dimension.high)), max(float(dimension.high), *numbers, float(dimension.low))
        whole = all(isinstance(end, int) for end in (dimension.low, dimension.high)) and all(float(value).is_integer() for value in numbers)
        return Axis(name, condition, (), low, high, dimension.log and low > 0, whole)
    known = dimension.choices if isinstance(dimension, Choices) else dimension.settings
    return Axis(name, condition, tuple(dict.fromkeys([*known, *sorted(str(value) for value in values)])))


@dataclass(frozen=True)
class Slice:
    """The score over one dimension. numbered: labels by the number of their column, where they do not fit below it."""

    chart: Chart
    condition: str
    trials: int
    numbered: tuple[str, ...]
    more: int


def slices(axes: Sequence[Axis], rows: Sequence[TrialRow], sign: int, own: Mapping[str, Parameter]) -> list[Slice]:
    """A chart for each of the first 15 dimensions that a complete trial has."""
    complete = [row for row in rows if row.state == "complete"]
    scores = scores_of(complete, sign)
    used = [axis for axis in axes if any(axis.name in row.parameters for row in complete)]
    return [_slice(axis, complete, sign, scores, own.get(axis.name)) for axis in used[:MOST_SLICES]]


def _across(share: float) -> float:
    return LEFT + 6 + share * (WIDTH - RIGHT - LEFT - 12)


def _slice(axis: Axis, complete: Sequence[TrialRow], sign: int, scores: Scores, own: Parameter | None) -> Slice:
    up = scale_up(scores.low, scores.high, 170.0)
    places: dict[int, Point] = {}
    for row in complete:
        share = axis.place(row.parameters.get(axis.name))
        if share is not None:
            places[row.number] = (_across(share), up(scores.inside(row.values[0])))
    ticks, numbered = _ticks(axis)
    here = axis.place(own)
    shapes = [("dash", f"M{_across(here):.1f} {TOP}V{up.start}")] if here is not None else []
    shapes += aged(complete, places)
    shapes += [("ring", dot(*places[row.number], 5.0)) for row in ranked(complete, sign)[:1] if row.number in places]
    title = short(axis.name, 60) + ", logarithmic" * axis.logarithmic
    what = f"scores of {len(places)} trials, from {score_text(scores.low)} to {score_text(scores.high)}"
    shown = tuple(short(label, 40) for label in axis.labels[:MOST_LABELS]) if numbered else ()
    return Slice(
        Chart(title, tuple(shapes), ticks, ticks_of(up, 4), what, height=170.0), axis.condition, len(places), shown, max(0, len(axis.labels) - MOST_LABELS)
    )


def _ticks(axis: Axis) -> tuple[tuple[tuple[float, str], ...], bool]:
    """Positions and labels below the axis, and whether numbers stand for labels that do not fit."""
    count = len(axis.labels)
    if count:
        room = (WIDTH - RIGHT - LEFT) / count
        numbered = any(len(label) * LETTER > room for label in axis.labels)
        every = -(-count // 14)
        labels = [(str(place + 1) if place % every == 0 else "") if numbered else label for place, label in enumerate(axis.labels)]
        return tuple((round(_across((place + 0.5) / count), 1), label) for place, label in enumerate(labels) if label), numbered
    found = ticks_of(Scale(axis.low, axis.high, _across(0.0), _across(1.0), axis.logarithmic), 5, axis.whole)
    if len(found) < 2:
        found = tuple((round(_across(place), 1), f"{end:.3g}") for place, end in ((0.0, axis.low), (1.0, axis.high)))
    return found[:: -(-len(found) // 6)], False


@dataclass(frozen=True)
class Parallel:
    """Polylines of complete trials over several axes, the score's last. shapes: class and path; heads: place and text above an axis;
    ends: place, height and text of the score's ends; absent: places of axes that some trial does not have, which it passes below."""

    shapes: tuple[tuple[str, str], ...]
    rails: str
    heads: tuple[tuple[float, str], ...]
    ends: tuple[tuple[float, float, str], ...]
    absent: tuple[float, ...]
    names: tuple[tuple[str, str], ...]
    key: tuple[tuple[str, str], ...]
    trials: int
    height: float = PARALLEL


def parallel(axes: Sequence[Axis], rows: Sequence[TrialRow], sign: int) -> Parallel | None:
    """Complete trials over the first 10 dimensions that differ among them, and the score; None below two trials or without such a dimension."""
    complete = ranked(rows, sign)
    used = [axis for axis in axes if len({row.parameters.get(axis.name) for row in complete}) > 1][:MOST_AXES]
    if len(complete) < 2 or not used:
        return None
    scores = scores_of(complete, sign)
    best, worst = (scores.high, scores.low) if sign > 0 else (scores.low, scores.high)
    top, floor, left, right = 24.0, PARALLEL - 26, 14.0, WIDTH - 52
    xs = [left + (right - left) * place / len(used) for place in range(len(used) + 1)]
    up = Scale(worst, best, floor, top) if best != worst else None

    def path(row: TrialRow) -> str:
        shares = [axis.place(row.parameters.get(axis.name)) for axis in used]
        heights = [floor + 16 if share is None else floor - share * (floor - top) for share in shares]
        heights.append((floor + top) / 2 if up is None else up(scores.inside(row.values[0])))
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in zip(xs, heights, strict=True))

    grouped: list[list[str]] = [[] for _ in GROUPS]
    values = [row.values[0] for row in complete]
    for row in complete:
        place = values.index(row.values[0])  # of equal scores the same colour
        grouped[next(number for number, group in enumerate(GROUPS) if place <= group[0] * (len(complete) - 1))].append(path(row))
    shapes = tuple((kind, "".join(paths)) for (_, kind, _), paths in zip(GROUPS, grouped, strict=True) if paths)[::-1]
    rails = "".join(f"M{x:.1f} {top}V{floor}" for x in xs)
    absent = tuple(x for x, axis in zip(xs, used, strict=False) if any(axis.place(row.parameters.get(axis.name)) is None for row in complete))
    key = tuple((f"fill-{kind.split()[1]}", name) for (_, kind, name), paths in zip(GROUPS, grouped, strict=True) if paths)
    heads = (*((x, str(place + 1)) for place, x in enumerate(xs[:-1])), (xs[-1], "score"))
    ends = (
        ((xs[-1] + 5, top + 4, score_text(best)), (xs[-1] + 5, floor + 4, score_text(worst)))
        if up is not None
        else ((xs[-1] + 5, (floor + top) / 2, score_text(best)),)
    )
    return Parallel(shapes, rails, heads, ends, absent, tuple((axis.name, axis.words) for axis in used), key, len(complete))
