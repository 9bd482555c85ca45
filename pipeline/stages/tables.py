"""The printed tables of where one stands, with the medals as a yardstick."""

import itertools
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.config import Thresholds
from pipeline.data.survey.text import few, one_line
from pipeline.stages.standing import Standing
from pipeline.training.metrics import METRICS

STAMPED = "20260131T235900-"  # how the name of a submission's file begins
KINDS = ("experiment", "ensemble", "submission")
FEWEST = 3  # submissions with a public score, to say whether it agrees with the CV
SHORTEST_NAME = 26  # characters; before names become shorter than that, columns are left out


@dataclass(frozen=True)
class Group:
    """Rows that one metric scores, in the order asked for."""

    metric: str
    rows: list[Standing]
    levels: list[tuple[str, float]]


# ---------------------------------------------------------------- the medals, a yardstick


def medals(thresholds: Thresholds, metric: str) -> list[tuple[str, float]]:
    """Names and scores from the lowest to the highest place; empty where there are none, or not in the metric's order."""
    given: dict[str, float] = thresholds.model_dump(exclude_none=True)
    levels: list[tuple[str, float]] = [(name, given[name]) for name in ("median", "bronze", "silver", "gold") if name in given]
    sign = METRICS[metric].sign
    return levels if all(sign * low[1] <= sign * high[1] for low, high in itertools.pairwise(levels)) else []


def _place(score: float, levels: Sequence[tuple[str, float]], sign: int) -> int:
    """How many of the levels a score reaches."""
    return sum(sign * score >= sign * level for _, level in levels)


def _places(row: Standing, levels: Sequence[tuple[str, float]]) -> tuple[int, int, int]:
    """Of the interval's worse end, the CV and the better end."""
    sign = METRICS[row.metric].sign
    assert row.cv is not None
    ends = [end for end in (row.low, row.high) if end is not None] or [row.cv]
    places = [_place(end, levels, sign) for end in ends]
    return min(places), _place(row.cv, levels, sign), max(places)


def short_place(row: Standing, levels: Sequence[tuple[str, float]]) -> str:
    """Where the CV lies: bronze, or below the lowest; + and - where its interval reaches a better or a worse place."""
    if row.cv is None or not levels:
        return ""
    low, at, high = _places(row, levels)
    name = levels[at - 1][0] if at else "below"
    return name + ("+" if high > at else "") + ("-" if low < at else "")


def place_in_words(row: Standing, levels: Sequence[tuple[str, float]]) -> str:
    """The same for one row, e.g. between bronze and silver; interval reaches gold."""
    low, at, high = _places(row, levels)
    if at == 0:
        words = f"worse than {levels[0][0]}"
    else:
        words = f"{levels[at - 1][0]} or better" if at == len(levels) else f"between {levels[at - 1][0]} and {levels[at][0]}"
    ends = ([f"reaches {levels[high - 1][0]}"] if high > at else []) + ([f"falls short of {levels[low][0]}"] if low < at else [])
    return words + ("; interval " + " and ".join(ends) if ends else "")


# ---------------------------------------------------------------- in print


@dataclass(frozen=True)
class Column:
    """A column of the printed table."""

    title: str
    importance: int
    """Where the terminal is narrow, the highest numbers are left out first."""
    cell: Callable[[Standing], str]
    left: bool = False
    """Aligned left, as text; numbers are aligned right."""


def describe_groups(groups: Sequence[Group], width: int) -> list[str]:
    """The tables with their legends, no line longer than `width` characters."""
    lines: list[str] = []
    for group in groups:
        legend = [part for line in _legend(group) for part in textwrap.wrap(line, width, subsequent_indent="  ")]
        lines += [*([""] if lines else []), *textwrap.wrap(_title(group), width), "", *_table(group, width), *([""] if legend else []), *legend]
    return lines


def _title(group: Group) -> str:
    counts = [(sum(row.kind == kind for row in group.rows), kind) for kind in KINDS]
    words = ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for count, kind in counts if count)
    if not group.metric:
        return f"no metric known: {words}"
    return f"{group.metric}, {'more' if METRICS[group.metric].sign > 0 else 'less'} is better: {words}"


def _table(group: Group, width: int) -> list[str]:
    columns = [(column, [column.cell(row) for row in group.rows]) for column in _columns(group)]
    columns = [(column, cells) for column, cells in columns if any(map(str.strip, cells))]

    def widths() -> list[int]:
        return [max(len(column.title), *map(len, cells)) for column, cells in columns[1:]]

    longest = max(len(columns[0][0].title), *map(len, columns[0][1]))
    while len(columns) > 2 and sum(widths()) + 2 * len(widths()) + min(longest, SHORTEST_NAME) > width:
        columns.remove(max(columns, key=lambda column: column[0].importance))
    room = max(4, min(longest, width - sum(widths()) - 2 * len(widths())))
    columns[0] = (columns[0][0], [_shortened(name, room, len(STAMPED) if row.file else 0) for name, row in zip(columns[0][1], group.rows, strict=True)])
    sizes = [max(room, len(columns[0][0].title)), *widths()]
    lines = [[column.title for column, _ in columns], *zip(*(cells for _, cells in columns), strict=True)]
    aligned = [[cell.ljust(size) if column.left else cell.rjust(size) for cell, size, (column, _) in zip(line, sizes, columns, strict=True)] for line in lines]
    return ["  ".join(line).rstrip() for line in aligned]


def _label(row: Standing) -> str:
    """A submission is known by its file, since many have one name."""
    return one_line(row.file.removesuffix(".csv") or row.name)


def _shortened(name: str, most: int, start: int) -> str:
    """Cut in the middle, behind the first `start` characters: names of one family differ at both ends."""
    if len(name) <= most:
        return name
    end = max(0, most - 2 - start) // 2
    return f"{name[: max(0, most - 2 - end)]}..{name[len(name) - end :]}"[:most]


def _columns(group: Group) -> list[Column]:
    smallest = min((abs(row.cv) for row in group.rows if row.cv), default=1.0)
    decimals = next((count for limit, count in ((0.1, 5), (10, 4), (100, 3), (1000, 2)) if smallest < limit), 1)
    marks = max((len(_marks(row)) for row in group.rows), default=0)

    def number(value: float | None, fewer: int = 0, sign: str = "") -> str:
        return "" if value is None else f"{value:{sign}.{decimals - fewer}f}"

    return [
        Column("name", 0, _label, left=True),
        Column("kind", 2, lambda row: row.kind, left=True),
        Column("CV" + " " * marks, 1, lambda row: (number(row.cv) or "-") + _marks(row).ljust(marks)),
        Column("spread", 8, lambda row: number(row.spread)),
        Column("interval", 4, lambda row: "" if row.low is None else f"{number(row.low, 1)}..{number(row.high, 1)}"),
        Column("yardstick", 6, lambda row: short_place(row, group.levels), left=True),
        Column("public", 3, lambda row: number(row.public)),
        Column("private", 5, lambda row: number(row.private)),
        Column("CV-public", 7, lambda row: number(row.gap, sign="+")),
        Column("trained", 9, _trained),
        Column("time", 11, lambda row: "" if row.seconds is None else _duration(row.seconds)),
        Column("parameters", 12, lambda row: "" if row.parameters is None else _count(row.parameters)),
        Column("views", 13, lambda row: str(len(row.views) or "")),
        Column("date", 10, lambda row: f"{row.finished:%m-%d %H:%M}" if row.finished else ""),
    ]


def _marks(row: Standing) -> str:
    return ("*" if row.optimistic else "") + ("~" if row.remark else "")


def _trained(row: Standing) -> str:
    return "" if row.trained is None else f"{row.trained} of {'?' if row.planned is None else row.planned}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e5 else f"{number / 1e3:.1f} k"


def _legend(group: Group) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in group.rows:
        for sign, reason in (("*", f"optimistic: {', '.join(row.optimistic)}" if row.optimistic else ""), ("~", row.remark)):
            if reason and row.name not in reasons.setdefault(f"{sign} {reason}", []):
                reasons[f"{sign} {reason}"].append(row.name)
    lines = [f"{reason} ({few(names, 4)})" for reason, names in sorted(reasons.items())]
    scored = [row for row in group.rows if row.cv is not None]
    if still := [f"{row.name} ({_trained(row)} networks)" for row in group.rows if row.kind == "experiment" and row.cv is None]:
        lines.append(f"no CV yet: {few(still, 6)}")
    if (count := len({row.assignment for row in scored} - {""})) > 1:
        lines.append(f"the CVs are of {count} different fold assignments: a difference between two of them is partly one of the folds")
    if group.levels and scored:
        best = max(scored, key=lambda row: METRICS[group.metric].sign * (row.cv or 0.0))
        interval = "" if best.low is None else f" [{best.low:.4g}, {best.high:.4g}]"
        flattered = " (optimistic)" if best.optimistic else ""
        lines.append(f"best: {best.name}, CV {best.cv:.5g}{interval}{flattered}: {place_in_words(best, group.levels)}")
        lines.append(f"yardstick: {_in_words(group.levels)}, on the competition's own test rows; not a leaderboard")
        if any(short_place(row, group.levels)[-1] in "+-" for row in scored):
            lines[-1] += ". + or -: the interval reaches a better or a worse place"
    return [*lines, *_agreement(scored)]


def _in_words(levels: Sequence[tuple[str, float]]) -> str:
    return ", ".join(f"{name} {level:g}" for name, level in reversed(levels))


def _agreement(scored: Sequence[Standing]) -> list[str]:
    """Whether CV and public score rank the submissions alike."""
    pairs = [(row.cv, row.public) for row in scored if row.public is not None]
    if len(pairs) < FEWEST:
        return []
    if any(len(set(values)) == 1 for values in zip(*pairs, strict=True)):
        return [f"CV and public score of {len(pairs)} submissions: one of the two is the same for all; nothing to rank"]
    from scipy.stats import spearmanr

    correlation = float(spearmanr(*zip(*pairs, strict=True)).statistic)
    words = "they agree" if correlation >= 0.7 else "they agree in part" if correlation >= 0.3 else "they do not agree"
    return [f"CV and public score of {len(pairs)} submissions: rank correlation {correlation:+.2f} (Spearman): {words}"]
