"""torchvision's classification networks by name, without auxiliary heads."""

import re
from collections.abc import Mapping
from typing import Any

import torch
import torchvision.models

from pipeline.errors import UserError, did_you_mean

PREFIX = "torchvision/"
AUXILIARY = ("AuxLogits.", "aux1.", "aux2.")
FAMILIES = {"mnasnet": "mnasnet1_0", "mobilenet": "mobilenet_v2", "shufflenet": "shufflenet_v2_x1_0", "squeezenet": "squeezenet1_0", "vgg": "vgg16"}
"""What is meant by a family's name alone."""


def network_names() -> list[str]:
    """Every name that may follow `torchvision/`."""
    return list(torchvision.models.list_models(module=torchvision.models))


def check_network(name: str) -> None:
    """UserError if torchvision has no such network."""
    if name not in (known := network_names()):
        hint = did_you_mean(FAMILIES.get(name, name), known, count=1 if name in FAMILIES else 3) or "; torchvision.models.list_models() names them all"
        raise UserError(f'model.backbone: torchvision has no "{name}"{hint}')


def build_network(name: str, num_classes: int, arguments: Mapping[str, Any]) -> torch.nn.Module:
    """Random weights from torch's generator. GoogLeNet and Inception take pictures normalised as every other network does.

    They were trained with pictures normalised otherwise, and with `transform_input` they convert; torchvision sets it only together
    with its own weights, so that the same network would answer differently once it is built to load a trained fold.
    """
    if arguments.get("aux_logits"):
        raise UserError(f"model.arguments: aux_logits is not offered, {name} trains without its auxiliary heads; leave it out")
    defaults = {"aux_logits": False, "transform_input": True, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: torch.nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **{**defaults, **arguments})
    if isinstance(model, torchvision.models.MNASNet):
        _make_usual(model)
    last = [path for path, module in model.named_modules() if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)][-1]
    # Where timm looks for the head, e.g. for layer-wise decay.
    model.pretrained_cfg = {"architecture": PREFIX + name, "classifier": last}  # type: ignore[assignment]
    return model


def _make_usual(model: torch.nn.Module) -> None:
    """MNASNet's BatchNorm follows with momentum 0.0003, made for 350 epochs of ImageNet: trained for hundreds of steps, it still guesses."""
    model.__class__ = _LoadsPlainWeights
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.1


class _LoadsPlainWeights(torchvision.models.MNASNet):  # type: ignore[misc]
    """torchvision's refuses a state dict that has become a plain mapping: its version is lost on the way."""

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, {"version": 2, **local_metadata}, *rest)


def hub_weights(name: str) -> dict[str, torch.Tensor]:
    """torchvision's best weights of a network, downloaded or from an earlier download, for ImageNet's 1000 classes."""
    return dict(torchvision.models.get_model(name, weights="DEFAULT").state_dict())


def load_all_but_head(model: torch.nn.Module, weights: Mapping[str, torch.Tensor], head: frozenset[str]) -> None:
    """Copies weights into a network; the head too if its number of classes is the same. ValueError unless all the rest fits."""
    found = {_name_today(name): values for name, values in weights.items() if not name.startswith(AUXILIARY)}
    state = model.state_dict()
    fitting = {name: values for name, values in found.items() if name in state and values.shape == state[name].shape}
    missing = [name for name in state if name not in fitting and name not in head and not name.endswith("num_batches_tracked")]
    if missing:
        raise ValueError(f"{len(missing)} weights are not in it, e.g. {missing[0]}")
    if further := [name for name in found if name not in state]:
        raise ValueError(f"{len(further)} of its weights are not in the network, e.g. {further[0]}")
    if not head <= fitting.keys():
        fitting = {name: values for name, values in fitting.items() if name not in head}
    model.load_state_dict({**state, **fitting})


def _name_today(name: str) -> str:
    """DenseNet's files still have names like denselayer1.norm.1.weight, now denselayer1.norm1.weight."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", name)
