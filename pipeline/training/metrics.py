"""Metrics by name: what a competition scores, which way is up, and what it needs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.config import Task
from pipeline.data.targets import Numbers, Target


@dataclass(frozen=True)
class Metric:
    """A score of predictions.

    function: (targets, labels or values) to a number. Targets and labels are class numbers [rows], or 0/1 [rows, labels] for
    multilabel, or numbers [rows, 1]; values are [rows, outputs]. sign: 1 where more is better, -1 where less is; needs: what
    the second argument is; pooled: whether the CV is of all rows at once, or the mean over folds, whose ranks do not compare.
    """

    name: str
    function: Callable[[Numbers, Numbers], float]
    sign: Literal[1, -1]
    needs: Literal["labels", "values"]
    pooled: bool = True

    def __call__(self, target: Target, numbers: Numbers, values: Numbers) -> float:
        """The score of predictions `values` [rows, outputs]; `numbers`: the truth, as `target.numbers` gives it."""
        return float(self.function(numbers, target.decide(values) if self.needs == "labels" else values))


def accuracy(targets: Numbers, labels: Numbers) -> float:
    """Share of rows whose label is right; of several labels, all of them."""
    right = targets == labels
    return float((right if right.ndim == 1 else right.all(axis=1)).mean())


def balanced_accuracy(targets: Numbers, labels: Numbers) -> float:
    """Mean over the classes that occur of the share of their rows that are right."""
    return float(np.mean([(labels[targets == number] == number).mean() for number in np.unique(targets)]))


def _f1(average: str, empty: float = 0.0) -> Callable[[Numbers, Numbers], float]:
    def f1(targets: Numbers, labels: Numbers) -> float:
        from sklearn.metrics import f1_score

        return float(f1_score(targets, labels, average=average, zero_division=empty))

    return f1


def log_loss(targets: Numbers, probabilities: Numbers) -> float:
    """Mean negative log of the true class's probability, rows scaled to sum 1, clipped at 1e-15 as Kaggle does.

    Multilabel: mean over cells of the binary log loss.
    """
    values = probabilities.astype(np.float64)
    if targets.ndim == 2:
        return float(-np.log(np.clip(np.where(targets == 1, values, 1 - values), 1e-15, 1.0)).mean())
    given = values[np.arange(len(targets)), targets] / values.sum(axis=1)
    return float(-np.log(np.clip(given, 1e-15, 1.0)).mean())


def _columns(targets: Numbers, values: Numbers) -> list[tuple[Numbers, Numbers]]:
    """Per output: who has it, and its values; of two classes the second; outputs that nobody or everybody has are left out."""
    if targets.ndim == 1:
        members = [(targets == number, values[:, number]) for number in range(values.shape[1])]
        members = members[1:] if values.shape[1] == 2 else members
    else:
        members = [(targets[:, number] == 1, values[:, number]) for number in range(values.shape[1])]
    return [(has, column) for has, column in members if 0 < has.sum() < len(has)]


def roc_auc(targets: Numbers, values: Numbers) -> float:
    """Area under the ROC curve; of several outputs the mean over columns. nan where no column has both kinds of rows."""
    from scipy.stats import rankdata

    areas = []
    for has, column in _columns(targets, values):
        ranks = rankdata(column)
        yes, no = int(has.sum()), int((~has).sum())
        areas.append((ranks[has].sum() - yes * (yes + 1) / 2) / (yes * no))
    return float(np.mean(areas)) if areas else float("nan")


def average_precision(targets: Numbers, values: Numbers) -> float:
    """Average precision; of several labels the mean over columns. nan where no column has both kinds of rows."""
    from sklearn.metrics import average_precision_score

    scores = [average_precision_score(has, column) for has, column in _columns(targets, values)]
    return float(np.mean(scores)) if scores else float("nan")


def quadratic_kappa(targets: Numbers, labels: Numbers) -> float:
    """Cohen's kappa with quadratic weights (Cohen, 1968); 0 where targets and labels are one and the same grade."""
    observed = ((targets - labels) ** 2.0).mean()
    expected = (targets.astype(np.float64) ** 2).mean() + (labels.astype(np.float64) ** 2).mean() - 2 * targets.mean() * labels.mean()
    return float(1 - observed / expected) if expected > 0 else 0.0


def matthews_correlation(targets: Numbers, labels: Numbers) -> float:
    """Matthews' correlation coefficient, for any number of classes."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(targets, labels))


def _map_at(k: int) -> Callable[[Numbers, Numbers], float]:
    def mean_average_precision(targets: Numbers, values: Numbers) -> float:
        rank = true_rank(targets, values)
        return float(np.where(rank <= k, 1 / rank, 0.0).mean())

    return mean_average_precision


def _top(k: int) -> Callable[[Numbers, Numbers], float]:
    def top_accuracy(targets: Numbers, values: Numbers) -> float:
        return float((true_rank(targets, values) <= k).mean())

    return top_accuracy


def true_rank(targets: Numbers, values: Numbers) -> Numbers:
    """Place of the true class by its value, from 1; equal values rank in the order of classes, as in a submission."""
    true = values[np.arange(len(targets)), targets][:, None]
    before = np.arange(values.shape[1]) < targets[:, None]
    return np.asarray(1 + ((values > true) | ((values == true) & before)).sum(axis=1))


def probabilistic_f1(targets: Numbers, probabilities: Numbers) -> float:
    """F1 of probabilistic precision and recall of the last class; 0 where either is undefined or 0.

    Yacouby and Axman, Probabilistic extension of precision, recall, and F1 score (2020), as RSNA's breast cancer competition scores it.
    """
    positive = np.clip(probabilities[:, -1].astype(np.float64), 0, 1)
    has = targets == 1
    found = positive[has].sum()
    return float(2 * found / (positive.sum() + has.sum())) if found > 0 else 0.0


def rmse(targets: Numbers, values: Numbers) -> float:
    """Root of the mean squared error."""
    return float(np.sqrt(((targets.astype(np.float64) - values) ** 2).mean()))


def mae(targets: Numbers, values: Numbers) -> float:
    """Mean absolute error."""
    return float(np.abs(targets.astype(np.float64) - values).mean())


def rmsle(targets: Numbers, values: Numbers) -> float:
    """Root of the mean squared error of log(1 + x); predictions below 0 count as 0."""
    return rmse(np.log1p(targets.astype(np.float64)), np.log1p(np.maximum(values.astype(np.float64), 0)))


def r2(targets: Numbers, values: Numbers) -> float:
    """Share of the variance that is explained; 0 where the targets do not vary."""
    truth = targets.astype(np.float64)
    total = ((truth - truth.mean()) ** 2).sum()
    return float(1 - ((truth - values) ** 2).sum() / total) if total > 0 else 0.0


# A form for rows of different weight, which the bootstrap uses, goes into ensembling/weighted.py.
METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("accuracy", accuracy, 1, "labels"),
        Metric("balanced_accuracy", balanced_accuracy, 1, "labels"),
        Metric("macro_f1", _f1("macro"), 1, "labels"),
        Metric("micro_f1", _f1("micro"), 1, "labels"),
        Metric("samples_f1", _f1("samples", empty=1.0), 1, "labels"),
        Metric("log_loss", log_loss, -1, "values"),
        Metric("roc_auc", roc_auc, 1, "values", pooled=False),
        Metric("average_precision", average_precision, 1, "values", pooled=False),
        Metric("quadratic_kappa", quadratic_kappa, 1, "labels"),
        Metric("matthews_correlation", matthews_correlation, 1, "labels"),
        Metric("map_at_3", _map_at(3), 1, "values"),
        Metric("map_at_5", _map_at(5), 1, "values"),
        Metric("top_3_accuracy", _top(3), 1, "values"),
        Metric("top_5_accuracy", _top(5), 1, "values"),
        Metric("probabilistic_f1", probabilistic_f1, 1, "values"),
        Metric("rmse", rmse, -1, "values"),
        Metric("mae", mae, -1, "values"),
        Metric("rmsle", rmsle, -1, "values"),
        Metric("r2", r2, 1, "values"),
    )
}


def general_loss(task: Task) -> Callable[[Numbers, Numbers], float]:
    """What is watched beside the metric: log loss of probabilities, squared error of numbers."""
    return (lambda targets, values: rmse(targets, values) ** 2) if task == "regression" else log_loss
