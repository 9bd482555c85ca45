"""What experiments have left on disk, read with care: other programs and people may have written there, too."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.artifacts import Manifest
from pipeline.config_files import parse_yaml
from pipeline.errors import UserError
from pipeline.files import read_json

UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError)


class Skip(ValueError):
    """A folder that holds nothing to compare; the message is the reason."""


def why(error: Exception) -> str:
    """One of UNREADABLE in words."""
    return str(error) if isinstance(error, Skip) else f"is not as the program writes it ({type(error).__name__}: {error})"


def folders(parent: Path) -> list[Path]:
    """By name, without hidden ones; none where there is no parent."""
    return sorted(path for path in parent.glob("[!.]*") if path.is_dir())


def finished_manifest(folder: Path) -> Manifest:
    """Of a folder that a stage has finished; Skip for any other."""
    path = folder / "manifest.json"
    if (manifest := Manifest.read(path)) is None:
        raise Skip("manifest.json is damaged" if path.exists() else "is not finished")
    return manifest


def moment_of(manifest: Manifest) -> datetime:
    """When it was finished, on the clock of the machine that did it."""
    moment = datetime.fromisoformat(manifest.record["finished"])
    return moment if moment.tzinfo else moment.astimezone()


def read_settings(folder: Path) -> dict[str, Any]:
    """The sections of an experiment's saved config, also of one that is cut off or that an older program wrote; empty where there are none to read."""
    try:
        settings = parse_yaml((folder / "config.yaml").read_text(encoding="utf-8"), str(folder))
    except (OSError, ValueError, UserError):
        return {}
    return {name: section for name, section in settings.items() if isinstance(section, dict)} if isinstance(settings, dict) else {}


def trained_networks(folder: Path, skipped: list[str]) -> dict[str, Manifest]:
    """Manifests of trained networks, by the names that predictions know them by: seed_0_fold_1."""
    found = {}
    for path in sorted(folder.glob("seed_*/*/manifest.json")):
        try:
            manifest = finished_manifest(path.parent)
            _ = moment_of(manifest), float(manifest.record["seconds"]), int(manifest.record["parameters"]), manifest.inputs["folds"]
            found[f"{path.parent.parent.name}_{path.parent.name}"] = manifest
        except UNREADABLE as error:
            skipped.append(f"{path.parent}: {why(error)}; it does not count as trained")
    return found


def count_folds(settings: Mapping[str, Any]) -> int | None:
    """Folds of the config; None where it does not say."""
    splits = settings.get("folds", {}).get("n_splits")
    return splits if isinstance(splits, int) else None


def count_planned(settings: Mapping[str, Any], networks: Mapping[str, Manifest]) -> int | None:
    """Networks of every seed that the config names or that is there; None where no config says how many."""
    splits, named = count_folds(settings), settings.get("train", {}).get("seeds")
    if splits is None or not isinstance(named, list):
        return None
    return len({*map(str, named), *(name.split("_")[1] for name in networks)}) * (splits + bool(settings["train"].get("full_data")))


def finished_predictions(parent: Path, skipped: list[str]) -> list[tuple[Path, Manifest]]:
    """The folders that are finished, newest first."""
    found = []
    for folder in folders(parent):
        if (folder / "manifest.json").exists():
            try:
                manifest = finished_manifest(folder)
                found.append((moment_of(manifest), folder, manifest))
            except UNREADABLE as error:
                skipped.append(f"{folder}: {why(error)}")
    return [(folder, manifest) for _, folder, manifest in sorted(found, key=lambda one: one[:2], reverse=True)]


def views_of(folder: Path, manifest: Manifest) -> tuple[str, ...]:
    """Those that predict, which an older program has in views.json where it chose them."""
    if "views" in manifest.record:
        return tuple(map(str, manifest.record["views"]))
    table = folder / "views.json"
    return tuple(map(str, read_json(table)["chosen"] if table.exists() else manifest.settings.get("views") or ()))
