"""A notebook that predicts, or trains, on Kaggle without internet, and its dataset: outputs/<competition>/kernel.

python scripts/kaggle_kernel.py CONFIG [CONFIG ...] [key=value ...] [--finished] [--push] [--name SLUG]
python scripts/kaggle_kernel.py CONFIG [CONFIG ...] [key=value ...] --train [--hours 11.5] [--push] [--name SLUG]

Every stage up to the ensemble runs first, where it has not. The notebook predicts whatever test set is mounted when it runs. --train trains
nothing here: the notebook trains there, in sessions of --hours, each carried on by the next. --push uploads both with the kaggle client, and
Kaggle runs the notebook. --name: of the dataset and the notebook on Kaggle.
"""

import argparse
import sys
from collections.abc import Sequence

from pipeline.cli import Arguments, predict_all, run_script


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--hours", type=float, default=11.5)
    parser.add_argument("--push", action="store_true")
    parser.add_argument("--name")
    given, rest = parser.parse_known_args(argv)
    return run_script(__doc__ or "", lambda arguments: write(arguments, given), rest)


def write(arguments: Arguments, given: argparse.Namespace) -> None:
    from pipeline.stages.ensemble import ensemble, require_alike
    from pipeline.stages.kernel import describe, require_ready, send, write_kernel, write_training_kernel

    require_alike(arguments.configs)
    require_ready(arguments.configs, given.train)
    if given.train:
        kernel = write_training_kernel(arguments.configs, given.name, given.hours)
    else:
        experiments = predict_all(arguments)
        kernel = write_kernel(experiments, ensemble(experiments, "ensemble" in arguments.force), given.name)
    print("\n".join(send(kernel) if given.push else describe(kernel)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
