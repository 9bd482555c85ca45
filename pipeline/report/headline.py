"""The head of the page: what is submitted is worth, against which yardstick, and what to look at first."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.data.eda.facts import Finding, number, several
from pipeline.report.charts import defined, interval_text, mean_and_spread, score_text
from pipeline.report.run import Rows, Run

MOST_NOTES = 20


@dataclass(frozen=True)
class Medal:
    """A threshold, and where the CV and its interval lie against it."""

    name: str
    score: str
    words: str
    place: float
    """On the yardstick, 0 to 1; the better end is on the right."""


@dataclass(frozen=True)
class Headline:
    """What the page begins with."""

    tiles: tuple[tuple[str, str], ...]
    better: str
    optimistic: tuple[str, ...]
    medals: tuple[Medal, ...]
    cv_place: float
    interval_places: tuple[float, float]
    findings: tuple[Finding, ...]


def describe_headline(run: Run, rows: Rows, findings: Iterable[Finding]) -> Headline:
    """The CV with its interval, the medals, and all findings, those that matter most first."""
    score = run.score
    tiles = [(f"{run.metric}, out of fold", score_text(score.get("cv")))]
    if score.get("interval") is not None:
        tiles.append(("95 % interval", interval_text(score["interval"])))
    tiles.append((f"mean ± spread of {several(len(score.get('folds', ())), 'fold')}", mean_and_spread(score)))
    tiles += [("rows", number(len(rows))), ("experiments", number(len(run.experiments)))]
    medals, place, ends = _yardstick(run)
    order = ("stop", "decide", "note")
    ranked = sorted((*_own_findings(run), *findings), key=lambda finding: order.index(finding.level))
    better = "higher is better" if run.sign > 0 else "lower is better"
    return Headline(tuple(tiles), better, tuple(score.get("optimistic", ())), medals, place, ends, tuple(ranked))


def _own_findings(run: Run) -> list[Finding]:
    found = []
    if not defined(run.score.get("cv")):
        found.append(Finding("stop", f"`{run.metric}` is not defined for these predictions: nothing below says how good they are.", "blend"))
    if reasons := run.score.get("optimistic"):
        text = f"The CV flatters: {', '.join(reasons)}. What chose on the rows that it is scored on looks better there than elsewhere."
        found.append(Finding("decide", text, "blend"))
    return found + [Finding("note", str(note), "blend") for note in list(dict.fromkeys([*run.notes, *run.ensemble.get("notes", ())]))[:MOST_NOTES]]


def _yardstick(run: Run) -> tuple[tuple[Medal, ...], float, tuple[float, float]]:
    """The medals, the CV and its interval on one axis with a twentieth of room at both ends."""
    cv = run.score.get("cv")
    known = {name: float(value) for name, value in (run.thresholds or {}).items() if defined(value)}
    if not known or cv is None or not defined(cv):
        return (), 0.0, (0.0, 0.0)
    interval = run.score.get("interval")
    low, high = sorted(interval) if interval is not None and all(defined(value) for value in interval) else (cv, cv)
    ends = [low, high, *known.values()]
    width = (max(ends) - min(ends)) or 1.0
    start = min(ends) - width / 20 if run.sign > 0 else max(ends) + width / 20

    def place(value: float) -> float:
        return float(run.sign * (value - start) / (1.1 * width))

    worse, better = (low, high) if run.sign > 0 else (high, low)
    medals = []
    for name, value in sorted(known.items(), key=lambda pair: (run.sign * pair[1], pair[0])):
        if run.sign * (worse - value) >= 0:
            words = "the whole interval reaches it"
        elif run.sign * (better - value) < 0:
            words = "the whole interval falls short of it"
        else:
            words = f"it lies within the interval; the CV itself {'reaches it' if run.sign * (cv - value) >= 0 else 'falls short'}"
        medals.append(Medal(name, score_text(value), words, place(value)))
    return tuple(medals), place(cv), (place(worse), place(better))
