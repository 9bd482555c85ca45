"""Measures fitting an ensemble: seconds, processor seconds and peak memory, of a fresh process that maps its inputs from disk.

python scripts/benchmark_ensemble.py [--models 20] [--rows 100000] [--classes 200] [--draws 1000] [--metric log_loss] [--asked auto]

The inputs are invented: models of unequal skill whose mistakes are partly the same. They take models x rows x classes x 4 bytes in a
temporary folder. Mapped pages count as memory of the process.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

FOLDS = 5


def write_inputs(folder: Path, models: int, rows: int, classes: int) -> None:
    generator = np.random.default_rng(0)
    truth = generator.integers(classes, size=rows)
    np.save(folder / "truth.npy", truth)
    skill = generator.uniform(2, 6, size=models).astype(np.float32)
    files = [np.lib.format.open_memmap(folder / f"model_{number}.npy", "w+", np.float32, (rows, classes)) for number in range(models)]
    for start in range(0, rows, 2000):
        some = truth[start : start + 2000]
        shared = generator.standard_normal((len(some), classes), dtype=np.float32)
        for file, knows in zip(files, skill, strict=True):
            logits = shared + generator.standard_normal((len(some), classes), dtype=np.float32)
            logits[np.arange(len(some)), some] += knows
            odds = np.exp(logits)
            file[start : start + 2000] = odds / odds.sum(axis=1, keepdims=True)


def fit(folder: Path, metric: str, asked: str, draws: int) -> None:
    from pipeline.data.targets import Target
    from pipeline.ensembling.automatic import fit_ensemble
    from pipeline.ensembling.problem import Problem
    from pipeline.training.metrics import METRICS

    truth = np.load(folder / "truth.npy")
    values = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("model_*.npy"), key=lambda path: int(path.stem.split("_")[1]))]
    target = Target("multiclass", tuple(f"class {number}" for number in range(values[0].shape[1])))
    problem = Problem(target, truth, (np.arange(len(truth)) % FOLDS).astype(np.int16), np.arange(len(truth)), METRICS[metric])
    began, processor = time.perf_counter(), time.process_time()
    fitted = fit_ensemble(values, problem, asked, draws, seed=0)
    seconds, busy = time.perf_counter() - began, time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 ** (2 if sys.platform == "darwin" else 1)
    scores = {scheme: problem.score(blended) for scheme, blended in fitted.out_of_fold.items()}
    print(json.dumps({"seconds": round(seconds, 1), "processor seconds": round(busy, 1), "peak MB": round(peak), "chosen": fitted.chosen}))
    print(json.dumps({"cross-fitted": scores, "beat the equal mean": fitted.better, "notes": fitted.notes}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=20)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=200)
    parser.add_argument("--draws", type=int, default=1000)
    parser.add_argument("--metric", default="log_loss")
    parser.add_argument("--asked", default="auto", help="auto or a scheme")
    parser.add_argument("--inputs", type=Path, help="a folder that holds the inputs already; nothing is written")
    arguments = parser.parse_args()
    if arguments.inputs:
        fit(arguments.inputs, arguments.metric, arguments.asked, arguments.draws)
        return
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), arguments.models, arguments.rows, arguments.classes)
        options = ["--inputs", folder, "--metric", arguments.metric, "--asked", arguments.asked, "--draws", str(arguments.draws)]
        subprocess.run([sys.executable, __file__, *options], check=True)  # noqa: S603


if __name__ == "__main__":
    main()
