"""The eda stage: a report to look at before anything is trained."""

import logging
from pathlib import Path
from typing import Any

from pipeline.artifacts import run_stage
from pipeline.config import Config
from pipeline.data.index import usable
from pipeline.data.pictures import Pictures
from pipeline.files import digest_file, digest_table
from pipeline.stages.prepare import dedup, index_all, read_duplicates, understand, workspace
from pipeline.stages.versions import define_stage

log = logging.getLogger(__name__)


def eda(config: Config, force: bool = False) -> Path:
    """Writes prepared/eda.html, after index and dedup; pictures that cannot be read are shown, whatever `images.corrupt` says."""
    from pipeline.data.eda.report import write_report

    rows, sample = index_all(config)
    readable = usable(rows, "skip")
    _, target, _ = understand(config, readable, sample)
    dedup(config, readable)
    work = workspace(config)
    duplicates = read_duplicates(work.duplicates)
    settings = config.model_dump(mode="json", exclude={"experiment": True, "outputs": True, "runtime": True, "competition": {"root"}})
    stage = define_stage("eda", settings, rows=digest_table(rows), duplicates=digest_table(duplicates))

    def build() -> tuple[str, dict[str, Any]]:
        write_report(work.eda, config, rows, duplicates, Pictures(config.competition, config.images).read, target.classes)
        log.info("eda       %.1f MB -> %s", work.eda.stat().st_size / 1e6, work.eda)
        return digest_file(work.eda), {"bytes": work.eda.stat().st_size}

    if not work.eda.exists():
        force = True
    run_stage(stage, work.prepared, build, force, "eda.json")
    return work.eda
