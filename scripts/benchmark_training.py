"""Measures how much of the hardware training uses: the whole pipeline beside the same updates on random tensors, and timm's own loader.

python scripts/benchmark_training.py [--pictures FOLDER] [--backbones resnet50 convnext_tiny] [--precisions fp32 bf16] [--device cpu]

Everything is measured in alternating rounds of one run, on one machine; compare ratios, never rates of two runs. docs/speed.md keeps
results. Without --pictures, crops of the two photographs that scikit-learn brings along are used.
"""

import argparse
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, help="folder of photographs, looked through to the bottom")
    parser.add_argument("--backbones", nargs="*", default=["resnet50"], help="timm's names; none: loaders alone")
    parser.add_argument("--precisions", nargs="+", default=["fp32"], choices=["fp32", "bf16", "fp16"])
    parser.add_argument("--size", type=int, default=224, help="side of the model's input, pixels")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=4, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement, one after the other")
    parser.add_argument("--workers", type=int, default=1, help="of each loader, 0: in the training process")
    parser.add_argument("--threads", type=int, default=2, help="of the model, on a CPU")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network in every measurement")
    arguments = parser.parse_args()
    from pipeline.errors import UserError
    from pipeline.training.benchmark import Plan, measure

    try:
        measure(arguments.pictures, Plan(**{key: value for key, value in vars(arguments).items() if key != "pictures"}))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
