"""A study's trials as plain data: what pages, tables and the end of a study are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

Parameter = int | float | str
"""A number, or the label of a choice."""
STATES = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running", "WAITING": "waiting"}
OUR_ATTRIBUTES = ("reason", "attempts", "as_configured", "added_from", "failed_before")
REPEATED = "its process was killed; it was tried again as another trial"


@dataclass(frozen=True)
class TrialRow:
    """One trial. steps: what it reported, by step; seconds: from its start to its end, None before; reason: why it failed or was pruned, "" else;
    record: what its objective left (the CV's folds, seconds of training, name of the experiment ...)."""

    number: int
    state: str
    values: tuple[float, ...]
    parameters: Mapping[str, Parameter]
    steps: Mapping[int, float]
    seconds: float | None
    reason: str
    record: Mapping[str, Any]

    @property
    def is_repeated(self) -> bool:
        """Whether another trial was made of it after its process was killed, in a database of several machines."""
        return self.reason == REPEATED

    @property
    def finished(self) -> bool:
        """Whether it counts: complete or pruned."""
        return self.state in ("complete", "pruned")


def read_trials(study: "optuna.study.Study") -> list[TrialRow]:
    """Every trial of a study, by number."""
    return [_row(trial) for trial in sorted(study.get_trials(deepcopy=False), key=lambda trial: trial.number)]


def _row(trial: "optuna.trial.FrozenTrial") -> TrialRow:
    complete = trial.state.name == "COMPLETE"
    unsaid = REPEATED if trial.state.name == "FAIL" else ""
    return TrialRow(
        trial.number,
        STATES[trial.state.name],
        tuple(trial.values) if complete else (),
        dict(trial.params),
        dict(trial.intermediate_values),
        trial.duration.total_seconds() if trial.duration is not None and trial.state.is_finished() else None,
        str(trial.user_attrs.get("reason", unsaid)),
        {key: value for key, value in trial.user_attrs.items() if key not in OUR_ATTRIBUTES},
    )


def ranked(rows: Sequence[TrialRow], sign: int) -> list[TrialRow]:
    """The complete trials, the best score first; of equal ones the earliest, so that no change beats none by chance alone."""
    return sorted((row for row in rows if row.state == "complete"), key=lambda row: (-sign * row.values[0], row.number))


def pareto_front(rows: Sequence[TrialRow], signs: Sequence[int]) -> list[TrialRow]:
    """The complete trials that no other beats in one objective without losing in another, the best score first."""
    complete = ranked(rows, signs[0])

    def beats(one: TrialRow, other: TrialRow) -> bool:
        gains = [sign * (a - b) for sign, a, b in zip(signs, one.values, other.values, strict=True)]
        return min(gains) >= 0 and max(gains) > 0

    return [row for row in complete if not any(beats(other, row) for other in complete)]
