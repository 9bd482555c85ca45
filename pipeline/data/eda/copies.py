"""What deduplication found, said in sentences: exact and near copies, conflicting labels, copies across train and test."""

from dataclasses import dataclass

import pandas as pd

from pipeline.config import Config
from pipeline.data.duplicates.groups import SMALLEST_SIDE
from pipeline.data.eda.facts import Finding, percent, several

MOST_GROUPS = 10  # shown per kind
MOST_MEMBERS = 4  # pictures shown per group

KINDS = {
    "conflict": "Copies with different labels",
    "across": "Copies in both train and test",
    "exact": "Exact copies",
    "near": "Near copies",
}


@dataclass(frozen=True)
class CopyGroup:
    """Rows that show the same picture."""

    number: str
    kind: str
    """exact or near."""
    distance: int
    """Most bits of 64 in which two perceptual hashes differ."""
    labels: tuple[str, ...]
    """Different labels of its train rows."""
    members: pd.DataFrame
    size: int


@dataclass(frozen=True)
class Copies:
    """All groups by what matters about them; each is shown once, under the first title that fits."""

    shown: dict[str, tuple[CopyGroup, ...]]
    totals: dict[str, int]
    """Groups under each title, shown or not."""
    num_exact: int
    num_near: int
    num_dropped: int
    config: tuple[str, ...]
    findings: tuple[Finding, ...]


def describe_copies(duplicates: pd.DataFrame, config: Config, num_train: int, num_small: int = 0) -> Copies:
    """Sorts the groups of duplicates.csv and says what `dedup` and `folds` do about each kind.

    num_train: train rows in the index; num_small: pictures that are too small for a search of near copies.
    """
    if duplicates.empty:
        return Copies({}, dict.fromkeys(KINDS, 0), 0, 0, 0, _lines(config, 0, num_small), ())
    table = duplicates.assign(
        target=duplicates["label"].fillna("").astype(str),
        near=duplicates["kind"] == "near",
        test=duplicates["split"] == "test",
        labelled=duplicates["split"] != "test",
        validated=(duplicates["split"] == "train") & (duplicates["action"] != "drop"),
        dropped=duplicates["action"] == "drop",
        trained=duplicates["split"] == "train",
        conflict=duplicates["conflict"].astype(bool),
    )
    groups = table.groupby("group", sort=True)
    facts = groups[["near", "test", "labelled", "conflict"]].any().join(groups[["validated", "dropped", "trained"]].sum())
    title = pd.Series("near", index=facts.index).mask(~facts["near"], "exact")
    title = title.mask(facts["test"] & facts["labelled"], "across").mask(facts["conflict"], "conflict")
    totals = {kind: int((title == kind).sum()) for kind in KINDS}
    shown = {kind: tuple(_group(table, name) for name in title.index[title == kind][:MOST_GROUPS]) for kind in KINDS if totals[kind]}
    num_near, num_dropped = int(facts["near"].sum()), int(facts["dropped"].sum())
    findings = (*_conflict_findings(facts, config), *_leak_findings(facts, config, num_train))
    return Copies(shown, totals, len(facts) - num_near, num_near, num_dropped, _lines(config, num_dropped, num_small), findings)


def _group(table: pd.DataFrame, name: object) -> CopyGroup:
    members = table[table["group"] == name]
    labels = tuple(dict.fromkeys(members.loc[members["split"] != "test", "target"]))
    distance = int(pd.to_numeric(members["distance"], errors="coerce").fillna(0).max())
    return CopyGroup(str(name), "near" if (members["kind"] == "near").any() else "exact", distance, labels, _mixed(members), len(members))


def _mixed(members: pd.DataFrame) -> pd.DataFrame:
    """The first members with one of each split and label in front, so that what disagrees is seen."""
    repeated = members.duplicated(["split", "target"]).to_numpy()
    return pd.concat([members[~repeated], members[repeated]]).head(MOST_MEMBERS)


def keeps_together(config: Config) -> bool:
    """Whether the folds know of groups at all."""
    return "group" in config.folds.strategy


def _conflict_findings(facts: pd.DataFrame, config: Config) -> list[Finding]:
    exact, near = facts[facts["conflict"] & ~facts["near"]], facts[facts["conflict"] & facts["near"]]
    findings = []
    if len(exact):
        dropped = int(exact["dropped"].sum())
        drops = f"drops {several(dropped, 'row')} of them." if config.dedup.conflict == "drop" else "keeps them."
        text = f"{several(len(exact), 'group')} of identical pictures {'carries' if len(exact) == 1 else 'carry'} different labels; "
        findings.append(Finding("decide", text + f"`dedup.conflict: {config.dedup.conflict}` {drops}", "copies"))
    if len(near):
        text = f"{several(len(near), 'group')} of near copies {'carries' if len(near) == 1 else 'carry'} different labels: "
        findings.append(Finding("decide", text + "wrong labels, or pictures that only look alike.", "copies"))
    return findings


def _leak_findings(facts: pd.DataFrame, config: Config, num_train: int) -> list[Finding]:
    """Copies across train and test, and copies that may fall into different folds."""
    findings = []
    across = int((facts["test"] & facts["labelled"]).sum())
    if across:
        text = f"{several(across, 'group of copies has', 'groups of copies have')} members in both train and test. No row is dropped for it: "
        findings.append(Finding("note", text + "look up the competition's rules before you use what they tell.", "copies"))
    dedup = config.dedup
    policy = pd.Series(dedup.exact, index=facts.index).mask(facts["conflict"], dedup.conflict).mask(facts["near"], dedup.near)
    large = facts["near"] & (facts["trained"] > max(10, dedup.largest_group * num_train))
    loose = facts[(facts["validated"] > 1) & ((policy == "report") | large | (not keeps_together(config)))]
    if len(loose):
        why = "they are only listed" if keeps_together(config) else f"`folds.strategy: {config.folds.strategy}` knows no groups of copies"
        text = f"{several(len(loose), 'group')} of copies may fall into different folds, which flatters the CV: {why}."
        findings.append(Finding("decide", text, "copies"))
    return findings


def _lines(config: Config, dropped: int, num_small: int) -> tuple[str, ...]:
    dedup = config.dedup
    together = "in one fold" if keeps_together(config) else f"but not in one fold, since `folds.strategy: {config.folds.strategy}` knows no groups"
    exact = {"first": "keeps the first of each and drops the others", "together": f"keeps all, {together}", "report": "only lists them"}
    conflict = {"drop": "drops every row of such a group", "together": f"keeps all, {together}", "report": "only lists them"}
    near = {"together": f"keeps all, {together}", "report": "only lists them", "off": "does not look for them"}
    large = f"; a group of more than {percent(dedup.largest_group)} of the train rows (and more than ten) is only listed"
    share = large if dedup.near == "together" and keeps_together(config) else ""
    mirrored = "flipped and turned copies too" if dedup.mirrored else "not flipped or turned ones (`dedup.mirrored: false`)"
    small = f"{several(num_small, 'picture')} with a side under {SMALLEST_SIDE} px: compared by exact pixels alone, near copies are not looked for."
    return (
        *((small,) if num_small and dedup.near != "off" else ()),
        f"Same pixels, same label: `dedup.exact: {dedup.exact}` {exact[dedup.exact]}.",
        f"Same pixels, different labels: `dedup.conflict: {dedup.conflict}` {conflict[dedup.conflict]}.",
        f"Nearly the same: `dedup.near: {dedup.near}` {near[dedup.near]}{share}." + (f" Looked for: {mirrored}." if dedup.near != "off" else ""),
        f"In all, {several(dropped, 'labelled row is', 'labelled rows are')} dropped. Copies across train and test are only reported; no test row is dropped.",
    )
