"""The report on a competition's data: one HTML file that needs nothing else, for a screen, a phone or paper.

Facts are gathered in eda_facts, eda_labels, eda_copies and eda_sample, pictures in eda_pictures; the page is
`page.html.jinja`, which escapes everything. The same rows, config and files give the same bytes.
"""

import importlib.resources
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from pipeline.config import Config
from pipeline.data.duplicates.groups import SMALLEST_SIDE
from pipeline.data.eda.copies import KINDS, Copies, describe_copies
from pipeline.data.eda.facts import Curve, Finding, count_rows, find_unreadable, measure_sizes, number, percent, readable, short
from pipeline.data.eda.labels import describe_labels
from pipeline.data.eda.pictures import Picture, augmented, contact_sheets, copy_pictures, size_examples
from pipeline.data.eda.sample import channel_statistics, draw_sample, separate
from pipeline.data.images import Pixels
from pipeline.files import write_text

SECTIONS = {
    "rows": "Rows and columns",
    "labels": "Labels",
    "sheets": "Contact sheets",
    "sizes": "Sizes and shapes",
    "channels": "Channels",
    "copies": "Copies",
    "unreadable": "Unreadable pictures",
    "train-test": "Train against test",
    "augmentation": "Augmentation",
}


def write_report(path: Path, config: Config, rows: pd.DataFrame, duplicates: pd.DataFrame, read: Callable[[str], Pixels], classes: Sequence[str]) -> None:
    """Writes the report as one HTML file of less than 5 MB that opens without a network.

    rows: the whole index, unreadable pictures included (split, id, path, target, digest, height, width, problem, table.*).
    duplicates: group, id, split, label, kind, distance, conflict, action; may be empty. read: RGB uint8 [H, W, 3] of
    a row's path, or CorruptImage. classes: in order; one output name for regression. At most 2,400 pictures are decoded
    for statistics and some 400 shown, drawn from `folds.seed`.
    """
    rows = rows.reset_index(drop=True)
    facts = _gather(config, rows, duplicates, read, list(classes))
    write_text(path, _environment().from_string(_template()).render(config=config, sections=SECTIONS, **facts))


def _gather(config: Config, rows: pd.DataFrame, duplicates: pd.DataFrame, read: Callable[[str], Pixels], classes: list[str]) -> dict[str, Any]:
    """Everything that the template shows, by name."""
    sample = draw_sample(rows, read, config.images, _random(config, 0))
    sheets, how = contact_sheets(rows, read, config, classes, _random(config, 1))
    num_small = int((rows.loc[rows["problem"] == "", ["height", "width"]].min(axis=1) < SMALLEST_SIDE).sum())
    copies = describe_copies(duplicates, config, int((rows["split"] == "train").sum()), num_small)
    facts: dict[str, Any] = {
        "rows": count_rows(rows, config),
        "labels": describe_labels(rows, config, classes, _dropped(rows, duplicates)),
        "sizes": measure_sizes(rows, config.images),
        "channels": channel_statistics(sample, config) if sample else None,
        "copies": copies,
        "unreadable": find_unreadable(rows, config.images),
        "separation": separate(sample, config.folds.seed) if sample else None,
    }
    pictures = {
        "sample": sample,
        "sheets": sheets,
        "sheets_note": how,
        "copy_kinds": _copy_sheets(copies, rows, read),
        "size_examples": size_examples(rows, read, config),
        "augmented": augmented(rows, read, config, _random(config, 2)),
        "counts": {name: len(readable(rows, name)) for name in ("train", "extra", "test")},
    }
    return facts | pictures | {"findings": _ranked(facts, pictures["augmented"])}


def _random(config: Config, purpose: int) -> np.random.Generator:
    return np.random.default_rng([config.folds.seed % 2**32, purpose])


def _dropped(rows: pd.DataFrame, duplicates: pd.DataFrame) -> pd.Series:
    """Which rows deduplication leaves out, on the index of `rows`."""
    if duplicates.empty:
        return pd.Series(False, index=rows.index)
    dropped = duplicates.loc[duplicates["action"] == "drop", ["split", "id"]].astype(str)
    return pd.Series(pd.MultiIndex.from_frame(rows[["split", "id"]].astype(str)).isin(pd.MultiIndex.from_frame(dropped)), index=rows.index)


def _copy_sheets(copies: Copies, rows: pd.DataFrame, read: Callable[[str], Pixels]) -> list[tuple[str, int, list[tuple[Any, tuple[Picture, ...]]]]]:
    """Title, number of groups, and the shown groups with their pictures."""
    if not copies.shown:
        return []
    known = rows.drop_duplicates(["split", "id"]).set_index(["split", "id"])
    return [(KINDS[kind], copies.totals[kind], [(group, copy_pictures(group, known, read)) for group in groups]) for kind, groups in copies.shown.items()]


def _ranked(facts: dict[str, Any], augmentation: Any) -> list[Finding]:
    """All findings, those that stop a run first."""
    found = [finding for part in facts.values() if part is not None for finding in getattr(part, "findings", ())]
    if augmentation is not None and augmentation.problem:
        found.append(Finding("stop", augmentation.problem, "augmentation"))
    return sorted(found, key=lambda finding: ("stop", "decide", "note").index(finding.level))


# ---------------------------------------------------------------- the page


def _template() -> str:
    return (importlib.resources.files("pipeline.data.eda") / "page.html.jinja").read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"code": with_code, "number": number, "percent": percent, "short": short, "bars": bars_path, "steps": steps_path}
    return environment


def with_code(text: str) -> Markup:
    """The escaped text, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704  (escaped before)


def bars_path(curve: Curve) -> str:
    """SVG path of a curve's bars, each 1 wide, in a box of height 100."""
    return "".join(f"M{i + 0.06:.2f} 100V{100 - 98 * share:.1f}h.88V100z" for i, share in enumerate(curve.shares) if share > 0)


def steps_path(curve: Curve) -> str:
    """SVG path of a curve's outline, one step per bin."""
    return "M0 100" + "".join(f"V{100 - 98 * share:.1f}H{i + 1}" for i, share in enumerate(curve.shares)) + "V100"
