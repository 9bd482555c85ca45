"""Between a network's logits and what is predicted: probabilities, or a number in the target's own unit."""

from dataclasses import dataclass

import numpy as np
import torch

from pipeline.config import Task
from pipeline.data.targets import Numbers


@dataclass(frozen=True)
class Outputs:
    """What the logits of one fold's network mean. The four numbers are of the targets that it learned from; regression alone."""

    task: Task
    mean: float = 0.0
    std: float = 1.0
    lowest: float = -np.inf
    highest: float = np.inf

    @classmethod
    def of(cls, task: Task, learned: Numbers) -> "Outputs":
        """For a network that learns from these targets, as `Target.numbers` gives them."""
        if task != "regression":
            return cls(task)
        return cls(task, float(learned.mean(dtype=np.float64)), float(learned.std(dtype=np.float64)) or 1.0, float(learned.min()), float(learned.max()))

    def predict(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [B, K] to probabilities, or to numbers within the range of the training targets; in double precision."""
        if self.task == "regression":
            return (logits.double() * self.std + self.mean).clamp(self.lowest, self.highest)
        return logits.double().sigmoid() if self.task == "multilabel" else logits.double().softmax(dim=1)

    def learn(self, numbers: Numbers) -> torch.Tensor:
        """Targets as training wants them: class numbers [rows], labels 0/1 [rows, K], or numbers of mean 0 and deviation 1 [rows, 1]."""
        if self.task == "regression":
            return torch.from_numpy(((numbers - self.mean) / self.std).astype(np.float32))
        return torch.from_numpy(numbers)


def soft_targets(targets: torch.Tensor, num_outputs: int) -> torch.Tensor:
    """Targets of a batch, class numbers [B] or anything [B, K], as float [B, K]."""
    return torch.nn.functional.one_hot(targets, num_outputs).float() if targets.ndim == 1 else targets.float()
