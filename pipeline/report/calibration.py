"""Whether probabilities are what they say: the reliability curve, its error, the Brier score."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config import RANKING_METRICS
from pipeline.data.eda.facts import Finding, number
from pipeline.report.charts import Chart, box, dot, line, scale_across, scale_up, ticks_of
from pipeline.report.run import Rows

BINS = 10
Z = 1.96  # of a 95 % interval

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Bin:
    """Probabilities of one tenth of the scale."""

    low: float
    count: int
    said: float
    """Mean probability."""
    happened: float
    """Share that it came true for."""
    interval: tuple[float, float]
    """Of that share, 95 %, after Wilson (1927)."""


@dataclass(frozen=True)
class Calibration:
    """What was said and what happened."""

    what: str
    bins: tuple[Bin, ...]
    error: float
    """Expected calibration error: the mean distance of said and happened, weighted by counts (Guo et al., 2017)."""
    by_chance: float
    """The error that probabilities which are exactly right would show here by chance."""
    said: float
    happened: float
    brier: float
    brier_words: str
    chart: Chart
    findings: tuple[Finding, ...]


def calibrate(rows: Rows, metric: str) -> Calibration:
    """Of the most probable class; of two classes, of the positive one; of several labels, of every label."""
    said, happened, what = _statements(rows)
    bins, error, by_chance = reliability(said, happened)
    brier, words = _brier(rows)
    findings = _findings(said, happened, error, by_chance, metric, rows.target.task)
    return Calibration(what, bins, error, by_chance, float(said.mean()), float(happened.mean()), brier, words, _chart(bins), findings)


def _statements(rows: Rows) -> tuple[Floats, npt.NDArray[np.bool_], str]:
    """Probabilities, whether each came true, and of what they are."""
    task = rows.target.task
    if task == "multilabel":
        return rows.values.ravel().astype(np.float64), rows.numbers.ravel() == 1, "the probability of every label of every row"
    if task == "binary":
        return rows.values[:, 1].astype(np.float64), rows.numbers == 1, f'the probability of "{rows.target.classes[1]}"'
    return rows.values.max(axis=1).astype(np.float64), rows.values.argmax(axis=1) == rows.numbers, "the probability of the most probable class"


def reliability(said: Floats, happened: npt.NDArray[np.bool_]) -> tuple[tuple[Bin, ...], float, float]:
    """Tenths of the scale that hold a probability, the expected calibration error, and the one that chance alone would show."""
    place = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    bins, error, chance = [], 0.0, 0.0
    for number_ in range(BINS):
        inside = place == number_
        count = int(inside.sum())
        if not count:
            continue
        probability, share = float(said[inside].mean()), float(happened[inside].mean())
        bins.append(Bin(number_ / BINS, count, probability, share, wilson(share, count)))
        error += count * abs(probability - share)
        variance = float((said[inside] * (1 - said[inside])).sum())
        chance += math.sqrt(2 / math.pi * max(0.0, variance))  # mean distance from 0 of a normal sum with this variance
    return tuple(bins), error / len(said), chance / len(said)


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` rows (Wilson, 1927)."""
    centre = (share + Z**2 / (2 * count)) / (1 + Z**2 / count)
    half = Z / (1 + Z**2 / count) * math.sqrt(share * (1 - share) / count + Z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def _brier(rows: Rows) -> tuple[float, str]:
    """The Brier score (1950), and over what it is summed."""
    values, task = rows.values, rows.target.task
    if task == "multilabel":
        return float(((values - rows.numbers) ** 2).mean(dtype=np.float64)), "mean over labels and rows, 0 to 1"
    if task == "binary":
        return float(((values[:, 1] - rows.numbers) ** 2).mean(dtype=np.float64)), "mean over rows, of the positive class, 0 to 1"
    own = values[np.arange(len(rows)), rows.numbers].astype(np.float64)
    return float((np.einsum("ij,ij->i", values, values) - 2 * own + 1).mean(dtype=np.float64)), "summed over classes, mean over rows, 0 to 2"


def _findings(said: Floats, happened: npt.NDArray[np.bool_], error: float, by_chance: float, metric: str, task: str) -> tuple[Finding, ...]:
    if error < 0.02 or error < 2 * by_chance:
        return ()
    gap = float(said.mean()) - float(happened.mean())
    what = "too high" if gap > error / 2 else "too low" if gap < -error / 2 else "off, too high in places and too low in others"
    text = f"Probabilities are {what}: they differ from what happened by {number(100 * error)} percentage points on average"
    text += f", where chance alone makes {number(100 * by_chance)}."
    if metric in ("log_loss", "probabilistic_f1"):
        return (Finding("decide", f"{text} `{metric}` counts that; `ensemble.temperature: per_fold` corrects a part of it.", "calibration"),)
    if task == "multiclass" or metric in RANKING_METRICS:
        return (Finding("note", f"{text} `{metric}` does not count that.", "calibration"),)
    return (Finding("note", f"{text} `{metric}` counts that through default thresholds or cut points; `ensemble.decisions: fitted` fits them.", "calibration"),)


def _chart(bins: tuple[Bin, ...]) -> Chart:
    height = 300.0
    across, up = scale_across(0, 1), scale_up(0, 1, height)
    most = max(one.count for one in bins)
    bars = "".join(box(across(one.low) + 1, up(0) - 0.3 * (up(0) - up(1)) * one.count / most, across(one.low + 1 / BINS) - 1, up(0)) for one in bins)
    whiskers = "".join(f"M{across(one.said):.1f} {up(one.interval[0]):.1f}V{up(one.interval[1]):.1f}" for one in bins)
    dots = "".join(dot(across(one.said), up(one.happened), 3.5) for one in bins)
    curve = line(across, up, [one.said for one in bins], [one.happened for one in bins])
    shapes = (("fill-soft", bars), ("dash", line(across, up, [0, 1], [0, 1])), ("mean line-train", curve), ("thin line-train", whiskers), ("dots-train", dots))
    key = (("fill-train", "share that came true, 95 % interval"), ("fill-soft", f"how many, at most {most:,}"))
    words = "; ".join(f"said {one.said:.2f}, happened {one.happened:.2f}" for one in bins)
    return Chart("Said and happened", shapes, ticks_of(across), ticks_of(up), words, "mean probability said", height, key)
