"""What a study ends in: the tuned config, what it gained on a split that the search never saw, the best trials as configs to blend."""

import errno
import glob
import logging
import re
import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.artifacts import trial_name
from pipeline.config_files import change_config, value_at, write_config, write_difference
from pipeline.files import read_json, write_json, write_table, write_text
from pipeline.stages.full_length import Searched, best_in_full, compare_both
from pipeline.stages.prepare import workspace
from pipeline.stages.trial import differing, forget, mark_tuned
from pipeline.training.metrics import METRICS
from pipeline.tuning.trials import TrialRow

log = logging.getLogger(__name__)
FLATTERS = "optimistic: chosen on these folds"


def conclude(searched: Searched, path: Path) -> dict[str, Any]:
    """Writes the tuned config, beside the file of the config, the comparisons, the best trials' configs and the table; returns what result.json says.

    A comparison that fails is a note; the configs are written before.
    """
    config, best = searched.config, searched.best
    folder = workspace(config).study(config.experiment)
    write_table(folder / "trials.csv", _table(searched))
    notes: list[str] = []
    first = best[0] if searched.whole_trials else best_in_full(searched, notes)
    result: dict[str, Any] = {
        "study": config.experiment,
        "metric": config.competition.metric,
        "best": {"trial": first.number, "value": first.values[0], "changes": _changed(searched, first)},
        "search": None,
        "unseen": None,
        "unseen_seed": None,
        "top": _write_top(searched, folder),
        "saved": saved(searched),
        "notes": notes,
        "tuned_config": None,
        "ensemble_command": f"python scripts/submit.py {shlex.quote(str(folder / 'top'))}/*.yaml",
    }
    if result["best"]["changes"]:
        _write_tuned(searched, first, path, result, folder)
        compare_both(searched, first, result)
        result["tuned_config"] = str(_write_tuned(searched, first, path, result, folder))
    else:
        result["notes"].append("no trial is better than the config as it is, so that no tuned config is written")
        _withdraw(path.with_name(f"{config.experiment}-tuned.yaml"), folder / "tuned.json", result["notes"])
    if config.predict.max_hours is not None:
        result["notes"].append("predict.max_hours is left out of every score here")
    forget_former(searched, result)
    write_json(folder / "result.json", result)
    return result


def _changed(searched: Searched, row: TrialRow) -> dict[str, list[Any]]:
    """What a trial changed, by key: the config's own value and the trial's, as both are resolved."""
    tuned = searched.whole(row)
    pairs = {key: [value_at(searched.config, key), value_at(tuned, key)] for key in searched.changes(row)}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


def forget_former(searched: Searched, result: dict[str, Any]) -> None:
    """Deletes the networks of comparisons that are the best's no more, unless somebody has predicted with them."""
    config, work = searched.config, workspace(searched.config)
    needed = {0, result["best"]["trial"], *(entry["trial"] for entry in result["top"])}
    for folder in work.experiment("").glob(f"{glob.escape(config.experiment)}-trial-*-*"):
        found = re.fullmatch(re.escape(config.experiment) + r"-trial-(\d+)-(whole|seed-?\d+)", folder.name)
        if found and int(found[1]) not in needed and not any(folder.glob("predictions/*/manifest.json")):
            forget(config, folder.name)


# ---------------------------------------------------------------- what pruning saved


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
    top, found = differing(searched.best, searched.space)[: searched.config.tune.top], []
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
    """The tuned config beside the one that was given; in the study's folder where that cannot be, or where somebody has changed what stood there."""
    config, name = searched.config, f"{searched.config.experiment}-tuned"
    tuned = change_config(config, searched.changes(best), f"trial {best.number}").model_copy(update={"experiment": name})
    tuned = mark_tuned(tuned, config.experiment, best.number, searched.finished)
    head = "".join(f"# {line}\n" for line in _head(name, result, searched))
    path, written, text = base.with_name(f"{name}.yaml"), folder / "tuned.json", head + write_difference(tuned, base)
    known = read_json(written).get("text") if written.exists() else None
    try:
        if path.exists() and path.read_text(encoding="utf-8") not in (text, known):
            raise PermissionError("it was not written by this study, or was changed since, and stays")
        write_text(path, text)
    except OSError as error:
        if error.errno not in (None, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        log.warning("tune      %s: %s; the tuned config is in %s", path, error.strerror or error, folder)
        path = folder / f"{name}.yaml"
        write_text(path, head + write_config(tuned))
    write_json(written, {"path": str(path), "text": text})
    return path


def _withdraw(path: Path, written: Path, notes: list[str]) -> None:
    """Deletes the tuned config that the same study wrote when it was better of a trial; one that somebody changed is named."""
    if not path.exists():
        return
    if written.exists() and path.read_text(encoding="utf-8") == read_json(written).get("text"):
        path.unlink()
    else:
        notes.append(f"{path} is of an earlier study")


def _head(name: str, result: dict[str, Any], searched: Searched) -> list[str]:
    best, metric = result["best"], result["metric"]
    lines = [f"{name}: trial {best['trial']} of the {searched.finished} of study {result['study']}, which scored {metric} {best['value']:.4f} - {FLATTERS}"]
    if (search := result["search"]) is not None:
        lines.append(f"on the folds of the search {gain_in_words(search)} - {FLATTERS}")
    if (unseen := result["unseen"]) is not None:
        lines.append(f"on split seed {result['unseen_seed']}, which the search never saw, {gain_in_words(unseen)}")
    return lines


def gain_in_words(comparison: dict[str, Any]) -> str:
    """A comparison in words: CV accuracy 0.9965 -> 0.9972 (+0.0007 [-0.0014, 0.0028])."""
    base, tuned, (low, high) = comparison["base"], comparison["tuned"], comparison["interval"]
    less = ", less is better" if METRICS[base["metric"]].sign < 0 else ""
    return f"CV {base['metric']} {base['cv']:.4f} -> {tuned['cv']:.4f} ({comparison['difference']:+.4f} [{low:+.4f}, {high:+.4f}]{less})"


def lines(result: dict[str, Any]) -> list[str]:
    """The end of a study, as a terminal shows it."""
    counts, best, metric = result["counts"], result["best"], result["metric"]
    pruning = result["saved"]
    saving = f"; pruning saved about {pruning['seconds']:.0f} s of training" if pruning else ""
    found = [f"trials      {', '.join(f'{count} {state}' for state, count in sorted(counts.items()))}{saving}"]
    flatters = f" - {FLATTERS}" if best["trial"] else ""
    found.append(f"best        trial {best['trial']}, {metric} {best['value']:.4f}{flatters}: {_changes_in_words(best['changes'])}")
    if (search := result["search"]) is not None:
        found.append(f"search      {gain_in_words(search)} - {FLATTERS}")
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


def _table(searched: Searched) -> pd.DataFrame:
    """One row per trial: its state, objectives, seconds, reason, experiment, and a column for each dimension."""
    rows, ranges = searched.rows, searched.space.changes
    names = sorted({name for row in rows for name in row.parameters})
    lines = []
    for row in rows:
        shown = {name: value if isinstance(value, str) else ranges({name: value})[name] for name, value in row.parameters.items()}
        line: dict[str, Any] = {"trial": row.number, "state": row.state, "value": row.values[0] if row.values else None}
        line |= {"training_seconds": row.record.get("training_seconds"), "seconds": row.seconds, "experiment": row.record.get("experiment", "")}
        lines.append(line | {"reason": row.reason} | {name: shown.get(name) for name in names})
    return pd.DataFrame(lines)
