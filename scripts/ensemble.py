"""Blends experiments: the CV of each, and of every way to blend them, on rows that no weight was fitted on; and a report to look at.

python scripts/ensemble.py CONFIG CONFIG [...] [ensemble.models=simplex] [--finished] [--force ensemble]
"""

import sys

from pipeline.cli import Arguments, predict_all, run_script


def main(arguments: Arguments) -> None:
    from pipeline.stages.ensemble import ensemble, require_alike
    from pipeline.stages.report import report

    require_alike(arguments.configs)
    experiments = predict_all(arguments)
    report(experiments, ensemble(experiments, "ensemble" in arguments.force), "report" in arguments.force)


if __name__ == "__main__":
    sys.exit(run_script(__doc__ or "", main))
