"""From the competition's files to what training starts from: index, folds, cache."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artifacts import Workspace, run_stage
from pipeline.config import Config
from pipeline.data.index import SPLITS, Tables, check_images, read_solution, read_table, require_same_ids, usable
from pipeline.errors import UserError
from pipeline.files import DigestMemory, digest_table, write_table
from pipeline.runtime import cores
from pipeline.stages.versions import STAGE_VERSION, define_stage
from pipeline.submission.formats import choose_format, class_order

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What training and prediction start from; plain data, cheap to send to another process."""

    rows: pd.DataFrame
    """The index: usable train rows, all test rows."""
    sample: pd.DataFrame
    form: str
    classes: tuple[str, ...]
    folds: pd.DataFrame
    """id, target, fold; sorted by id."""
    folds_digest: str
    cache: Path
    cache_digest: dict[str, str]
    """Of the cached pixels, by split."""

    @property
    def truth(self) -> dict[str, str]:
        """Class by id of every row in the folds."""
        return dict(zip(self.folds["id"], self.folds["target"], strict=True))

    def ids(self, split: str) -> list[str]:
        """Ids of a split whose pictures can be read."""
        return self.rows.loc[(self.rows["split"] == split) & (self.rows["problem"] == ""), "id"].tolist()


def workspace(config: Config) -> Workspace:
    """Where everything of this competition is written."""
    return Workspace(config.outputs / config.competition.name)


def prepare(config: Config, force: Collection[str] = ()) -> Prepared:
    """The stages before training: index, folds, cache."""
    if config.competition.bundled == "digits" and not config.competition.root.exists():
        from pipeline.data.digits import write_digits

        write_digits(config.competition.root)
        log.info("digits    1,797 pictures written to %s", config.competition.root)
    rows, sample = index(config, "index" in force)
    form = choose_format(config.submission.format, sample, config.competition.metric)
    train_rows = rows[rows["split"] == "train"]
    classes = class_order(train_rows["target"], sample, form)
    if config.competition.solution is not None:
        read_solution(config.competition, sample, classes)
    table, folds_digest = folds(config, train_rows, "folds" in force)
    folder, cache_digest = cache(config, rows[rows["problem"] == ""], "cache" in force)
    return Prepared(rows, sample, form, classes, table, folds_digest, folder, cache_digest)


def index(config: Config, force: bool = False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Checks every picture once; returns the rows to work with and the sample submission."""
    work = workspace(config)
    tables = Tables.read(config.competition)
    sample = read_table(tables.sample)
    if len(sample.columns) < 2:
        raise UserError(f"{tables.sample}: needs an id column and one to predict, but has {list(sample.columns)}")
    require_same_ids(tables, sample)
    root = config.competition.root
    digests = DigestMemory(work.digests).digests([root / path for path in tables.rows["path"]], cores())
    stage = define_stage("index", {}, rows=digest_table(tables.rows), files=digests_of(digests))

    def build() -> tuple[str, dict[str, Any]]:
        found = check_images(tables.rows, root, digests)
        problems = found[found["problem"] != ""]
        write_table(work.prepared / "problems.csv", problems[["split", "id", "path", "problem"]])
        write_table(work.index, found)
        log.info("index     %s train and %s test pictures, %d cannot be read -> %s", *_counts(found), len(problems), work.index)
        return digest_table(found), {"pictures": len(found), "problems": len(problems)}

    manifest = run_stage(stage, work.prepared, build, force)
    found = pd.read_parquet(work.index)
    if digest_table(found) != manifest.digest:
        raise UserError(f"{work.index}: another run of this competition has just indexed other pictures; run again when it is done")
    return usable(found, config.images.corrupt), sample


def digests_of(digests: Sequence[str | None]) -> str:
    """One digest of many, in order."""
    return digest_table(pd.DataFrame({"digest": [digest or "" for digest in digests]}))


def _counts(rows: pd.DataFrame) -> tuple[str, str]:
    return f"{(rows['split'] == 'train').sum():,}", f"{(rows['split'] == 'test').sum():,}"


def folds(config: Config, train_rows: pd.DataFrame, force: bool = False) -> tuple[pd.DataFrame, str]:
    """The frozen assignment of train rows; returns it with the digest of its content."""
    section = config.folds
    table = train_rows[["id", "target"]].sort_values("id", kind="stable")
    stage = define_stage("folds", section.model_dump(mode="json"), rows=digest_table(table))
    folder = workspace(config).folds(stage.key(section.strategy, section.n_splits, f"seed{section.seed}"))

    def build() -> tuple[str, dict[str, Any]]:
        from pipeline.data.folds import assign_folds

        assigned = assign_folds(train_rows, section)
        write_table(folder / "folds.csv", assigned)
        log.info("folds     %d %s folds of %s rows -> %s", section.n_splits, section.strategy, f"{len(assigned):,}", folder / "folds.csv")
        return digest_table(assigned), {"rows": len(assigned)}

    manifest = run_stage(stage, folder, build, force)
    assigned = read_table(folder / "folds.csv").astype({"fold": "int16"})
    if digest_table(assigned) != manifest.digest:
        raise UserError(f"{folder / 'folds.csv'}: was changed by hand; folds are frozen: write --force folds to make them again")
    return assigned, manifest.digest


def cache(config: Config, rows: pd.DataFrame, force: bool = False) -> tuple[Path, dict[str, str]]:
    """Decodes and shrinks every readable picture once; returns the folder and the digest of each split's pixels."""
    from pipeline.data.cache import build_cache, choose_mode, content_digest, needed_bytes

    section, size = config.cache, config.images.cache_size
    stage = define_stage("cache", {"size": size, **section.model_dump(mode="json")}, rows=digest_table(rows[["split", "id", "path", "digest"]]))
    folder = workspace(config).cache(stage.key(f"{size}px", section.mode))

    def build() -> tuple[str, dict[str, Any]]:
        for old in folder.glob("*.bin"):
            old.unlink()
        mode = choose_mode(section, rows, size, folder)
        build_cache(rows, config.competition.root, folder, mode, size, section.quality)
        taken = sum(file.stat().st_size for file in folder.glob("*.bin"))
        log.info("cache     %s pictures, %s, %.1f MB -> %s", f"{len(rows):,}", mode, taken / 1e6, folder)
        return stage.fingerprint, {"mode": mode, "bytes": taken, "estimate": needed_bytes(rows, size)[mode]}

    manifest = run_stage(stage, folder, build, force)
    if sum(file.stat().st_size for file in folder.glob("*.bin")) != manifest.record["bytes"]:
        log.warning("cache     %s is not as it was written; it is built again", folder)
        manifest = run_stage(stage, folder, build, force=True)
    mode = manifest.record["mode"]
    return folder, {split: content_digest(rows, split, mode, size, section.quality, STAGE_VERSION["cache"]) for split in SPLITS}
