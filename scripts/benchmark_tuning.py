"""What pruning saves: one study with it and one without, the same trials drawn at random from the same seed, in a folder that is deleted.

python scripts/benchmark_tuning.py CONFIG [--trials 20] [key=value ...]
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli import exit_code, load_configs, one_config


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="CONFIG | key=value", help="one config with a section tune, and overrides of its keys")
    parser.add_argument("--trials", type=int, default=20, help="of each study (20)")
    given = parser.parse_intermixed_args(argv)
    return exit_code(lambda: measure(given.words, given.trials))


def measure(words: Sequence[str], trials: int) -> None:
    from pipeline.stages.tune import Wanted, search

    one_config(words)
    seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        for pruner in ("auto", "none"):
            [config] = load_configs([*words, "tune.sampler=random", f"tune.pruner={pruner}", f"outputs={Path(folder) / pruner}"])
            found = search(config, Wanted(trials))
            searched, seconds[pruner] = found.searched, found.seconds
            best, counts = searched.best[0], Counter(row.state for row in searched.rows)
            states = ", ".join(f"{count} {state}" for state, count in sorted(counts.items()))
            print(f"pruner {searched.pruner:6} {states}; {seconds[pruner]:.0f} s; best {best.values[0]:.4f}, trial {best.number}", flush=True)
    print(f"with pruning {seconds['auto'] / seconds['none']:.2f} of the time")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
