"""One update of the weights: forward and backward of its batches, in as small parts as the memory needs."""

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from pipeline.errors import RunFailed
from pipeline.runtime import is_out_of_memory

log = logging.getLogger(__name__)
Prepare = Callable[[int], tuple[torch.Tensor, torch.Tensor]]
"""Number of a batch to its images [B, 3, H, W] and soft targets [B, K] on the device; seeds what is drawn in the forward pass."""


@dataclass
class Gradients:
    """Adds up gradients. Out of memory, a batch is split in halves again and again; the update starts anew and nothing else changes.

    BatchNorm sees the parts as batches of their own.
    """

    name: str
    network: Callable[[torch.Tensor], torch.Tensor]
    loss: torch.nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    autocast: torch.dtype | None
    micro_batch: int
    """Most pictures in one forward pass."""
    halvings: list[int] = field(default_factory=list)
    """Every micro-batch that memory did not suffice for."""

    def of(self, numbers: Sequence[int], prepare: Prepare) -> list[torch.Tensor]:
        """Gradients of the mean loss over the batches; returns each batch's loss, on the device.

        RunFailed where not even one picture fits.
        """
        while True:
            try:
                return [self._batch(*prepare(number), len(numbers)) for number in numbers]
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            self._halve()

    def _batch(self, images: torch.Tensor, targets: torch.Tensor, group: int) -> torch.Tensor:
        total = torch.zeros((), device=self.device)
        for part, part_targets in zip(torch.split(images, self.micro_batch), torch.split(targets, self.micro_batch), strict=True):
            with torch.autocast(self.device.type, dtype=self.autocast or torch.bfloat16, enabled=self.autocast is not None):
                logits = self.network(part)
            loss = self.loss(logits.float(), part_targets) * (len(part) / len(images))
            self.scaler.scale(loss / group).backward()
            total += loss.detach()
        return total

    def _halve(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.micro_batch == 1:
            raise RunFailed(f"{self.name}: out of memory with one picture at a time; write a smaller images.size or model.backbone, or train.precision=fp16")
        self.halvings.append(self.micro_batch)
        self.micro_batch = (self.micro_batch + 1) // 2
        log.warning("train     %s: out of memory; goes on with %d pictures at a time, as many per update as before", self.name, self.micro_batch)
