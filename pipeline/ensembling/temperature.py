"""Temperature: one number per network that sharpens or flattens its probabilities, before any averaging.

Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks (2017): p^(1/T), scaled to sum 1; of several labels
the logit of each, divided by T. Above 1 flattens, below 1 sharpens; which class is most probable stays as it is.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import Task
from pipeline.data.targets import Numbers
from pipeline.runtime import stream

Values = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

LOWEST, HIGHEST = 0.05, 20.0
FEWEST = 20  # rows on which a temperature is fitted
SMALLEST = 1e-15  # as the log loss clips


def fit_temperature(values: Values, numbers: Numbers, task: Task) -> float:
    """The temperature that minimises the log loss of these rows, within 0.05 to 20; 1 where none gains, or of fewer than 20 rows.

    values: probabilities [rows, outputs]; numbers: the truth, as `target.numbers` gives it.
    """
    from scipy.optimize import minimize_scalar

    assert task != "regression"
    if len(values) < FEWEST:
        return 1.0
    logits = _logits(values, task)

    def loss(logarithm: float) -> float:
        return _loss(logits / np.exp(logarithm), numbers, task)

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x)) if found.fun < loss(0.0) else 1.0


def with_temperature(values: Values, temperature: float, task: Task) -> Values:
    """Probabilities [rows, outputs] sharpened (below 1) or flattened (above 1); at 1 as they are."""
    from scipy.special import expit, softmax

    assert task != "regression"
    if temperature == 1.0:
        return values
    logits = _logits(values, task) / temperature
    return np.asarray(expit(logits) if task == "multilabel" else softmax(logits, axis=1), dtype=np.float32)


def cross_fitted_temperature(values: Values, numbers: Numbers, group: npt.NDArray[np.int64], task: Task, seed: int, fold: int) -> Values:
    """The rows that one network held out, each half of them at the temperature that the other half wants.

    values: [rows, outputs]; group: [rows], equal for rows that stay together; seed, fold: which halves.
    """
    first = _first_half(group, np.random.default_rng(stream("halves", seed, fold)))
    result = values.copy()
    for half in (first, ~first):
        result[half] = with_temperature(values[half], fit_temperature(values[~half], numbers[~half], task), task)
    return result


def _first_half(group: npt.NDArray[np.int64], generator: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Whole groups in an order drawn by lot, as long as half of the rows hold them [rows]."""
    _, number, sizes = np.unique(group, return_inverse=True, return_counts=True)
    order = generator.permutation(len(sizes))
    chosen = np.zeros(len(sizes), dtype=np.bool_)
    chosen[order] = np.cumsum(sizes[order]) * 2 <= len(group)
    return np.asarray(chosen[number])


def _logits(values: Values, task: Task) -> Floats:
    """Logarithms of probabilities, of several labels those of the odds."""
    clipped = np.clip(values.astype(np.float64), SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(clipped) - np.log1p(-clipped) if task == "multilabel" else np.log(clipped))


def _loss(logits: Floats, numbers: npt.NDArray[Any], task: Task) -> float:
    from scipy.special import logsumexp

    if task == "multilabel":
        return float(np.logaddexp(0.0, np.where(numbers == 1, -logits, logits)).mean())
    return float((logsumexp(logits, axis=1) - logits[np.arange(len(logits)), numbers]).mean())
