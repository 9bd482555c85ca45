"""Blends experiments: the CV of each, of their equal mean, and of fitted weights, cross-fitted.

python scripts/ensemble.py CONFIG CONFIG [...] [ensemble.models=fitted] [--force ensemble]
"""

import sys

from pipeline.cli import Arguments, predict_all, run_script


def main(arguments: Arguments) -> None:
    from pipeline.stages.finish import ensemble

    ensemble(predict_all(arguments), "ensemble" in arguments.force)


if __name__ == "__main__":
    sys.exit(run_script(__doc__ or "", main))
