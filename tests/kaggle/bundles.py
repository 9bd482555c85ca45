"""Bundles made by hand: small networks that nobody trained, on the digits, in a second."""

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from conftest import small_settings
from safetensors.torch import save_file

from pipeline.config import Config
from pipeline.config_files import write_config
from pipeline.data.targets import Target
from pipeline.ensembling.schemes import Blend
from pipeline.files import digest_file, write_json
from pipeline.kaggle.bundle import MARKER, Bundle, BundledExperiment, BundledNetwork, Regressed
from pipeline.submission.formats import Form
from pipeline.training.models import build_model

CLASSES = tuple("0123456789")
SHARES = tuple((np.arange(1, 11) / 55).tolist())


@dataclass(frozen=True)
class Wish:
    """What a bundle by hand is to be."""

    networks: tuple[int, ...] = (3,)
    """Per experiment."""
    task: str = "multiclass"
    target: Target = field(default_factory=lambda: Target("multiclass", CLASSES))
    form: str = "probabilities"
    blend: Blend | None = None
    views: tuple[str, ...] = ("identity",)
    regressed: Regressed | None = None
    settings: tuple[dict[str, Any], ...] = ()
    """Further sections, per experiment."""
    competition: dict[str, Any] = field(default_factory=dict)
    max_hours: float | None = None


def mount(root: Path, folder: Path, rows: int | None = None, form: str = "probabilities") -> Path:
    """The digits as the kernel finds them: test pictures, test table and a sample of the form, no answers and no train table."""
    test = pd.read_csv(root / "test.csv", dtype=str)[:rows]
    (folder / "images").mkdir(parents=True)
    for name in test["id"]:
        shutil.copy(root / "images" / f"{name}.png", folder / "images")
    test.to_csv(folder / "test.csv", index=False)
    columns = dict.fromkeys(CLASSES, "0.1") if form == "probabilities" else {"label": "0"}
    test[["id"]][::-1].assign(**columns).to_csv(folder / "sample_submission.csv", index=False)
    return folder


def write_by_hand(folder: Path, wish: Wish = Wish()) -> Bundle:
    """A bundle of random networks, whose weights and scores differ."""
    folder.mkdir(parents=True, exist_ok=True)
    experiments = tuple(_experiment(folder, wish, number) for number in range(len(wish.networks)))
    blend = wish.blend or Blend.equal(wish.target.task, len(experiments))
    config = _config(wish, 0)
    files = {name: digest_file(folder / name) for one in experiments for name in (one.config, *(network.file for network in one.networks))}
    bundle = Bundle(folder, "0", "digits", config.competition, wish.target, Form(wish.form), blend, experiments, "accuracy 0.5", True, wish.max_hours, files)
    write_json(folder / MARKER, bundle.to_json())
    return bundle


def _config(wish: Wish, number: int) -> Config:
    settings = small_settings(Path("input"), Path("outputs"))
    settings["competition"] |= {"solution": None, "task": wish.task, **wish.competition}
    if wish.task == "regression":
        settings["competition"]["metric"] = "rmse"
    settings["experiment"] = f"hand-{number}"
    for name, section in (wish.settings[number] if wish.settings else {}).items():
        settings[name] = {**settings.get(name, {}), **section}
    return Config.model_validate(settings)


def _experiment(folder: Path, wish: Wish, number: int) -> BundledExperiment:
    config = _config(wish, number)
    (folder / f"hand-{number}.yaml").write_text(write_config(config))
    networks = []
    for fold in range(wish.networks[number]):
        model = build_model(config.model, len(wish.target.classes), seed=10 * number + fold)
        for values in model.state_dict().values():
            if values.ndim == 2:
                values.mul_(100)  # so that networks are sure of something, each of something else
        file = f"hand-{number}--seed_0_fold_{fold}.safetensors"
        save_file({name: values.clone() for name, values in model.state_dict().items()}, folder / file)
        weight = (fold + 1) / sum(range(1, wish.networks[number] + 1))
        shares = SHARES if len(wish.target.classes) == 10 else (0.5,) * len(wish.target.classes)
        parameters = sum(values.numel() for values in model.parameters())
        networks.append(BundledNetwork(f"seed 0 fold {fold}", file, weight, 1.0, shares, 0.9 - 0.1 * fold, parameters, wish.regressed))
    return BundledExperiment(f"hand-{number}", f"hand-{number}.yaml", wish.target.classes, wish.views, None, tuple(networks))


def rewrite(bundle: Bundle, **changes: Any) -> Bundle:
    """The bundle with something else in bundle.json."""
    changed = replace(bundle, **changes)
    write_json(bundle.folder / MARKER, changed.to_json())
    return changed


def seal(bundle: Bundle) -> Bundle:
    """The bundle with the digests that its files have now."""
    return rewrite(bundle, files={name: digest_file(bundle.folder / name) for name in bundle.files})
