"""Between a network's logits and what is predicted: probabilities, or a number in the target's own unit."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config import Task
from pipeline.data.targets import Numbers


@dataclass(frozen=True)
class Outputs:
    """What the logits of one fold's network mean. The numbers are of the targets that it learned from; regression alone."""

    task: Task
    mean: float = 0.0
    """Of the targets, or of log(1 + target)."""
    std: float = 1.0
    """The same."""
    lowest: float = -np.inf
    highest: float = np.inf
    logarithm: bool = False
    """Whether the network learns log(1 + target)."""

    @classmethod
    def of(cls, task: Task, learned: Numbers, logarithm: bool = False) -> "Outputs":
        """For a network that learns from these targets, as `Target.numbers` gives them."""
        if task != "regression":
            return cls(task)
        scaled = np.log1p(learned.astype(np.float64)) if logarithm else learned
        assert np.isfinite(scaled).all(), "preparing refuses a target without a logarithm"
        mean, std = float(scaled.mean(dtype=np.float64)), float(scaled.std(dtype=np.float64))
        varies = std >= np.finfo(np.float32).tiny  # else it is 0 in the targets' own precision
        return cls(task, mean, std if varies else 1.0, float(learned.min()), float(learned.max()), logarithm)

    def predict(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [B, K] to probabilities, or to numbers within the range of the training targets; in double precision."""
        if self.task == "regression":
            values = logits.double() * self.std + self.mean
            return (values.expm1() if self.logarithm else values).clamp(self.lowest, self.highest)
        return logits.double().sigmoid() if self.task == "multilabel" else logits.double().softmax(dim=1)

    def learn(self, numbers: Numbers) -> torch.Tensor:
        """Targets as training wants them: class numbers [rows], labels 0/1 [rows, K], or numbers of mean 0 and deviation 1 [rows, 1]."""
        if self.task == "regression":
            scaled = np.log1p(numbers.astype(np.float64)) if self.logarithm else numbers
            return torch.from_numpy(((scaled - self.mean) / self.std).astype(np.float32))
        return torch.from_numpy(numbers)


def soft_targets(targets: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """Targets of a batch, class numbers [B] or anything [B, K], as float [B, K]."""
    return torch.nn.functional.one_hot(targets, num_outputs).float() if targets.ndim == 1 else targets.float()
