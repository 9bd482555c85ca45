"""The doctor's visit to a file that may be anybody's: with a sample, a config, or both. Nothing is trained."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.tables import read_table
from pipeline.errors import UserError
from pipeline.submission.doctor import Diagnosis, diagnose
from pipeline.submission.sheet import sample_of

if TYPE_CHECKING:
    from pipeline.config import Config


def check(path: Path, sample_path: Path | None, config: "Config | None") -> Diagnosis:
    """What is wrong with the submission in a file.

    With a config, form and label space are known, and the sample is its competition's unless `sample_path` names another; without one, they
    are inferred. Pictures are decoded only if the index is not up to date.
    """
    given = None if sample_path is None else sample_of(sample_path, read_table(sample_path))
    if config is None:
        if given is None:
            raise UserError("--check wants the competition's sample submission, --sample PATH, or a CONFIG that knows it")
        return diagnose(path, given)
    from pipeline.stages.prepare import index, understand
    from pipeline.submission.formats import Form

    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    rows, own = index(config)
    form, target, sample = understand(config, rows, own if given is None else given)
    return diagnose(path, sample, Form(form, config.classes_in_a_cell, config.competition.label_separator), target)
