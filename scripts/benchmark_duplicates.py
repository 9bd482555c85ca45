"""Measures the search for copies: recall per edit, precision, speed of the index, time and memory of the search.

python scripts/benchmark_duplicates.py FOLDER_OF_IMAGES [FOLDER ...] [--sample 400] [--search] [--imagededup DIRECTORY]

docs/duplicates.md keeps the result. --imagededup names a directory with the package, put there by
`pip install --target DIRECTORY imagededup`.
"""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of images")
    parser.add_argument("--sample", type=int, default=400, help="pictures that are edited")
    parser.add_argument("--search", action="store_true", help="measure the search at 100,000 and 1,000,000 hashes, too")
    parser.add_argument("--threads", type=int, default=1, help="of the index")
    parser.add_argument("--imagededup", type=Path, help="directory with the package")
    arguments = parser.parse_args()
    from pipeline.data.duplicates.benchmark import measure

    measure(arguments.folders, arguments.sample, arguments.search, arguments.threads, arguments.imagededup)


if __name__ == "__main__":
    main()
