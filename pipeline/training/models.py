"""Backbones from timm and torchvision, with weights from the hub, from a file, or from nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.models import load_state_dict

from pipeline.config import Model, call_arguments
from pipeline.errors import UserError, did_you_mean
from pipeline.training import torchvision_models
from pipeline.training.torchvision_models import PREFIX


def check_backbone(section: Model) -> None:
    """UserError if there is no such backbone or the weights file is not there; cheap, for before a run."""
    if section.backbone.startswith(PREFIX):
        torchvision_models.check_network(section.backbone.removeprefix(PREFIX))
    elif not timm.is_model(section.backbone.partition(".")[0]):
        hint = did_you_mean(section.backbone, timm.list_models(), count=3) or "; timm.list_models() names them all"
        if section.backbone in torchvision_models.network_names():
            hint = f'; torchvision has: write "{PREFIX}{section.backbone}"'
        raise UserError(f'model.backbone: timm has no "{section.backbone}"{hint}')
    if section.weights not in (None, "hub") and not Path(section.weights).is_file():
        raise UserError(f"model.weights: no such file: {section.weights}; write a path, hub, or null for random weights")


def build_model(section: Model, num_classes: int, seed: int) -> torch.nn.Module:
    """The network with `num_classes` outputs, on the CPU in fp32; a new head is drawn from `seed`."""
    check_backbone(section)
    fresh = _random(section, num_classes, seed)
    if section.weights is None:
        return fresh
    try:
        if not section.backbone.startswith(PREFIX):
            return _pretrained(section, num_classes, seed, fresh)
        hub = section.weights == "hub"
        weights = torchvision_models.hub_weights(section.backbone.removeprefix(PREFIX)) if hub else _read(section.weights)
        torchvision_models.load_all_but_head(fresh, weights, head_names(fresh))
    except Exception as error:  # backbones, the hub, the network and file formats each raise their own kinds
        raise UserError(f"model.weights: {_weights_problem(section, _first_line(error))}") from None
    return fresh


def head_names(model: torch.nn.Module) -> frozenset[str]:
    """Names of the parameters of the final classifier, drawn anew where the number of classes changes; empty if unknown."""
    return frozenset(name for name, _ in model.named_parameters() if name.rpartition(".")[0] in _classifiers(model))


def check_output(model: torch.nn.Module, shape: tuple[int, int], num_classes: int) -> None:
    """UserError unless the network takes RGB pictures of this height and width and answers with one number per class."""
    try:
        with torch.inference_mode():
            output = tuple(model.eval()(torch.zeros(2, 3, *shape)).shape)
    except Exception as error:  # every backbone fails in its own way
        raise UserError(f"model: takes no RGB pictures of {shape[0]}x{shape[1]} ({_first_line(error)}); change images.size or model.arguments") from None
    if output != (2, num_classes):
        raise UserError(f"model: answers with {list(output[1:])} numbers per picture, not [{num_classes}]; change model.arguments")


def _random(section: Model, num_classes: int, seed: int) -> torch.nn.Module:
    arguments = call_arguments(section.arguments)
    torch.manual_seed(seed)
    try:
        if section.backbone.startswith(PREFIX):
            return torchvision_models.build_network(section.backbone.removeprefix(PREFIX), num_classes, arguments)
        model: torch.nn.Module = timm.create_model(section.backbone, num_classes=num_classes, **arguments)
    except UserError:
        raise
    except Exception as error:  # every backbone fails in its own way
        raise UserError(f"model.arguments: {section.backbone} cannot be built: {_first_line(error)}") from None
    return model


def _pretrained(section: Model, num_classes: int, seed: int, fresh: torch.nn.Module) -> torch.nn.Module:
    """timm's network with weights; ValueError if they are not this network's.

    timm loads loosely as soon as the number of classes changes: a file of another network would pass.
    """
    overlay: dict[str, Any] = {}
    if section.weights not in (None, "hub"):
        weights = _read(section.weights)
        if further := _further(weights, fresh):
            raise ValueError(f"{len(further)} of its weights are not in the network, e.g. {further[0]}")
        overlay = {"file": section.weights, "num_classes": _classes_in(weights, fresh), "label_offset": 0}
    torch.manual_seed(seed)
    arguments = call_arguments(section.arguments)
    model: torch.nn.Module = timm.create_model(section.backbone, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=num_classes, **arguments)
    if missing := _not_loaded(model, fresh):
        raise ValueError(f"{len(missing)} weights are not in it, e.g. {missing[0]}")
    return model


def _classifiers(model: torch.nn.Module) -> tuple[str, ...]:
    """Paths of the modules that are replaced where the number of classes changes."""
    names = dict(getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def _read(path: str) -> dict[str, torch.Tensor]:
    """Tensors of a .pt, .pth or .safetensors file, also of one that wraps them as state_dict or model."""
    return {name: values for name, values in load_state_dict(path).items() if isinstance(values, torch.Tensor)}


def _classes_in(weights: Mapping[str, torch.Tensor], fresh: torch.nn.Module) -> int:
    """Number of classes of a file, 0 if it has no head; timm drops its head if the number is not the one asked for."""
    heads = [weights[f"{name}.weight"] for name in _classifiers(fresh) if f"{name}.weight" in weights]
    return len(heads[0]) if heads else 0


def _further(weights: Mapping[str, torch.Tensor], fresh: torch.nn.Module) -> list[str]:
    """Weights of a deeper relative of the network; none if the file is in another form, which timm translates."""
    known, head, classifiers = fresh.state_dict().keys(), head_names(fresh), _classifiers(fresh)
    if any(name not in weights and name not in head for name, _ in fresh.named_parameters()):
        return []
    parameters = [name for name in weights if name.endswith((".weight", ".bias")) and name.rpartition(".")[0] not in classifiers]
    return [name for name in parameters if name not in known]


def _not_loaded(model: torch.nn.Module, fresh: torch.nn.Module) -> list[str]:
    """Parameters outside the head that still have the random values of `fresh`, drawn from the same seed."""
    head, drawn = head_names(model), dict(fresh.named_parameters())
    return [
        name
        for name, values in model.named_parameters()
        if name not in head and torch.equal(values, drawn[name]) and bool((values != values.flatten()[0]).any())
    ]


def _weights_problem(section: Model, reason: str) -> str:
    if section.weights == "hub":
        return f"no pretrained weights of {section.backbone} from the hub ({reason}); write a file's path, or null"
    return f"{section.weights} does not fit {section.backbone}: {reason}"


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
