"""The page of a study: one HTML file that needs nothing else, built on that of the report on a run, in the same look.

The charts are made in `charts_history.py` and `charts_space.py`, the sentences at its head in `findings.py`; the page is
`page.html.jinja` and escapes everything. The same study gives the same bytes.
"""

import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config_tuning import Choices, Combinations, Range
from pipeline.data.eda.facts import number
from pipeline.files import write_text
from pipeline.report.charts import NONE, defined, mean_and_spread, score_text
from pipeline.report.page import environment
from pipeline.tuning.charts_history import front_chart, history_chart, scores_of, steps_chart
from pipeline.tuning.charts_space import axes_of, parallel, slices
from pipeline.tuning.findings import Gain, find, gain_of, reasons_of, signed
from pipeline.tuning.trials import Parameter, TrialRow, pareto_front, ranked

if TYPE_CHECKING:
    pass

MOST_TRIALS, MOST_FRONT, MOST_DIFFERENCES = 20, 20, 8  # lines of a table; parameters in one
SECTIONS = {
    "changed": "What changed",
    "history": "History",
    "front": "Score against seconds",
    "importances": "Importances",
    "slices": "Dimension by dimension",
    "parallel": "All dimensions together",
    "pruning": "Pruning",
    "trials": "Trials",
    "on": "How to go on",
}


@dataclass(frozen=True)
class StudyPage:
    """What a page shows of a study, finished or not.

    signs: of the objectives, +1 where more is better; the first is the metric, a second one is seconds, -1. own: the config's own point, trial 0.
    importances: None for too few trials. result: what the study ended with; None while it is not at its end. storage: address for
    optuna-dashboard, whose password is not shown; command: what started the study; both "" where they are not known.
    """

    study: str
    competition: str
    metric: str
    signs: tuple[int, ...]
    trials: Sequence[TrialRow]
    dimensions: Mapping[str, Range | Choices | Combinations]
    own: Mapping[str, Parameter]
    importances: Mapping[str, float] | None
    pruner: str
    wanted: int
    folds: int
    epochs: int
    result: Mapping[str, Any] | None
    storage: str = ""
    command: str = ""

    def states(self, state: str) -> list[TrialRow]:
        """The trials in a state, by number."""
        return sorted((row for row in self.trials if row.state == state), key=lambda row: row.number)


def write_study_page(path: Path, page: StudyPage) -> None:
    """Writes the page as one HTML file that opens without a network."""
    write_text(path, environment(study=importlib.resources.files("pipeline") / "tuning" / "page.html.jinja").get_template("study").render(**_gather(page)))


def _gather(page: StudyPage) -> dict[str, Any]:
    """Everything that the template shows, by name."""
    sign, rows = page.signs[0], sorted(page.trials, key=lambda row: row.number)
    complete = ranked(rows, sign)
    own = own_trial(page)
    axes = axes_of(page.dimensions, rows, page.importances)
    front = pareto_front(rows, page.signs) if len(page.signs) > 1 else []
    search, unseen = (gain_of(page.result, which, sign) for which in ("search", "unseen"))
    shown = slices(axes, rows, sign, page.own)
    unit = "epoch" if page.pruner == "epochs" else "fold"
    return {
        "page": page,
        "sections": {anchor: title for anchor, title in SECTIONS.items() if anchor != "front" or len(page.signs) > 1},
        "end": None if page.result is None else {"best": None, "tuned_config": None, "ensemble_command": "", **page.result},
        "sign": sign,
        "better": "higher is better" if sign > 0 else "lower is better",
        "counts": {state: len(page.states(state)) for state in ("complete", "pruned", "failed", "running", "waiting")},
        "tiles": _tiles(page, complete, own, unseen),
        "findings": find(rows, page.dimensions, sign, page.own, own, page.importances, page.wanted, page.result),
        "gains": [gain for gain in (search, unseen) if gain is not None],
        "unseen": unseen,
        "changes": _changes(page, complete),
        "best": complete[0] if complete else None,
        "best_value": score_text(((page.result or {}).get("best") or {}).get("value")),
        "own_score": None if own is None else score_text(own.values[0]),
        "history": history_chart(rows, sign, own, page.metric),
        "beyond": scores_of(complete, sign).beyond,
        "steps": steps_chart(rows, sign, unit),
        "front_chart": front_chart(rows, front, sign, page.metric) if front else None,
        "front": [(row.number, score_text(row.values[0]), duration(row.values[1]), row.number == (own.number if own else -1)) for row in front[:MOST_FRONT]],
        "more_front": max(0, len(front) - MOST_FRONT),
        "bars": _bars(page),
        "left_out": [name for name in page.dimensions if page.importances is not None and name not in page.importances],
        "slices": shown,
        "more_slices": len([axis for axis in axes if any(axis.name in row.parameters for row in complete)]) - len(shown),
        "never": [axis.name for axis in axes if complete and not any(axis.name in row.parameters for row in complete)],
        "parallel": parallel(axes, rows, sign),
        "pruned_after": _pruned_after(page.states("pruned"), unit),
        "unit": unit,
        "saved": (page.result or {}).get("saved"),
        "duration": duration,
        "lines": [_line(row, page, own) for row in complete[:MOST_TRIALS]],
        "reasons": reasons_of(rows),
        "storage": re.sub(r"(://[^:/@]*):.*@", r"\1:PASSWORD@", page.storage),
        "top": [{**one, "value": score_text(one.get("value"))} for one in (page.result or {}).get("top", ())],
    }


def own_trial(page: StudyPage) -> TrialRow | None:
    """The complete trial of the config as it is: trial 0, or a later one that tried it again."""
    same = [row for row in page.states("complete") if row.number == 0 or (page.own and dict(row.parameters) == dict(page.own))]
    return same[0] if same else None


def duration(seconds: float | None) -> str:
    """Seconds as people say them: 48 s, 12 min, 3.4 h."""
    if seconds is None or not defined(seconds):
        return NONE
    return f"{seconds:.3g} s" if seconds < 99.5 else f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:,.1f} h"


def _tiles(page: StudyPage, complete: Sequence[TrialRow], own: TrialRow | None, unseen: Gain | None) -> list[tuple[str, str]]:
    best = complete[0].values[0] if complete else None
    tiles = [("best CV; it chose the trial, so it flatters", score_text(best)), ("CV of the config as it is", score_text(own.values[0] if own else None))]
    if unseen is not None:
        tiles += [("gain on the unseen split", unseen.difference), ("its 95 % interval", unseen.interval)]
    for state in ("complete", "pruned", "failed", "running", "waiting"):
        count = len(page.states(state))
        if count or state == "complete":
            tiles.append((f"{state} trials" if state == "complete" else state, number(count)))
    return [*tiles, ("time in trials", duration(sum(row.seconds or 0.0 for row in page.trials)))]


def text_of(value: Any) -> str:
    """A config's value in short: numbers with four digits, components as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return f"{value:.4g}"
    return json.dumps(value, ensure_ascii=False, default=str)


def _changes(page: StudyPage, complete: Sequence[TrialRow]) -> list[tuple[str, str, str, str]]:
    """Key, the config's own value, the tuned one, and what was searched; of a study that goes on those of its best trial."""
    if page.result is not None and page.result.get("best") is not None:
        found = {key: (text_of(pair[0]), text_of(pair[1])) for key, pair in page.result["best"].get("changes", {}).items()}
    else:
        best = complete[0].parameters if complete else {}
        found = {name: (text_of(page.own[name]) if name in page.own else NONE, text_of(value)) for name, value in best.items() if page.own.get(name) != value}
    ranges = {axis.name: axis.words for axis in axes_of(page.dimensions, (), None)}
    return [(key, before, after, ranges.get(key, "")) for key, (before, after) in found.items()]


def _bars(page: StudyPage) -> list[tuple[str, float, int]]:
    """Name, share, and how many complete trials have the dimension; the most important first."""
    complete = page.states("complete")
    shares = sorted((page.importances or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    return [(name, share, sum(name in row.parameters for row in complete)) for name, share in shares]


def _pruned_after(pruned: Sequence[TrialRow], unit: str) -> list[tuple[str, int]]:
    """After which step how many trials were pruned."""
    last = [max(row.steps) if row.steps else -1 for row in pruned]
    return [(f"after {unit} {step}" if step >= 0 else f"before the first {unit} was reported", last.count(step)) for step in sorted(set(last))]


def _line(row: TrialRow, page: StudyPage, own: TrialRow | None) -> dict[str, Any]:
    """One line of the table of trials."""
    differs = [(name, text_of(value)) for name, value in sorted(row.parameters.items()) if page.own.get(name) != value]
    cross_validation = row.record.get("cv")
    seconds = row.record.get("training_seconds", row.seconds)
    return {
        "number": row.number,
        "score": score_text(row.values[0]),
        "folds": mean_and_spread(cross_validation) if isinstance(cross_validation, Mapping) else NONE,
        "against": NONE if own is None else signed(row.values[0] - own.values[0], own.values[0]),
        "seconds": duration(seconds),
        "experiment": str(row.record.get("experiment", "")),
        "own": own is not None and row.number == own.number,
        "differs": differs[:MOST_DIFFERENCES],
        "more": max(0, len(differs) - MOST_DIFFERENCES),
    }
