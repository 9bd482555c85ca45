"""What networks said, joined from all devices and blended as the ensemble does; what is lost leaves its weight to the others."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pipeline.config import Config
from pipeline.ensembling.schemes import Blend
from pipeline.ensembling.temperature import with_temperature
from pipeline.ensembling.weights import blend
from pipeline.inference.predict import with_shares
from pipeline.inference.tta import merge_views
from pipeline.kaggle.bundle import Bundle
from pipeline.kaggle.models import Key, Part
from pipeline.predictions import TEST, Predictions

Values = npt.NDArray[np.float32]


def blended(
    bundle: Bundle, configs: Mapping[int, Config], keys: Sequence[Key], parts: Sequence[Part], readable: Sequence[str], ids: Sequence[str]
) -> Predictions:
    """The ensemble's predictions of `ids`; keys: the networks that predicted; readable: ids of the rows of all parts, one part after the other."""
    values, numbers = [], sorted({key[0] for key in keys})
    for number in numbers:
        values.append(_experiment(bundle, configs[number], [key for key in sorted(keys) if key[0] == number], parts, readable, ids))
    fitted = remaining(bundle.blend, numbers, len(bundle.experiments))
    return Predictions(tuple(ids), bundle.target.classes, fitted.apply(values), np.full(len(ids), TEST, dtype=np.int16))


def _experiment(bundle: Bundle, config: Config, keys: Sequence[Key], parts: Sequence[Part], readable: Sequence[str], ids: Sequence[str]) -> Values:
    """One experiment's networks, weighed [rows, outputs]; columns in the target's order."""
    experiment, task = bundle.experiments[keys[0][0]], bundle.target.task
    found, weights = [], []
    for key in keys:
        network = experiment.networks[key[1]]
        whole = np.concatenate([np.load(part.file(key), allow_pickle=False) for part in parts], axis=1)
        values: Values = merge_views(whole, "ranks", task) if config.predict.merge == "ranks" else whole[0]
        if network.temperature != 1:
            values = with_temperature(values, network.temperature, task)
        told = Predictions(tuple(readable), experiment.classes, values, np.full(len(readable), TEST, dtype=np.int16))
        every = told.of(ids) if len(readable) == len(ids) else with_shares(told, ids, np.array(network.shares))
        found.append(every.in_classes(bundle.target.classes).values)
        weights.append(network.weight)
    return blend(found, np.array(weights) if len(keys) == len(experiment.networks) else scaled(weights))


def scaled(weights: Sequence[float]) -> npt.NDArray[np.float64]:
    """Weights that sum to 1 again; equal ones where all are 0."""
    found = np.asarray(weights, dtype=np.float64)
    return found / found.sum() if found.sum() > 0 else np.full(len(found), 1 / len(found))


def remaining(fitted: Blend, numbers: Sequence[int], experiments: int) -> Blend:
    """The blend of those experiments alone: its weights scaled, or the equal mean where it has no weights (a regression)."""
    if len(numbers) == experiments:
        return fitted
    if fitted.weights is None:
        return Blend.equal(fitted.task, len(numbers))
    weights = tuple(fitted.weights[number] for number in numbers)
    lost = sum(weight for number, weight in enumerate(fitted.weights) if number not in numbers)
    return replace(fitted, weights=tuple(scaled(weights).tolist()) if lost else weights)


def shares_alone(bundle: Bundle, ids: Sequence[str]) -> Predictions:
    """What the training rows say of any picture, where no network says anything."""
    classes, rows = bundle.target.classes, []
    for experiment in bundle.experiments:
        columns = [experiment.classes.index(name) for name in classes]
        rows += [np.array(network.shares)[columns] for network in experiment.networks]
    mean = np.mean(rows, axis=0).astype(np.float32)
    return Predictions(tuple(ids), classes, np.tile(mean, (len(ids), 1)), np.full(len(ids), TEST, dtype=np.int16))
