"""What a fold's network is worth on the rows that it did not learn from."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from pipeline.runtime import CtrlC, casting
from pipeline.training.datasets import Batch, Normalise, on_device
from pipeline.training.evaluate import Network, plain_predictions
from pipeline.training.fold import FoldData
from pipeline.training.metrics import METRICS, general_loss
from pipeline.training.surgery import recalibrate_batch_norm

RECALIBRATION_BATCHES = 100  # that BatchNorm's statistics of mixed weights are measured on


@dataclass(frozen=True)
class HeldOut:
    """Looks at networks; a Ctrl-C ends it between two batches."""

    data: FoldData
    normalise: Normalise
    device: torch.device
    autocast: torch.dtype | None
    ctrl_c: CtrlC
    parts: Callable[[torch.Tensor], Iterable[torch.Tensor]]
    """Splits a batch into what fits into memory."""

    def look_at(self, network: torch.nn.Module) -> tuple[float, float]:
        """Metric and general loss on the held-out rows; nan where there are none."""
        data = self.data
        if data.valid is None:
            return math.nan, math.nan
        seen = self._until_asked(data.valid)
        values = plain_predictions(Network(network, self.autocast), seen, self.device, self.normalise, data.outputs)
        return METRICS[data.metric](data.target, data.valid_targets, values), general_loss(data.target.task)(data.valid_targets, values)

    def score_of(self, network: torch.nn.Module, weights: dict[str, torch.Tensor], epoch: int) -> tuple[dict[str, torch.Tensor], float]:
        """Puts mixed weights into `network`, measures its BatchNorm anew on training pictures as `epoch` would draw them, and
        returns the weights with these statistics and their score, of which more is better."""
        network.load_state_dict(weights)
        self.data.batches.epoch, self.data.batches.first_batch = epoch, 0
        drawn = itertools.islice(on_device(self._until_asked(self.data.train), self.device), RECALIBRATION_BATCHES)
        with casting(self.device, self.autocast):
            recalibrate_batch_norm(network, (part for pixels, _ in drawn for part in self.parts(self.normalise(pixels))))
        score = METRICS[self.data.metric].sign * self.look_at(network)[0]
        return {name: tensor.clone() for name, tensor in network.state_dict().items()}, score

    def _until_asked(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        for batch in batches:
            self.ctrl_c.stop_if_asked()
            yield batch
