"""Looks at a competition's folder and writes a config for it, with the reason beside each key.

python scripts/new_competition.py FOLDER [--name NAME] [--output configs/NAME.yaml] [--force]

What no folder says, the metric above all, is a guess that the config's comments mark as one.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.data.survey.text import one_line
from pipeline.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the competition's unpacked files, e.g. input/leaves")
    parser.add_argument("--name", help="of the competition (default: the folder's)")
    parser.add_argument("--output", type=Path, help="the config to write (default: configs/NAME.yaml)")
    parser.add_argument("--force", action="store_true", help="replace a config that is there")
    given = parser.parse_args(argv)
    try:
        for line in write(given.folder, given.name, given.output, given.force):
            print(line)
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except OSError as error:
        print(one_line(f"error: {error.filename}: {error.strerror}; mend that and run it again"), file=sys.stderr)
        return 2
    return 0


def write(folder: Path, name: str | None, output: Path | None, force: bool) -> list[str]:
    from pipeline.data.survey.look import survey
    from pipeline.data.survey.report import summary, write_survey

    name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).strip("-._") or "competition"
    output = output or Path("configs") / f"{name}.yaml"
    if output.exists() and not force:
        raise UserError(f"{output}: is there already; write --force to replace it, or --output another.yaml")
    found = survey(folder)
    return summary(found, write_survey(found, name, output), output)


if __name__ == "__main__":
    sys.exit(main())
