"""Searches an experiment's settings with Optuna, and ends in a config: configs/NAME-tuned.yaml.

python scripts/tune.py CONFIG --trials 50 [--workers 2] [--timeout MINUTES] [--storage URL] [--add STUDY] [key=value ...]

What is searched stands in the config's section tune, e.g. tune.space.optimizer.learning_rate={low: 1e-4, high: 1e-2, log: true}, or
comes ready-made: tune.ready=[optimizer,mixing]. Each trial is an experiment, NAME-trial-007, scored by its cross-validation. Killed or
stopped, the same command goes on; a larger --trials carries a finished study on. At the end the config and its tuned self are compared
on a second split of the rows, which the search never saw: four cross-validations at most, after --timeout, too.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence

from pipeline.cli import exit_code, one_config


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="CONFIG | key=value", help="one config, and overrides of its keys")
    parser.add_argument("--trials", type=int, required=True, help="finished trials that the study is to have in all, complete or pruned")
    parser.add_argument("--workers", type=int, default=1, help="processes that run trials side by side, each on a GPU of its own where there are as many (1)")
    parser.add_argument("--timeout", type=float, metavar="MINUTES", help="search no longer than this; the trial that runs is saved")
    parser.add_argument("--storage", help="sqlite, journal, or an SQLAlchemy URL for several machines; by default a file in outputs/<competition>/studies")
    parser.add_argument("--add", action="append", default=[], metavar="STUDY", help="an earlier study of this competition: its complete trials are tried first")
    given = parser.parse_intermixed_args(argv)
    return exit_code(lambda: search(given, ["python", "scripts/tune.py", *argv]))


def search(given: argparse.Namespace, typed: Sequence[str]) -> None:
    from pipeline.stages.tune import Wanted, tune
    from pipeline.stages.tuned import lines
    from pipeline.tuning.storage import without_password

    config, path = one_config(given.words)
    command = shlex.join(without_password(word) for word in typed)
    wanted = Wanted(given.trials, given.workers, given.storage, given.timeout, given.add, command)
    for line in lines(tune(config, path, wanted)):
        print(line)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
