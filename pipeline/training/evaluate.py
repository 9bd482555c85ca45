"""Predictions of a trained network, averaged over views of each picture."""

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from pipeline.runtime import casting, is_out_of_memory
from pipeline.training.datasets import Batch, Normalise, on_device
from pipeline.training.outputs import Outputs

View = Callable[[torch.Tensor], torch.Tensor]


def identity(images: torch.Tensor) -> torch.Tensor:
    """The picture as it is."""
    return images


@torch.inference_mode()
def mean_predictions(
    model: torch.nn.Module,
    batches: Iterable[Batch],
    normalise: Normalise,
    outputs: Outputs,
    autocast: torch.dtype | None,
    views: Sequence[View] = (identity,),
) -> npt.NDArray[np.float32]:
    """What `outputs` makes of the logits [rows, outputs], the mean over `views`; each batch is loaded and normalised once."""
    model.eval()
    device = next(model.parameters()).device
    parts = []
    for pixels, _ in on_device(batches, device):
        images = normalise(pixels)
        total: torch.Tensor | None = None
        for view in views:
            with casting(device, autocast):
                logits = _forward(model, view(images))
            values = outputs.predict(logits)
            total = values if total is None else total + values
        assert total is not None, "there is at least one view"
        parts.append((total / len(views)).float())
    return torch.cat(parts).cpu().numpy()


def _forward(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """The logits of a batch; out of memory, of its halves one after the other."""
    try:
        logits: torch.Tensor = model(images)
    except RuntimeError as error:
        if len(images) == 1 or not is_out_of_memory(error):
            raise
    else:
        return logits
    return torch.cat([_forward(model, part) for part in images.chunk(2)])
