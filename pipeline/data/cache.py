"""The cache: every picture decoded and shrunk once, in one file per split that is mapped, not read.

`<split>.bin` holds the pictures one after the other: raw RGB bytes, or JPEGs. `index.json` says where
each id starts and its shape. In mode `none` there is no .bin and each picture is decoded from its file;
the pixels are those of mode `raw`.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm.auto import tqdm

from pipeline.config_data import Cache
from pipeline.data.images import CorruptImage, Pixels, cached_shape, decode, shrink
from pipeline.data.pictures import Pictures
from pipeline.errors import UserError
from pipeline.files import atomic, digest, digest_table, free_space, read_json, write_json
from pipeline.runtime import cores, ordered_map

JPEG_BYTES_PER_PIXEL = 1.5  # quality 95 without chroma subsampling stays below this on photographs
KEEP_FREE = 0.05  # share of the free disk that `auto` leaves alone


def choose_mode(section: Cache, rows: pd.DataFrame, size: int, folder: Path) -> str:
    """raw, jpeg or none: the mode asked for, or the first that fits; UserError if the one asked for does not."""
    needed = needed_bytes(rows, size)
    free = int(free_space(folder) * (1 - KEEP_FREE))
    if section.mode == "auto":
        return next((mode for mode in ("raw", "jpeg") if needed[mode] <= free), "none")
    if needed[section.mode] > free:
        raise UserError(
            f"{folder}: a {section.mode} cache needs {needed[section.mode] / 1e9:.2f} GB, but only {free / 1e9:.2f} GB can be used;"
            " free some, or write cache.mode=auto or a smaller images.cache_size"
        )
    return section.mode


def needed_bytes(rows: pd.DataFrame, size: int) -> dict[str, int]:
    """Disk that each mode takes; exact for raw, an upper estimate for jpeg."""
    shapes = (cached_shape(height, width, size) for height, width in zip(rows["height"], rows["width"], strict=True))
    pixels = sum(height * width for height, width in shapes)
    return {"raw": 3 * pixels, "jpeg": int(JPEG_BYTES_PER_PIXEL * pixels), "none": 0}


def content_digest(rows: pd.DataFrame, split: str, mode: str, size: int, quality: int, preprocess: Sequence[str] = (), version: int = 1) -> str:
    """Digest of what a split's cached pixels follow from; modes raw and none, whose pixels are equal, share it."""
    part = rows.loc[rows["split"] == split, ["id", "digest"]]
    return digest([version, size, quality if mode == "jpeg" else None, list(preprocess), digest_table(part)])


def build_cache(rows: pd.DataFrame, pictures: Pictures, folder: Path, mode: str, size: int, quality: int) -> None:
    """Writes the cache of `rows`: split, id, path; all readable."""
    index: dict[str, Any] = {"mode": mode, "size": size, "splits": {}}
    for split, part in rows.groupby("split", sort=True):
        entry: dict[str, Any] = {"ids": part["id"].tolist()}
        if mode == "none":
            entry["paths"] = part["path"].tolist()
        else:
            with atomic(folder / f"{split}.bin") as temporary:
                entry |= _write_split(part, pictures, temporary, mode, size, quality)
        index["splits"][split] = entry
    write_json(folder / "index.json", index)


def _write_split(part: pd.DataFrame, pictures: Pictures, path: Path, mode: str, size: int, quality: int) -> dict[str, Any]:
    def load(relative: str) -> tuple[tuple[int, int], bytes]:
        try:
            pixels = shrink(pictures.read(relative), size)
        except CorruptImage as problem:
            raise UserError(f"{pictures.root / relative}: {problem}, although it could be read before; run again") from None
        return pixels.shape[:2], pixels.tobytes() if mode == "raw" else encode(pixels, quality)

    offsets, shapes = [0], []
    loaded = ordered_map(load, part["path"], cores())
    with path.open("wb") as file:
        for shape, data in tqdm(loaded, total=len(part), desc="cache", unit="img", leave=False, delay=2, disable=None):
            file.write(data)
            offsets.append(offsets[-1] + len(data))
            shapes.append(shape)
    return {"offsets": offsets, "shapes": shapes}


def encode(pixels: Pixels, quality: int) -> bytes:
    """A picture as the jpeg mode keeps it."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


@dataclass
class ImageCache:
    """Reads a cache; cheap to send to another process, which maps the file anew."""

    folder: Path
    pictures: Pictures
    """The competition's files, read in mode none alone."""

    def __post_init__(self) -> None:
        self._index = read_json(self.folder / "index.json")
        self._rows = {split: {name: row for row, name in enumerate(entry["ids"])} for split, entry in self._index["splits"].items()}
        self._maps: dict[str, np.memmap[Any, np.dtype[np.uint8]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "pictures": self.pictures}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.folder, self.pictures = state["folder"], state["pictures"]
        self.__post_init__()

    def read(self, split: str, name: str) -> Pixels:
        """RGB pixels [height, width, 3] of a row; read-only where they are mapped."""
        entry = self._index["splits"][split]
        row = self._rows[split][name]
        if self._index["mode"] == "none":
            return shrink(self.pictures.read(entry["paths"][row]), self._index["size"])
        if split not in self._maps:
            self._maps[split] = np.memmap(self.folder / f"{split}.bin", dtype=np.uint8, mode="r")
        data = self._maps[split][entry["offsets"][row] : entry["offsets"][row + 1]]
        if self._index["mode"] == "jpeg":
            return decode(data.tobytes())
        return np.asarray(data).reshape(*entry["shapes"][row], 3)
