"""What a study's page says first: sentences that follow from its trials and its end."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config_tuning import Choices, Combinations, Range
from pipeline.data.eda.facts import Finding, percent, quoted, several, short
from pipeline.report.charts import NONE, Scale, defined, mean_and_spread, score_text, written_like
from pipeline.tuning.trials import Parameter, TrialRow, ranked

EDGE = 0.03  # of a range, on its scale: a best value within it lies at the end
WIDE = 5  # values that a range with steps has to have, below which an end is nothing to speak of
UNIMPORTANT, ENOUGH = 0.02, 20  # share of a dimension without importance; complete trials, below which that is not said

Dimension = Range | Choices | Combinations


@dataclass(frozen=True)
class Gain:
    """A tuned config against its base on one split, so signed that positive is better. name: of the split, and what it is worth."""

    name: str
    base: str
    tuned: str
    folds_base: str
    folds_tuned: str
    difference: str
    interval: str
    better: str
    folds: tuple[str, ...]
    flatters: bool
    value: float
    ends: tuple[float, float]


def gain_of(result: Mapping[str, Any] | None, which: str, sign: int) -> Gain | None:
    """The comparison on the split of the search or on the unseen one; None where it was not made or has no score."""
    found = (result or {}).get(which)
    if found is None or not defined(found.get("difference")):
        return None
    base, tuned = found["base"], found["tuned"]
    ends = sorted(sign * end for end in found["interval"]) if all(defined(end) for end in found.get("interval") or [None]) else [float("nan")] * 2

    seed = (result or {}).get("unseen_seed")
    second = f"a second split of the same rows{'' if seed is None else f', seed {seed}'}, which the search never saw: less biased"
    name = "the folds that the study chose on: it flatters" if which == "search" else second
    cv = base["cv"]
    interval = f"{signed(ends[0], cv)} to {signed(ends[1], cv)}" if defined(ends[0]) else NONE
    return Gain(
        name, score_text(base["cv"]), score_text(tuned["cv"]), mean_and_spread(base), mean_and_spread(tuned), signed(sign * found["difference"], cv), interval,
        percent(found["better"]) if defined(found.get("better")) else NONE, tuple(signed(sign * fold, cv) for fold in found.get("folds", ())),
        which == "search", sign * found["difference"], (ends[0], ends[1]),
    )  # fmt: skip


def signed(value: float, score: float) -> str:
    """A difference of scores with its sign, and as many decimals as the score is written with."""
    if not defined(value):
        return NONE
    text = written_like(value, score)
    if not any(digit in text for digit in "123456789"):
        return text.removeprefix("-")
    return f"+{text}" if value > 0 else text


def reasons_of(rows: Sequence[TrialRow]) -> list[tuple[str, list[int]]]:
    """Reasons of failed trials with their numbers, the most frequent first; reasons that differ in numbers alone are one."""
    groups: dict[str, tuple[str, list[int]]] = {}
    for row in sorted(rows, key=lambda row: row.number):
        if row.state == "failed":
            groups.setdefault(re.sub(r"\d+(\.\d+)?", "#", row.reason), (row.reason or "no reason was recorded", []))[1].append(row.number)
    return sorted(groups.values(), key=lambda group: (-len(group[1]), group[1][0]))


def find(
    rows: Sequence[TrialRow], dimensions: Mapping[str, Dimension], sign: int, own: Mapping[str, Parameter], own_trial: TrialRow | None,
    importances: Mapping[str, float] | None, wanted: int, result: Mapping[str, Any] | None,
) -> list[Finding]:  # fmt: skip
    """What to look at first: what stops, what to decide, what to know."""
    complete = ranked(rows, sign)
    found = [*_failures(rows, len(complete)), *_gains(result, sign)]
    if complete:
        found += [*_edges(complete, dimensions), *_course(complete, dimensions, own_trial, importances)]
    if outside := [name for name, dimension in dimensions.items() if not dimension.when and name not in own]:
        text = f"The config's own value of {quoted(outside)} is not in the space: trial 0 was run with it, but told the sampler nothing about it."
        found.append(Finding("note", text, "slices"))
    finished = sum(row.finished for row in rows)
    if finished < wanted:
        found.append(Finding("note", f"{finished} of {several(wanted, 'trial')} are finished; the same command carries on.", "on"))
    found += [Finding("note", str(note), "changed") for note in dict.fromkeys((result or {}).get("notes", ()))]
    return sorted(found, key=lambda finding: ("stop", "decide", "note").index(finding.level))


def _failures(rows: Sequence[TrialRow], complete: int) -> list[Finding]:
    reasons = reasons_of(rows)
    failed = sum(len(numbers) for _, numbers in reasons)
    if not complete:
        why = f" {several(failed, 'trial')} failed, most with: {reasons[0][0]}" if reasons else ""
        return [Finding("stop", f"No trial is complete: there is no score to choose by.{why}", "trials")]
    ended = failed + sum(row.finished for row in rows)
    if failed >= 3 and 2 * failed >= ended:
        text = f"{failed} of {ended} trials failed, {len(reasons[0][1])} of them with: {reasons[0][0]}. What cannot work is better left out of the space."
        return [Finding("decide", text, "trials")]
    return []


def _gains(result: Mapping[str, Any] | None, sign: int) -> list[Finding]:
    search, unseen = (gain_of(result, which, sign) for which in ("search", "unseen"))
    found = []
    if unseen is not None and defined(unseen.ends[0]):
        said = f"On the unseen split the tuned config gains {unseen.difference} ({unseen.interval})"
        if unseen.ends[1] < 0:
            found.append(Finding("decide", f"{said}: it is worse than the config as it is. Keep the config.", "changed"))
        elif unseen.ends[0] <= 0:
            found.append(Finding("decide", f"{said}: that is within chance.", "changed"))
        else:
            found.append(Finding("note", f"{said}: more than chance.", "changed"))
        if search is not None and search.value > 2 * max(unseen.value, 0.0) and search.value - unseen.value > (unseen.ends[1] - unseen.ends[0]) / 4:
            text = f"The gain on the folds that the study chose on, {search.difference}, flatters: on the unseen split it is {unseen.difference}."
            found.append(Finding("decide", f"{text} The search fitted its folds.", "changed"))
    elif search is not None:
        text = f"The only gain that is known, {search.difference}, is on the folds that the study chose on, and flatters:"
        found.append(Finding("decide", f"{text} write `tune.unseen_seed` for a second split.", "changed"))
    return found


def _edges(complete: Sequence[TrialRow], dimensions: Mapping[str, Dimension]) -> list[Finding]:
    """Ranges at whose end the best trial lies."""
    found = []
    for name, dimension in dimensions.items():
        side = edge_of(dimension, complete[0].parameters.get(name)) if isinstance(dimension, Range) else ""
        if side and isinstance(dimension, Range):
            others = [row for row in complete[1:5] if edge_of(dimension, row.parameters.get(name)) == side]
            also = f", and so does that of {len(others)} of the next {len(complete[1:5])}" if others else ""
            end = dimension.low if side == "lower" else dimension.high
            if end == 0:  # where most keys end, too
                continue
            text = f"The best trial's `{short(name, 80)}` lies at the {side} end of its range, {end:.4g}{also}: "
            found.append(Finding("decide" if others else "note", f"{text}a wider range may hold better ones, if the key allows it.", "slices"))
    return found


def edge_of(dimension: Range, value: Parameter | None) -> str:
    """The end of a range at which a value lies: lower, upper or "". Ranges of few values have no ends to speak of."""
    if value is None or isinstance(value, str):
        return ""
    whole = isinstance(dimension.low, int) and isinstance(dimension.high, int)
    step = dimension.step or (1 if whole and isinstance(value, int) else None)
    if step is not None and (dimension.high - dimension.low) / step + 1 < WIDE:
        return ""
    if dimension.log and value <= 0:
        return "lower"
    share = Scale(dimension.low, dimension.high, 0.0, 1.0, dimension.log)(value)
    return "lower" if share <= EDGE else "upper" if share >= 1 - EDGE else ""


def _course(
    complete: Sequence[TrialRow], dimensions: Mapping[str, Dimension], own_trial: TrialRow | None, importances: Mapping[str, float] | None
) -> list[Finding]:
    """What scores and importances say of the search itself."""
    found = []
    if len(complete) > 1 and complete[0].values[0] == complete[-1].values[0]:
        found.append(Finding("decide", f"All {len(complete)} complete trials score the same: nothing in this space changes the metric.", "history"))
    elif own_trial is not None and complete[0].number == own_trial.number and len(complete) > 1:
        found.append(Finding("note", f"The best trial is the config as it is: none of the {len(complete) - 1} others beats it.", "history"))
    few = max(10, 5 * len(dimensions))
    if len(complete) < few:
        text = f"{several(len(complete), 'complete trial')} in a space of {several(len(dimensions), 'dimension')}: "
        found.append(Finding("note", f"{text}what the page says of dimensions is an impression below {few}.", "importances"))
    elif len(complete) >= ENOUGH and (idle := [name for name, share in (importances or {}).items() if share < UNIMPORTANT]):
        explain, each, them = ("explains", "", "it") if len(idle) == 1 else ("explain", " each", "them")
        text = f"{quoted(idle)} {explain} less than {percent(UNIMPORTANT)} of the scores' spread{each}: with {them} fixed, trials go to what matters."
        found.append(Finding("note", text, "importances"))
    return found
