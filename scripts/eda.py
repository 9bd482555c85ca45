"""Writes a report on a competition's data, prepared/eda.html: counts, classes, sizes, copies, augmentations, what the config does.

python scripts/eda.py CONFIG [key=value ...] [--force eda]
"""

import sys

from pipeline.cli import Arguments, run_script


def main(arguments: Arguments) -> None:
    from pipeline.stages.explore import eda

    eda(arguments.configs[0], "eda" in arguments.force)


if __name__ == "__main__":
    sys.exit(run_script(__doc__ or "", main))
