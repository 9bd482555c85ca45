"""scikit-learn's bundled digits, written in the shape of a Kaggle competition: real pictures, no network.

1,797 handwritten digits of 8x8 pixels (UCI "Optical Recognition of Handwritten Digits"). A fifth
is the test set; its answers lie in solution.csv, so that a run can end with its true score.
"""

import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from pipeline.files import write_table

TEST_SHARE = 0.2
SEED = 0


def write_digits(root: Path) -> None:
    """Writes train.csv, test.csv, sample_submission.csv, solution.csv and images/ to `root`, all or nothing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        (temporary / "images").mkdir()
        ids = [f"{number:04d}" for number in range(len(digits.target))]
        for name, pixels in zip(ids, digits.images, strict=True):
            grey = np.round(pixels * (255 / 16)).astype(np.uint8)
            (temporary / "images" / f"{name}.png").write_bytes(cv2.imencode(".png", grey)[1].tobytes())
        table = pd.DataFrame({"id": ids, "label": digits.target.astype(str)})
        order = np.random.default_rng(SEED).permutation(len(table))
        held_out = np.isin(np.arange(len(table)), order[: round(TEST_SHARE * len(table))])
        write_table(temporary / "train.csv", table[~held_out])
        write_table(temporary / "test.csv", table.loc[held_out, ["id"]])
        write_table(temporary / "sample_submission.csv", table[held_out].assign(label="0"))
        write_table(temporary / "solution.csv", table[held_out])
        temporary.chmod(0o755)
        temporary.rename(root)
    except OSError:
        if not (root / "solution.csv").exists():  # it is there where another process was first
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
