"""Forward passes of trained networks over batches of pictures: the one way in which training looks and inference predicts."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.runtime import casting, is_out_of_memory
from pipeline.training.datasets import Batch, Normalise, on_device
from pipeline.training.outputs import Outputs

View = Callable[[torch.Tensor], torch.Tensor]
WHOLE: Mapping[str, View] = {"identity": lambda images: images}


@dataclass(frozen=True)
class Network:
    """A network, and the type that its forward pass computes in; None: float32."""

    model: torch.nn.Module
    autocast: torch.dtype | None = None

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Of a normalised batch [B, 3, H, W], as the network gives them [B, K]."""
        with casting(images.device, self.autocast):
            return _forward(self.model, images)


@torch.inference_mode()
def forward_passes(
    batches: Iterable[Batch],
    device: torch.device,
    normalise: Normalise,
    views: Mapping[str, View],
    networks: Sequence[tuple[Network, Collection[str]]],
) -> Iterator[list[list[torch.Tensor]]]:
    """Per batch: of every network the logits [B, K] of each view that it is asked for, in the order of `views`.

    A batch is copied and normalised once, and a view of it made once, for all networks; one view is kept at a time.
    """
    for network, _ in networks:
        network.model.eval()
    for pixels, _ in on_device(batches, device):
        images = normalise(pixels)
        found: list[list[torch.Tensor]] = [[] for _ in networks]
        for name, view in views.items():
            seen = view(images)
            for logits, (network, wanted) in zip(found, networks, strict=True):
                if name in wanted:
                    logits.append(network.logits(seen))
        yield found


@torch.inference_mode()
def plain_predictions(network: Network, batches: Iterable[Batch], device: torch.device, normalise: Normalise, outputs: Outputs) -> npt.NDArray[np.float32]:
    """What `outputs` makes of the logits of the pictures as they are [rows, outputs]."""
    passes = forward_passes(batches, device, normalise, WHOLE, [(network, WHOLE)])
    return torch.cat([outputs.predict(logits).float() for ((logits,),) in passes]).cpu().numpy()


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
