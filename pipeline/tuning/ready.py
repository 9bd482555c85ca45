"""Ready spaces around a config's own values: optimiser, augmentation, mixing, regularisation, views, ensemble."""

import functools
import json
from collections.abc import Callable, Mapping
from typing import Any

from pipeline.config import CLASS_TASKS, Config
from pipeline.config_files import value_at
from pipeline.config_training import in_epochs
from pipeline.config_tuning import AnyDimension, Choices, Combinations, Range
from pipeline.errors import UserError

Ready = dict[str, AnyDimension]

DECADE = 10.0  # how far a ready range reaches to each side of the config's own value
AS_IS = "as_is"

COLOUR = {"name": "ColorJitter", "brightness": [0.8, 1.2], "contrast": [0.8, 1.2], "saturation": [0.8, 1.2], "hue": [-0.02, 0.02], "p": 0.8}
GEOMETRY = {
    "name": "Affine",
    "scale": [0.9, 1.1],
    "rotate": [-10, 10],
    "translate_percent": [-0.05, 0.05],
    "shear": [-5, 5],
    "border_mode": 4,  # mirrored at the border: black corners would be new to most pictures
    "p": 0.8,
}
ERASING = {"name": "CoarseDropout", "num_holes_range": [1, 2], "hole_height_range": [0.1, 0.25], "hole_width_range": [0.1, 0.25], "fill": 0, "p": 0.5}
STRENGTHS = {"colour": [COLOUR], "geometry": [GEOMETRY], "erasing": [ERASING], "all": [COLOUR, GEOMETRY, ERASING]}
"""What follows the config's own list. No flips, which change the label of a digit or the side of an X-ray; no sizes, which the list has set."""


def ready_space(name: str, base: Config) -> Ready:
    """The dimensions of one of `tune.ready`, each with the config's own value among its values; {} where nothing of it is for this config."""
    return READY[name](base)


def _optimizer(base: Config) -> Ready:
    found: Ready = {"optimizer.learning_rate": _around(base.optimizer.learning_rate)}
    if base.optimizer.weight_decay > 0:
        found["optimizer.weight_decay"] = _around(base.optimizer.weight_decay)
    else:
        found["optimizer.weight_decay"] = _choices(base, "optimizer.weight_decay", [0.0, 1e-4, 1e-3, 1e-2])
    own = in_epochs(base.schedule.warmup, base.train.epochs)
    shares = [share for share in ("0%", "5%", "10%", "20%") if in_epochs(share, base.train.epochs) != own]
    found["schedule.warmup"] = _choices(base, "schedule.warmup", list(shares))
    if base.model.weights is not None and (base.optimizer.layer_decay is not None or _knows_layers(base)):
        found["optimizer.layer_decay"] = _choices(base, "optimizer.layer_decay", [None, 0.65, 0.75, 0.85])
    return found


def _augment(base: Config) -> Ready:
    own = value_at(base, "augment.train")
    settings = {AS_IS: own} | {label: [*own, *further] for label, further in STRENGTHS.items()}
    return {"augment_strength": Combinations(settings={label: {"augment.train": train} for label, train in settings.items()})}


def _mixing(base: Config) -> Ready:
    """Of a number Mixup alone: what share of a picture is left does not say what share of its number is, as CutMix takes it."""
    found: Ready = {"augment.mixing.mixup": _choices(base, "augment.mixing.mixup", [0.0, 0.1, 0.2, 0.4])}
    if base.competition.task != "regression":
        found["augment.mixing.cutmix"] = _choices(base, "augment.mixing.cutmix", [0.0, 0.5, 1.0])
    own, epochs = base.augment.mixing.off_epochs, _epochs(base)
    last = max(own, epochs // 4)
    if 0 < last < epochs:
        found["augment.mixing.off_epochs"] = Range(low=0, high=last)
    return found


def _regularisation(base: Config) -> Ready:
    found: Ready = {}
    if base.competition.task in CLASS_TASKS and base.loss.name in ("auto", "cross_entropy"):
        smoothing = base.loss.smoothing
        found["loss.smoothing"] = Range(low=0.0, high=max(smoothing, min(0.9, max(0.2, 2 * smoothing))))
    for key, high in (("drop_rate", 0.5), ("drop_path_rate", 0.4)):
        if not _takes(base, {key: 0.1}):
            continue
        own = base.model.arguments.get(key)
        if isinstance(own, int | float) and not isinstance(own, bool):
            found[f"model.arguments.{key}"] = Range(low=0.0, high=max(high, float(own)))
        else:  # the network's default is kept under its own label, since a config without the key is not the same as one with 0
            shares = [round(high * part / 4, 3) for part in (1, 2, 4)]
            found[key] = Combinations(settings={AS_IS: {}} | {f"{share:g}": {f"model.arguments.{key}": share} for share in shares})
    found["train.ema"] = _choices(base, "train.ema", [None, 0.98, 0.99, 0.995, 0.999])
    return found


def _tta(base: Config) -> Ready:
    height, width = base.images.shape
    return {"predict.tta": _choices(base, "predict.tta", ["none", "horizontal", "flips", *(["dihedral"] if height == width else []), "auto"])}


def _ensemble(base: Config) -> Ready:
    from pipeline.training.metrics import METRICS

    found: Ready = {}
    if base.competition.task != "regression" and base.predict.merge != "ranks":
        found["ensemble.temperature"] = _choices(base, "ensemble.temperature", ["none", "per_fold"])
    if base.competition.task in ("ordinal", "multilabel", "binary") and METRICS[base.competition.metric].needs == "labels":
        found["ensemble.decisions"] = _choices(base, "ensemble.decisions", ["auto", "default", "fitted"])
    return found


READY: Mapping[str, Callable[[Config], Ready]] = {
    "optimizer": _optimizer,
    "augment": _augment,
    "mixing": _mixing,
    "regularisation": _regularisation,
    "tta": _tta,
    "ensemble": _ensemble,
}
"""By name in `tune.ready`."""


def _epochs(base: Config) -> int:
    """Of the shortest run that a value must suit: a trial's, or the tuned config's."""
    return min(base.train.epochs, base.tune.epochs or base.train.epochs)


def _around(own: float) -> Range:
    """From a tenth to ten times a number, logarithmically, both ends with one digit."""
    return Range(low=float(f"{own / DECADE:.0e}"), high=float(f"{own * DECADE:.0e}"), log=True)


def _choices(base: Config, key: str, values: list[Any]) -> Choices:
    """The values and the config's own, which comes first where it is another; what is no plain value is labelled as it is."""
    own = value_at(base, key)
    every = values if own in values else [own, *values]
    return Choices(choices={_label(value): value for value in every})


def _label(value: Any) -> str:
    if isinstance(value, list):
        return AS_IS
    return "null" if value is None else str(value).removesuffix(".0")


def _knows_layers(base: Config) -> bool:
    """Whether timm can order the network's layers, for layer-wise decay."""
    return _has_layers(base.model.backbone, json.dumps(base.model.arguments))


def _takes(base: Config, further: Mapping[str, float]) -> bool:
    """Whether the network's builder takes these arguments, too."""
    return _can_be_built(base.model.backbone, json.dumps({**base.model.arguments, **further}))


@functools.lru_cache
def _can_be_built(backbone: str, arguments: str) -> bool:
    return _skeleton(backbone, arguments) is not None


@functools.lru_cache
def _has_layers(backbone: str, arguments: str) -> bool:
    return hasattr(_skeleton(backbone, arguments), "group_matcher")


def _skeleton(backbone: str, arguments: str) -> Any:
    """The network without numbers in its weights, which takes a moment; None if it cannot be built. arguments: JSON."""
    import torch

    from pipeline.config import Model
    from pipeline.training.models import build_model

    section = Model(backbone=backbone, weights=None, arguments=json.loads(arguments))
    with torch.random.fork_rng(devices=[]):
        for device in ("meta", "cpu"):  # some networks look at numbers while they are built
            try:
                with torch.device(device):
                    return build_model(section, num_classes=2, seed=0)
            except UserError:
                continue
    return None
