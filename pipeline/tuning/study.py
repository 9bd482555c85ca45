"""A study: begun once, worked at by any number of processes, carried on after any of them was killed."""

import contextlib
import json
import logging
import math
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts import differences
from pipeline.errors import RunFailed, Stopped, UserError, did_you_mean
from pipeline.runtime import CtrlC, Interrupted
from pipeline.tuning.claims import Claims, claims_of, one_at_a_time
from pipeline.tuning.pruning import why_prune
from pipeline.tuning.storage import is_local_file, open_storage, storage_errors, without_password
from pipeline.tuning.trials import Parameter, TrialRow, ranked, read_trials

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial, Trial, TrialState

log = logging.getLogger(__name__)
MOST_DEATHS = 3  # of one trial's processes, after which it has failed
MOST_FAILURES = 10  # in a row, after which the fault is not the trials'
PAUSE = 0.5  # seconds between two looks while others run the last trials
PATIENCE = 30.0  # seconds in which another machine has to finish beginning a study
IDENTITY, READY = "identity", "ready"  # attributes of the study
FAILED_BEFORE = "failed_before"  # of the config as it is: why it failed, until it does not


@dataclass(frozen=True)
class Plan:
    """What any worker of a study needs; plain, so that it travels to another process."""

    storage: str = field(repr=False)  # may hold a password
    """As `storage.locate` gives it."""
    name: str
    """The study's in its storage."""
    folder: Path
    """Locks live here."""
    directions: tuple[str, ...]
    """maximize or minimize, one per objective."""
    sampler: str
    """tpe or random."""
    startup: int
    """Trials drawn at random before tpe learns."""
    seed: int
    """Of the sampler."""
    pruner: str
    """folds, epochs or none, as `pruning.resolve_pruner` gives it."""
    threshold: float
    """Of pruner folds."""
    trials: int
    """Wanted: complete and pruned ones; failed ones do not count."""
    deadline: float | None
    """Unix time after which no trial is started."""


@dataclass(frozen=True)
class Result:
    """How a trial came out: a value per objective, and what to keep with it as JSON."""

    values: tuple[float, ...]
    record: dict[str, Any]


class Pruned(Stopped):
    """Raised by `Attempt.report` in a trial that is not worth its time; the message says why."""


class StorageLost(UserError):
    """The storage failed in mid-trial: no fault of the trial, which is tried again."""


class Attempt:
    """A trial, as its objective sees it. number: of one that is tried again the first number, so that it finds what it has done."""

    def __init__(self, plan: Plan, trial: "Trial", number: int, parameters: dict[str, Parameter]) -> None:
        self.number = number
        self.parameters = parameters
        self._plan = plan
        self._trial = trial

    def report(self, step: int, value: float, ask: bool = True) -> None:
        """Says a score after a step, a fold or an epoch. Raises Pruned if the trial is not worth going on with.

        A step that is known from an earlier attempt is not said again. A value that is not finite says nothing, nor does any with two objectives.
        ask: False where ending the trial now would save nothing.
        """
        if len(self._plan.directions) > 1 or not math.isfinite(value):
            return
        with _lost(self._plan.storage):
            study = self._trial.study
            frozen = study._storage.get_trial(self._trial._trial_id)
            if step not in frozen.intermediate_values:
                self._trial.report(value, step)
                frozen = study._storage.get_trial(self._trial._trial_id)
            reason = why_prune(self._plan.pruner, self._plan.threshold, study, frozen, step) if ask else None
        if reason is not None:
            raise Pruned(reason)

    def note(self, **record: Any) -> None:
        """Keeps JSON values with the trial before its end, such as its experiment's name."""
        with _lost(self._plan.storage):
            for key, value in record.items():
                self._trial.set_user_attr(key, value)


@contextlib.contextmanager
def _lost(located: str) -> Any:
    try:
        with storage_errors(located):
            yield
    except UserError as error:
        raise StorageLost(str(error)) from None


Suggest = Callable[["optuna.trial.Trial", Collection[str] | None], dict[str, Parameter]]
Objective = Callable[[Attempt], Result]
Say = Callable[[TrialRow, TrialRow | None], None]


# ---------------------------------------------------------------- beginning


def open_study(
    plan: Plan, identity: Mapping[str, Any], own: Mapping[str, Parameter], suggestions: Sequence[Mapping[str, Parameter]] = ()
) -> "optuna.study.Study":
    """The study of a plan, begun if it is not there: the config as it is first, with `own` as its parameters, then the suggestions.

    identity: plain JSON of what may not change between its trials. UserError if it was begun with another. One in which nothing but the
    config as it is was tried, and failed, is begun anew, so that the mended config is tried.
    """
    import optuna

    identity = json.loads(json.dumps({**identity, "directions": plan.directions, "pruner": plan.pruner}))
    with one_at_a_time(plan.folder):
        storage = open_storage(plan.storage)
        with storage_errors(plan.storage):
            if plan.name in optuna.study.get_all_study_names(storage):
                study = _load(plan, storage)
                if _is_ready(plan, study) and _is_same(plan, study, storage, identity):
                    return study
                optuna.delete_study(study_name=plan.name, storage=storage)
            try:
                study = optuna.create_study(
                    storage=storage, study_name=plan.name, directions=[optuna.study.StudyDirection[direction.upper()] for direction in plan.directions]
                )
            except optuna.exceptions.DuplicatedStudyError:  # another machine was faster
                study = _load(plan, storage)
                assert _is_ready(plan, study)
                assert _is_same(plan, study, storage, identity)
                return study
            study.set_user_attr(IDENTITY, identity)
            study.enqueue_trial(dict(own), user_attrs={"as_configured": list(own)})
            for parameters in suggestions:
                study.enqueue_trial(dict(parameters), user_attrs={"added_from": "an earlier study"})
            study.set_user_attr(READY, True)  # last: a study without it was not begun to the end
            return _load(plan, storage)


def find_study(located: str, name: str) -> "optuna.study.Study":
    """A study to look at, that `open_study` has begun, here or in an earlier run. UserError where the storage has none of this name."""
    import optuna

    storage = open_storage(located)
    with storage_errors(located):
        known = optuna.study.get_all_study_names(storage)
        if name not in known:
            raise UserError(f"{without_password(located)}: no study is called {name}{did_you_mean(name, known)}")
        return optuna.load_study(study_name=name, storage=storage)


def _load(plan: Plan, storage: "optuna.storages.BaseStorage") -> "optuna.study.Study":
    import optuna

    from pipeline.tuning.sampling import SeededSampler

    sampler = SeededSampler(plan.sampler, plan.startup, plan.seed)
    return optuna.load_study(study_name=plan.name, storage=storage, sampler=sampler, pruner=optuna.pruners.NopPruner())


def _is_ready(plan: Plan, study: "optuna.study.Study") -> bool:
    """Whether it was begun to the end; of a database waits for a machine that may be at it."""
    ended = time.monotonic() + (0 if is_local_file(plan.storage) else PATIENCE)
    while READY not in study.user_attrs:
        if time.monotonic() > ended:
            return False
        time.sleep(PAUSE)
    return True


def _is_same(plan: Plan, study: "optuna.study.Study", storage: "optuna.storages.BaseStorage", identity: Mapping[str, Any]) -> bool:
    """Whether a study was begun as it would be now. False where it can be begun anew; UserError where trials would be lost."""
    old = study.user_attrs[IDENTITY]
    if old == identity:
        return True
    idle = {trial.number for trial in claims_of(plan.storage, storage, plan.folder).orphans(study)}
    trials = study.get_trials(deepcopy=False)
    if any(FAILED_BEFORE in trial.user_attrs for trial in trials) and all(trial.state.name in ("WAITING", "FAIL") or trial.number in idle for trial in trials):
        return False
    changed = "; ".join(differences(old, identity))
    raise UserError(
        f"the study {plan.name} in {without_password(plan.storage)} was begun with other settings ({changed}); write experiment=NEW for a new study,"
        " or the old settings"
    )


# ---------------------------------------------------------------- trials


def run_trials(plan: Plan, suggest: Suggest, objective: Objective, say: Say) -> None:
    """One worker of a study that `open_study` has begun: trials until the plan's are finished, its deadline, or Ctrl-C.

    say: called after each trial that ended, with it and the best one so far (of several objectives: by the first). Raises what ended the
    study: the error of the config as it is, a disk that is full or a storage that is gone; RunFailed after ten failures in a row. The
    same call carries on.
    """
    storage = open_storage(plan.storage)
    with storage_errors(plan.storage):
        worker = _Worker(plan, _load(plan, storage), claims_of(plan.storage, storage, plan.folder), suggest, objective, say)
        try:
            worker.run()
        except Interrupted:
            if CtrlC.asked or not worker.is_late():
                raise


class _Worker:
    def __init__(self, plan: Plan, study: "optuna.study.Study", claims: Claims, suggest: Suggest, objective: Objective, say: Say) -> None:
        self._plan, self._study, self._claims = plan, study, claims
        self._suggest, self._objective, self._say = suggest, objective, say
        self._ended_before = {row.number for row in read_trials(study) if row.state in ("complete", "pruned", "failed")}

    def is_late(self) -> bool:
        """Whether no trial may be started any more."""
        return self._plan.deadline is not None and time.time() >= self._plan.deadline

    def run(self) -> None:
        """Trials, one after the other."""
        while self._count("COMPLETE", "PRUNED") < self._plan.trials and not self.is_late():
            CtrlC().stop_if_asked()
            with contextlib.ExitStack() as held:
                trial = self._take(held)
                if trial is not None:
                    self._try(trial, _frozen(trial))
            if trial is None:
                time.sleep(PAUSE * (1 + os.getpid() % 8 / 8))  # not in step with a machine that has put its trial back, too

    def _count(self, *states: str) -> int:
        return sum(trial.state.name in states for trial in self._study.get_trials(deepcopy=False))

    def _take(self, held: contextlib.ExitStack) -> "Trial | None":
        """An orphan, else a new trial, held; None while as many as are missing are running elsewhere."""
        import optuna

        with one_at_a_time(self._plan.folder):
            orphans = self._claims.orphans(self._study)
            if self._count("COMPLETE", "PRUNED", "RUNNING") - len(orphans) >= self._plan.trials:
                return None
            if orphans:
                held.enter_context(self._claims.hold(orphans[0]))
                log.info("tune      trial %d goes on where its worker left it", orphans[0].number)
                return optuna.trial.Trial(self._study, orphans[0]._trial_id)
            trial = self._claims.ask(self._study)
            held.enter_context(self._claims.hold(_frozen(trial)))
            if self._count("COMPLETE", "PRUNED", "RUNNING") > self._plan.trials:  # another machine has asked at the same moment
                self._claims.hand_back(_frozen(trial))
                return None
            return trial

    def _try(self, trial: "Trial", frozen: "FrozenTrial") -> None:
        attempts = int(frozen.user_attrs.get("attempts", 0))
        try:
            if attempts >= MOST_DEATHS:
                self._fail(trial, RunFailed(f"its process was killed {MOST_DEATHS} times, perhaps for lack of memory"))
            else:
                trial.set_user_attr("attempts", attempts + 1)
                self._run(trial)
        except BaseException as error:  # not the trial's fault, and no death
            if _is_given_up(trial, error):
                log.warning("tune      trial %d was silent for so long that it was given up; it is tried again", frozen.number)
                return
            with contextlib.suppress(Exception):
                trial.set_user_attr("attempts", min(attempts, MOST_DEATHS - 1))
                self._claims.hand_back(frozen)
            raise
        self._claims.forget(frozen)
        rows = read_trials(self._study)
        best = ranked(rows, 1 if self._plan.directions[0] == "maximize" else -1)
        self._say(next(row for row in rows if row.number == frozen.number), best[0] if best else None)
        self._stop_after_failures(rows)

    def _run(self, trial: "Trial") -> None:
        """Runs the objective and tells the study how it ended."""
        from optuna.trial import TrialState

        from pipeline.tuning.sampling import first_number

        try:
            parameters = self._suggest(trial, trial.user_attrs.get("as_configured"))
            result = self._objective(Attempt(self._plan, trial, first_number(_frozen(trial)), parameters))
        except Pruned as pruned:
            self._tell(trial, TrialState.PRUNED, reason=str(pruned))
        except StorageLost:
            raise
        except Exception as error:
            if (isinstance(error, OSError) and error.errno is not None) or _is_given_up(trial, error):
                raise
            if not isinstance(error, UserError | RunFailed):
                log.exception("tune      trial %d failed", trial.number)
            self._fail(trial, error)
        else:
            assert len(result.values) == len(self._plan.directions)
            if all(math.isfinite(value) for value in result.values):
                self._tell(trial, TrialState.COMPLETE, result.values, **result.record)
            else:
                said = ", ".join(str(value) for value in result.values)
                self._fail(trial, RunFailed(f"the metric is not defined on its predictions (it came out as {said})"), **result.record)

    def _tell(self, trial: "Trial", state: "TrialState", values: Sequence[float] | None = None, **attributes: Any) -> None:
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        self._study.tell(trial, values, state)

    def _fail(self, trial: "Trial", error: Exception, **record: Any) -> None:
        """Records a failure; that of the config as it is ends the study instead, and the trial waits for the config to be mended."""
        from optuna.trial import TrialState

        reason = " ".join(str(error).split()) or type(error).__name__
        if not isinstance(error, UserError | RunFailed):
            reason = f"{type(error).__name__}: {reason}"
        if "as_configured" in trial.user_attrs:
            trial.set_user_attr(FAILED_BEFORE, reason)
            raise error
        self._tell(trial, TrialState.FAIL, reason=reason, **record)

    def _stop_after_failures(self, rows: Sequence[TrialRow]) -> None:
        ended = [row for row in rows if row.state in ("complete", "pruned", "failed") and row.number not in self._ended_before]
        last = [row for row in ended if not row.is_repeated][-MOST_FAILURES:]
        if len(last) == MOST_FAILURES and all(row.state == "failed" for row in last):
            raise RunFailed(f"{MOST_FAILURES} trials failed in a row, the last with: {last[-1].reason}")


def _frozen(trial: "Trial") -> "FrozenTrial":
    return trial.study._storage.get_trial(trial._trial_id)


def _is_given_up(trial: "Trial", error: BaseException) -> bool:
    """Whether Optuna refused to write to a trial because another machine, which has heard nothing of it for long, has ended it."""
    return isinstance(error, RuntimeError | ValueError) and _frozen(trial).state.is_finished()
