"""What a study ends in: the tuned config, what it gained on a split that the search never saw, the best trials as configs to blend."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artifacts import trial_name
from pipeline.config import Config, Tune
from pipeline.config_files import change_config, value_at, write_config, write_difference
from pipeline.ensembling.scores import describe
from pipeline.files import read_json, write_json, write_table, write_text
from pipeline.stages.judge import Judged, compare, judge
from pipeline.stages.networks import Trained
from pipeline.stages.prepare import prepare, workspace
from pipeline.stages.teach import teach
from pipeline.stages.train import fold_tasks, train_networks
from pipeline.stages.trial import make_way, mark_tuned, quiet
from pipeline.training.metrics import METRICS
from pipeline.tuning.space import Space
from pipeline.tuning.trials import TrialRow, ranked

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Searched:
    """A study whose trials are done; config: as it was given, with epochs of its own; folds: that a trial trained."""

    config: Config
    space: Space
    rows: Sequence[TrialRow]
    folds: int
    pruner: str

    @property
    def best(self) -> list[TrialRow]:
        """The complete trials, the best first."""
        return ranked(self.rows, METRICS[self.config.competition.metric].sign)

    @property
    def finished(self) -> int:
        """Trials that count."""
        return sum(row.finished for row in self.rows)

    def changes(self, row: TrialRow) -> dict[str, Any]:
        """What a trial changed of the config, by key; nothing for the config itself."""
        return {} if row.number == 0 else self.space.changes(row.parameters)

    def whole(self, row: TrialRow, suffix: str = "whole") -> Config:
        """A trial's settings with the config's own epochs and all folds, as an experiment of its own."""
        config = change_config(self.config, self.changes(row), f"trial {row.number}")
        name = trial_name(self.config.experiment, row.number, f"-{suffix}")
        config = config.model_copy(update={"experiment": name, "tune": Tune()})
        return mark_tuned(config, self.config.experiment, row.number, self.finished) if row.number else config


def conclude(searched: Searched, path: Path) -> dict[str, Any]:
    """Writes the tuned config, beside the file of the config, the comparisons, the best trials' configs and the table; returns what result.json says."""
    config, best = searched.config, searched.best
    folder = workspace(config).study(config.experiment)
    write_table(folder / "trials.csv", _table(searched.rows))
    first = best[0]
    notes: list[str] = []
    changed = {key: [value_at(config, key), value] for key, value in searched.changes(first).items() if value_at(config, key) != value}
    search, unseen, seed = None, None, None
    if changed:
        base = next((row for row in searched.rows if row.number == 0), first)
        search = _compare(searched, base, first, "whole")
        seed = _unseen_seed(config, notes)
        unseen = _compare(searched, base, first, f"seed{seed}", seed) if seed is not None else None
    else:
        notes.append("no trial is better than the config as it is, so that no tuned config is written")
    result: dict[str, Any] = {
        "study": config.experiment,
        "metric": config.competition.metric,
        "best": {"trial": first.number, "value": first.values[0], "changes": changed},
        "search": search,
        "unseen": unseen,
        "unseen_seed": seed,
        "top": _write_top(searched, folder),
        "saved": saved(searched),
        "notes": notes,
    }
    result["tuned_config"] = str(_write_tuned(searched, first, path, result, folder)) if changed else None
    result["ensemble_command"] = f"python scripts/submit.py {folder / 'top'}/*.yaml"
    write_json(folder / "result.json", result)
    return result


# ---------------------------------------------------------------- what it gained


def _unseen_seed(config: Config, notes: list[str]) -> int | None:
    """The seed of the second split; None where there is none, with a note that says why."""
    if config.tune.unseen_seed is None:
        notes.append("tune.unseen_seed is null: the gain is of the folds that the search chose on")
    elif config.folds.strategy == "column":
        notes.append("folds.strategy is column: there is no second split, and the gain is of the folds that the search chose on")
    elif config.teacher is not None:
        notes.append("a student's folds are its teacher's: there is no second split, and the gain is of the folds that the search chose on")
    else:
        return config.folds.seed + 1 if config.tune.unseen_seed == -1 else config.tune.unseen_seed
    return None


def _compare(searched: Searched, base: TrialRow, best: TrialRow, suffix: str, seed: int | None = None) -> dict[str, Any]:
    """The config and its tuned self, each trained on all folds of one split."""
    split = "the folds of the search" if seed is None else f"split seed {seed}"
    log.info("tune      the config and its tuned self on %s", split)
    section = searched.config.ensemble
    first, second = (_judged(searched.whole(row, suffix), seed) for row in (base, best))
    return compare(first, second, section.draws, section.seed)


def _judged(config: Config, seed: int | None) -> Judged:
    """The CV of an experiment, which is trained where it is not yet."""
    if seed is not None:
        config = config.model_copy(update={"folds": config.folds.model_copy(update={"seed": seed})})
    with quiet():
        prepared = teach(config, prepare(config))
        tasks = fold_tasks(config)
        make_way(tasks, prepared)
        train_networks(tasks, prepared)
        found = judge(Trained(config, prepared, tasks))
    log.info("tune      %s: CV %s", config.experiment, describe(found.score))
    return found


def saved(searched: Searched) -> dict[str, Any] | None:
    """Training that pruning did without: folds that pruned trials did not train, and the seconds that complete trials took for as many.

    None where no trial was pruned. Of a fold that was ended between two epochs the rest counts, too.
    """
    pruned = [row for row in searched.rows if row.state == "pruned"]
    times = [float(row.record["training_seconds"]) for row in searched.rows if row.state == "complete" and "training_seconds" in row.record]
    if not pruned or not times:
        return None
    epochs = searched.space.base.train.epochs
    folds = sum(searched.folds - int(row.record.get("folds_trained", 0)) for row in pruned)
    begun = [len(row.steps) for row in pruned] if searched.pruner == "epochs" else []
    folds, rest = folds - len(begun), sum(epochs - done for done in begun)
    seconds = sum(times) / len(times) / searched.folds * (folds + rest / epochs)
    return {"folds": folds, "epochs": rest, "seconds": round(seconds, 1)}


# ---------------------------------------------------------------- configs


def _write_top(searched: Searched, folder: Path) -> list[dict[str, Any]]:
    """The best trials as configs; they blend as the best one's config says, since an ensemble has one way to."""
    top, found = searched.best[: searched.config.tune.top], []
    for old in (folder / "top").glob("*.yaml"):
        old.unlink()
    section = searched.whole(top[0]).ensemble
    for place, row in enumerate(top, start=1):
        config = searched.whole(row).model_copy(update={"ensemble": section})
        path = folder / "top" / f"{place:02d}-{trial_name(searched.config.experiment, row.number)}.yaml"
        write_text(path, write_config(config))
        found.append({"trial": row.number, "value": row.values[0], "config": str(path)})
    return found


def _write_tuned(searched: Searched, best: TrialRow, base: Path, result: dict[str, Any], folder: Path) -> Path:
    """The tuned config beside the one that was given; in the study's folder if somebody has changed what stood there."""
    config, name = searched.config, f"{searched.config.experiment}-tuned"
    tuned = change_config(config, searched.changes(best), f"trial {best.number}").model_copy(update={"experiment": name})
    tuned = mark_tuned(tuned, config.experiment, best.number, searched.finished)
    text = "".join(f"# {line}\n" for line in _head(name, result, searched)) + write_difference(tuned, base)
    path, written = base.with_name(f"{name}.yaml"), folder / "tuned.json"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        known = read_json(written).get("text") if written.exists() else None
        if path.read_text(encoding="utf-8") != known:
            log.warning("tune      %s was not written by this study or was changed since, and stays; the tuned config is in %s", path, folder)
            path = folder / f"{name}.yaml"
            text = "".join(f"# {line}\n" for line in _head(name, result, searched)) + write_config(tuned)
    write_text(path, text)
    write_json(written, {"path": str(path), "text": text})
    return path


def _head(name: str, result: dict[str, Any], searched: Searched) -> list[str]:
    best, metric = result["best"], result["metric"]
    lines = [f"{name}: trial {best['trial']} of the {searched.finished} of study {result['study']}, which scored {metric} {best['value']:.4f}"]
    if (search := result["search"]) is not None:
        lines.append(f"on the folds of the search {gain_in_words(search)} - optimistic: chosen on these folds")
    if (unseen := result["unseen"]) is not None:
        lines.append(f"on split seed {result['unseen_seed']}, which the search never saw, {gain_in_words(unseen)}")
    return lines


def gain_in_words(comparison: dict[str, Any]) -> str:
    """A comparison in words: CV accuracy 0.9965 -> 0.9972 (+0.0007 [-0.0014, 0.0028])."""
    base, tuned, (low, high) = comparison["base"], comparison["tuned"], comparison["interval"]
    return f"CV {base['metric']} {base['cv']:.4f} -> {tuned['cv']:.4f} ({comparison['difference']:+.4f} [{low:+.4f}, {high:+.4f}])"


def lines(result: dict[str, Any]) -> list[str]:
    """The end of a study, as a terminal shows it."""
    counts, best, metric = result["counts"], result["best"], result["metric"]
    pruning = result["saved"]
    saving = f"; pruning saved about {pruning['seconds']:.0f} s of training" if pruning else ""
    found = [f"trials      {', '.join(f'{count} {state}' for state, count in sorted(counts.items()))}{saving}"]
    found.append(f"best        trial {best['trial']}, {metric} {best['value']:.4f}: {_changes_in_words(best['changes'])}")
    if (search := result["search"]) is not None:
        found.append(f"search      {gain_in_words(search)} - optimistic: chosen on these folds")
    if (unseen := result["unseen"]) is not None:
        spread = f"folds {', '.join(f'{fold:+.4f}' for fold in unseen['folds'])}"
        found.append(f"unseen      {gain_in_words(unseen)}, {spread}, on split seed {result['unseen_seed']}, which the search never saw")
    found += [f"note        {note}" for note in result["notes"]]
    if result["tuned_config"]:
        found.append(f"config      {result['tuned_config']}")
    return [*found, f"report      {result['page']}", f"ensemble    {result['ensemble_command']}"]


def _changes_in_words(changes: dict[str, Any]) -> str:
    """What a trial changed."""
    found = []
    for key, (before, after) in changes.items():
        old, new = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in (before, after))
        found.append(f"{key} {old} -> {new}" if len(old) + len(new) < 60 else f"{key} changed")
    return ", ".join(found) or "the config as it is"


def _table(rows: Sequence[TrialRow]) -> pd.DataFrame:
    """One row per trial: its state, objectives, seconds, reason, experiment, and a column for each dimension."""
    names = sorted({name for row in rows for name in row.parameters})
    lines = []
    for row in rows:
        line: dict[str, Any] = {"trial": row.number, "state": row.state, "value": row.values[0] if row.values else None}
        line |= {"training_seconds": row.record.get("training_seconds"), "seconds": row.seconds, "experiment": row.record.get("experiment", "")}
        lines.append(line | {"reason": row.reason} | {name: row.parameters.get(name) for name in names})
    return pd.DataFrame(lines)
