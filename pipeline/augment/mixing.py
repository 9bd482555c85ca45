"""Mixup and CutMix on the device, with soft targets."""

import numpy as np
import torch

from pipeline.config import Mixing


def mix(images: torch.Tensor, targets: torch.Tensor, section: Mixing, seed: np.random.SeedSequence) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and targets of a batch, mixed with a permutation of themselves as `section` says.

    images: float [B, C, H, W]; targets: float [B, K], rows sum to 1. Everything random comes from `seed`,
    on the CPU, so that the device does not matter. Mixup: arXiv:1710.09412; CutMix: arXiv:1905.04899.
    """
    random = np.random.default_rng(seed)
    kinds = [kind for kind, alpha in (("mixup", section.mixup), ("cutmix", section.cutmix)) if alpha > 0]
    if not kinds or random.random() >= section.prob:
        return images, targets
    kind = kinds[int(random.integers(len(kinds)))]
    order = torch.from_numpy(random.permutation(len(images)))
    partner = order.pin_memory().to(images.device, non_blocking=True) if images.is_cuda else order
    if kind == "mixup":
        share = float(random.beta(section.mixup, section.mixup))
        images = torch.lerp(images[partner], images, share)
    else:
        share = float(random.beta(section.cutmix, section.cutmix))
        top, bottom, left, right = _box(images.shape[-2], images.shape[-1], share, random)
        images = images.clone()
        images[..., top:bottom, left:right] = images[partner][..., top:bottom, left:right]
        share = 1 - (bottom - top) * (right - left) / (images.shape[-2] * images.shape[-1])
    return images, torch.lerp(targets[partner], targets, share)


def _box(height: int, width: int, share: float, random: np.random.Generator) -> tuple[int, int, int, int]:
    """CutMix's box: 1 - `share` of the area around a uniform centre, clipped at the border."""
    half = np.array([height, width]) * np.sqrt(1 - share) / 2
    centre = np.array([random.integers(height), random.integers(width)])
    top, left = np.maximum(np.rint(centre - half), 0).astype(int)
    bottom, right = np.minimum(np.rint(centre + half), [height, width]).astype(int)
    return int(top), int(bottom), int(left), int(right)
