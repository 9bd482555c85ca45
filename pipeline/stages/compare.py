"""The table of where one stands: experiments, ensembles and submissions by metric, printed, and kept as a CSV."""

import contextlib
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Literal

from pipeline.artifacts import Workspace
from pipeline.config import Thresholds
from pipeline.data.survey.text import few
from pipeline.errors import UserError
from pipeline.stages.experiments import read_settings
from pipeline.stages.ledger import cells_of, note_score, read_ledger, to_number, with_notes, write_rows
from pipeline.stages.standing import Standing, read_standings
from pipeline.stages.tables import KINDS, Group, describe_groups, medals, short_place
from pipeline.training.metrics import METRICS

Order = Literal["cv", "date", "name"]


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
    studies = [f"study       {path}: its trials" for path in sorted(work.studies.glob("*/report.html"))]
    return [*lines, "", *studies, f"comparison  {copy or work.comparison}: every column"], skipped


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
        if pages := sorted(work.studies.glob("*/report.html")):
            raise UserError(f"{work.root}: nothing to compare yet but the trials of a study: see {pages[0]}")
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
    """Of the newest experiment with this metric whose config has them; none for an unknown metric, which has no order."""
    experiments = [row for row in rows if row.kind == "experiment" and metric and row.metric == metric]
    for row in sorted(experiments, key=lambda row: str(row.finished or ""), reverse=True):
        competition = read_settings(work.experiment(row.name)).get("competition", {})
        if competition.get("thresholds") and competition.get("metric") == metric:
            with contextlib.suppress(ValueError):  # of an older program, or edited by hand
                return Thresholds.model_validate(competition["thresholds"])
    return None


def write_comparison(groups: Sequence[Group], paths: Sequence[Path]) -> None:
    """Every row with every column in full precision."""
    own = [one.name for one in fields(Standing) if one.name != "digest"]
    columns = [*own, "gap", "yardstick"]
    rows = [{**cells_of(row, columns[:-1]), "yardstick": short_place(row, group.levels)} for group in groups for row in group.rows]
    write_rows(paths, columns, rows)
