"""From the competition's files to what training starts from: index, dedup, folds, cache."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artifacts import Workspace, run_stage
from pipeline.config import Config
from pipeline.data.folds import place_extra
from pipeline.data.index import check_images, usable
from pipeline.data.pictures import Pictures
from pipeline.data.tables import SPLITS, Tables, read_solution, read_table, require_same_ids
from pipeline.data.targets import Target, define_target
from pipeline.errors import UserError
from pipeline.files import DigestMemory, digest_table, write_table
from pipeline.runtime import cores
from pipeline.stages.versions import STAGE_VERSION, define_stage
from pipeline.submission.formats import choose_format, class_columns, make_sample
from pipeline.training.teaching import Lessons

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What training and prediction start from; plain data, cheap to send to another process."""

    rows: pd.DataFrame
    """The index: usable labelled rows, all test rows."""
    sample: pd.DataFrame
    form: str
    target: Target
    folds: pd.DataFrame
    """id, target, group, fold; sorted by id."""
    folds_digest: str
    extra: pd.DataFrame
    """id, target, fold of further labelled rows; fold: the one that does not train on it, since it holds its group out, or -1."""
    pictures: Pictures
    cache: Path
    cache_digest: dict[str, str]
    """Of the cached pixels, by split."""
    lessons: Lessons | None = None
    """What a student learns from its teacher."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return self.target.classes

    @property
    def truth(self) -> dict[str, str]:
        """Target by id of every row in the folds."""
        return dict(zip(self.folds["id"], self.folds["target"], strict=True))

    @property
    def groups(self) -> dict[str, str]:
        """By id, what rows that stand in one fold have in common; "" for a row of its own."""
        return dict(zip(self.folds["id"], self.folds["group"], strict=True))

    def extra_without(self, hidden: Collection[int]) -> pd.DataFrame:
        """The further labelled rows that a network trains on which must not see these folds."""
        return self.extra[~self.extra["fold"].isin(hidden)]

    def ids(self, split: str) -> list[str]:
        """Ids of a split whose pictures can be read."""
        return self.rows.loc[(self.rows["split"] == split) & (self.rows["problem"] == ""), "id"].tolist()


def workspace(config: Config) -> Workspace:
    """Where everything of this competition is written."""
    return Workspace(config.outputs / config.competition.name)


def optimistic(config: Config, lessons: Lessons | None) -> tuple[str, ...]:
    """Why an experiment's CV flatters it: by its own choices, or by its teacher's."""
    return (*config.optimistic, *(lessons.optimistic if lessons else ()))


def prepare(config: Config, force: Collection[str] = ()) -> Prepared:
    """The stages before training: index, dedup, folds, cache."""
    rows, given = index(config, "index" in force)
    form, target, sample = understand(config, rows, given)
    copies, dropped = dedup(config, rows, "dedup" in force)
    kept = rows[~(rows["split"] + "/" + rows["id"]).isin(dropped)]
    train_rows = kept[kept["split"] == "train"]
    if train_rows.empty:
        raise UserError(f"{workspace(config).duplicates}: every train row is dropped, since each has a copy with another label; write dedup.conflict=together")
    table, folds_digest = folds(config, train_rows, copies, "folds" in force)
    extra = place_extra(kept[kept["split"] == "extra"], train_rows, table, config.folds)
    folder, cache_digest = cache(config, rows[rows["problem"] == ""], kept[kept["problem"] == ""], "cache" in force)
    return Prepared(rows, sample, form, target, table, folds_digest, extra, Pictures(config.competition, config.images), folder, cache_digest)


def understand(config: Config, rows: pd.DataFrame, sample: pd.DataFrame | None) -> tuple[str, Target, pd.DataFrame]:
    """The form of the submission, what is predicted, and the sample, which is made where the competition has none."""
    competition = config.competition
    form = choose_format(config.submission.format, sample, competition.task, competition.metric)
    target = define_target(competition, rows.loc[rows["split"] == "train", "target"], class_columns(sample, form))
    several_in_a_cell = form == "top_k" or (form == "label" and competition.task == "multilabel")
    if several_in_a_cell and (odd := [name for name in target.classes if competition.label_separator in name]):
        raise UserError(f'competition.label_separator: "{competition.label_separator}" stands between classes in a cell, but is in class "{odd[0]}", too')
    if competition.metric == "rmsle" and rows.loc[rows["split"] == "train", "target"].astype(float).min() <= -1:
        raise UserError("competition.metric: rmsle takes the logarithm of 1 + target, but a training target is -1 or less; write rmse")
    if config.loss.name == "log_mse" and rows.loc[rows["split"] != "test", "target"].astype(float).min() <= -1:
        raise UserError("loss.name: log_mse takes the logarithm of 1 + target, but a training target is -1 or less; write mse")
    if odd := target.unknown(rows.loc[rows["split"] == "extra", "target"]):
        raise UserError(f'competition.extra_train: "{odd[0]}" is no class of the train table; rename it there or remove its rows')
    if sample is None:
        sample = make_sample(rows.loc[rows["split"] == "test", "id"].tolist(), competition.id or "id", target, form)
    if competition.solution is not None and (odd := target.unknown(read_solution(competition, sample.iloc[:, 0].tolist()).values())):
        raise UserError(f'{competition.solution}: "{odd[0]}" is no class of the train table; mend it or write competition.solution=null')
    return form, target, sample


def index(config: Config, force: bool = False) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Checks every picture once; returns the rows to work with and the sample submission."""
    found, sample = index_all(config, force)
    return usable(found, config.images.corrupt), sample


def index_all(config: Config, force: bool = False) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The same with every row, those too whose pictures cannot be read."""
    competition = config.competition
    if competition.bundled == "digits" and not competition.root.exists():
        from pipeline.data.digits import write_digits

        write_digits(competition.root)
        log.info("digits    1,797 pictures written to %s", competition.root)
    work = workspace(config)
    tables = Tables.read(competition)
    require_same_ids(tables)
    pictures = Pictures(competition, config.images)
    digests = pictures.digests(tables.rows["path"].tolist(), DigestMemory(work.digests), cores())
    settings = {"preprocess": config.images.preprocess}
    stage = define_stage("index", settings, rows=digest_table(tables.rows), files=digests_of(digests))

    def build() -> tuple[str, dict[str, Any]]:
        found = check_images(tables.rows, pictures, digests)
        problems = found[found["problem"] != ""]
        write_table(work.prepared / "problems.csv", problems[["split", "id", "path", "problem"]])
        write_table(work.index, found)
        log.info("index     %s pictures, %d cannot be read -> %s", _counts(found), len(problems), work.index)
        return digest_table(found), {"pictures": len(found), "problems": len(problems)}

    manifest = run_stage(stage, work.prepared, build, force)
    found = pd.read_parquet(work.index)
    if digest_table(found) != manifest.digest:
        raise UserError(f"{work.index}: another run of this competition has just indexed other pictures; run again when it is done")
    return found, tables.sample


def dedup(config: Config, rows: pd.DataFrame, force: bool = False) -> tuple[dict[str, str], set[str]]:
    """Looks for copies; returns the group by id of train rows to keep together, and the rows to leave out as split/id."""
    from pipeline.data.duplicates.groups import find_duplicates, fold_groups, summary

    work, section = workspace(config), config.dedup
    readable = rows[rows["problem"] == ""].sort_values(["split", "id"], kind="stable")
    inputs = readable[["split", "id", "target", "pixels", "hash"]]
    stage = define_stage("dedup", section.model_dump(mode="json"), rows=digest_table(inputs))

    def build() -> tuple[str, dict[str, Any]]:
        found = find_duplicates(rows, Pictures(config.competition, config.images).read, section)
        write_table(work.duplicates, found)
        log.info("dedup     %s -> %s", summary(found), work.duplicates)
        return digest_table(read_duplicates(work.duplicates)), {"groups": int(found["group"].nunique()), "dropped": int((found["action"] == "drop").sum())}

    manifest = run_stage(stage, work.prepared, build, force, "dedup.json")
    found = read_duplicates(work.duplicates)
    if digest_table(found) != manifest.digest:
        raise UserError(f"{work.duplicates}: was changed by hand or by another run; write --force dedup to make it again")
    dropped = found[found["action"] == "drop"]
    return fold_groups(found, rows, section), set(dropped["split"] + "/" + dropped["id"])


def read_duplicates(path: Path) -> pd.DataFrame:
    """What the dedup stage wrote, with its numbers as numbers."""
    table = read_table(path)
    return table.assign(group=table["group"].astype("int64"), distance=table["distance"].astype("int64"), conflict=table["conflict"] == "True")


def digests_of(digests: Sequence[str | None]) -> str:
    """One digest of many, in order."""
    return digest_table(pd.DataFrame({"digest": [digest or "" for digest in digests]}))


def _counts(rows: pd.DataFrame) -> str:
    counts = rows["split"].value_counts()
    return " and ".join(f"{counts[split]:,} {split}" for split in SPLITS if split in counts)


def folds(config: Config, train_rows: pd.DataFrame, copies: Mapping[str, str], force: bool = False) -> tuple[pd.DataFrame, str]:
    """The frozen assignment of train rows; returns it with the digest of its content."""
    from pipeline.data.folds import assign_folds, needed_columns

    section, task = config.folds, config.competition.task
    table = train_rows[["id", "target", *needed_columns(train_rows, section)]].sort_values("id", kind="stable")
    together = digest_table(pd.DataFrame(sorted(copies.items()) if "group" in section.strategy else [], columns=["id", "group"]))
    stage = define_stage("folds", section.model_dump(mode="json"), rows=digest_table(table), task=task, copies=together)
    words = [section.strategy, section.n_splits] + ([] if section.strategy == "column" else [f"seed{section.seed}"])
    folder = workspace(config).folds(stage.key(*words))

    def build() -> tuple[str, dict[str, Any]]:
        assigned = assign_folds(table, section, task, copies)
        write_table(folder / "folds.csv", assigned)
        log.info("folds     %d %s folds of %s rows -> %s", section.n_splits, section.strategy, f"{len(assigned):,}", folder / "folds.csv")
        return digest_table(assigned), {"rows": len(assigned), "groups": assigned.loc[assigned["group"] != "", "group"].nunique()}

    manifest = run_stage(stage, folder, build, force)
    assigned = read_table(folder / "folds.csv").astype({"fold": "int16"})
    if digest_table(assigned) != manifest.digest:
        raise UserError(f"{folder / 'folds.csv'}: was changed by hand; folds are frozen: write --force folds to make them again")
    return assigned, manifest.digest


def cache(config: Config, rows: pd.DataFrame, kept: pd.DataFrame, force: bool = False) -> tuple[Path, dict[str, str]]:
    """Decodes and shrinks every readable picture once; returns the folder and the digest of each split's pixels, dropped rows left out."""
    from pipeline.data.cache import build_cache, choose_mode, content_digest, needed_bytes

    section, size, preprocess = config.cache, config.images.cache_size, config.images.preprocess
    settings = {"size": size, "preprocess": preprocess, **section.model_dump(mode="json")}
    stage = define_stage("cache", settings, rows=digest_table(rows[["split", "id", "path", "digest"]]))
    folder = workspace(config).cache(stage.key(f"{size}px", section.mode))

    def build() -> tuple[str, dict[str, Any]]:
        for old in folder.glob("*.bin"):
            old.unlink()
        mode = choose_mode(section, rows, size, folder)
        build_cache(rows, Pictures(config.competition, config.images), folder, mode, size, section.quality)
        taken = sum(file.stat().st_size for file in folder.glob("*.bin"))
        log.info("cache     %s pictures, %s, %.1f MB -> %s", f"{len(rows):,}", mode, taken / 1e6, folder)
        return stage.fingerprint, {"mode": mode, "bytes": taken, "estimate": needed_bytes(rows, size)[mode]}

    manifest = run_stage(stage, folder, build, force)
    if sum(file.stat().st_size for file in folder.glob("*.bin")) != manifest.record["bytes"]:
        log.warning("cache     %s is not as it was written; it is built again", folder)
        manifest = run_stage(stage, folder, build, force=True)
    mode = manifest.record["mode"]
    return folder, {split: content_digest(kept, split, mode, size, section.quality, preprocess, STAGE_VERSION["cache"]) for split in SPLITS}
