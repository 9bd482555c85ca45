"""What a recipe does to a network from outside: freezing, checkpointing, averaging, BatchNorm statistics."""

from collections.abc import Collection, Iterable, Mapping, Sequence

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import UserError


def freeze_backbone(model: torch.nn.Module, head: Collection[str], frozen: bool) -> None:
    """Takes the gradients of every parameter outside the head away, or gives them back; what the network itself keeps fixed stays so.

    Build the optimiser before: timm's parameter groups leave out what has no gradient. UserError if no head is known.
    """
    if frozen and not head:
        raise UserError(f"train.freeze: which part of {type(model).__name__} is the head is not known; write 0")
    held: set[str] = set(getattr(model, "held_back", ()))
    for name, parameter in model.named_parameters():
        if frozen and name not in head and parameter.requires_grad:
            held.add(name)
            parameter.requires_grad_(False)
        elif not frozen and name in held:
            parameter.requires_grad_(True)
    model.held_back = held if frozen else set()  # type: ignore[assignment]


def train_mode(model: torch.nn.Module, head: Collection[str], frozen: bool) -> None:
    """model.train(); while frozen, each module without a parameter of the head stays in eval: no dropout, BatchNorm stands still."""
    model.train()
    if not frozen:
        return
    parts = [name.split(".") for name in head]
    holders = {".".join(part[:depth]) for part in parts for depth in range(len(part))}
    for path, module in model.named_modules():
        if path not in holders:
            module.eval()


def use_gradient_checkpointing(model: torch.nn.Module) -> None:
    """Activations are computed again in the backward pass; UserError if the network cannot.

    In training mode BatchNorm sees each batch twice, so its running statistics follow the last batches more closely.
    """
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError, NotImplementedError, TypeError):
        name = dict(getattr(model, "pretrained_cfg", None) or {}).get("architecture") or type(model).__name__
        raise UserError(f"train.gradient_checkpointing: {name} cannot; write false") from None


def average_weights(states: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Mean of each floating tensor over states of one network, taken in float64; counters as in the last state."""
    last = states[-1]
    assert all(state.keys() == last.keys() for state in states)
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).to(values.dtype) if values.is_floating_point() else values.clone()
        for name, values in last.items()
    }


def recalibrate_batch_norm(model: torch.nn.Module, batches: Iterable[torch.Tensor]) -> None:
    """Running statistics of BatchNorm anew: the mean over batches [B, 3, H, W], normalised and on the device; leaves the model in eval.

    B is at least 2, since some networks end in maps of one pixel.
    torch.optim.swa_utils.update_bn would do it with dropout and drop path switched on, which the predictions never see.
    """
    model.eval()
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm) and module.running_mean is not None]
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        with torch.no_grad():
            for batch in batches:
                model(batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        model.eval()
    assert any(norm.num_batches_tracked is not None and norm.num_batches_tracked > 0 for norm in norms), "no batches to take statistics from"
