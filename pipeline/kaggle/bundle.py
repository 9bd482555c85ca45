"""The bundle: everything that was learned, as flat files that predict any test set of the competition without the train rows.

`bundle.json` says how the networks predict, are weighed and decide; beside it lie one config per experiment and one file of weights per
network. Nothing in it leads back to the machine that wrote it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config_data import Competition
from pipeline.data.targets import Target
from pipeline.ensembling.schemes import Blend
from pipeline.errors import UserError
from pipeline.files import digest_file, read_json
from pipeline.runtime import cores, ordered_map
from pipeline.submission.formats import Form

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.training.outputs import Outputs

FORMAT = 1
MARKER = "bundle.json"
NOWHERE = Path("input")  # the folder that a section has until the competition's own is known


@dataclass(frozen=True)
class Regressed:
    """What the number means that a network of a regression gives: see `Outputs`."""

    mean: float
    std: float
    lowest: float
    highest: float
    logarithm: bool


@dataclass(frozen=True)
class BundledNetwork:
    """One network that predicts, in the order in which they are averaged."""

    name: str
    """Of its experiment's networks, in words."""
    file: str
    weight: float
    """Within its experiment, whose networks' weights sum to 1."""
    temperature: float
    shares: tuple[float, ...]
    """What it says of a picture that cannot be read [outputs]."""
    score: float | None
    """The metric on the rows that it did not see; None where there are none, or it is not defined."""
    parameters: int
    """Numbers in it."""
    regressed: Regressed | None = None

    def outputs(self, task: Any) -> "Outputs":
        """What its logits mean."""
        from pipeline.training.outputs import Outputs

        return Outputs(task) if self.regressed is None else Outputs(task, **asdict(self.regressed))


@dataclass(frozen=True)
class BundledExperiment:
    """One experiment, in the order in which they are blended."""

    name: str
    config: str
    """File."""
    classes: tuple[str, ...]
    """Its networks' outputs, in their order."""
    views: tuple[str, ...]
    jpeg_quality: int | None
    """Of the pictures that it was trained on, if they were cached as JPEGs."""
    networks: tuple[BundledNetwork, ...]

    def read_config(self, folder: Path) -> "Config":
        """Its resolved config."""
        from pipeline.config_files import load_config

        return load_config(folder / self.config)


@dataclass(frozen=True)
class Bundle:
    """What `bundle.json` says."""

    folder: Path
    program: str
    """Version that wrote it."""
    slug: str
    """The competition's name on Kaggle."""
    competition: Competition
    """What reading the test rows needs; its root is not known."""
    target: Target
    """With the thresholds or cut points that were decided on."""
    form: Form
    blend: Blend
    experiments: tuple[BundledExperiment, ...]
    score: str
    """The CV in words."""
    greater_is_better: bool
    """Of the networks' scores."""
    max_hours: float | None
    files: Mapping[str, str]
    """SHA-256 of each other file, by name."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; `read_bundle` gives the same bundle back."""
        return {
            "format": FORMAT,
            "program": self.program,
            "slug": self.slug,
            "competition": {key: value for key, value in self.competition.model_dump(mode="json").items() if key != "root"},
            "target": asdict(self.target),
            "form": asdict(self.form),
            "blend": self.blend.to_json(),
            "experiments": [asdict(one) for one in self.experiments],
            "score": self.score,
            "greater_is_better": self.greater_is_better,
            "max_hours": self.max_hours,
            "files": dict(self.files),
        }


def read_bundle(folder: Path) -> Bundle:
    """What lies in a folder; its files are looked at by `damaged`. UserError with one line where bundle.json is not as the program writes it."""
    path = folder / MARKER
    try:
        read = read_json(path)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; attach the dataset that scripts/kaggle_kernel.py wrote") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: is damaged ({' '.join(str(error).split())}); upload the dataset again") from None
    written = read.get("format") if isinstance(read, dict) else None
    if written != FORMAT:
        raise UserError(f"{path}: is of format {written}, but this program reads {FORMAT}; use the package that came with it")
    try:
        return _from_json(folder, read)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: is not as it was written ({type(error).__name__}: {' '.join(str(error).split())[:200]}); upload the dataset again") from None


def _from_json(folder: Path, read: Mapping[str, Any]) -> Bundle:
    target: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in read["target"].items()}
    return Bundle(
        folder,
        read["program"],
        read["slug"],
        Competition.model_validate({**read["competition"], "root": NOWHERE}),
        Target(**target),
        Form(**read["form"]),
        Blend.from_json(read["blend"]),
        tuple(_experiment(one) for one in read["experiments"]),
        read["score"],
        read["greater_is_better"],
        read["max_hours"],
        {name: str(value) for name, value in read["files"].items()},
    )


def _experiment(read: Mapping[str, Any]) -> BundledExperiment:
    networks = tuple(_network(one) for one in read["networks"])
    return BundledExperiment(**{**read, "classes": tuple(read["classes"]), "views": tuple(read["views"]), "networks": networks})


def _network(read: Mapping[str, Any]) -> BundledNetwork:
    regressed = None if read["regressed"] is None else Regressed(**read["regressed"])
    return BundledNetwork(**{**read, "shares": tuple(map(float, read["shares"])), "regressed": regressed})


def damaged(bundle: Bundle) -> dict[str, str]:
    """By name of a file what is wrong with it; each is read once."""

    def problem(name: str) -> str:
        try:
            same = digest_file(bundle.folder / name) == bundle.files[name]
        except FileNotFoundError:
            return "is not there; upload the dataset again"
        except OSError as error:
            return f"cannot be read ({error.strerror or error}); upload the dataset again"
        return "" if same else "is damaged, or not the one that belongs to bundle.json; upload the dataset again"

    return {name: words for name, words in zip(bundle.files, ordered_map(problem, bundle.files, cores()), strict=True) if words}


def defined(score: float) -> float | None:
    """A score as JSON can hold it."""
    return score if math.isfinite(score) else None
