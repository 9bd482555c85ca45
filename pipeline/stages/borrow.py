"""A network that another experiment has trained with the same settings is taken over instead of trained again."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.artifacts import Manifest, Stage, finished
from pipeline.files import atomic

TAKEN = ("last.pt", "history.csv")


def borrow(folder: Path, stage: Stage, metric: str, optimistic: Sequence[str]) -> str | None:
    """Puts into a network's folder what an experiment beside it has there, if that is this stage's; returns that experiment's name.

    Files are linked where the disk allows it, so that they take no room twice; whoever trains one of the two again leaves the other as
    it is. None where there is none that was scored by the same metric, or where it went away meanwhile. The caller holds the folder's lock.
    optimistic: why the borrower's score flatters, which the other's may not.
    """
    own = folder.parents[1]
    for path in sorted(own.parent.glob(f"*/{folder.parent.name}/{folder.name}/manifest.json")):
        manifest = finished(stage, path) if path.parent != folder else None
        if manifest is None or manifest.record.get("metric") != metric:
            continue
        own_record = {**manifest.record, "optimistic": list(optimistic), "taken_from": path.parents[2].name}
        if _take(path.parent, folder, replace(manifest, record=own_record)):
            return path.parents[2].name
    return None


def _take(source: Path, folder: Path, manifest: Manifest) -> bool:
    try:
        for name in TAKEN:
            with atomic(folder / name) as temporary:
                _link(source / name, temporary)
        shutil.rmtree(folder / "tensorboard", ignore_errors=True)
        if (source / "tensorboard").exists():
            shutil.copytree(source / "tensorboard", folder / "tensorboard")
    except FileNotFoundError:
        return False
    manifest.write(folder / "manifest.json")
    return True


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or one without links
        shutil.copyfile(source, target)
