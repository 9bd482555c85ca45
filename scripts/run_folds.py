"""Every stage up to out-of-fold and test predictions, for one or more experiments.

python scripts/run_folds.py configs/digits.yaml [CONFIG ...] [key=value ...] [--force STAGE]
"""

import sys

from pipeline.cli import Arguments, predict_all, run_script


def main(arguments: Arguments) -> None:
    predict_all(arguments)


if __name__ == "__main__":
    sys.exit(run_script(__doc__ or "", main))
