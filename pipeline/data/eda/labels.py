"""What the labels say, for every task: balance, rare classes, and the score that needs no picture."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.config import Competition, Config
from pipeline.data.eda.facts import Finding, Histogram, Numbers, histogram, number, quoted, readable, several

MOST_BARS = 40  # classes that are all shown; above: the largest and the rarest
MOST_COMBINATIONS = 10
MOST_SHEETS = 24  # classes with a contact sheet
TARGET_BINS = 5  # contact sheets of a regression

EVERY_ROW_ALIKE = ("accuracy", "micro_f1", "log_loss", "map_at_3", "map_at_5", "top_3_accuracy", "top_5_accuracy", "samples_f1")
EVERY_CLASS_ALIKE = ("balanced_accuracy", "macro_f1")


@dataclass(frozen=True)
class Bar:
    """A class and how many rows have it."""

    name: str
    count: int
    extra: int
    """Rows of the extra tables."""
    width: float
    """Share of the largest bar, extra rows included."""
    extra_width: float
    share: float
    """Of the train rows."""


@dataclass(frozen=True)
class Labels:
    """What the targets of the readable train rows look like."""

    task: str
    bars: tuple[Bar, ...]
    gap_after: int | None
    """Number of bars before the gap, where not every class is shown."""
    num_classes: int
    histograms: tuple[Histogram, ...]
    quantities: tuple[tuple[str, str], ...]
    combinations: tuple[tuple[str, int, float], ...]
    config: tuple[str, ...]
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class Group:
    """Rows that share a contact sheet."""

    name: str
    note: str
    members: pd.Series
    """Bool, on the index of the rows that were given."""


def split_labels(target: str) -> tuple[str, ...]:
    """The labels of a multilabel row."""
    return tuple(label for label in target.split("|") if label)


def describe_labels(rows: pd.DataFrame, config: Config, classes: Sequence[str], dropped: pd.Series) -> Labels:
    """The labels of the readable rows; dropped: bool on the index of `rows`, rows that deduplication leaves out."""
    train, extra = readable(rows, "train"), readable(rows, "extra")
    if config.competition.task == "regression":
        return _describe_numbers(train, extra, config)
    multilabel = config.competition.task == "multilabel"
    counts, extra_counts = (_count(part, classes, multilabel) for part in (train, extra))
    kept_counts = _count(train[~dropped[train.index]], classes, multilabel)
    bars, gap = _bars(counts, extra_counts, config.competition.task == "ordinal", len(train))
    quantities = [("classes", number(len(counts)))]
    histograms: tuple[Histogram, ...] = ()
    combinations: tuple[tuple[str, int, float], ...] = ()
    present = counts[counts > 0]
    if gap is not None and len(present) == len(counts) and present.nunique() == 1:
        bars, gap = (), None
        quantities.append(("rows of every class", number(int(present.iloc[0]))))
    elif len(present):
        quantities += [("largest", f"{present.max():,} rows"), ("median", f"{number(float(present.median()))} rows"), ("smallest", f"{present.min():,} rows")]
    if multilabel:
        more, combinations, histograms = _combinations(train)
        quantities += more
    elif gap is not None:
        histograms = (_class_sizes(present),)
    lines, findings = _balance(counts, kept_counts, config, classes, len(train))
    return Labels(config.competition.task, bars, gap, len(counts), histograms, tuple(quantities), combinations, lines, findings)


def _count(part: pd.DataFrame, classes: Sequence[str], multilabel: bool) -> "pd.Series[int]":
    """Rows per class in the order of `classes`, then of any label that is not among them."""
    labels = [label for target in part["target"] for label in split_labels(target)] if multilabel else part["target"].tolist()
    found = Counter(labels)
    names = [*classes, *sorted(set(found) - set(classes))]
    return pd.Series([found[name] for name in names], index=names, dtype=np.int64)


def _bars(counts: "pd.Series[int]", extra: "pd.Series[int]", ordered: bool, num_rows: int) -> tuple[tuple[Bar, ...], int | None]:
    extra = extra.reindex(counts.index, fill_value=0)
    names = list(counts.index) if ordered else list(counts.sort_values(ascending=False, kind="stable").index)
    gap = None
    if len(names) > MOST_BARS:
        gap = MOST_BARS // 2
        names = [*names[:gap], *names[-gap:]]
    top = max(1, int((counts + extra).max())) if len(counts) else 1

    def bar(name: str) -> Bar:
        return Bar(name, int(counts[name]), int(extra[name]), counts[name] / top, extra[name] / top, counts[name] / max(1, num_rows))

    return tuple(bar(name) for name in names), gap


def _class_sizes(counts: "pd.Series[int]") -> Histogram:
    values = np.log10(counts.to_numpy(np.float64))
    chart = histogram("", [("classes", "train", values)], bins=20, edges=np.linspace(0, max(1e-9, float(values.max())), 21))
    return Histogram("Classes by their number of rows (logarithmic)", chart.curves, "1 row", f"{counts.max():,} rows")


def _combinations(train: pd.DataFrame) -> tuple[list[tuple[str, str]], tuple[tuple[str, int, float], ...], tuple[Histogram, ...]]:
    """Numbers, the most frequent sets of labels, and how many labels a row has."""
    labels = [split_labels(target) for target in train["target"]]
    lengths = np.array([len(row) for row in labels])
    if not len(lengths):
        return [], (), ()
    quantities = [
        ("labels per row", f"{lengths.mean():.2f} on average, {lengths.max()} at most"),
        ("rows without any", number(int((lengths == 0).sum()))),
    ]
    frequent = Counter(" + ".join(row) or "(none)" for row in labels)
    quantities.append(("different combinations", number(len(frequent))))
    edges = np.arange(-0.5, max(2, lengths.max()) + 1)
    chart = histogram("", [("train", "train", lengths)], edges=edges)
    cardinality = Histogram("Labels per row", chart.curves, "0", number(len(edges) - 2))
    return quantities, tuple((name, count, count / len(labels)) for name, count in frequent.most_common(MOST_COMBINATIONS)), (cardinality,)


def _balance(
    counts: "pd.Series[int]", kept: "pd.Series[int]", config: Config, classes: Sequence[str], num_rows: int
) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    lines, findings = [], []
    present = counts[counts > 0]
    metric, n_splits = config.competition.metric, config.folds.n_splits
    if len(present) and num_rows:
        ratio = present.max() / present.min()
        largest, smallest = quoted([str(present.idxmax())]), quoted([str(present.idxmin())])
        same = "Every class has the same number of rows."
        lines.append(
            same if ratio == 1 else f"The largest class, {largest}, has {number(round(ratio, 1))} times the rows of the smallest, {smallest}." + _weighs(metric)
        )
    floor = constant_score(counts, config.competition, num_rows)
    if floor is not None:
        lines.append(f"A submission that never looks at a picture scores {floor:.3f} in `competition.metric: {metric}`: anything useful must beat it.")
    empty = [str(name) for name in classes if counts.get(name, 0) == 0]
    if empty:
        text = f"{several(len(empty), 'class has', 'classes have')} no readable train row: {quoted(empty)}. "
        findings.append(Finding("decide", text + "Nothing validates it, and only extra rows can teach it.", "labels"))
    unknown = [str(name) for name in counts.index if name not in set(classes)]
    if unknown:
        findings.append(Finding("stop", f"{several(len(unknown), 'label')} not among the classes: {quoted(unknown)}.", "labels"))
    rare = kept[(kept > 0) & (kept < n_splits)]
    if len(rare):
        few = several(len(rare), "class has", "classes have")
        text = f"{few} fewer rows than `folds.n_splits: {n_splits}`, so some folds validate without: {quoted(rare.index)}."
        lines.append(text)
        findings.append(Finding("decide", text, "labels"))
    elif "stratified" in config.folds.strategy and len(kept):
        lines.append(f"Every class has at least {n_splits} rows after deduplication: `folds.strategy: {config.folds.strategy}` puts each into every fold.")
    if len(present) > 1 and present.max() / present.min() >= 10 and metric in EVERY_CLASS_ALIKE:
        text = f"`{metric}` counts every class alike, but their sizes differ {number(round(present.max() / present.min()))}-fold: a few rows weigh much."
        findings.append(Finding("decide", text, "labels"))
    return tuple(lines), tuple(findings)


def _weighs(metric: str) -> str:
    if metric in EVERY_ROW_ALIKE:
        return f" `{metric}` counts every row alike, so rare classes weigh little."
    return f" `{metric}` counts every class alike, so rare classes weigh as much as large ones." if metric in EVERY_CLASS_ALIKE else ""


def constant_score(counts: "pd.Series[int]", competition: Competition, num_rows: int) -> float | None:
    """The metric of one answer for all rows, chosen from the train shares; None where that has no short formula.

    counts: train rows per class. log loss: the shares' entropy; map_at_k: the k largest classes in order.
    """
    if not num_rows or competition.task == "regression":
        return None
    shares = counts.to_numpy(np.float64) / num_rows
    largest = np.sort(shares)[::-1]
    if competition.metric == "log_loss":
        parts = np.stack([shares, 1 - shares]) if competition.task == "multilabel" else shares[None]
        entropies = -(parts * np.log(np.maximum(parts, 1e-15))).sum(axis=0)
        return float(entropies.mean() if competition.task == "multilabel" else entropies.sum())
    if competition.metric == "roc_auc":
        return 0.5
    if competition.task == "multilabel":
        return None
    present = int((shares > 0).sum())
    positive = str(competition.positive if competition.positive in counts.index else counts.index[-1])
    return {
        "accuracy": float(largest[0]),
        "micro_f1": float(largest[0]),
        "balanced_accuracy": 1 / present,
        "macro_f1": float(2 * largest[0] / (1 + largest[0]) / present),
        "average_precision": float(shares[list(counts.index).index(positive)]),
        "quadratic_kappa": 0.0,
        "matthews_correlation": 0.0,
        "map_at_3": float((largest[:3] / np.arange(1, 4)[: len(largest)]).sum()),
        "top_3_accuracy": float(largest[:3].sum()),
        "top_5_accuracy": float(largest[:5].sum()),
        "map_at_5": float((largest[:5] / np.arange(1, 6)[: len(largest)]).sum()),
    }.get(competition.metric)


# ---------------------------------------------------------------- regression


def target_values(rows: pd.DataFrame) -> Numbers:
    """Targets of a regression as numbers; NaN where there is none."""
    return pd.to_numeric(rows["target"], errors="coerce").to_numpy(np.float64)


def _describe_numbers(train: pd.DataFrame, extra: pd.DataFrame, config: Config) -> Labels:
    values, more = target_values(train), target_values(extra)
    missing = int((~np.isfinite(values)).sum())
    values, more = values[np.isfinite(values)], more[np.isfinite(more)]
    findings = [Finding("stop", f"{several(missing, 'train target')} not a number.", "labels")] if missing else []
    if not len(values):
        return Labels("regression", (), None, 1, (), (("rows", "0"),), (), (), tuple(findings))
    points = {"smallest": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "largest": 1.0}
    quantities = [(name, number(float(np.quantile(values, q)))) for name, q in points.items()]
    quantities += [("mean", number(float(values.mean()))), ("spread (std)", number(float(values.std()))), ("different values", number(len(np.unique(values))))]
    groups = [("train", "train", values)] + ([("extra", "extra", more)] if len(more) else [])
    metric = config.competition.metric
    mean, middle = values.mean(), np.median(values)
    floors = {"rmse": values.std(), "mae": np.abs(values - middle).mean(), "r2": 0.0}
    if values.min() > -1:
        floors["rmsle"] = np.log1p(values).std()
    lines = []
    if metric in floors:
        answer = np.expm1(np.log1p(values).mean()) if metric == "rmsle" else middle if metric == "mae" else mean
        lines.append(f"{number(float(answer))} for every row scores {floors[metric]:.4g} in `competition.metric: {metric}`: anything useful must beat it.")
    if "stratified" in config.folds.strategy:
        lines.append(
            f"`folds.strategy: {config.folds.strategy}` gives every fold equal shares of the target's quantile bins (`folds.bins: {config.folds.bins}`)."
        )
    if metric == "rmsle" and values.min() <= -1:
        findings.append(Finding("stop", f"`rmsle` takes the logarithm of 1 + target, but the smallest target is {number(float(values.min()))}.", "labels"))
    return Labels("regression", (), None, 1, (histogram("Target", groups),), tuple(quantities), (), tuple(lines), tuple(findings))


# ---------------------------------------------------------------- who is on which contact sheet


def sheet_groups(rows: pd.DataFrame, task: str, classes: Sequence[str], random: np.random.Generator) -> tuple[list[Group], str]:
    """The groups of labelled rows that get a contact sheet, and a sentence on how they were chosen.

    rows: readable rows of train and extra. Up to 24 classes all; above: 8 largest, 8 rarest, 8 drawn. Regression: quantile bins.
    """
    if task == "regression":
        return _target_bins(rows), "One sheet per fifth of the rows, from the smallest targets to the largest."
    labels = rows["target"].map(split_labels) if task == "multilabel" else rows["target"].map(lambda target: (target,))
    counts = Counter(label for row in labels for label in row)
    known = [name for name in dict.fromkeys([*classes, *sorted(counts)]) if counts[name]]
    if len(known) <= MOST_SHEETS:
        return [Group(name, several(counts[name], "row"), labels.map(lambda row, name=name: name in row)) for name in known], ""
    if len({counts[name] for name in known}) == 1:
        chosen = [(known[i], "drawn at random") for i in np.sort(random.choice(len(known), size=MOST_SHEETS, replace=False))]
        how = f"{MOST_SHEETS} of {len(known):,} classes of equal size, drawn at random."
    else:
        chosen, how = _large_drawn_rare(known, counts, random)
    groups = [Group(name, f"{several(counts[name], 'row')}, {why}", labels.map(lambda row, name=name: name in row)) for name, why in chosen]
    return groups, how


def _large_drawn_rare(known: list[str], counts: Counter[str], random: np.random.Generator) -> tuple[list[tuple[str, str]], str]:
    """Classes and why each was chosen: a third of them for their size, a third by chance, a third for their rarity."""
    part = MOST_SHEETS // 3
    ranked = sorted(known, key=lambda name: -counts[name])
    drawn = sorted(random.choice(np.arange(part, len(ranked) - part), size=min(part, len(ranked) - 2 * part), replace=False).tolist())
    chosen = [(ranked[i], "one of the largest") for i in range(part)] + [(ranked[i], "drawn at random") for i in drawn]
    chosen += [(name, "one of the rarest") for name in ranked[-part:]]
    return chosen, f"{len(chosen)} of {len(known):,} classes: the {part} largest, {len(drawn)} drawn at random, the {part} rarest."


def _target_bins(rows: pd.DataFrame) -> list[Group]:
    values = pd.Series(target_values(rows), index=rows.index)
    if not np.isfinite(values).any():
        return []
    edges = np.unique(np.nanquantile(values, np.linspace(0, 1, TARGET_BINS + 1)))
    if len(edges) == 1:
        return [Group(number(float(edges[0])), several(len(rows), "row"), values == edges[0])]
    groups = []
    for low, high in itertools.pairwise(edges):
        members = (values >= low) & ((values <= high) if high == edges[-1] else (values < high))
        groups.append(Group(f"{number(float(low))} to {number(float(high))}", several(int(members.sum()), "row"), members))
    return groups
