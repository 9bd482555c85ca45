"""The index: one row per picture, every one decoded once and checked.

Columns of `index.parquet`: split (train, extra, test), id, path (below the competition's root; table.csv#17 for a picture that
lies in a table), target (several labels joined by |; "" for test), table.<name> (further columns of the tables), digest
(SHA-256 of the file), height, width (pixels, upright, after `images.preprocess`), problem ("" if none), pixels (digest of the
decoded pixels), hash (perceptual, 64 bits).
"""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from pipeline.data.duplicates.hashing import perceptual_hash, pixel_digest
from pipeline.data.images import CorruptImage
from pipeline.data.pictures import Pictures
from pipeline.errors import UserError
from pipeline.runtime import cores, ordered_map

log = logging.getLogger(__name__)
Checked = tuple[int, int, str, str, int]


def check_images(rows: pd.DataFrame, pictures: Pictures, digests: Sequence[str | None]) -> pd.DataFrame:
    """The index: `rows` with digest, height, width, problem, pixels and hash; every picture is decoded here, once."""

    def check(relative: str) -> Checked:
        if problem := pictures.problem(relative):
            return _bad(problem)
        try:
            pixels = pictures.read(relative)
        except CorruptImage as reason:
            return _bad(str(reason))
        return *pixels.shape[:2], "", pixel_digest(pixels), perceptual_hash(pixels)

    checked = ordered_map(check, rows["path"], cores())
    found = list(tqdm(checked, total=len(rows), desc="index", unit="img", leave=False, delay=2, disable=None))
    height, width, problem, pixels, hashes = zip(*found, strict=True)
    return rows.assign(
        digest=[digest or "" for digest in digests],
        height=height,
        width=width,
        problem=problem,
        pixels=pixels,
        hash=np.array(hashes, dtype=np.uint64),
    )


def _bad(problem: str) -> Checked:
    return 0, 0, problem, "", 0


def usable(index: pd.DataFrame, corrupt: str) -> pd.DataFrame:
    """The rows to work with under `images.corrupt`: fail raises for any problem, skip leaves labelled rows out.

    Test rows with a problem stay: they must be predicted, and get the training class shares.
    """
    bad = index[index["problem"] != ""]
    if len(bad) and corrupt == "fail":
        first = bad.iloc[0]
        raise UserError(
            f'{len(bad)} pictures cannot be read, e.g. {first["path"]} (id "{first["id"]}"): {first["problem"]};'
            " mend them, or write images.corrupt=skip (all are listed in prepared/problems.csv)"
        )
    kept = index[(index["problem"] == "") | (index["split"] == "test")].reset_index(drop=True)
    if not (kept["split"] == "train").any():
        raise UserError(f"no training picture can be read, e.g. {bad.iloc[0]['path']}: {bad.iloc[0]['problem']}; check competition.image_path")
    return kept
