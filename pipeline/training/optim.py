"""Optimiser and moving average: timm's, built from the config."""

import inspect
from collections.abc import Collection
from typing import Any

import torch
from timm.optim._optim_factory import OptimInfo, create_optimizer_v2, get_optimizer_info, list_optimizers
from timm.optim.kron import Kron
from timm.utils.model_ema import ModelEmaV3

from pipeline.config import Optimizer, call_arguments
from pipeline.errors import UserError, did_you_mean

LOOKAHEAD = "lookahead_"  # timm's prefix for arXiv:1907.08610 around any other
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # those whose fused step runs on a GPU in every torch that the project takes


def build_optimizer(section: Optimizer, model: torch.nn.Module, head: Collection[str] = (), device_type: str = "cpu") -> torch.optim.Optimizer:
    """timm's optimiser by name; weight decay spares norms and biases. UserError for a bad name or argument.

    head: names of the parameters that `head_multiple` is for.
    """
    kind = _drivable(section.name)
    arguments = call_arguments(section.arguments)
    taken = [name for name in inspect.signature(kind).parameters if name != "params"]
    for name in arguments:
        if name not in taken:
            raise UserError(f'optimizer.arguments: {section.name} takes no "{name}"{did_you_mean(name, taken)}')
    if device_type == "cuda" and issubclass(kind, FUSED) and not {"fused", "foreach", "differentiable"} & set(arguments):
        arguments["fused"] = True
    optimizer = _create(model, section, arguments | {"layer_decay": section.layer_decay})
    _check_layers(section, optimizer)
    if section.head_multiple == 1:
        return optimizer
    return _create(_split(optimizer, _head_parameters(model, head), section.head_multiple), section, arguments)


def accepted_optimizers() -> list[str]:
    """Names that the training loop can drive, each also behind `lookahead_`."""
    return [str(name) for name in list_optimizers() if _refusal(get_optimizer_info(str(name))) is None]


def build_ema(decay: float | None, model: torch.nn.Module) -> ModelEmaV3 | None:
    """Moving average of weights and BatchNorm statistics, its decay rising towards `decay`."""
    return None if decay is None else ModelEmaV3(model, decay=decay, use_warmup=True)


def _drivable(name: str) -> type[torch.optim.Optimizer]:
    """Class of the optimiser; UserError if timm has none of the name or the training loop cannot drive it."""
    base = name.removeprefix(LOOKAHEAD)
    if base not in list_optimizers():
        raise UserError(f'optimizer.name: timm has no "{name}"{did_you_mean(name, accepted_optimizers())}')
    info = get_optimizer_info(base)
    if reason := _refusal(info):
        raise UserError(f'optimizer.name: "{name}" {reason}')
    assert not isinstance(info.opt_class, str)
    return info.opt_class


def _refusal(info: OptimInfo) -> str | None:
    """Why the training loop cannot drive an optimiser, and what to write instead."""
    if isinstance(info.opt_class, str):
        like = info.name.removeprefix("fused").removeprefix("bnb").removesuffix("8bit")
        return f"needs the package {info.opt_class.partition('.')[0]}; write e.g. {like if like in list_optimizers() else 'adamw'}"
    if info.second_order:
        return "needs second derivatives, which the training loop does not take; write e.g. adamw"
    if issubclass(info.opt_class, Kron):
        return "needs the package opt_einsum, and compiles anew for each shape of weight; write e.g. adamw"
    return None


def _create(source: torch.nn.Module | list[dict[str, Any]], section: Optimizer, arguments: dict[str, Any]) -> torch.optim.Optimizer:
    try:
        return create_optimizer_v2(source, opt=section.name, lr=section.learning_rate, weight_decay=section.weight_decay, **arguments)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise UserError(f"optimizer: {section.name}: {' '.join(str(error).split())}") from None


def _check_layers(section: Optimizer, optimizer: torch.optim.Optimizer) -> None:
    scales = {group.get("lr_scale", 1.0) for group in optimizer.param_groups}
    if section.layer_decay not in (None, 1.0) and scales == {1.0}:
        raise UserError("optimizer.layer_decay: the order of this network's layers is not known; write optimizer.layer_decay=null")


def _head_parameters(model: torch.nn.Module, head: Collection[str]) -> set[torch.nn.Parameter]:
    if not head:
        raise UserError("optimizer.head_multiple: the network has no head that is known; write optimizer.head_multiple=1")
    return {parameter for name, parameter in model.named_parameters() if name in head}


def _split(optimizer: torch.optim.Optimizer, head: set[torch.nn.Parameter], multiple: float) -> list[dict[str, Any]]:
    """The optimiser's groups, the head's parameters in groups of their own with `multiple` times the rate."""
    groups = []
    for group in optimizer.param_groups:
        kept = {key: group[key] for key in ("weight_decay", "lr_scale") if key in group}
        parts = [parameter for parameter in group["params"] if parameter not in head], [parameter for parameter in group["params"] if parameter in head]
        for parameters, scale in zip(parts, (1.0, multiple), strict=True):
            if parameters:
                groups.append(kept | {"params": parameters, "lr_scale": kept.get("lr_scale", 1.0) * scale})
    return groups
