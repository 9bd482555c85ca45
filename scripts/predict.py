"""Labels new pictures with a finished run: the networks, views, weights and decisions behind its submission.

python scripts/predict.py CONFIG [CONFIG ...] FOLDER_OR_CSV [--output FILE] [key=value ...]

Trains nothing. Overrides that the run was given are given again. Writes outputs/<competition>/labelled/<name>.csv, or the file that
--output names: id, label, the probability of each class.
"""

import argparse
import functools
import sys
from pathlib import Path

from pipeline.cli import Arguments, is_config, is_override, predict_all, run_script


def main(pictures: list[Path], output: Path | None, arguments: Arguments) -> None:
    from pipeline.errors import UserError
    from pipeline.stages.ensemble import ensemble
    from pipeline.stages.label import label

    if len(pictures) != 1:
        raise UserError(f"name one folder or CSV of new pictures beside the configs, but got {len(pictures)}: scripts/predict.py CONFIG FOLDER_OR_CSV")
    experiments = predict_all(Arguments(arguments.configs, arguments.force, finished=True))
    print(label(experiments, ensemble(experiments, "ensemble" in arguments.force), pictures[0], output))


def split(argv: list[str]) -> tuple[list[Path], Path | None, list[str]]:
    """The pictures, the output, and the words that every script takes."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--force", action="append", default=[])
    given, words = parser.parse_known_args(argv)
    pictures = [word for word in words if not (word.startswith("-") or is_config(word) or (is_override(word) and not Path(word).exists()))]
    rest = [word for word in words if word not in pictures] + [word for stage in given.force for word in ("--force", stage)]
    return [Path(word) for word in pictures], given.output, rest


if __name__ == "__main__":
    pictures, output, words = split(sys.argv[1:])
    sys.exit(run_script(__doc__ or "", functools.partial(main, pictures, output), words))
