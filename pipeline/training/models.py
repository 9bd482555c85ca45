"""Backbones from timm, with weights from the hub, from a file, or from nothing."""

from pathlib import Path

import timm
import torch

from pipeline.config import Model, call_arguments
from pipeline.errors import UserError, did_you_mean


def check_backbone(section: Model) -> None:
    """UserError if timm has no such backbone or the weights file is not there; cheap, for before a run."""
    if not timm.is_model(section.backbone.partition(".")[0]):
        hint = did_you_mean(section.backbone, timm.list_models(), count=3) or "; timm.list_models() names them all"
        raise UserError(f'model.backbone: timm has no "{section.backbone}"{hint}')
    if section.weights not in (None, "hub") and not Path(section.weights).is_file():
        raise UserError(f"model.weights: no such file: {section.weights}; write a path, hub, or null for random weights")


def build_model(section: Model, num_classes: int, seed: int) -> torch.nn.Module:
    """The network with `num_classes` outputs, on the CPU in fp32; a new head is drawn from `seed`."""
    check_backbone(section)
    fresh = _create(section.model_copy(update={"weights": None}), num_classes, seed)
    if section.weights is None:
        return fresh
    model = _create(section, num_classes, seed)
    if missing := _not_loaded(model, fresh):
        raise UserError(f"model.weights: {_weights_problem(section, f'{len(missing)} weights are not in it, e.g. {missing[0]}')}")
    return model


def check_output(model: torch.nn.Module, shape: tuple[int, int], num_classes: int) -> None:
    """UserError unless the network takes RGB pictures of this height and width and answers with one number per class."""
    try:
        with torch.inference_mode():
            output = tuple(model.eval()(torch.zeros(2, 3, *shape)).shape)
    except Exception as error:  # every backbone fails in its own way
        raise UserError(f"model: takes no RGB pictures of {shape[0]}x{shape[1]} ({_first_line(error)}); change images.size or model.arguments") from None
    if output != (2, num_classes):
        raise UserError(f"model: answers with {list(output[1:])} numbers per picture, not [{num_classes}]; change model.arguments")


def _create(section: Model, num_classes: int, seed: int) -> torch.nn.Module:
    overlay = {"file": section.weights} if section.weights not in (None, "hub") else None
    torch.manual_seed(seed)
    try:
        model: torch.nn.Module = timm.create_model(
            section.backbone,
            pretrained=section.weights is not None,
            pretrained_cfg_overlay=overlay,
            num_classes=num_classes,
            **call_arguments(section.arguments),
        )
    except Exception as error:  # backbones, the hub, the network and file formats each raise their own kinds
        if section.weights is None:
            raise UserError(f"model.arguments: {section.backbone} cannot be built: {_first_line(error)}") from None
        raise UserError(f"model.weights: {_weights_problem(section, _first_line(error))}") from None
    return model


def _not_loaded(model: torch.nn.Module, fresh: torch.nn.Module) -> list[str]:
    """Parameters outside the head that still have the random values of `fresh`, drawn from the same seed.

    timm loads loosely as soon as the number of classes changes: a file of another network would pass.
    """
    head = dict(getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    heads = (head,) if isinstance(head, str) else tuple(head)
    drawn = dict(fresh.named_parameters())
    return [
        name
        for name, values in model.named_parameters()
        if not name.startswith(heads) and torch.equal(values, drawn[name]) and bool((values != values.flatten()[0]).any())
    ]


def _weights_problem(section: Model, reason: str) -> str:
    if section.weights == "hub":
        return f"no pretrained weights of {section.backbone} from the hub ({reason}); write a file's path, or null"
    return f"{section.weights} does not fit {section.backbone}: {reason}"


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:197] + "..."
