"""The table of where one stands: experiments, ensembles and submissions by metric, printed, and kept as a CSV."""

import contextlib
import itertools
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import Workspace
from pipeline.config import Thresholds
from pipeline.data.survey.text import few, one_line
from pipeline.errors import UserError
from pipeline.stages.ledger import cells_of, note_score, read_ledger, to_number, with_notes, write_rows
from pipeline.stages.standing import Standing, read_settings, read_standings
from pipeline.training.metrics import METRICS

Order = Literal["cv", "date", "name"]
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


def report(
    outputs: Path, competition: str, width: int, order: Order = "cv", config: Path | None = None, copy: Path | None = None, words: Sequence[str] | None = None
) -> tuple[list[str], list[str]]:
    """Notes a score where `words` say so, writes comparison.csv and a `copy`; returns the lines to print, and one for each folder skipped.

    competition: a folder of `outputs`; config: whose thresholds to take; words: the submission, then public=, private= or note=.
    UserError for what is unknown, and where there is nothing to compare.
    """
    work = find_competition(outputs, competition)
    lines = []
    if words:
        noted = note_score(work, words[0], **_parse_words(words[1:]))
        lines = [f"noted       {noted.submission}: public {_or_dash(noted.public)}, private {_or_dash(noted.private)} -> {work.ledger}", ""]
    groups, skipped = compare(work, order, _thresholds_of(config, work))
    lines += describe_groups(groups, width)
    write_comparison(groups, [work.comparison, *([copy] if copy else [])])
    return [*lines, "", f"comparison  {copy or work.comparison}: every column"], skipped


def find_competition(outputs: Path, name: str) -> Workspace:
    """Where a competition's runs have written. UserError with the names of those that are there."""
    there = sorted(path.name for path in outputs.glob("[!.]*") if path.is_dir())
    if not there:
        raise UserError(f"{outputs}: no competition has run yet; run python scripts/run_folds.py CONFIG, or write --outputs FOLDER")
    if name.rstrip("/") not in there:
        raise UserError(f'{outputs}: there is no competition "{name}", but {few(there, 20)}')
    return Workspace(outputs / name.rstrip("/"))


def _parse_words(words: Sequence[str]) -> dict[str, Any]:
    """Of public=0.93 private=0.92 note=text."""
    given: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in ("public", "private", "note"):
            raise UserError(f'--note-score: "{word}": write public=0.93, private=0.92 or note="a text" behind the submission')
        try:
            given[key] = text if key == "note" else to_number(text)
        except ValueError:
            raise UserError(f'--note-score: {key} is a number, but got "{text}"') from None
    if all(value is None for value in given.values()):
        raise UserError('--note-score: write what to note behind the submission: public=0.93, private=0.92 or note="a text"')
    return given


def _or_dash(value: float | None) -> str:
    return "-" if value is None else repr(value)


def _thresholds_of(path: Path | None, work: Workspace) -> tuple[str, Thresholds | None] | None:
    if path is None:
        return None
    from pipeline.config_files import load_config

    section = load_config(path).competition
    if section.name != work.root.name:
        raise UserError(f"{path}: is of the competition {section.name}, not of {work.root.name}")
    return section.metric, section.thresholds


def compare(work: Workspace, order: Order = "cv", thresholds: tuple[str, Thresholds | None] | None = None) -> tuple[list[Group], list[str]]:
    """Every experiment, ensemble and submission by metric, with what the ledger says; and a line for each folder that was skipped.

    thresholds: a metric and what the medals took by it; None: as the newest experiment says whose saved config has them.
    UserError for a damaged ledger, and where there is nothing yet.
    """
    rows, skipped = read_standings(work)
    rows = with_notes(rows, read_ledger(work))
    if not rows:
        also = f" ({len(skipped)} folders cannot be read, e.g. {skipped[0]})" if skipped else ""
        raise UserError(f"{work.root}: no experiment yet{also}; run python scripts/run_folds.py CONFIG")
    metrics = sorted({row.metric for row in rows} - {""})
    if len(metrics) == 1:
        rows = [replace(row, metric=metrics[0]) for row in rows]
    groups = []
    for metric in [*metrics, *([""] if any(not row.metric for row in rows) else [])]:
        given = _saved_thresholds(work, rows, metric) if thresholds is None else thresholds[1] if thresholds[0] == metric else None
        levels = medals(given, metric) if given else []
        if given and not levels:
            skipped.append(f"competition.thresholds: {given} is not in the order of {metric}, best first from gold to median")
        groups.append(Group(metric, _sorted([row for row in rows if row.metric == metric], order, metric), levels))
    return groups, skipped


def _sorted(rows: Sequence[Standing], order: Order, metric: str) -> list[Standing]:
    """Best, newest or by name first; those without a score or date last. What is equal: as it came about, from experiment to submission."""
    rows = sorted(rows, key=lambda row: (row.name, KINDS.index(row.kind), row.file))
    if order == "name":
        return rows
    by_score = order == "cv" and metric != ""
    sign = METRICS[metric].sign if by_score else 1

    def key(row: Standing) -> tuple[bool, float, int]:
        value = row.cv if by_score else row.finished and row.finished.timestamp()
        return value is None, -sign * (value or 0.0), KINDS.index(row.kind)

    return sorted(rows, key=key)


def _saved_thresholds(work: Workspace, rows: Sequence[Standing], metric: str) -> Thresholds | None:
    """Of the newest experiment with this metric whose config has them."""
    experiments = sorted((row for row in rows if row.kind == "experiment" and row.metric == metric), key=lambda row: str(row.finished or ""), reverse=True)
    for row in experiments:
        with contextlib.suppress(ValueError, AttributeError):  # of an older program, or edited by hand
            if given := read_settings(work.experiment(row.name))["competition"].get("thresholds"):
                return Thresholds.model_validate(given)
    return None


def write_comparison(groups: Sequence[Group], paths: Sequence[Path]) -> None:
    """Every row with every column in full precision."""
    own = [one.name for one in fields(Standing) if one.name != "digest"]
    columns = [*own, "gap", "yardstick"]
    rows = [{**cells_of(row, columns[:-1]), "yardstick": short_place(row, group.levels)} for group in groups for row in group.rows]
    write_rows(paths, columns, rows)


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
