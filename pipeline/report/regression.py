"""Predicted against true numbers: where they lie, and how far off."""

from dataclasses import dataclass

import numpy as np

from pipeline.data.eda.facts import Finding, Histogram, histogram, number
from pipeline.report.charts import Chart, Floats, box, line, scale_across, scale_up, ticks_of
from pipeline.report.run import Rows

CELLS = 32  # of the 2-D histogram, along each side
SHADES = 6
PARTS = 5  # of the rows by their truth


@dataclass(frozen=True)
class Numbers:
    """What a regression got right."""

    against: Chart
    residuals: Histogram
    lines: tuple[tuple[str, int, str, str, str], ...]
    """Truth from and to, rows, mean residual, mean absolute residual, root mean squared residual; by fifths of the rows."""
    most: int
    """Rows in the fullest cell."""
    outside: int
    """Rows beyond the 2-D histogram."""
    findings: tuple[Finding, ...]


def describe_numbers(rows: Rows) -> Numbers:
    """The 2-D histogram, the residuals, and how they change with the truth."""
    truth, predicted = rows.numbers[:, 0].astype(np.float64), rows.values[:, 0].astype(np.float64)
    residual = predicted - truth
    against, most, outside = _against(truth, predicted)
    limit = float(np.quantile(np.abs(residual), 0.995)) or 1.0
    chart = histogram("Predicted minus true", [("rows", "train", np.clip(residual, -limit, limit))], edges=np.linspace(-limit, limit, 42))
    lines, findings = _by_truth(truth, residual)
    return Numbers(against, chart, lines, most, outside, findings)


def _against(truth: Floats, predicted: Floats) -> tuple[Chart, int, int]:
    both = np.concatenate([truth, predicted])
    low, high = (float(np.quantile(both, share)) for share in (0.001, 0.999))
    height = 330.0
    across, up = scale_across(low, high), scale_up(low, high, height)
    edges = np.linspace(across.low, across.high, CELLS + 1)
    counts = np.histogram2d(truth, predicted, bins=(edges, edges))[0].astype(np.int64)
    most = int(counts.max())
    paths = ["" for _ in range(SHADES)]
    for i, j in zip(*np.nonzero(counts), strict=True):
        shade = min(SHADES - 1, int(SHADES * np.log1p(counts[i, j]) / np.log1p(most) - 1e-9))
        paths[shade] += box(across(edges[i]), up(edges[j + 1]), across(edges[i + 1]), up(edges[j]))
    shapes = [(f"shade-{shade}", path) for shade, path in enumerate(paths) if path]
    shapes.append(("dash", line(across, up, [across.low, across.high], [across.low, across.high])))
    words = f"{len(truth):,} rows, true and predicted from {number(low)} to {number(high)}"
    chart = Chart("Predicted, by the truth", tuple(shapes), ticks_of(across), ticks_of(up), words, "true", height)
    return chart, most, int(len(truth) - counts.sum())


def _by_truth(truth: Floats, residual: Floats) -> tuple[tuple[tuple[str, int, str, str, str], ...], tuple[Finding, ...]]:
    edges = np.unique(np.quantile(truth, np.linspace(0, 1, PARTS + 1)))
    place = np.clip(np.searchsorted(edges, truth, side="right") - 1, 0, max(0, len(edges) - 2))
    lines, ends = [], []
    for part in range(max(1, len(edges) - 1)):
        inside = place == part
        if not inside.any():
            continue
        off = residual[inside]
        ends.append(float(off.mean()))
        words = f"{number(float(truth[inside].min()))} to {number(float(truth[inside].max()))}"
        values = (number(float(off.mean())), number(float(np.abs(off).mean())), number(float(np.sqrt((off**2).mean()))))
        lines.append((words, int(inside.sum()), *values))
    spread = float(residual.std())
    if len(ends) > 2 and ends[0] > spread / 4 and ends[-1] < -spread / 4:
        text = f"Predictions are drawn to the middle: the smallest fifth is predicted {number(ends[0])} too high, the largest {number(-ends[-1])} too low."
        return tuple(lines), (Finding("note", text, "confusion"),)
    return tuple(lines), ()
