"""Training curves: loss, metric and learning rate over the epochs, every training run a thin line, their mean a thick one."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.data.eda.facts import Finding, percent, quoted, several
from pipeline.report.charts import Chart, Floats, line, scale_across, scale_up, ticks_of
from pipeline.report.run import Experiment, Run

MOST_EXPERIMENTS = 12
MOST_RUNS = 10  # thin lines; the mean is of all


@dataclass(frozen=True)
class Curves:
    """One experiment's charts."""

    name: str
    runs: int
    shown: int
    epochs: int
    charts: tuple[Chart, ...]
    note: str


def describe_curves(run: Run) -> tuple[tuple[Curves, ...], int, tuple[Finding, ...]]:
    """Charts per experiment that has a history, how many more experiments have one, and what the charts show."""
    known = sorted((one for one in run.experiments if any(len(table) for table in one.histories.values())), key=lambda one: one.name)
    curves = tuple(_curves(one, run.metric) for one in known[:MOST_EXPERIMENTS])
    return curves, len(known) - len(curves), _findings(known)


def _curves(one: Experiment, metric: str) -> Curves:
    tables = {name: one.histories[name] for name in sorted(one.histories) if len(one.histories[name])}
    losses = _chart("Loss", tables, (("train_loss", "train", "train"), ("valid_loss", "test", "held out")))
    charts = [losses, _chart(metric, tables, ((metric, "test", "held out"),)), _chart("Learning rate", tables, (("learning_rate", "quiet", ""),))]
    epochs = max(int(table["epoch"].max()) for table in tables.values())
    found = _overfitting(tables)
    note = "" if found is None else f"The held-out loss is lowest in epoch {found[0]} and {percent(found[1])} higher at the end (mean over training runs)."
    return Curves(one.name, len(tables), min(len(tables), MOST_RUNS), epochs, tuple(chart for chart in charts if chart is not None), note)


def mean_curve(tables: Mapping[str, pd.DataFrame], column: str) -> tuple[Floats, Floats]:
    """Epochs that at least half of the runs reached, and the mean there; runs without a number in an epoch are left out of it."""
    parts = [table.set_index("epoch")[column] for table in tables.values() if column in table]
    if not parts:
        return np.array([]), np.array([])
    together = pd.concat(parts, axis=1).sort_index().astype(np.float64)
    together = together.where(np.isfinite(together))
    mean = together.mean(axis=1)[together.notna().sum(axis=1) * 2 >= len(parts)]
    return mean.index.to_numpy(np.float64), mean.to_numpy(np.float64)


def _chart(title: str, tables: Mapping[str, pd.DataFrame], columns: tuple[tuple[str, str, str], ...]) -> Chart | None:
    """A chart of some columns: (column, colour, name); None where no epoch has a number."""
    values = np.concatenate([table[name].to_numpy(np.float64) for table in tables.values() for name, _, _ in columns if name in table] or [np.array([])])
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    first, last = (int(end) for end in (min(table["epoch"].min() for table in tables.values()), max(table["epoch"].max() for table in tables.values())))
    across = scale_across(first, last)
    logarithmic = title in ("Loss", "Learning rate") and values.min() > 0 and values.max() > 10 * values.min()
    up = scale_up(float(values.min()), float(values.max()), logarithmic=logarithmic)
    shapes, key = [], []
    for column, colour, name in columns:
        if not any(column in table and np.isfinite(table[column]).any() for table in tables.values()):
            continue
        shown = [table for table in list(tables.values())[:MOST_RUNS] if column in table]
        if len(tables) > 1:
            thin = "".join(line(across, up, table["epoch"].to_numpy(np.float64), table[column].to_numpy(np.float64)) for table in shown)
            shapes.append((f"thin line-{colour}", thin))
        shapes.append((f"mean line-{colour}", line(across, up, *mean_curve(tables, column))))
        key += [(f"fill-{colour}", name)] if name else []
    shapes.sort(key=lambda shape: not shape[0].startswith("thin"))
    what = f"{title} over {several(last, 'epoch')}, from {values[0]:.4g} to {values[-1]:.4g}"
    end = tuple(tick for tick in ticks_of(across, whole=True) if tick[1])
    return Chart(title + (", logarithmic" if logarithmic else ""), tuple(shapes), end, ticks_of(up, 4), what, "epoch", key=tuple(key))


def _overfitting(tables: Mapping[str, pd.DataFrame]) -> tuple[int, float] | None:
    """Epoch of the lowest mean held-out loss, and by which share it is higher at the end; None below a twentieth."""
    epochs, loss = mean_curve(tables, "valid_loss")
    if len(loss) < 3 or loss.min() <= 0:
        return None
    worse = float(loss[-1] / loss.min() - 1)
    return (int(epochs[loss.argmin()]), worse) if worse > 0.05 else None


def _still_falling(tables: Mapping[str, pd.DataFrame]) -> float | None:
    """By which share the mean held-out loss fell over the last tenth of the epochs; None below a fiftieth."""
    _, loss = mean_curve(tables, "valid_loss")
    if len(loss) < 3 or loss.min() <= 0 or loss[-1] > loss.min():
        return None
    fell = float(1 - loss[-1] / loss[-1 - max(1, len(loss) // 10)])
    return fell if fell > 0.02 else None


def _findings(experiments: list[Experiment]) -> tuple[Finding, ...]:
    tables = {one.name: {name: table for name, table in one.histories.items() if len(table)} for one in experiments}
    risen = [name for name, histories in tables.items() if _overfitting(histories) is not None]
    falling = [name for name, histories in tables.items() if _still_falling(histories) is not None]
    findings = []
    if risen:
        text = f"The held-out loss rises again before the last epoch in {quoted(risen)}: fewer epochs, more augmentation or more weight decay may help."
        findings.append(Finding("note", text, "curves"))
    if falling:
        text = f"The held-out loss still falls in the last epochs of {quoted(falling)}: more epochs may help."
        findings.append(Finding("note", text, "curves"))
    return tuple(findings)
