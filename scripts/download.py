"""A competition's files from Kaggle, unpacked into input/SLUG.

python scripts/download.py SLUG [--folder input/SLUG] [--keep-zips]

SLUG is the end of the address of the competition's page, or the whole of it. Archives among the files are unpacked where they lie, unless
--keep-zips. It wants the kaggle client, credentials, and the competition's rules accepted; the disk must hold the archive and what is in it.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.cli import exit_code


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("slug", help="the competition, e.g. digit-recognizer")
    parser.add_argument("--folder", type=Path, help="where its files go (default: input/SLUG)")
    parser.add_argument("--keep-zips", action="store_true", help="leave archives among the files as they are")
    given = parser.parse_args(argv)
    return exit_code(lambda: fetch(given.slug, given.folder, not given.keep_zips))


def fetch(slug: str, folder: Path | None, inner: bool) -> None:
    from pipeline.kaggle.download import download, slug_in
    from pipeline.kaggle.unpack import in_words

    name = slug_in(slug)
    found = download(name, Path("input") / name if folder is None else folder, inner)
    for line in found.packed:
        print(f"packed  {line}")
    print(f"files   {found.files:,}, {in_words(found.size)} -> {found.folder}")
    print(f"next    python scripts/new_competition.py {found.folder}")


if __name__ == "__main__":
    sys.exit(main())
