"""What each view of test-time augmentation corrects, spoils and costs."""

from dataclasses import dataclass

from pipeline.data.eda.facts import Finding, quoted
from pipeline.report.charts import NONE, defined, score_text
from pipeline.report.run import Run

MOST_EXPERIMENTS = 12


@dataclass(frozen=True)
class View:
    """A line of an experiment's table."""

    name: str
    chosen: bool
    score: str
    loss: str
    corrected: int | None
    spoiled: int | None
    milliseconds: str


@dataclass(frozen=True)
class Views:
    """One experiment's views."""

    experiment: str
    lines: tuple[View, ...]
    merge: str
    before: str
    after: str
    cost: str
    """Time per picture of the chosen views against that of the identity."""


def describe_views(run: Run) -> tuple[tuple[Views, ...], int, tuple[Finding, ...]]:
    """Tables of the experiments that looked at several views, how many more there are, and where views did harm."""
    known = sorted((one for one in run.experiments if one.views), key=lambda one: one.name)
    tables, harmed = [], []
    for one in known[:MOST_EXPERIMENTS]:
        found = one.views or {}
        chosen = set(found.get("chosen", ()))
        times = {line["view"]: line.get("milliseconds") for line in found.get("views", ())}
        lines = tuple(
            View(
                str(line["view"]), line["view"] in chosen, score_text(line.get("score")), score_text(line.get("loss")),
                line.get("corrected"), line.get("spoiled"), _time(line.get("milliseconds")),
            )
            for line in found.get("views", ())
        )  # fmt: skip
        before, after = found.get("before"), found.get("after")
        tables.append(Views(one.name, lines, str(found.get("merge", "")), score_text(before), score_text(after), _cost(times, chosen)))
        if before is not None and after is not None and defined(before) and defined(after) and run.sign * (after - before) < 0:
            harmed.append(one.name)
    text = f"The chosen views score lower than the picture as it is in {quoted(harmed)}: write `predict.tta: none`, or other views."
    return tuple(tables), len(known) - len(tables), (Finding("decide", text, "views"),) if harmed else ()


def _time(milliseconds: float | None) -> str:
    return NONE if milliseconds is None or not defined(milliseconds) else f"{milliseconds:.3g}"


def _cost(times: dict[str, float | None], chosen: set[str]) -> str:
    known = [times.get(name) for name in sorted(chosen)]
    if not known or any(value is None or not defined(value) for value in known):
        return ""
    return f"{len(known)} chosen, {sum(value for value in known if value is not None):.3g} ms per picture in all"
