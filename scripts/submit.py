"""Every stage, ending in outputs/<competition>/submission.csv, checked against the sample.

python scripts/submit.py configs/digits.yaml [CONFIG ...] [key=value ...] [--force STAGE]
python scripts/submit.py CONFIG ... --upload [FILE] [--message TEXT] [--wait [MINUTES]]
python scripts/submit.py --check FILE --sample SAMPLE [CONFIG ...] [key=value ...]

Several configs are blended. What is done already is not done again. --upload sends the file to Kaggle, the same bytes once; with FILE.csv it
sends an older one of submissions/, and runs nothing. --wait waits for its score (15 minutes, or as many as are written), later too, and keeps
it in ledger.csv. --check trains nothing: it says what is wrong with any submission, ours or not, and exits with 0 where there is no error, with
2 where there is one. With a CONFIG it knows the form and the labels, and --sample may be left out.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli import Arguments, exit_code, is_override, load_configs, run_script, submit_all
from pipeline.errors import UserError


def main(argv: Sequence[str]) -> int:
    if not any(word == "--check" or word.startswith("--check=") for word in argv):
        return produce(argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="CONFIG | key=value", help="the competition's config, and overrides of its keys")
    parser.add_argument("--check", type=Path, required=True, metavar="FILE", help="the submission to look at")
    parser.add_argument("--sample", type=Path, help="the competition's sample submission")
    given = parser.parse_intermixed_args(argv)
    return exit_code(lambda: examine(given.check, given.sample, given.words))


def produce(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(usage=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--upload", nargs="?", const="", metavar="FILE")
    parser.add_argument("--message")
    parser.add_argument("--wait", type=float, nargs="?", const=15.0, metavar="MINUTES")
    given, rest = parser.parse_known_args(argv)
    if given.upload and (is_override(given.upload) or not given.upload.endswith(".csv")):  # a word behind --upload that is not meant for it
        rest, given.upload = [given.upload, *rest], ""

    def work(arguments: Arguments) -> None:
        from pipeline.stages.upload import Delivery, kept_file, require_ready

        send_it = given.upload is not None
        require_ready(arguments.configs[0], send_it, given.message, given.wait)
        if not send_it and given.wait is None:
            submit_all(arguments)
            return
        delivery = Delivery(send_it, given.message, given.wait, "submit" in arguments.force)
        if given.upload:
            delivery.send(arguments.configs[0], kept_file(arguments.configs[0], Path(given.upload)))
        else:
            submit_all(arguments, delivery.send)
        print("\n".join(delivery.lines()))

    return run_script(__doc__ or "", work, rest)


def examine(path: Path, sample: Path | None, words: Sequence[str]) -> int:
    from pipeline.stages.check import check

    if words and all(is_override(word) for word in words):
        raise UserError(f"{words[0]}: a key=value changes a CONFIG; name the config before it")
    diagnosis = check(path, sample, load_configs(words)[0] if words else None)
    for line in (*diagnosis.findings, diagnosis):
        print(str(line).encode(sys.stdout.encoding or "utf-8", "backslashreplace").decode(sys.stdout.encoding or "utf-8"))
    return 2 if diagnosis.errors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
