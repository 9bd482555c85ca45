"""One update of the weights: forward and backward of its batches, in as small parts as the memory needs."""

import gc
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pipeline.errors import RunFailed
from pipeline.runtime import casting, is_out_of_memory

log = logging.getLogger(__name__)
Prepare = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
"""Number of a batch to its images [B, 3, H, W] and soft targets [B, K] on the device; seeds what is drawn in the forward pass."""


@dataclass
class Gradients:
    """Adds up gradients. Out of memory, batches go through in ever smaller parts: the update starts anew, with the same pictures and draws.

    BatchNorm sees the parts as batches of their own, of two pictures at least, and its running statistics keep what the attempt that
    failed has added to them.
    """

    network: torch.nn.Module
    loss: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    autocast: torch.dtype | None
    micro_batch: int
    """Most pictures in one forward pass."""
    halvings: list[int] = field(default_factory=list)
    """Every micro-batch that memory did not suffice for."""

    def __post_init__(self) -> None:
        self.smallest = 2 if any(isinstance(module, _BatchNorm) for module in self.network.modules()) else 1
        self.forward: Callable[[torch.Tensor], torch.Tensor] = self.network

    def of(self, numbers: Sequence[int], prepare: Prepare) -> list[torch.Tensor]:
        """Gradients of the mean loss over the batches; returns each batch's loss, on the device.

        RunFailed where not even the smallest part fits.
        """
        while True:
            try:
                return [self._batch(*prepare(number), len(numbers)) for number in numbers]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._halve()

    def parts(self, batch: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A batch in as few parts of equal size, or one more, as fit."""
        most = max(1, len(batch) // self.smallest)
        return torch.tensor_split(batch, min(most, math.ceil(len(batch) / self.micro_batch)))

    def _batch(self, images: torch.Tensor, targets: torch.Tensor, group: int) -> torch.Tensor:
        total = torch.zeros((), device=self.device)
        for part, part_targets in zip(self.parts(images), self.parts(targets), strict=True):
            with casting(self.device, self.autocast):
                logits = self.forward(part)
            loss = self.loss(logits.float(), part_targets) * (len(part) / len(images))
            self.scaler.scale(loss / group).backward()
            total += loss.detach()
        return total

    def _halve(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.micro_batch <= self.smallest:
            advice = "write a smaller images.size or model.backbone" + ("" if self.autocast else ", or train.precision=bf16")
            raise RunFailed(f"out of memory with {self.micro_batch} pictures at a time; {advice}")
        self.halvings.append(self.micro_batch)
        self.micro_batch = max(self.smallest, (self.micro_batch + 1) // 2)
        log.warning("train     out of memory: goes on with %d pictures at a time, as many per update as before", self.micro_batch)
