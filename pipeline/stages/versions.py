"""The stages by name, with the version of what each one means."""

from typing import Any

from pipeline.artifacts import Stage

STAGE_VERSION = {
    "index": 2,
    "dedup": 1,
    "eda": 1,
    "folds": 2,
    "cache": 1,
    "teach": 1,
    "train": 2,
    "predict": 3,
    "ensemble": 3,
    "report": 1,
    "submit": 1,
    "kernel": 1,
}
"""In the order of the data's way. Raise a number when the same settings and inputs would give another result."""


def define_stage(name: str, settings: dict[str, Any], **inputs: Any) -> Stage:
    """The stage as its fingerprint sees it."""
    return Stage(name, STAGE_VERSION[name], settings, inputs)
