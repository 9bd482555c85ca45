"""What the tables say, before a pixel is looked at: counts, columns, sizes, pictures that cannot be read.

Every group of facts carries its own sentences: `config` (what this config does about it) and
`findings` (what somebody should decide). Text between backticks is shown as code.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.config import Config, Folds, Images, Task

SPLITS = ("train", "extra", "test")
MOST_COLUMNS = 12  # rows of the table of metadata columns
MOST_PROBLEMS = 40  # rows of the table of unreadable pictures
MOST_SIZES = 6  # rows of the table of frequent sizes
TIMES = "\N{MULTIPLICATION SIGN}"

Numbers = npt.NDArray[Any]


@dataclass(frozen=True)
class Finding:
    """A sentence for the top of the page, and the section that it is about."""

    level: Literal["stop", "decide", "note"]
    text: str
    section: str


@dataclass(frozen=True)
class Curve:
    """One split's or channel's share per bin; a share of 1 is the chart's full height."""

    name: str
    kind: str
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Histogram:
    """Several curves over the same bins."""

    title: str
    curves: tuple[Curve, ...]
    lowest: str
    highest: str


def histogram(title: str, groups: Sequence[tuple[str, str, Numbers]], bins: int = 24, unit: str = "", edges: Numbers | None = None) -> Histogram:
    """Histograms of (name, kind, values), each scaled to sum 1, then all by the same factor to at most 1."""
    values = np.concatenate([part for _, _, part in groups])
    if edges is None:
        edges = np.histogram_bin_edges(values, bins=bins)
    shares = [np.histogram(part, bins=edges)[0] / max(1, len(part)) for _, _, part in groups]
    top = max(1e-12, max(float(share.max()) for share in shares))
    curves = (Curve(name, kind, tuple(float(value) for value in share / top)) for (name, kind, _), share in zip(groups, shares, strict=True))
    return Histogram(title, tuple(curves), number(float(edges[0])) + unit, number(float(edges[-1])) + unit)


def number(value: float) -> str:
    """A number as people write it: 1,204 and 0.0123, no tail of zeros."""
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def several(count: int, one: str, many: str | None = None) -> str:
    """1 row, 2 rows."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def percent(share: float) -> str:
    """A share in per cent that is 0 or 100 only when it is exactly that."""
    if share in (0.0, 1.0):
        return f"{100 * share:.0f} %"
    if min(share, 1 - share) < 0.001:
        return "under 0.1 %" if share < 0.5 else "over 99.9 %"
    return f"{100 * share:.{1 if min(share, 1 - share) < 0.1 else 0}f}".removesuffix(".0") + " %"


def quoted(names: Iterable[str], most: int = 4) -> str:
    """The first names in quotation marks, and how many more there are."""
    known = list(names)
    tail = f" and {len(known) - most:,} more" if len(known) > most else ""
    return ", ".join(f'"{short(name, 40)}"' for name in known[:most]) + tail


def short(text: str, most: int = 120) -> str:
    """Long text with its middle left out, so that both a folder and an ending stay visible."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2 - 1) :]}"


def readable(rows: pd.DataFrame, *splits: str) -> pd.DataFrame:
    """The rows of these splits whose pictures can be read."""
    return rows[rows["split"].isin(splits) & (rows["problem"] == "")]


# ---------------------------------------------------------------- rows and columns


@dataclass(frozen=True)
class Split:
    """Counts of one split."""

    name: str
    rows: int
    readable: int
    files: int
    """Different files, by their bytes."""


@dataclass(frozen=True)
class Column:
    """A column of the competition's tables that is neither id nor target."""

    name: str
    distinct: int
    missing: int
    shared: int | None
    """Values that are in train and in test; None without test values."""
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Rows:
    """How much there is of everything."""

    splits: tuple[Split, ...]
    columns: tuple[Column, ...]
    num_columns: int
    config: tuple[str, ...]
    findings: tuple[Finding, ...]


def count_rows(rows: pd.DataFrame, config: Config) -> Rows:
    """Counts per split, the metadata columns, and what the folds make of them."""
    splits = []
    for name in SPLITS:
        part = rows[rows["split"] == name]
        if len(part) or name != "extra":
            splits.append(Split(name, len(part), int((part["problem"] == "").sum()), int(part.loc[part["problem"] == "", "digest"].nunique())))
    names = [name for name in rows.columns if name.startswith("table.")]
    grouping = [f"table.{name}" for name in config.folds.group]
    names.sort(key=lambda name: name not in grouping)
    columns = tuple(_column(rows, name) for name in names)
    candidates = [column.name for column in columns if _groups_rows(column, splits[0].rows) and column.name not in config.folds.group]
    findings = []
    if candidates:
        text = f"Values of {quoted(candidates)} repeat, and train and test share none: "
        findings.append(Finding("decide", text + "if they name a patient, a place or a camera, put them into `folds.group`.", "rows"))
    if not any(split.name == "test" and split.rows for split in splits):
        findings.append(Finding("note", "There are no test rows: nothing can be said about how the test pictures differ.", "rows"))
    return Rows(tuple(splits), columns[:MOST_COLUMNS], len(columns), _fold_lines(config.folds, config.competition.task), tuple(findings))


def _column(rows: pd.DataFrame, name: str) -> Column:
    values = rows[name].fillna("").astype(str)
    train = set(values[rows["split"] != "test"]) - {""}
    test = set(values[rows["split"] == "test"]) - {""}
    examples = tuple(sorted(train)[:3])
    return Column(name.removeprefix("table."), len(train), int((values[rows["split"] == "train"] == "").sum()), len(train & test) if test else None, examples)


def _groups_rows(column: Column, num_rows: int) -> bool:
    """Whether the column looks like a name of what rows have in common: many values, each of several rows, none in both splits."""
    return column.shared == 0 and 20 <= column.distinct <= num_rows / 2


def _fold_lines(section: Folds, task: Task) -> tuple[str, ...]:
    kept = f", rows that agree in {quoted(section.group)} in one fold" if section.group else ""
    by_column = f"the column {quoted([section.column])} of the train table" if section.column else ""
    equal = "equal shares of " + ("the target's quantile bins" if task == "regression" else "every class")
    how = {"column": by_column, "kfold": "random rows", "stratified": equal, "group": "copies of a picture in one fold"}
    text = how.get(section.strategy, f"{equal}, copies of a picture in one fold")
    return (f"`folds.strategy: {section.strategy}` makes {section.n_splits} folds: {text}{kept}. Extra rows are trained on, never validated on.",)


# ---------------------------------------------------------------- unreadable pictures


@dataclass(frozen=True)
class Unreadable:
    """Pictures that cannot be read, the first of them with their reasons."""

    total: int
    shown: tuple[tuple[str, str, str, str], ...]
    """Split, id, path, reason."""
    reasons: tuple[tuple[str, int], ...]
    config: tuple[str, ...]
    findings: tuple[Finding, ...]


def find_unreadable(rows: pd.DataFrame, section: Images) -> Unreadable:
    """Every picture with a problem, and what `images.corrupt` does about it."""
    bad = rows[rows["problem"] != ""]
    shown = tuple((str(row.split), str(row.id), str(row.path), str(row.problem)) for row in bad.head(MOST_PROBLEMS).itertuples())
    reasons = tuple((str(name), int(count)) for name, count in bad["problem"].value_counts().head(6).items())
    num_test = int((bad["split"] == "test").sum())
    num_train = len(bad) - num_test
    lines, findings = [], []
    if section.corrupt == "fail":
        lines.append("`images.corrupt: fail` " + ("stops the run and lists them." if len(bad) else "would stop the run; there is none."))
    else:
        lines.append(f"`images.corrupt: skip` leaves {several(num_train, 'labelled row')} out of training and validation.")
    if num_test:
        lines.append(f"{several(num_test, 'test row has', 'test rows have')} no picture: never left out, predicted from the training rows' shares alone.")
    if len(bad):
        stops = section.corrupt == "fail"
        text = f"{several(len(bad), 'picture')} cannot be read; `images.corrupt: {section.corrupt}` "
        text += "stops the run. Mend the files, or write `skip`." if stops else f"leaves {several(num_train, 'labelled row')} out."
        findings.append(Finding("stop" if stops else "note", text, "unreadable"))
    return Unreadable(len(bad), shown, reasons, tuple(lines), tuple(findings))


# ---------------------------------------------------------------- sizes


@dataclass(frozen=True)
class Sizes:
    """Heights and widths of the readable pictures, pixels."""

    num_sizes: int
    frequent: tuple[tuple[str, int, float], ...]
    """Width x height, pictures, share."""
    range: tuple[tuple[str, str, str, str], ...]
    """What, smallest, median, largest."""
    histograms: tuple[Histogram, ...]
    config: tuple[str, ...]
    findings: tuple[Finding, ...]


def measure_sizes(rows: pd.DataFrame, section: Images) -> Sizes | None:
    """Sizes and aspect ratios, and what the cache and the fit do to them; None if no picture can be read."""
    known = readable(rows, *SPLITS)
    if known.empty:
        return None
    height, width = known["height"].to_numpy(np.float64), known["width"].to_numpy(np.float64)
    counts = pd.Series([f"{w} {TIMES} {h}" for h, w in zip(known["height"], known["width"], strict=True)]).value_counts()
    frequent = tuple((str(name), int(count), count / len(known)) for name, count in counts.head(MOST_SIZES).items())
    quantities = {"width, px": width, "height, px": height, "width : height": width / height, "megapixels": height * width / 1e6}
    points = {name: [number(float(np.quantile(values, q))) for q in (0.0, 0.5, 1.0)] for name, values in quantities.items()}
    spread = tuple((name, smallest, median, largest) for name, (smallest, median, largest) in points.items())
    lines, findings = _fit_lines(height, width, section)
    return Sizes(len(counts), frequent, spread, _size_histograms(known) if len(counts) > 1 else (), lines, findings)


def _size_histograms(known: pd.DataFrame) -> tuple[Histogram, ...]:
    parts = [(name, name, known[known["split"] == name]) for name in SPLITS if (known["split"] == name).any()]
    shorter = [(name, kind, part[["height", "width"]].min(axis=1).to_numpy(np.float64)) for name, kind, part in parts]
    aspect = [(name, kind, np.log2((part["width"] / part["height"]).to_numpy(np.float64))) for name, kind, part in parts]
    limit = max(0.5, *(float(np.abs(values).max()) for _, _, values in aspect))
    shape = histogram("Shape", aspect, edges=np.linspace(-limit, limit, 26))
    labels = (f"{number(float(2**limit))} times as high as wide", f"{number(float(2**limit))} times as wide as high")
    return histogram("Shorter side", shorter, unit=" px"), Histogram("Shape, square in the middle", shape.curves, *labels)


def _fit_lines(height: Numbers, width: Numbers, section: Images) -> tuple[tuple[str, ...], tuple[Finding, ...]]:
    """What becomes of the pictures on their way to the model, outside augmentation."""
    target_height, target_width = section.shape
    shorter = np.minimum(height, width)
    cached = np.minimum(1.0, section.cache_size / shorter)
    lines = [f"`images.cache_size: {section.cache_size}` shrinks {_of(cached < 1, 'pictures')}; smaller ones are kept as they are."]
    across = np.stack([height * cached / target_height, width * cached / target_width])
    scale = across.max(axis=0) if section.fit == "pad" else across.min(axis=0)
    kept = float(np.mean(across.min(axis=0) / across.max(axis=0)))
    what = {"crop": f"cuts off {percent(1 - kept)} of the area on average", "pad": f"leaves {percent(1 - kept)} of the input black on average"}
    text = what.get(section.fit, f"changes the shape by a factor of {float(np.median(across.max(axis=0) / across.min(axis=0))):.2f} (median)")
    text = "changes no shape: nothing is cut, padded or stretched" if kept > 0.999 else text
    lines.append(f"`images.fit: {section.fit}` to {target_width} {TIMES} {target_height} (width by height) {text}; {_zoom(float(np.median(scale / cached)))}.")
    findings = []
    starved = (cached < 1) & (scale < 0.99)
    if starved.mean() > 0.05:
        text = f"`images.cache_size: {section.cache_size}` is too small for `images.size`: {_of(starved, 'pictures')} are shrunk and then enlarged again."
        findings.append(Finding("decide", text, "sizes"))
    if section.fit != "stretch" and kept < 0.7:
        findings.append(Finding("decide", f"`images.fit: {section.fit}` {what[section.fit]}: look at the shapes before you trust it.", "sizes"))
    return tuple(lines), tuple(findings)


def _zoom(scale: float) -> str:
    if scale < 0.995:
        return f"the median picture is enlarged {1 / scale:.1f} times"
    return f"the median picture is shrunk {scale:.1f} times" if scale > 1.005 else "the median picture keeps its size"


def _of(mask: Numbers, what: str) -> str:
    """Of how many of them something is true."""
    return f"no {what}" if not mask.any() else f"all {what}" if mask.all() else f"{percent(float(mask.mean()))} of the {what}"
