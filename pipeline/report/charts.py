"""Charts as SVG paths: scales, ticks, lines; numbers as the page writes them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 360.0, 46.0, 8.0, 10.0, 24.0  # of the drawing, in units of the viewBox
NONE = "\N{EN DASH}"  # where there is no number
MOST_POINTS = 100  # of a line; more are thinned


@dataclass(frozen=True)
class Scale:
    """Numbers from `low` to `high` on a stretch of the drawing."""

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """Where a number lies, in units of the drawing."""
        low, high, value = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the scale: 1, 2 or 5 times a power of ten."""
        if self.logarithmic:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            found = [step * 10.0**power for power in powers for step in (1, 2, 5)]
            inside = [tick for tick in found if self.low <= tick <= self.high]
            return inside if len(inside) <= most + 1 else [tick for tick in inside if math.isclose(math.log10(tick), round(math.log10(tick)))]
        rough = (self.high - self.low) / most
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
        first = math.ceil(self.low / step - 1e-9)
        return [number * step for number in range(first, math.floor(self.high / step + 1e-9) + 1)]


@dataclass(frozen=True)
class Chart:
    """A drawing with two axes.

    shapes: class of the style sheet and SVG path, in drawing order; ticks: position and label; key: class and name.
    """

    title: str
    shapes: tuple[tuple[str, str], ...]
    across: tuple[tuple[float, str], ...]
    up: tuple[tuple[float, str], ...]
    description: str
    x_title: str = ""
    height: float = 190.0
    key: tuple[tuple[str, str], ...] = field(default=())

    @property
    def floor(self) -> float:
        """Where the horizontal axis lies."""
        return self.height - BOTTOM


def scale_across(low: float, high: float) -> Scale:
    """The horizontal axis."""
    low, high = _widened(low, high)
    return Scale(low, high, LEFT, WIDTH - RIGHT)


def scale_up(low: float, high: float, height: float = 190.0, logarithmic: bool = False) -> Scale:
    """The vertical axis."""
    low, high = _widened(low, high)
    return Scale(low, high, height - BOTTOM, TOP, logarithmic)


def _widened(low: float, high: float) -> tuple[float, float]:
    """The same, or room around a single number."""
    if high - low > 1e-12 * max(1.0, abs(high)):
        return low, high
    room = 0.5 * abs(low) or 0.5
    return low - room, high + room


def ticks_of(scale: Scale, most: int = 5, whole: bool = False) -> tuple[tuple[float, str], ...]:
    """Positions and labels of a scale's ticks; whole: whole numbers alone."""
    return tuple((round(scale(tick), 1), f"{round(tick, 12):.6g}") for tick in scale.ticks(most) if not whole or float(tick).is_integer())


def line(across: Scale, up: Scale, x: Sequence[float] | Floats, y: Sequence[float] | Floats) -> str:
    """SVG path through points; a point that is not finite interrupts it."""
    keep = np.unique(np.linspace(0, len(x) - 1, min(len(x), MOST_POINTS)).round().astype(int)) if len(x) else np.array([], dtype=int)
    parts, pen_down = [], False
    for place in keep:
        if not math.isfinite(y[place]):
            pen_down = False
            continue
        parts.append(f"{'L' if pen_down else 'M'}{across(float(x[place])):.1f} {up(float(y[place])):.1f}")
        pen_down = True
    if len(parts) == 1:
        return dot(across(float(x[keep[0]])), up(float(next(value for value in y if math.isfinite(value)))), 1.5)
    return "".join(parts)


def dot(x: float, y: float, radius: float = 3.0) -> str:
    """SVG path of a disc."""
    return f"M{x - radius:.1f} {y:.1f}a{radius} {radius} 0 1 0 {2 * radius} 0a{radius} {radius} 0 1 0 {-2 * radius} 0z"


def box(left: float, top: float, right: float, bottom: float) -> str:
    """SVG path of a rectangle."""
    return f"M{left:.1f} {top:.1f}H{right:.1f}V{bottom:.1f}H{left:.1f}z"


def score_text(value: float | None) -> str:
    """A score with four decimals, small and large ones with four digits; a dash where it is not defined."""
    if value is None or not math.isfinite(value):
        return NONE
    return f"{value:.4f}" if 0.01 <= abs(value) < 100 or value == 0 else f"{value:.4g}" if abs(value) < 100 else f"{value:,.1f}"


def mean_and_spread(score: Mapping[str, Any]) -> str:
    """The mean of a score's folds and their spread, with as many decimals."""
    mean, spread = score.get("mean"), score.get("spread")
    if mean is None or spread is None or not (defined(mean) and defined(spread)):
        return score_text(mean)
    return f"{score_text(mean)} ± {written_like(spread, mean)}"


def written_like(value: float, score: float) -> str:
    """A difference of scores with as many decimals as the score is written with."""
    written = score_text(score)
    decimals = 0 if "e" in written else len(written.partition(".")[2])
    return f"{value:,.{decimals}f}" if decimals else f"{value:.2g}"


def interval_text(interval: Sequence[float] | None) -> str:
    """A 95 % interval in words; a dash where there is none."""
    if interval is None or not all(value is not None and math.isfinite(value) for value in interval):
        return NONE
    return f"{score_text(interval[0])} to {score_text(interval[1])}"


def defined(value: float | None) -> bool:
    """Whether a score is there and a number."""
    return value is not None and math.isfinite(value)
