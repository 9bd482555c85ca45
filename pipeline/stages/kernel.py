"""The kernel: a dataset and a notebook that predict, or train, on Kaggle without internet."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config import Config
from pipeline.config_files import write_config
from pipeline.errors import UserError
from pipeline.files import lock, read_json, write_json, write_text
from pipeline.kaggle.bundle import read_bundle
from pipeline.kaggle.notebook import (
    CODE,
    MARKERS,
    Cell,
    Kind,
    as_slug,
    checked_slug,
    dataset_metadata,
    kernel_metadata,
    notebook,
    predicting_cells,
    slug_for,
    training_cells,
)
from pipeline.kaggle.package import copy_weights, write_package
from pipeline.kaggle.push import DATASET, KERNEL, push
from pipeline.kaggle.train import HOURS
from pipeline.stages.bundle import portable, require_one_test_set
from pipeline.stages.prepare import workspace
from pipeline.stages.upload import slug_of

if TYPE_CHECKING:
    from pipeline.stages.predicted import Predicted

log = logging.getLogger(__name__)
LONGEST_SESSION = 12  # hours
WRITTEN = "written.json"
"""Lists the files of the dataset, beside it."""


@dataclass(frozen=True)
class Kernel:
    """What is written."""

    folder: Path

    @property
    def dataset(self) -> Path:
        """The folder for a dataset on Kaggle: flat."""
        return self.folder / "dataset"

    @property
    def notebook(self) -> Path:
        """The folder with the notebook and what Kaggle is told of it."""
        return self.folder / "notebook"


def write_kernel(experiments: "Sequence[Predicted]", ensemble: Path, name: str | None = None) -> Kernel:
    """The kernel that predicts as a finished ensemble does, in kernel/; name: of its dataset and notebook on Kaggle."""
    from pipeline.stages.bundle import write_bundle

    config = experiments[0].config
    kernel = Kernel(workspace(config).kernel)

    def fill() -> set[str]:
        marker = write_bundle(experiments, ensemble, kernel.dataset)
        return {marker.name, *read_bundle(kernel.dataset).files}

    return _write(kernel, config, "predict", name, predicting_cells(config.competition.name, slug_of(config)), fill)


def write_training_kernel(configs: Sequence[Config], name: str | None = None, hours: float = HOURS) -> Kernel:
    """The kernel that trains configs and ends in a submission, in training_kernel/; hours: that a session may take."""
    if not 0 < hours <= LONGEST_SESSION:
        raise UserError(f"--hours: write the hours of a session, above 0 and at most {LONGEST_SESSION}, after which Kaggle ends it, but got {hours:g}")
    require_ready(configs, training=True)
    config = configs[0]
    kernel = Kernel(workspace(config).training_kernel)
    cells = training_cells(config.competition.name, slug_of(config), hours)
    return _write(kernel, config, "train", name, cells, lambda: _write_configs(configs, kernel.dataset))


def require_ready(configs: Sequence[Config], training: bool = False) -> None:
    """UserError where no kernel can come of these configs, which is better known before they are trained."""
    for config in configs:
        if config.competition.test_table is None and config.competition.sample_submission is None:
            raise UserError(f"{config.experiment}: competition.test_table: a kernel predicts test rows, but neither this nor sample_submission is there")
    if not training:
        require_one_test_set(configs)
        return
    names = {config.experiment for config in configs}
    for config in configs:
        if config.teacher is not None and config.teacher.experiment not in names:
            raise UserError(f"{config.experiment}: its teacher {config.teacher.experiment} is not there on Kaggle; name the teacher's config, too")
        if config.competition.root.resolve() != configs[0].competition.root.resolve():
            raise UserError(f"competition.root: {configs[0].experiment} and {config.experiment} differ, but a notebook trains on one competition's files")
    _require_names([one.root.resolve() for config in configs for one in config.competition.extra_train if one.root is not None])


def _require_names(roots: Sequence[Path]) -> None:
    """UserError where the folders of further tables cannot be told apart by their names."""
    known: dict[str, Path] = {}
    for root in roots:
        other = known.setdefault(as_slug(root.name), root)
        if other != root:
            raise UserError(f"competition.extra_train: {other} and {root} have one name, by which they are found on Kaggle; rename one")


def _write(kernel: Kernel, config: Config, kind: Kind, name: str | None, cells: Sequence[Cell], fill: Callable[[], set[str]]) -> Kernel:
    """Writes both folders; fill: writes what is the dataset's own, and returns its files. What an earlier kernel left there is deleted."""
    slug = slug_for(slug_of(config), kind) if name is None else checked_slug(name)
    if slug == slug_of(config):
        raise UserError(f"--name: {slug} is the competition's own name, beside which the dataset would be mounted; write another")
    kernel.dataset.mkdir(parents=True, exist_ok=True)
    with lock(kernel.folder / ".kernel.lock", wait=f"kernel: waiting for another process in {kernel.folder}"):
        files = fill() | {write_package(kernel.dataset).name, DATASET}
        write_json(kernel.dataset / DATASET, dataset_metadata(slug))
        _clear(kernel, files)
        write_json(kernel.notebook / KERNEL, kernel_metadata(slug, slug_of(config)))
        write_json(kernel.notebook / CODE, notebook(cells))
    size = sum(path.stat().st_size for path in kernel.dataset.iterdir())
    log.info("kernel    a dataset of %.1f MB and its notebook -> %s", size / 1e6, kernel.folder)
    return kernel


def _clear(kernel: Kernel, files: set[str]) -> None:
    """Deletes what an earlier kernel wrote, or it would be uploaded with the rest. UserError for what somebody else put there."""
    written = set(read_json(kernel.folder / WRITTEN)) if (kernel.folder / WRITTEN).exists() else set()
    for path in sorted(kernel.dataset.iterdir()):
        if path.name in files:
            continue
        if path.name not in written or not path.is_file():
            raise UserError(f"{path} is no part of the kernel, and would be uploaded with it; move it elsewhere")
        path.unlink()
    write_json(kernel.folder / WRITTEN, sorted(files))


def _write_configs(configs: Sequence[Config], folder: Path) -> set[str]:
    """training.json, the configs as they are to be read in the kernel, and the weights that they start from, flat in `folder`.

    A further table of pictures is looked for among the inputs, by its folder's name: see `require_ready`.
    """
    files: list[str] = []
    weights: set[str] = set()
    for config in configs:
        carried, own = portable(config), copy_weights(config.model, folder)
        extra = tuple(one if one.root is None else one.model_copy(update={"root": Path(one.root.resolve().name)}) for one in config.competition.extra_train)
        changes = {
            "competition": carried.competition.model_copy(update={"extra_train": extra}),
            "model": carried.model.model_copy(update={"weights": own}),
            "runtime": carried.runtime.model_copy(update={"device": "auto"}),
        }
        files.append(f"{config.experiment}.yaml")
        write_text(folder / files[-1], write_config(carried.model_copy(update=changes)))
        weights |= {own} if own else set()
    write_json(folder / MARKERS["train"], {"configs": files})
    return {MARKERS["train"], *files, *weights}


def send(kernel: Kernel) -> list[str]:
    """Uploads it, and has Kaggle run the notebook; the lines to print."""
    try:
        pushed = push(kernel.dataset, kernel.notebook)
    except UserError as error:
        raise UserError(f"push: {error} ({kernel.folder} is kept)") from None
    return [f"dataset     https://www.kaggle.com/datasets/{pushed.dataset}", f"notebook    {pushed.kernel}"]


def describe(kernel: Kernel) -> list[str]:
    """The lines at the end, where nothing is pushed."""
    return [f"kernel      {kernel.folder}", "next        the same command with --push; or upload dataset/ and import notebook/notebook.ipynb by hand"]
