"""Trials at full length: the best of them in full, and what the tuned config gained, on the folds of the search and on others."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.artifacts import trial_name
from pipeline.config import Config, Tune
from pipeline.config_files import change_config
from pipeline.ensembling.scores import describe
from pipeline.errors import RunFailed, UserError
from pipeline.stages.judge import Judged, compare, judge
from pipeline.stages.networks import Trained
from pipeline.stages.prepare import prepare
from pipeline.stages.teach import teach
from pipeline.stages.train import fold_tasks, train_networks
from pipeline.stages.trial import differing, make_way, mark_tuned, quiet
from pipeline.training.metrics import METRICS
from pipeline.tuning.space import Space
from pipeline.tuning.trials import TrialRow, ranked

log = logging.getLogger(__name__)
ALIKE = 0.5  # adjusted Rand index of two splits above which the second says little that the first did not


@dataclass(frozen=True)
class Searched:
    """A study whose trials are done; config: as it was given, with epochs of its own; folds: that a trial trained."""

    config: Config
    space: Space
    rows: Sequence[TrialRow]
    folds: int
    pruner: str

    @property
    def best(self) -> list[TrialRow]:
        """The complete trials, the best first."""
        return ranked(self.rows, METRICS[self.config.competition.metric].sign)

    @property
    def whole_trials(self) -> bool:
        """Whether a trial trains all folds for all epochs."""
        return self.folds == self.config.folds.n_splits and self.config.tune.epochs in (None, self.config.train.epochs)

    @property
    def finished(self) -> int:
        """Trials that count."""
        return sum(row.finished for row in self.rows)

    def changes(self, row: TrialRow) -> dict[str, Any]:
        """What a trial changed of the config, by key; nothing for the config itself."""
        return {} if row.number == 0 else self.space.changes(row.parameters)

    def whole(self, row: TrialRow, suffix: str = "whole") -> Config:
        """A trial's settings with the config's own epochs and all folds, as an experiment of its own."""
        config = change_config(self.config, self.changes(row), f"trial {row.number}")
        name = trial_name(self.config.experiment, row.number, f"-{suffix}")
        config = config.model_copy(update={"experiment": name, "tune": Tune()})
        return mark_tuned(config, self.config.experiment, row.number, self.finished) if row.number else config


def best_in_full(searched: Searched, notes: list[str]) -> TrialRow:
    """The best of the finalists and the config itself, each on all folds of the search for all epochs; of equal ones the config, then the better trial."""
    own = [row for row in searched.best if row.number == 0]
    finalists = [row for row in differing(searched.best, searched.space) if row.number][: searched.config.tune.finalists]
    log.info("tune      the best %d trials and the config itself, in full", len(finalists))
    found: list[tuple[float, TrialRow]] = []
    for row in (*own, *finalists):
        try:
            found.append((_judged(searched.whole(row)).score["cv"], row))
        except (RunFailed, UserError) as error:
            log.error("tune      trial %d in full: %s", row.number, error)
            notes.append(f"trial {row.number} in full: {error}")
    if not found:
        return searched.best[0]
    sign = METRICS[searched.config.competition.metric].sign
    best = max(found, key=lambda pair: sign * pair[0])[1]  # the first of equal ones
    winner = f"trial {best.number} is" if best.number else "the config itself is"
    notes.append(f"trials were cheaper than a run: of the best {len(finalists)} and the config itself, each trained in full, {winner} the best")
    return best


def compare_both(searched: Searched, best: TrialRow, result: dict[str, Any]) -> None:
    """The config and its tuned self, each trained on all folds: of the search, and of a split that it never saw."""
    base = next((row for row in searched.rows if row.number == 0), best)
    log.info("tune      the config and its tuned self on the folds of the search")
    result["search"] = _compared(searched, (base, best), "whole", None, result["notes"])
    if (seed := _unseen_seed(searched.config, result["notes"])) is not None and _is_another_split(searched.config, seed, result["notes"]):
        log.info("tune      the config and its tuned self on split seed %d", seed)
        result["unseen"] = _compared(searched, (base, best), f"seed{seed}", seed, result["notes"])
        result["unseen_seed"] = None if result["unseen"] is None else seed


def _compared(searched: Searched, pair: tuple[TrialRow, TrialRow], suffix: str, seed: int | None, notes: list[str]) -> dict[str, Any] | None:
    section = searched.config.ensemble
    try:
        base, best = (_judged(_of_split(searched.whole(row, suffix), seed)) for row in pair)
        return compare(base, best, section.draws, section.seed)
    except (RunFailed, UserError) as error:
        split = "the folds of the search" if seed is None else f"split seed {seed}"
        log.error("tune      no comparison on %s: %s", split, error)
        notes.append(f"no comparison on {split}: {error}")
        return None


def _unseen_seed(config: Config, notes: list[str]) -> int | None:
    """The seed of the second split; None where there is none, with a note that says why."""
    if config.tune.unseen_seed is None:
        notes.append("tune.unseen_seed is null: the gain is of the folds that the search chose on")
    elif config.folds.strategy == "column":
        notes.append("folds.strategy is column: there is no second split, and the gain is of the folds that the search chose on")
    elif config.teacher is not None:
        notes.append("a student's folds are its teacher's: there is no second split, and the gain is of the folds that the search chose on")
    else:
        return config.folds.seed + 1 if config.tune.unseen_seed == -1 else config.tune.unseen_seed
    return None


def _is_another_split(config: Config, seed: int, notes: list[str]) -> bool:
    """Whether the seed moves rows from fold to fold. Groups of unequal sizes may leave it no choice: then there is a note."""
    from sklearn.metrics import adjusted_rand_score

    with quiet():
        first, second = (prepare(_of_split(config, one)).folds["fold"] for one in (None, seed))
    alike = float(adjusted_rand_score(first, second))
    if alike > ALIKE:
        notes.append(
            f"split seed {seed} is nearly the split of the search (adjusted Rand index {alike:.2f}), since groups fit in few ways: no comparison on it"
        )
    return alike <= ALIKE


def _of_split(config: Config, seed: int | None) -> Config:
    """The config on the split of another seed; None: on its own."""
    return config if seed is None else config.model_copy(update={"folds": config.folds.model_copy(update={"seed": seed})})


def _judged(config: Config) -> Judged:
    """The CV of an experiment, which is trained where it is not yet."""
    with quiet():
        prepared = teach(config, prepare(config))
        make_way(config, prepared)
        tasks = fold_tasks(config)
        train_networks(tasks, prepared)
        found = judge(Trained(config, prepared, tasks))
    log.info("tune      %s: CV %s", config.experiment, describe(found.score))
    return found
