"""Where one stands: every experiment, ensemble and submission of a competition, best CV first.

python scripts/compare.py COMPETITION [--sort cv|date|name] [--csv FILE] [--config CONFIG]
python scripts/compare.py COMPETITION --note-score latest public=0.93 [private=0.92] [note="a text"]

COMPETITION is a folder below outputs/. --note-score keeps in its ledger.csv what the leaderboard said of a submission: its file name, the
start of it, the name behind the time, or latest. Nothing is trained or computed; all columns are written to comparison.csv.
"""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("competition", help="a folder below outputs/")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="where runs have written (default: outputs)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="a further place for the CSV")
    parser.add_argument("--config", type=Path, help="whose competition.thresholds to take (default: the newest experiment's)")
    parser.add_argument("--note-score", nargs="+", metavar=("SUBMISSION", "public=0.93"), help="what to keep in the ledger, see above")
    parser.add_argument("--sort", choices=["cv", "date", "name"], default="cv")
    given = parser.parse_args(argv)
    from pipeline.errors import UserError
    from pipeline.stages.compare import report

    width = shutil.get_terminal_size((100, 24)).columns
    try:
        lines, skipped = report(given.outputs, given.competition, width, given.sort, given.config, given.csv, given.note_score)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or given.outputs}: {error.strerror}; mend that and run it again", file=sys.stderr)
        return 2
    print("\n".join(lines))
    for line in skipped:
        print(f"skipped: {line}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
