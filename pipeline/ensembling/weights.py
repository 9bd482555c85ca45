"""Weights: over the folds of one model, and over models by log loss, cross-fitted."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TOLERANCE = 1e-11  # nats by which a step must lower the log loss to go on
MAX_STEPS = 10_000


def fold_weights(how: str, scores: Sequence[float], sign: int) -> Floats:
    """Weights of one model's folds on test rows, sum 1.

    equal; or score: in proportion to how far each fold beats the worst, plus the spread, so that the
    worst keeps half the weight of the best. A fold whose score is not
    defined (an AUC without positives) counts as the worst. Not fitted: no row is predicted by two folds out of fold.
    """
    good = sign * np.asarray(scores, dtype=np.float64)
    good = np.where(np.isnan(good), np.nanmin(good) if np.isfinite(good).any() else 0.0, good)
    spread = good.max() - good.min()
    if how == "equal" or spread == 0:
        return np.full(len(good), 1 / len(good))
    raw = good - good.min() + spread
    return np.asarray(raw / raw.sum())


def with_mean_weight(weights: Floats, members: int) -> Floats:
    """Weights of `members` [members], sum 1: those of the first ones in proportion, each further one with their mean."""
    return np.concatenate([weights, np.full(members - len(weights), weights.mean())]) * (len(weights) / members)


def blend(values: Sequence[npt.NDArray[np.float32]], weights: Floats) -> npt.NDArray[np.float32]:
    """Weighted mean of predictions [rows, outputs], weights of sum 1; summed in double precision."""
    total = np.zeros(values[0].shape, dtype=np.float64)
    for part, weight in zip(values, weights, strict=True):
        total += weight * part
    return total.astype(np.float32)


def fit_weights(true_probability: Floats) -> Floats:
    """Weights on the simplex that minimise the log loss of the weighted mean.

    true_probability: [rows, models], what each model gave the truth. The problem is convex; the
    steps are expectation maximisation for mixture proportions (Dempster, Laird and Rubin, 1977), each
    of which stays on the simplex and never raises the loss.
    """
    given = np.clip(true_probability, 1e-15, 1.0)
    weights = np.full(given.shape[1], 1 / given.shape[1])
    before = np.inf
    for _ in range(MAX_STEPS):
        mixed = given @ weights
        loss = -np.log(mixed).mean()
        if before - loss < TOLERANCE:
            break
        before = loss
        weights = weights * (given / mixed[:, None]).mean(axis=0)
        weights /= weights.sum()
    return weights


def given_truth(values: npt.NDArray[np.float32], targets: npt.NDArray[Any]) -> Floats:
    """The probability that a model gave the truth: of the true class [rows], or of each label's being there or not [rows, labels]."""
    probabilities = values.astype(np.float64)
    if targets.ndim == 2:
        return np.where(targets == 1, probabilities, 1 - probabilities)
    return np.asarray(probabilities[np.arange(len(targets)), targets])


def cross_fitted(values: Sequence[npt.NDArray[np.float32]], targets: npt.NDArray[Any], fold: npt.NDArray[np.int16]) -> npt.NDArray[np.float32]:
    """Blend of out-of-fold probabilities in which each fold's weights are fitted on the other folds alone.

    values: per model [rows, classes]; targets: column of the true class [rows], or labels 0/1 [rows, labels]; fold: [rows].
    """
    given = [given_truth(part, targets) for part in values]
    result = np.empty_like(values[0])
    for number in np.unique(fold):
        inside = fold == number
        weights = fit_weights(np.stack([part[~inside].ravel() for part in given], axis=1))
        result[inside] = blend([part[inside] for part in values], weights)
    return result
