"""What the experiments are worth alone and together: scores with intervals, what was gained, how far experiments agree."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.data.eda.facts import Finding, percent, quoted, several
from pipeline.data.targets import Numbers
from pipeline.report.charts import NONE, defined, interval_text, mean_and_spread, score_text, written_like
from pipeline.report.run import Experiment, Rows, Run, default_rows

MOST_EXPERIMENTS = 30
MOST_COMPARED = 10  # experiments in the table of agreement
MOST_KEYS = 40


@dataclass(frozen=True)
class Scored:
    """A line of a table of scores."""

    name: str
    cv: str
    interval: str
    folds: str
    """Mean and spread over folds."""
    better: str
    """Share of draws that beat the equal mean."""
    optimistic: str
    chosen: bool
    place: tuple[float, float, float] | None
    """Score, lower and upper end of the interval as shares of the table's common axis."""


@dataclass(frozen=True)
class Gain:
    """The ensemble against its best experiment."""

    best: str
    best_score: str
    score: str
    difference: str
    corrected: int | None
    """Rows that the best experiment gets wrong and what is submitted gets right; regression: rows that came nearer to the truth."""
    spoiled: int | None


@dataclass(frozen=True)
class Decisions:
    """Thresholds or cut points: default against fitted."""

    chosen: str
    lines: tuple[Scored, ...]
    name: str
    values: tuple[tuple[str, str], ...]
    more: int


@dataclass(frozen=True)
class Agreement:
    """A table of pairs of experiments."""

    what: str
    names: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    more: int


@dataclass(frozen=True)
class Labels:
    """What an experiment says of each row, without its probabilities: of many experiments, those would not fit into memory."""

    ids: tuple[str, ...]
    decided: Numbers
    """Class numbers [rows]; several labels bool [rows, labels]; a regression's numbers [rows, 1]."""


@dataclass(frozen=True)
class Blend:
    """Everything about experiments and their blend."""

    experiments: tuple[Scored, ...]
    costs: tuple[tuple[str, str, str, str], ...]
    """Name, trained networks, parameters, time."""
    more: int
    schemes: tuple[Scored, ...]
    scheme_names: tuple[str, ...]
    weights: tuple[tuple[str, tuple[str, ...]], ...]
    asked: str
    gain: Gain | None
    decisions: Decisions | None
    agreement: Agreement | None
    differing: tuple[tuple[str, tuple[str, ...]], ...]
    shared: tuple[tuple[str, str], ...]
    axis: tuple[str, str]
    findings: tuple[Finding, ...]


def describe_blend(run: Run, rows: Rows) -> Blend:
    """Scores, gains and agreement of a run."""
    experiments = sorted(run.experiments, key=lambda one: (-_value(one.score.get("cv"), run.sign), one.name))
    scores: Mapping[str, Mapping[str, Any]] = run.ensemble.get("experiments", {})
    single = {one.name: {**one.score, **scores.get(one.name, {})} for one in experiments}
    schemes: Mapping[str, Mapping[str, Any]] = run.ensemble.get("schemes", {})
    decisions = run.ensemble.get("decisions") or {}
    labelled = [decisions[name] for name in ("default", "fitted") if name in decisions]
    low, high = _range([*single.values(), *schemes.values(), *labelled, run.score])
    asked = run.ensemble.get("asked", "")
    chosen = asked if asked in schemes else run.ensemble.get("chosen", "")  # auto is scored by its rule, not by the scheme that it takes
    lines = tuple(_scored(one.name, single[one.name], low, high) for one in experiments[:MOST_EXPERIMENTS])
    decided = [_labels(one, run) for one in experiments[:MOST_COMPARED]]
    gain = _gain(run, rows, experiments[0], single[experiments[0].name], decided[0]) if len(experiments) > 1 else None
    agreement, alike = _agreement(run, [one.name for one in experiments], decided)
    differing, shared = _summaries(experiments[:MOST_EXPERIMENTS])
    weights = run.ensemble.get("weights", {})
    return Blend(
        lines,
        tuple(_cost(one) for one in experiments[:MOST_EXPERIMENTS]),
        len(experiments) - len(lines),
        tuple(_scored(name, score, low, high, name == chosen) for name, score in schemes.items()),
        tuple(weights),
        tuple((one.name, tuple(_weight(given.get(one.name)) for given in weights.values())) for one in experiments[:MOST_EXPERIMENTS]) if weights else (),
        str(run.ensemble.get("asked", "")),
        gain,
        _decisions(run, low, high),
        agreement,
        differing,
        shared,
        (score_text(low), score_text(high)),
        (*_gain_findings(run, single[experiments[0].name], gain), *alike),
    )


def _value(score: float | None, sign: int) -> float:
    """A score of which more is better; what is not defined comes last."""
    return sign * float(score) if score is not None and defined(score) else -np.inf


def _range(scores: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    found = [value for score in scores for value in (score.get("cv"), *(score.get("interval") or ())) if defined(value)]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _scored(name: str, score: Mapping[str, Any], low: float, high: float, chosen: bool = False) -> Scored:
    cv, interval, better = score.get("cv"), score.get("interval"), score.get("better")
    ends = interval if interval is not None and all(defined(value) for value in interval) else (cv, cv)
    place = tuple((float(value) - low) / (high - low) for value in (cv, *ends)) if cv is not None and defined(cv) else None
    share = percent(float(better)) if better is not None and defined(better) else NONE
    return Scored(name, score_text(cv), interval_text(interval), mean_and_spread(score), share, ", ".join(score.get("optimistic", ())), chosen, place)  # type: ignore[arg-type]


def _labels(one: Experiment, run: Run) -> Labels:
    rows = default_rows(one.out_of_fold, run.target, run.truth)
    return Labels(rows.ids, rows.decided == 1 if run.target.task == "multilabel" else rows.decided)


def _weight(weight: float | None) -> str:
    return NONE if weight is None else f"{weight:.3f}"


def _cost(one: Experiment) -> tuple[str, str, str, str]:
    parameters = NONE if one.parameters is None else f"{one.parameters / 1e6:.2f} M" if one.parameters >= 10_000 else f"{one.parameters:,}"
    return one.name, str(len(one.histories)) if one.histories else NONE, parameters, duration(one.seconds)


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None or not defined(seconds):
        return NONE
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _gain(run: Run, rows: Rows, best: Experiment, score: Mapping[str, Any], other: Labels) -> Gain:
    cv, alone = run.score.get("cv"), score.get("cv")
    difference = NONE
    if cv is not None and alone is not None and defined(cv) and defined(alone):
        lead = run.sign * (cv - alone)
        difference = f"{written_like(abs(cv - alone), cv)} {'better' if lead > 0 else 'worse'}" if lead else "the same"
    corrected = spoiled = None
    if rows.ids == other.ids:
        if run.target.task == "regression":
            now, before = (np.abs(part.decided[:, 0] - rows.numbers[:, 0]) for part in (rows, other))
        else:
            differs = other.decided != rows.numbers
            now, before = rows.wrong, differs if differs.ndim == 1 else differs.any(axis=1)
        corrected, spoiled = int((now < before).sum()), int((now > before).sum())
    return Gain(best.name, score_text(alone), score_text(cv), difference, corrected, spoiled)


def _gain_findings(run: Run, best: Mapping[str, Any], gain: Gain | None) -> tuple[Finding, ...]:
    cv, alone = run.score.get("cv"), best.get("cv")
    if gain is None or cv is None or alone is None or not (defined(cv) and defined(alone)):
        return ()
    lead = run.sign * (float(cv) - float(alone))
    if lead <= 0:
        text = f'What is submitted scores {gain.score}, no better than "{gain.best}" alone with {gain.best_score}: submit that one, or other experiments.'
        return (Finding("decide", text, "blend"),)
    interval = run.score.get("interval")
    text = f'What is submitted scores {gain.score}, its best experiment "{gain.best}" alone {gain.best_score}.'
    if interval is not None and all(defined(value) for value in interval) and interval[0] <= alone <= interval[1]:
        text += " The difference is smaller than the interval's reach, so other rows may show none."
    return (Finding("note", text, "blend"),)


def _decisions(run: Run, low: float, high: float) -> Decisions | None:
    found = run.ensemble.get("decisions")
    if not found:
        return None
    chosen = str(found.get("chosen", ""))
    lines = tuple(_scored(name, found[name], low, high, name == chosen) for name in ("default", "fitted") if found.get(name))
    name = "cut_points" if run.target.task == "ordinal" else "thresholds"
    given, classes = found.get(name) or (), run.target.classes
    if name == "cut_points":
        names = [f"from {classes[place]} to {classes[place + 1]}" for place in range(len(given))]
    else:
        names = list(classes[-len(given) :]) if given else []
    values = sorted(zip(names, given, strict=True), key=lambda pair: 0 if name == "cut_points" else -abs(pair[1] - 0.5))
    return Decisions(chosen, lines, name, tuple((key, f"{value:.3f}") for key, value in values[:MOST_KEYS]), max(0, len(values) - MOST_KEYS))


def _agreement(run: Run, names: Sequence[str], parts: Sequence[Labels]) -> tuple[Agreement | None, tuple[Finding, ...]]:
    """How much pairs of experiments differ on the rows that both have, and a word on pairs that hardly do."""
    if len(parts) < 2:
        return None, ()
    task = run.target.task
    what = {"regression": "correlation of the predictions", "multilabel": "share of labels, over all rows, that one gives and the other does not"}
    cells = [["" for _ in parts] for _ in parts]
    alike = []
    for i in range(len(parts)):
        for j in range(i):
            value = _differ(parts[i], parts[j], task)
            cells[i][j] = cells[j][i] = NONE if value is None else f"{value:.4f}" if task == "regression" else percent(value)
            if value is not None and (value > 0.999 if task == "regression" else value < 0.001):
                alike.append(f"{quoted([names[j]])} and {quoted([names[i]])}")
    found = Agreement(what.get(task, "share of rows with different labels"), tuple(names[: len(parts)]), tuple(map(tuple, cells)), len(names) - len(parts))
    text = f"{several(len(alike), 'pair')} of experiments say nearly the same, so one adds little to the other: {'; '.join(alike[:3])}."
    return found, (Finding("note", text, "blend"),) if alike else ()


def _differ(first: Labels, second: Labels, task: str) -> float | None:
    """Share of different labels, or the correlation of a regression; None without rows in common or without variation."""
    if first.ids == second.ids:
        a = b = np.arange(len(first.ids))
    else:
        _, a, b = np.intersect1d(np.array(first.ids), np.array(second.ids), return_indices=True)
    if not len(a):
        return None
    if task == "regression":
        x, y = first.decided[a, 0].astype(np.float64), second.decided[b, 0].astype(np.float64)
        return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else None
    return float((first.decided[a] != second.decided[b]).mean())


def _summaries(experiments: Sequence[Experiment]) -> tuple[tuple[tuple[str, tuple[str, ...]], ...], tuple[tuple[str, str], ...]]:
    """Keys of the configs in which experiments differ with each one's value, and those that they share."""
    known = [dict(one.summary) for one in experiments]
    keys = list(dict.fromkeys(key for one in experiments for key, _ in one.summary))
    rows = [(key, tuple(str(one.get(key, NONE)) for one in known)) for key in keys]
    same = [key for key, values in rows if len(set(values)) == 1]
    differing = tuple(row for row in rows if row[0] not in same)
    return differing[:MOST_KEYS], tuple((key, values[0]) for key, values in rows if key in same)[:MOST_KEYS]
