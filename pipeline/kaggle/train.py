"""Training in a kernel: its dataset holds configs and weights, a session that runs out of time is carried on by the next.

What is trained lies below /kaggle/working/outputs, which Kaggle keeps as the notebook's output. The cache of decoded pictures, which is large
and can be made again, is kept elsewhere.
"""

import contextlib
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tqdm.auto import tqdm

from pipeline.artifacts import Workspace
from pipeline.config import Competition, Config
from pipeline.config_files import load_config
from pipeline.data.paths import fixed_folder
from pipeline.errors import RunFailed, UserError
from pipeline.files import read_json
from pipeline.kaggle.mounts import folders_below, mounted, require_unpacked
from pipeline.kaggle.notebook import as_slug
from pipeline.runtime import stop_after

log = logging.getLogger(__name__)
MARKER = "training.json"
HOURS = 11.5
"""Of the twelve that Kaggle gives a session, which also has to be started and saved."""


# ---------------------------------------------------------------- the configs


def read_competition(bundle: Path) -> Competition:
    """The section by which the competition's files are recognised."""
    return load_config(bundle / read_json(bundle / MARKER)["configs"][0]).competition


def read_configs(bundle: Path, competition: Path, inputs: Path, outputs: Path) -> list[Config]:
    """The configs with this machine's paths. UserError where a further table's folder is not among the inputs, or something is zipped."""
    configs: list[Config] = []
    places: dict[tuple[str, str], Path] = {}
    for name in read_json(bundle / MARKER)["configs"]:
        config = load_config(bundle / name)
        for one in config.competition.extra_train:
            if one.root is not None and (one.root.name, one.table) not in places:
                places[one.root.name, one.table] = _folder_named(one.root.name, one.table, inputs, competition)
        extra = tuple(one if one.root is None else one.model_copy(update={"root": places[one.root.name, one.table]}) for one in config.competition.extra_train)
        weights = None if config.model.weights is None else str(bundle / config.model.weights)
        changed = {
            "outputs": outputs,
            "competition": config.competition.model_copy(update={"root": competition, "extra_train": extra}),
            "model": config.model.model_copy(update={"weights": weights}),
        }
        configs.append(config.model_copy(update=changed))
        require_unpacked(configs[-1].competition)
    return configs


def _folder_named(name: str, table: str, inputs: Path, competition: Path) -> Path:
    """The folder that holds a table, and is named as it was where the kernel was written, or as Kaggle writes such a name."""
    held = fixed_folder(table) if "{" in table else table
    found = [folder for folder in folders_below(inputs, competition) if as_slug(folder.name) == as_slug(name) and (folder / held).exists()]
    if not found:
        raise UserError(f"competition.extra_train: no folder {name} with {held} among the inputs; add the dataset that holds it: {mounted(inputs)}")
    if len(found) > 1:
        raise UserError(f"competition.extra_train: {', '.join(map(str, found))} each hold {held}; attach one of them alone")
    return found[0]


# ---------------------------------------------------------------- a session


@dataclass(frozen=True)
class Session:
    """How far a session came; printed, it says how to go on."""

    submission: Path | None
    """None: not everything is trained yet."""
    networks: int
    """Trained so far."""
    reason: str
    """Why there is no submission; empty if there is one."""

    def __str__(self) -> str:
        if self.submission is not None:
            return f"done: {self.networks} networks are trained, the submission is {self.submission}"
        return (
            f"{'!' * 100}\nNOT DONE: {self.reason}; {self.networks} networks are trained, and everything is saved.\n{'!' * 100}\n"
            "To go on: Save Version (Save & Run All); when it has ended, Add Input -> Your Work -> this notebook's output, and Save Version again."
        )


def train(
    bundle: Path, competition: Path, working: Path, run: Callable[[list[Config]], None], hours: float = HOURS, inputs: Path = Path("/kaggle/input")
) -> Session:
    """Runs every stage of the bundle's configs with outputs in `working`, and stops in time with everything saved.

    run: what is done with the configs, to be carried on by the same call; inputs: where an earlier session's output may be. What fails is said in
    the session's reason, so that Kaggle keeps what was learned; a UserError or OSError is raised where nothing was.
    """
    outputs = working / "outputs"
    configs = read_configs(bundle, competition, inputs, outputs)
    work = Workspace(outputs / configs[0].competition.name)
    take_over(inputs, work.root, competition)
    submission, reason = working / "submission.csv", ""
    with _elsewhere(work.cache("")), stop_after(hours * 3600, "train     the time is up: what runs is saved") as alarm:
        try:
            run(configs)
            shutil.copyfile(work.submission, submission)
        except RunFailed as failure:
            reason = str(failure)
        except (UserError, OSError) as error:
            if not _something_to_keep(work.root):
                raise
            reason = " ".join(str(error).split())
            log.error("train     %s", reason, exc_info=isinstance(error, OSError))
    if alarm.rang:
        reason = f"the session's {hours:g} hours are over"
    return Session(None if reason else submission, _trained(work.root), reason)


def _something_to_keep(root: Path) -> bool:
    """Whether anything was learned, which Kaggle only keeps of a notebook that ends well."""
    return any(any(root.glob(f"experiments/*/seed_*/*/{name}")) for name in ("manifest.json", "last.pt"))


def _trained(root: Path) -> int:
    return len(list(root.glob("experiments/*/seed_*/*/manifest.json")))


def take_over(inputs: Path, root: Path, competition: Path) -> None:
    """Copies what an earlier session has left among the inputs to `root`, unless something is there; of several the one with most networks.

    competition: its folder, in which nothing is looked for.
    """
    if root.exists():
        return
    earlier = [folder for folder in folders_below(inputs, competition) if folder.name == root.name and (folder / "experiments").is_dir()]
    if not earlier:
        log.info("train     no earlier session among the inputs")
        return
    source = max(earlier, key=lambda folder: (_trained(folder), len(list(folder.glob("experiments/*/seed_*/*/last.pt")))))
    started = root.with_name(f".{root.name}.copy")
    shutil.rmtree(started, ignore_errors=True)
    files = [file for file in source.rglob("*") if file.is_file() and _is_wanted(file, source)]
    for file in tqdm(files, desc="earlier session", unit="file", leave=False, delay=2, disable=None):
        copy = started / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)  # without its mode: inputs are read-only
    started.rename(root)
    log.info("train     %d networks of an earlier session taken over from %s", _trained(root), source)


def _is_wanted(file: Path, source: Path) -> bool:
    """Whether a later session needs it: what a network that is trained might have gone back to is as large as the network itself."""
    if file.name == "previous.pt" and (file.parent / "manifest.json").exists():
        return False
    return not file.name.startswith(".") and file.relative_to(source).parts[0] != "cache"


@contextlib.contextmanager
def _elsewhere(folder: Path) -> Iterator[None]:
    """Inside, `folder` is a link to a place that Kaggle does not keep; what lies there afterwards is gone."""
    if folder.is_symlink():  # of a session that was killed
        folder.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        folder.symlink_to(place)
        try:
            yield
        finally:
            folder.unlink()
