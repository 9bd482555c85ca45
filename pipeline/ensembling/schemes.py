"""Schemes that blend the predictions of several models, fitted on rows other than those that they are scored on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config import RANKING_METRICS, Task
from pipeline.ensembling.problem import Problem
from pipeline.ensembling.weights import CHUNK, Floats, Objective, Rows, StandIn, Values, blend

Outputs = npt.NDArray[np.float32]  # [rows, outputs]

UNFITTED = ("equal", "ranks", "geometric")
SMALLEST = 1e-12  # probability that a logarithm is taken of
GREEDY_STEPS = 25
GREEDY_PATIENCE = 10  # steps without a better prefix after which greedy selection ends
SEARCH_STEPS = (0.3, 0.15, 0.07, 0.03, 0.01)  # share of the blend that one move of the search on the metric shifts
SEARCH_SWEEPS = 3
STACKED_SMALLEST = 1e-3  # the same for stacked, whose coefficients would follow the few rows with a far smaller one
STRENGTH = 0.1  # scikit-learn's C of the stacked regressions; fixed, as choosing it would cost a search within the rows of every fit


@dataclass(frozen=True)
class Blend:
    """A scheme that was fitted, ready for other rows of the same models.

    weights: [models], sum 1, of every scheme but stacked. Stacked: coefficients of log probabilities [classes, models x classes],
    of a label's logits [labels, models] or of a regression's values [1, models]; intercepts [outputs]; logarithmic: the regression
    is of log(1 + x).
    """

    scheme: str
    task: Task
    weights: tuple[float, ...] | None = None
    coefficients: tuple[tuple[float, ...], ...] = ()
    intercepts: tuple[float, ...] = ()
    logarithmic: bool = False

    @classmethod
    def equal(cls, task: Task, models: int, scheme: str = "equal") -> "Blend":
        """Every model counts the same."""
        return cls(scheme, task, (1 / models,) * models)

    def apply(self, values: Values, fold: npt.NDArray[np.int16] | None = None, rows: Rows | None = None) -> Outputs:
        """Blended predictions; values: per model [rows, outputs]; fold: [rows], within which ranks are taken, or None where all rows compare.

        rows: of which rows alone (ranks: among them); else of all.
        """
        rows = np.arange(len(values[0])) if rows is None else rows
        if self.scheme == "ranks":
            return self._ranks(values, rows, np.zeros(len(rows)) if fold is None else fold[rows])
        result = np.empty((len(rows), values[0].shape[1]), dtype=np.float32)
        size = max(1, CHUNK // (values[0].shape[1] * (len(values) if self.scheme == "stacked" else 1)))
        for start in range(0, len(rows), size):
            result[start : start + size] = self._merge(values, rows[start : start + size])
        return result

    def _merge(self, values: Values, rows: Rows) -> Outputs:
        if self.scheme == "stacked":
            return self._stacked(np.stack([features(part[rows], self.task, self.logarithmic, STACKED_SMALLEST) for part in values], axis=1))
        assert self.weights is not None
        used = [number for number, weight in enumerate(self.weights) if weight > 0]
        weights = np.array([self.weights[number] for number in used])
        if self.scheme != "geometric":
            return blend([values[number][rows] for number in used], weights)
        total = np.zeros((len(rows), values[0].shape[1]))
        for number, weight in zip(used, weights, strict=True):
            total += weight * features(values[number][rows], self.task)
        return probabilities(total, self.task).astype(np.float32)

    def _stacked(self, given: Floats) -> Outputs:
        """given: [rows, models, outputs]."""
        coefficients, intercepts = np.array(self.coefficients), np.array(self.intercepts)
        if self.task == "multilabel":
            result = np.einsum("rml,lm->rl", given, coefficients) + intercepts
        else:
            result = given.reshape(len(given), -1) @ coefficients.T + intercepts
        if self.task == "regression":
            return np.asarray(np.expm1(result) if self.logarithmic else result, dtype=np.float32)
        return probabilities(result, self.task).astype(np.float32)

    def _ranks(self, values: Values, rows: Rows, fold: npt.NDArray[Any]) -> Outputs:
        from scipy.stats import rankdata

        result = np.empty((len(rows), values[0].shape[1]), dtype=np.float32)
        for number in np.unique(fold):
            inside = np.flatnonzero(fold == number)
            total = np.zeros((len(inside), values[0].shape[1]))
            for part in values:
                total += (rankdata(part[rows[inside]], axis=0) - 0.5) / len(inside) / len(values)
            result[inside] = total  # of several classes as well: rows that were scaled to a sum would be in another order
        return result

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers; `from_json` gives the same blend to the last bit."""
        return asdict(self)

    @classmethod
    def from_json(cls, read: Mapping[str, Any]) -> "Blend":
        """What `to_json` gave, perhaps by way of a file."""
        weights = None if read["weights"] is None else tuple(read["weights"])
        coefficients = tuple(tuple(row) for row in read["coefficients"])
        return cls(read["scheme"], read["task"], weights, coefficients, tuple(read["intercepts"]), read["logarithmic"])

    def weights_by(self, names: Sequence[str]) -> dict[str, float] | None:
        """Weight of each model, named in their order; None where there are none (stacked)."""
        return None if self.weights is None else dict(zip(names, self.weights, strict=True))


def features(values: Outputs, task: Task, logarithmic: bool = False, least: float = SMALLEST) -> Floats:
    """What is averaged or regressed on: log probabilities, a label's logits (both from `least` on), a regression's values or their log(1 + x)."""
    numbers = values.astype(np.float64)
    if task == "regression":
        return np.log1p(np.maximum(numbers, 0)) if logarithmic else numbers
    numbers = np.clip(numbers, least, 1 - least)
    return np.log(numbers) - np.log1p(-numbers) if task == "multilabel" else np.log(numbers)


def probabilities(given: Floats, task: Task) -> Floats:
    """Back from logits of labels, or from logits of classes [rows, classes], which are scaled to sum 1."""
    from scipy.special import expit, softmax

    return np.asarray(expit(given) if task == "multilabel" else softmax(given, axis=1))


def schemes_for(problem: Problem) -> tuple[str, ...]:
    """The schemes that fit the task and the metric; equal is the first."""
    ranks = ("ranks",) if problem.metric.name in RANKING_METRICS else ()
    geometric = ("geometric",) if problem.target.task != "regression" else ()
    return ("equal", *ranks, *geometric, "greedy", "simplex", "metric", "stacked")


def fit(scheme: str, values: Values, problem: Problem, rows: Rows) -> Blend:
    """The scheme, fitted on these rows alone; equal where it cannot be (stacked, where a class has none of the rows)."""
    return Fitter(values, problem).fit(scheme, rows)


def cross_fit(scheme: str, values: Values, problem: Problem) -> tuple[Outputs, dict[int, Blend]]:
    """Each fold's rows [rows, outputs] blended by what was fitted on the other folds, and that by fold; equal where there are no others."""
    return Fitter(values, problem).cross_fit(scheme)


class Fitter:
    """Fits schemes on rows of one problem; values: per model [rows, outputs], perhaps mapped from disk."""

    def __init__(self, values: Values, problem: Problem) -> None:
        assert all(part.shape == values[0].shape and len(part) == len(problem) for part in values)
        self.values, self.problem, self._stand_in = values, problem, StandIn(values, problem)

    def fit(self, scheme: str, rows: Rows) -> Blend:
        """See `fit`."""
        assert scheme in schemes_for(self.problem), f"{scheme} is not for {self.problem.metric.name}"
        task, models = self.problem.target.task, len(self.values)
        if scheme in UNFITTED or (models == 1 and scheme != "stacked"):
            return Blend.equal(task, models, scheme)
        objective = self._stand_in.on(rows)
        order = np.argsort(objective.alone(), kind="stable")  # best first, so that no result depends on the order in which models come
        search = Search([self.values[number] for number in order], rows, self.problem.take(rows), objective.reordered(order))
        if scheme == "stacked":
            return stack(search, np.argsort(order))
        found = {"simplex": search.objective.minimise, "greedy": search.greedy, "metric": search.climb}[scheme]()
        return Blend(scheme, task, tuple(found[np.argsort(order)].tolist()))

    def without(self, scheme: str, folds: Sequence[int]) -> Blend:
        """The scheme, fitted on the rows of all folds but these; equal where none is left."""
        rows = np.flatnonzero(~np.isin(self.problem.fold, folds))
        if len(rows) == 0 and scheme not in UNFITTED:
            return Blend.equal(self.problem.target.task, len(self.values))
        return self.fit(scheme, rows)

    def cross_fit(self, scheme: str) -> tuple[Outputs, dict[int, Blend]]:
        """See `cross_fit`."""
        blends = {fold: self.without(scheme, [fold]) for fold in self.problem.folds}
        return self.apply(blends), blends

    def apply(self, blends: Mapping[int, Blend]) -> Outputs:
        """Predictions [rows, outputs] of the rows of these folds, in the problem's order, each by its own blend."""
        held = np.flatnonzero(np.isin(self.problem.fold, list(blends)))
        result = np.empty((len(held), self.values[0].shape[1]), dtype=np.float32)
        for fold, one in blends.items():
            inside = self.problem.fold[held] == fold
            result[inside] = one.apply(self.values, rows=held[inside])
        return result


Judged = tuple[float, float]  # metric, more is better; and the stand-in, turned round, which breaks its ties


@dataclass(frozen=True)
class Search:
    """Weights that are judged by the metric itself, on some rows of models that come best first."""

    values: Values
    rows: Rows
    part: Problem
    objective: Objective

    def _chunks(self) -> list[slice]:
        size = max(1, CHUNK // self.values[0].shape[1])
        return [slice(start, start + size) for start in range(0, len(self.rows), size)]

    def judge(self, weights: Floats, blended: Callable[[slice], npt.NDArray[Any]]) -> Judged:
        """blended: predictions with these weights, of a chunk of the rows."""
        whole = np.empty((len(self.rows), self.values[0].shape[1]), dtype=np.float32)
        for chunk in self._chunks():
            whole[chunk] = blended(chunk)
        score = self.part.metric.sign * self.part.score(whole)
        return (score if np.isfinite(score) else -np.inf), -self.objective.loss(weights)

    def judge_weights(self, weights: Floats) -> Judged:
        """The same of weights alone."""
        return self.judge(weights, lambda chunk: blend([part[self.rows[chunk]] for part in self.values], weights))

    def add(self, total: Floats, model: int, amount: float) -> Callable[[slice], Floats]:
        """A running blend [rows, outputs] with so much of one model added, and scaled to weight 1 again, chunk by chunk."""
        return lambda chunk: (total[chunk] + amount * self.values[model][self.rows[chunk]]) / (1 + amount)

    def greedy(self) -> Floats:
        """Ensemble selection with replacement (Caruana et al., Ensemble selection from libraries of models, 2004), the best prefix of it."""
        counts = np.zeros(len(self.values))
        total = np.zeros((len(self.rows), self.values[0].shape[1]))
        best, kept, since = (-np.inf, -np.inf), counts, 0
        for step in range(GREEDY_STEPS):
            tried = [self._judge_more(counts, total, model) for model in range(len(self.values))]
            chosen = tried.index(max(tried))
            counts = counts + np.eye(len(counts))[chosen]
            amount = 1 / step if step else 0.0
            total = self._whole(self.add(total, chosen, amount)) if step else self.values[chosen][self.rows].astype(np.float64)
            since += 1
            if max(tried) > best:
                best, kept, since = max(tried), counts, 0
            if since == GREEDY_PATIENCE:
                break
        return np.asarray(kept / kept.sum())

    def _judge_more(self, counts: Floats, total: Floats, model: int) -> Judged:
        weights = (counts + np.eye(len(counts))[model]) / (counts.sum() + 1)
        if counts.sum() == 0:
            return self.judge(weights, lambda chunk: self.values[model][self.rows[chunk]])
        return self.judge(weights, self.add(total, model, 1 / counts.sum()))

    def _whole(self, blended: Callable[[slice], Floats]) -> Floats:
        return np.concatenate([blended(chunk) for chunk in self._chunks()])

    def climb(self) -> Floats:
        """Weights on the simplex that are best by the metric, found from those of the stand-in and from equal ones; never worse than these."""
        starts = [self.objective.minimise(), self.objective.equal]
        found = starts + [self._climb(start) for start in starts]
        judged = [self.judge_weights(weights) for weights in found]
        return found[judged.index(max(judged))]

    def _climb(self, weights: Floats) -> Floats:
        """Coordinate search: every model gains or loses a share of the blend, wherever that is better; the shares shrink."""
        best = self.judge_weights(weights)
        total = self._whole(lambda chunk: blend([part[self.rows[chunk]] for part in self.values], weights).astype(np.float64))
        for share in SEARCH_STEPS:
            for _ in range(SEARCH_SWEEPS):
                before = best
                for model, more in [(model, more) for model in range(len(weights)) for more in (True, False)]:
                    amount = share / (1 - share) if more else -min(share, weights[model])
                    if amount in (0, -1):
                        continue
                    changed = np.maximum(weights + amount * np.eye(len(weights))[model], 0) / (1 + amount)
                    moved = self.add(total, model, amount)
                    if (judged := self.judge(changed, moved)) > best:
                        best, weights, total = judged, changed, self._whole(moved)
                if best == before:
                    break
        return weights


def stack(search: Search, places: Rows) -> Blend:
    """A regression on all models, with L2: multinomial logistic of classes, logistic of each label, ridge with no weight below 0 of numbers.

    places: where each model of the search stands in the blend, as an order of the search's models.
    """
    task, logarithmic = search.part.target.task, search.part.metric.name == "rmsle"
    numbers, models = search.part.numbers, len(search.values)
    given = np.stack([features(part[search.rows], task, logarithmic, STACKED_SMALLEST) for part in search.values], axis=1)
    if task == "regression":
        found, intercepts = _ridge(given[:, :, 0], np.log1p(numbers[:, 0].astype(np.float64)) if logarithmic else numbers[:, 0].astype(np.float64))
    elif task == "multilabel":
        parts = [_logistic(given[:, :, label], numbers[:, label]) for label in range(numbers.shape[1])]
        found, intercepts = np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
    elif len(np.unique(numbers)) < len(search.part.target.classes):
        return Blend.equal(task, models)
    else:
        found, intercepts = _logistic(given.reshape(len(given), -1), numbers)
        if len(found) == 1:  # of two classes: the second against the first
            found, intercepts = np.concatenate([0 * found, found]), np.concatenate([0 * intercepts, intercepts])
    ordered = found.reshape(len(found), models, -1)[:, places].reshape(len(found), -1)
    return Blend("stacked", task, None, tuple(map(tuple, ordered.tolist())), tuple(intercepts.tolist()), logarithmic)


def _logistic(given: Floats, numbers: npt.NDArray[Any]) -> tuple[Floats, Floats]:
    """Coefficients [outputs, features] and intercepts [outputs]; of a label that all rows or none have, the mean of its logits."""
    from sklearn.linear_model import LogisticRegression

    if len(np.unique(numbers)) == 1:
        return np.full((1, given.shape[1]), 1 / given.shape[1]), np.zeros(1)
    model = LogisticRegression(C=STRENGTH, max_iter=5000, tol=1e-5).fit(given, numbers)
    return model.coef_, model.intercept_


def _ridge(given: Floats, truth: Floats) -> tuple[Floats, Floats]:
    """Coefficients [1, models] and intercept [1], none negative, fitted in units of the truth's own spread."""
    from sklearn.linear_model import Ridge

    centre, spread = truth.mean(), truth.std() or 1.0
    model = Ridge(alpha=1.0, positive=True, tol=1e-12, max_iter=10_000).fit((given - centre) / spread, (truth - centre) / spread)
    return model.coef_[None], np.array([spread * model.intercept_ + centre * (1 - model.coef_.sum())])
