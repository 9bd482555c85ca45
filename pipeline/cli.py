"""What every script shares: its arguments, exit codes, and the run from configs to a submission.

Exit codes: 0; 1 a failed fold or run; 2 something the user can mend; 130 Ctrl-C.
"""

import argparse
import contextlib
import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.errors import RunFailed, UserError
from pipeline.stages.versions import STAGE_VERSION

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.stages.predicted import Predicted
    from pipeline.stages.upload import Kept

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Arguments:
    """What a script was asked for."""

    configs: "list[Config]"
    force: frozenset[str]
    finished: bool = False
    """Take the networks that are trained, and train none."""


def run_script(description: str, work: Callable[[Arguments], None], argv: Sequence[str] | None = None) -> int:
    """Parses `CONFIG ... [key=value ...] [--force STAGE]`, runs `work`, and returns the exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="CONFIG | key=value", help="configs (default: configs/digits.yaml) and overrides of their keys")
    parser.add_argument("--force", action="append", default=[], choices=list(STAGE_VERSION), metavar="STAGE", help=f"redo a stage: {', '.join(STAGE_VERSION)}")
    parser.add_argument("--finished", action="store_true", help="take the networks that are trained already, train none, and say what is missing")
    given = parser.parse_intermixed_args(argv)
    return exit_code(lambda: work(Arguments(load_configs(given.words), frozenset(given.force), given.finished)))


def exit_code(work: Callable[[], int | None]) -> int:
    """Runs `work`, with its log on standard error, and says in one line what stopped it; the code that it returns, else 0."""
    from pipeline.runtime import start_logging

    start_logging()
    try:
        return work() or 0
    except UserError as error:
        return _fail(f"error: {error}", 2)
    except RunFailed as error:
        return _fail(f"failed: {error}", 1)
    except KeyboardInterrupt:
        with contextlib.suppress(KeyboardInterrupt):  # a second one has nothing left to stop
            print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    except OSError as error:
        if error.errno is None:
            raise
        return _fail(f"error: {error.filename or 'outputs'}: {error.strerror}; what is finished is kept: mend that and run the same command", 2)


def _fail(message: str, code: int) -> int:
    from pipeline.submission.findings import printable

    print(printable(message), file=sys.stderr)  # a cell's text may hold what a terminal would obey
    return code


def is_override(word: str) -> bool:
    """Whether a word of the command line is key=value."""
    return re.match(r"^[\w.]+=", word) is not None


def is_config(word: str) -> bool:
    """Whether a word of the command line names a config by its ending."""
    return word.endswith((".yaml", ".yml"))


def one_config(words: Sequence[str]) -> "tuple[Config, Path]":
    """The only config that is named, with its overrides, and its file."""
    paths = [word for word in words if not is_override(word)]
    if len(paths) != 1:
        raise UserError(f"write one CONFIG, but got {', '.join(paths) or 'none'}")
    return load_configs(words)[0], Path(paths[0])


def load_configs(words: Sequence[str]) -> "list[Config]":
    """Configs in the order given, each with every override."""
    from pipeline.config_files import load_config

    overrides = [word for word in words if is_override(word)]
    paths = [word for word in words if word not in overrides] or ["configs/digits.yaml"]
    configs = [load_config(Path(path), overrides) for path in paths]
    names = [config.experiment for config in configs]
    if doubled := [name for name in names if names.count(name) > 1]:
        raise UserError(f'two configs have the same experiment name, "{doubled[0]}"; write experiment: NAME in one')
    if len({(config.outputs, config.competition.name) for config in configs}) > 1:
        raise UserError(f"configs of several competitions cannot be run together: {', '.join(sorted({c.competition.name for c in configs}))}")
    return configs


def predict_all(arguments: Arguments) -> "list[Predicted]":
    """Every stage up to predictions, for all configs; those that take the same pictures are predicted together."""
    from pipeline.stages.networks import Trained
    from pipeline.stages.predict import predict
    from pipeline.stages.prepare import prepare
    from pipeline.stages.teach import teach
    from pipeline.stages.train import train, trained_tasks
    from pipeline.stages.views import require_one_limit

    require_one_limit(arguments.configs)
    trained: list[Trained] = []
    try:
        for config in arguments.configs:
            prepared = teach(config, prepare(config, arguments.force), "teach" in arguments.force, finished_only=arguments.finished)
            tasks = trained_tasks(config, prepared) if arguments.finished else train(config, prepared, arguments.force)
            trained.append(Trained(config, prepared, tasks))
    except RunFailed as failure:
        if trained and arguments.configs[0].predict.max_hours is None:
            log.error("train     %s", failure)
            predict(trained, "predict" in arguments.force)
        raise
    return predict(trained, "predict" in arguments.force)


def submit_all(arguments: Arguments, deliver: "Callable[[Config, Kept], None] | None" = None) -> None:
    """Every stage up to the submission, and the four figures at the end.

    deliver: called with the file that this run wrote and the config that it is written by, before the report: neither keeps the other from being.
    """
    from pipeline.artifacts import Manifest
    from pipeline.ensembling.scores import describe
    from pipeline.stages.ensemble import chosen_score, ensemble, require_alike, taking_part
    from pipeline.stages.report import report
    from pipeline.stages.submit import submit, true_score

    started = time.monotonic()
    if any(config.competition.test_table is None and config.competition.sample_submission is None for config in arguments.configs):
        raise UserError("competition.test_table and sample_submission are both null: nothing to submit; scripts/run_folds.py ends with the CV")
    require_alike(arguments.configs)
    experiments = predict_all(arguments)
    folder = ensemble(experiments, "ensemble" in arguments.force)
    path = submit(experiments, folder, "submit" in arguments.force)
    refused: UserError | None = None
    if deliver is not None:
        from pipeline.stages.upload import latest

        try:
            first, blend = taking_part(experiments)[0].config, Manifest.read(folder / "manifest.json")
            assert blend is not None
            deliver(first, latest(first, blend.digest))
        except UserError as error:
            refused = error
    page = report(experiments, folder, "report" in arguments.force)
    config = experiments[0].config
    print(f"CV          {describe(chosen_score(folder))}")
    if (score := true_score(experiments[0], folder)) is not None:
        print(f"true test   {config.competition.metric} {score:.4f}")
    if (thresholds := config.competition.thresholds) is not None:
        scores = ", ".join(f"{medal} {score:g}" for medal, score in thresholds.model_dump(exclude_none=True).items())
        print(f"medals      {scores} (on the competition's own test rows; a yardstick)")
    print(f"seconds     {time.monotonic() - started:.1f}")
    print(f"report      {page}")
    print(f"submission  {path}")
    if refused is not None:
        raise refused
