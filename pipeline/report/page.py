"""The report on a run: one HTML file that needs nothing else, for a screen, a phone or paper.

The facts are gathered in the other files of this package; the page is `page.html.jinja`, built on that of the report on the data,
and escapes everything. The same run gives the same bytes.
"""

import importlib.resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data.eda.facts import Finding, number, percent, several, short
from pipeline.files import write_text
from pipeline.report.blend import describe_blend
from pipeline.report.calibration import calibrate
from pipeline.report.classes import describe_classes
from pipeline.report.curves import describe_curves
from pipeline.report.headline import describe_headline
from pipeline.report.held_out_folds import describe_folds
from pipeline.report.mistakes import describe_mistakes, describe_suspects
from pipeline.report.regression import describe_numbers
from pipeline.report.run import Run, rows_of
from pipeline.report.views import describe_views

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

    import jinja2

SECTIONS = {
    "blend": "Experiments and ensemble",
    "curves": "Training curves",
    "confusion": "Confusion",
    "classes": "Classes",
    "calibration": "Calibration",
    "mistakes": "Mistakes",
    "labels": "Suspected labels",
    "views": "Test-time augmentation",
    "folds": "Folds",
}


def write_report(path: Path, run: Run) -> None:
    """Writes the report as one HTML file of less than 5 MB that opens without a network.

    At most 48 pictures are read, and tables end with how many more lines there are.
    """
    write_text(path, environment().get_template("report").render(**_gather(run)))


def _gather(run: Run) -> dict[str, Any]:
    """Everything that the template shows, by name."""
    rows = rows_of(run)
    regression = run.target.task == "regression"
    curves, more_curves, curve_findings = describe_curves(run)
    views, more_views, view_findings = describe_views(run)
    facts: dict[str, Any] = {
        "blend": describe_blend(run, rows),
        "folds": describe_folds(run),
        "suspects": describe_suspects(run, rows),
        "classes": None if regression else describe_classes(rows, run.thresholds_used),
        "numbers": describe_numbers(rows) if regression else None,
        "calibration": calibrate(rows, run.metric) if run.are_probabilities else None,
    }
    # Of one level, findings keep this order: what the score is worth, then the data, then the training.
    findings: list[Finding] = [finding for part in facts.values() if part is not None for finding in part.findings]
    sections = {anchor: title for anchor, title in SECTIONS.items() if not (regression and anchor in ("classes", "calibration"))}
    if regression:
        sections |= {"confusion": "Predicted against true", "labels": "Residuals far out"}
    elif run.target.task == "multilabel":
        sections = {anchor: "Labels" if anchor == "classes" else title for anchor, title in sections.items() if anchor != "confusion"}
    return {
        "run": run,
        "sections": sections,
        "rows": len(rows),
        "headline": describe_headline(run, rows, [*findings, *view_findings, *curve_findings]),
        "mistakes": describe_mistakes(run, rows),
        "curves": curves,
        "more_curves": more_curves,
        "views": views,
        "more_views": more_views,
        **facts,
    }


def environment(**further: "Traversable") -> "jinja2.Environment":
    """The templates report and base, and `further` ones by name, with the filters that they share; what is missing is an error."""
    import jinja2

    from pipeline.data.eda.report import bars_path, steps_path, with_code

    folder = importlib.resources.files("pipeline")
    pages = {"report": folder / "report" / "page.html.jinja", "base": folder / "data" / "eda" / "page.html.jinja", **further}
    made = jinja2.Environment(
        loader=jinja2.DictLoader({name: page.read_text(encoding="utf-8") for name, page in pages.items()}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"code": with_code, "number": number, "percent": percent, "short": short, "several": several, "bars": bars_path, "steps": steps_path}
    return made
