"""Measures how much of the hardware prediction uses: all views and folds of some pictures beside the bare forward passes of them.

python scripts/benchmark_inference.py [--pictures FOLDER] [--backbones resnet50] [--precisions fp32 bf16] [--tta dihedral] [--folds 5]

Everything is measured in alternating rounds of one run, on one machine; compare ratios, never rates of two runs. The last column is
the time of predicting over that of the bare passes; predicting starts its workers, reads the pictures from a cache, makes the views and
merges what the networks say. Without --pictures, crops of the two photographs that scikit-learn brings along are used.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder of photographs, looked through to the bottom")
    parser.add_argument("--backbones", nargs="+", default=["resnet50"], help="timm's names")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--tta", nargs="+", default=["dihedral"], choices=["none", "horizontal", "flips", "dihedral", "crops", "zooms", "colour"])
    parser.add_argument("--folds", type=int, default=5, help="networks that look at each picture")
    parser.add_argument("--size", type=int, default=224, help="side of the model's input, pixels")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=4, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement, one after the other")
    parser.add_argument("--workers", type=int, default=1, help="that read pictures, 0: in the process that predicts")
    parser.add_argument("--threads", type=int, default=2, help="of the model, on a CPU")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    from pipeline.errors import UserError
    from pipeline.inference.benchmark import Plan, measure

    try:
        measure(arguments.pictures, Plan(**{key: value for key, value in vars(arguments).items() if key != "pictures"}, compile=False))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
