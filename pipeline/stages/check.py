"""The doctor's visit to a file that may be anybody's: with a sample, a config, or both. Nothing is trained."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.tables import read_table
from pipeline.errors import UserError
from pipeline.submission.doctor import Diagnosis, diagnose
from pipeline.submission.sheet import read_original, sample_of

if TYPE_CHECKING:
    from pipeline.config import Config


def check(path: Path, sample_path: Path | None, config: "Config | None") -> Diagnosis:
    """What is wrong with the submission in a file.

    With a config, form and label space are known, and the sample is its competition's unless `sample_path` names another; without one, they
    are inferred. Pictures are decoded only if the index is not up to date.
    """
    given = None if sample_path is None else sample_of(sample_path, read_table(sample_path))
    original = None if sample_path is None or given is None else read_original(sample_path, given)
    if config is None:
        if given is None:
            raise UserError("--check wants the competition's sample submission, --sample PATH, or a CONFIG that knows it")
        return diagnose(path, given, original=original)
    from pipeline.config import RANKING_METRICS
    from pipeline.stages.prepare import index, understand
    from pipeline.submission.formats import Form

    if not path.exists():
        raise UserError(f"{path}: no such file; check the path")
    competition = config.competition
    rows, own = index(config)
    if given is None and own is not None and competition.sample_submission is not None:
        original = read_original(competition.root / competition.sample_submission, own)
    form, target, sample = understand(config, rows, own if given is None else given)
    any_scale = competition.metric in RANKING_METRICS
    return diagnose(path, sample, Form(form, config.classes_in_a_cell, competition.label_separator, any_scale), target, original)
