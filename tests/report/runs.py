"""Runs to report on: classifiers of the digits out of fold, and invented ones of any task, with everything around them."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from pipeline.data.images import Pixels
from pipeline.data.targets import Numbers, Target
from pipeline.ensembling.scores import cross_validation
from pipeline.predictions import Predictions
from pipeline.report.run import Experiment, Run
from pipeline.training.metrics import METRICS as METRICS_OF_ALL

METRICS = {"multiclass": "accuracy", "binary": "roc_auc", "multilabel": "macro_f1", "ordinal": "quadratic_kappa", "regression": "rmse"}
VIEWS = {
    "metric": "accuracy",
    "chosen": ["identity", "zoom_in"],
    "merge": "probabilities",
    "views": [
        {"view": "identity", "score": 0.96, "loss": 0.14, "corrected": 0, "spoiled": 0, "milliseconds": 1.21},
        {"view": "zoom_in", "score": 0.95, "loss": 0.15, "corrected": 9, "spoiled": 21, "milliseconds": 1.25},
        {"view": "horizontal_flip", "score": 0.41, "loss": 3.2, "corrected": 2, "spoiled": 801, "milliseconds": 1.2},
    ],
    "before": 0.96,
    "after": 0.964,
}


def noise(name: str, shape: tuple[int, int] = (8, 8)) -> Pixels:
    return np.random.default_rng(sum(name.encode())).integers(256, size=(*shape, 3), dtype=np.uint8)


def history(metric: str, fold: int, epochs: int = 12, rising: float = 0.0) -> pd.DataFrame:
    """What a training run leaves in history.csv, invented."""
    random = np.random.default_rng(fold)
    epoch = np.arange(1, epochs + 1)
    train = 2.2 * np.exp(-epoch / 3) + 0.1 + random.normal(0, 0.02, epochs)
    valid = 2.0 * np.exp(-epoch / 3) + 0.25 + rising * epoch + random.normal(0, 0.02, epochs)
    rate = 1e-3 * 0.5 * (1 + np.cos(np.pi * epoch / epochs))
    return pd.DataFrame({"epoch": epoch, "learning_rate": rate, "train_loss": train, "valid_loss": valid, metric: 1 - 0.3 * valid})


def predictions(ids: Sequence[str], classes: Sequence[str], values: Numbers, fold: Numbers) -> Predictions:
    return Predictions(tuple(ids), tuple(classes), values.astype(np.float32), fold.astype(np.int16))


def run_of(target: Target, truth: Mapping[str, str], parts: Mapping[str, Predictions], **changes: Any) -> Run:
    """A run of experiments, blended by their mean, with everything that a stage knows; intervals and other schemes are invented."""
    first = next(iter(parts.values()))
    blend = Predictions(first.ids, first.classes, np.mean([part.values for part in parts.values()], axis=0).astype(np.float32), first.fold)
    metric, folds = METRICS[target.task], np.unique(blend.fold)

    def measured(part: Predictions, more: float = 0.0) -> dict[str, Any]:
        found = cross_validation(part, target, truth, metric)
        cv = found["cv"] + more
        return {**found, "cv": cv, "interval": [cv - 0.01, cv + 0.01]}

    experiments = [
        Experiment(
            name, part, measured(part), {f"seed 0 fold {fold}": history(metric, int(fold), rising=0.03 * (number == 1)) for fold in folds},
            VIEWS if number == 0 else None, 321.0 * (number + 1), 2_230_000 + number, (("model.backbone", name), ("images.size", "16"), ("train.epochs", "12")),
        )
        for number, (name, part) in enumerate(parts.items())
    ]  # fmt: skip
    equal = dict.fromkeys(parts, 1 / len(parts))
    ensemble = {
        "metric": metric, "chosen": "equal", "asked": "auto", "experiments": {one.name: one.score for one in experiments},
        "schemes": {"equal": measured(blend), "simplex": measured(blend, 0.001) | {"better": 0.71}, "greedy": measured(blend, -0.001) | {"better": 0.38}},
        "weights": {"equal": equal, "simplex": equal}, "decisions": None, "notes": ["Two of five folds are still to come."],
    }  # fmt: skip
    values = {"title": " + ".join(parts), "competition": "digits", "metric": metric, "sign": METRICS_OF_ALL[metric].sign, "target": target, "truth": truth}
    values |= {"out_of_fold": blend, "decided": target.decide(blend.in_classes(target.classes).values), "score": measured(blend)}
    return Run(**(values | {"ensemble": ensemble, "experiments": experiments, "read": noise} | changes))


def invented(task: str, rows: int = 200, num_classes: int = 4, names: Sequence[str] | None = None, **changes: Any) -> Run:
    """Predictions that are right more often than not, of any task; the same arguments give the same run."""
    random = np.random.default_rng(7)
    classes = ("y",) if task == "regression" else tuple(names or (f"c{i:03d}" for i in range(2 if task == "binary" else num_classes)))
    ids = [f"row {number:05d}" for number in range(rows)]
    fold = np.arange(rows) % 5
    target = Target(task, classes, may_be_empty=task == "multilabel")  # type: ignore[arg-type]
    if task == "regression":
        numbers = random.normal(50, 20, (rows, 1)).astype(np.float32)
        texts = [f"{value:.9g}" for value in numbers[:, 0]]
        parts = [numbers + random.normal(0, 5, (rows, 1)) for _ in range(2)]
    elif task == "multilabel":
        numbers = (random.random((rows, len(classes))) < 0.3).astype(np.float32)
        texts = ["|".join(name for name, has in zip(classes, row, strict=True) if has) for row in numbers]
        parts = [1 / (1 + np.exp(-(4 * numbers - 2 + random.normal(0, 1.5, numbers.shape)))) for _ in range(2)]
    else:
        numbers = random.integers(len(classes), size=rows)
        texts = [classes[number] for number in numbers]
        common = 3 * np.eye(len(classes))[numbers] + random.normal(0, 1.2, (rows, len(classes)))
        logits = [common + random.normal(0, 0.6, common.shape) for _ in range(2)]
        parts = [np.exp(one) / np.exp(one).sum(axis=1, keepdims=True) for one in logits]
    truth = dict(zip(ids, texts, strict=True))
    found = {name: predictions(ids, classes, part, fold) for name, part in zip(("first", "second"), parts, strict=True)}
    return run_of(target, truth, found, **changes)


def flipped_digits(flip: float) -> tuple[Any, Numbers, Numbers, set[str]]:
    """The digits, their labels of which a share was changed at random, five folds, and the ids of the changed rows."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    random = np.random.default_rng(0)
    given = digits.target.copy()
    flipped = random.choice(len(given), round(flip * len(given)), replace=False)
    given[flipped] = (given[flipped] + random.integers(1, 10, len(flipped))) % 10
    return digits, given, random.permutation(np.arange(len(given)) % 5), {f"{row:04d}" for row in flipped}


def held_out(model: Any, digits: Any, given: Numbers, fold: Numbers) -> Predictions:
    """A classifier's out-of-fold probabilities of the digits."""
    values = np.zeros((len(given), 10))
    for number in range(5):
        values[fold == number] = model.fit(digits.data[fold != number] / 16, given[fold != number]).predict_proba(digits.data[fold == number] / 16)
    return predictions([f"{row:04d}" for row in range(len(given))], "0123456789", values, fold)


@functools.cache
def digits_predictions(flip: float) -> tuple[Target, dict[str, str], Predictions, set[str]]:
    """A logistic regression's predictions of the digits, and the ids whose label was changed."""
    from sklearn.linear_model import LogisticRegression

    digits, given, fold, flipped = flipped_digits(flip)
    out_of_fold = held_out(LogisticRegression(tol=0.002), digits, given, fold)
    return Target("multiclass", out_of_fold.classes), dict(zip(out_of_fold.ids, map(str, given), strict=True)), out_of_fold, flipped


def digits_run(flip: float = 0.05, **changes: Any) -> Run:
    """Three classifiers of the digits, a share of whose labels was changed at random."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.neighbors import KNeighborsClassifier

    digits, given, fold, _ = flipped_digits(flip)
    models = {"logistic": LogisticRegression(tol=0.002), "forest": RandomForestClassifier(60, random_state=0), "neighbours": KNeighborsClassifier(15)}
    parts = {name: held_out(model, digits, given, fold) for name, model in models.items()}
    ids = parts["logistic"].ids
    pictures = {
        name: np.repeat(np.round(picture * (255 / 16)).astype(np.uint8)[:, :, None], 3, axis=2) for name, picture in zip(ids, digits.images, strict=True)
    }
    truth = dict(zip(ids, map(str, given), strict=True))
    return run_of(Target("multiclass", tuple("0123456789")), truth, parts, read=pictures.__getitem__, **changes)
