"""A competition's pictures, wherever they lie: files below its folder, rows of a CSV, MNIST's idx files.

A picture that lies in a table has the path `train.csv#17`: its file and its row, from 0.
"""

import gzip
import math
import struct
import threading
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from pipeline.config_data import Competition, Images
from pipeline.data.images import CorruptImage, Pixels, read, resize
from pipeline.errors import UserError
from pipeline.files import DigestMemory

DARK = 10  # of 255: retina scans have frames of noise below this


def crop_black_border(pixels: Pixels) -> Pixels:
    """The smallest box around everything brighter than a dark frame; a picture that is dark all over stays as it is."""
    bright = pixels.max(axis=2) > DARK
    rows, columns = (np.flatnonzero(bright.mean(axis=axis) > 0.01) for axis in (1, 0))
    if len(rows) < 0.1 * len(pixels) or len(columns) < 0.1 * pixels.shape[1]:
        return pixels
    return pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def subtract_local_average(pixels: Pixels) -> Pixels:
    """4 (x - local average) + 128, the average over a Gaussian of 1/60 of the shorter side.

    Graham, Kaggle Diabetic Retinopathy Detection competition report (2015).
    """
    height, width = pixels.shape[:2]
    shrunk = max(1.0, min(height, width) / 240)  # a blur of 4 pixels is a blur of 4 pixels; the large one costs a second
    small = resize(pixels, (max(1, round(height / shrunk)), max(1, round(width / shrunk))))
    blurred = cv2.GaussianBlur(small, (0, 0), max(0.5, min(small.shape[:2]) / 60))
    average = cv2.resize(blurred, (width, height), interpolation=cv2.INTER_LINEAR).reshape(pixels.shape)
    return np.asarray(cv2.addWeighted(pixels, 4, average, -4, 128), dtype=np.uint8).reshape(pixels.shape)


PREPROCESS = {"crop_black_border": crop_black_border, "subtract_local_average": subtract_local_average}


def is_idx(name: str) -> bool:
    """Whether a table's name is that of MNIST's picture files."""
    return name.removesuffix(".gz").endswith(("idx3-ubyte", "idx4-ubyte"))


def read_idx(path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """The array of an idx file, gzipped or not (http://yann.lecun.com/exdb/mnist); UserError where it is not whole."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zeros, kind, dimensions = struct.unpack(">HBB", data[:4])
        shape = struct.unpack(f">{dimensions}I", data[4 : 4 + 4 * dimensions])
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; check competition.root and the table's name") from None
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise UserError(f"{path}: not a readable idx file: {error}; download it again") from None
    if zeros != 0 or kind != 8 or len(data) != 4 + 4 * dimensions + math.prod(shape):
        raise UserError(f"{path}: not a whole idx file of bytes; download it again")
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * dimensions).reshape(shape)


class Pictures:
    """Reads a competition's pictures by path; cheap to send to another process, which opens tables anew."""

    def __init__(self, competition: Competition, images: Images) -> None:
        self.root = competition.root
        self._roots = [root.resolve() for root in (competition.root, *(extra.root for extra in competition.extra_train)) if root is not None]
        self._competition, self._steps = competition, images.preprocess
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"root": self.root, "_roots": self._roots, "_competition": self._competition, "_steps": self._steps}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _arrays={}, _lock=threading.Lock())

    def fault(self, path: str) -> str:
        """Why a picture cannot be read, "" if it can: it is decoded."""
        if problem := self.problem(path):
            return problem
        try:
            self.read(path)
        except CorruptImage as reason:
            return str(reason)
        return ""

    def read(self, path: str) -> Pixels:
        """RGB pixels [height, width, 3] of a row's picture, after `images.preprocess`. Raises CorruptImage."""
        table, row = self._place(path)
        pixels = read(self.root / path) if row is None else self._from_table(table, row)
        for name in self._steps:
            pixels = np.ascontiguousarray(PREPROCESS[name](pixels))
        return pixels

    def problem(self, path: str) -> str:
        """Why a row's picture may not even be opened, e.g. a link that leads out of the competition's folders; "" if it may."""
        try:
            at = (self.root / self._place(path)[0]).resolve()
        except (OSError, RuntimeError):
            return "a link that leads to itself"
        return "" if any(at.is_relative_to(root) for root in self._roots) else "a link that leads outside the competition's folder"

    def digests(self, paths: Sequence[str], memory: DigestMemory, threads: int) -> list[str | None]:
        """One SHA-256 per path, of the file's bytes, with the row for those in tables; None where there is none to be opened."""
        places = [self._place(path) for path in paths]
        files = [file for file, _ in places]
        distinct = list(dict.fromkeys(files))
        fine = [file for file in distinct if not self.problem(file)]
        known = dict.fromkeys(distinct) | dict(zip(fine, memory.digests([self.root / file for file in fine], threads), strict=True))
        form = [self._competition.pixel_columns, self._competition.pixel_shape]
        as_read = "" if form == [None, None] else f"#{form}"  # the same cells in another shape are another picture
        return [known[file] if row is None or known[file] is None else f"{known[file]}#{row}{as_read}" for file, row in places]

    def _place(self, path: str) -> tuple[str, int | None]:
        """The file of a path, and the row in it for a picture that lies in a table."""
        name, mark, row = path.rpartition("#")
        if mark and row.isdigit() and (is_idx(name) or self._competition.pixel_columns is not None):
            return name, int(row)
        return path, None

    def _from_table(self, name: str, row: int) -> Pixels:
        with self._lock:
            if name not in self._arrays:
                self._arrays[name] = read_idx(self.root / name) if is_idx(name) else self._read_pixel_columns(self.root / name)
        array = self._arrays[name]
        if row >= len(array):
            raise CorruptImage("no such row")
        pixels = array[row]
        return np.ascontiguousarray(pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2))

    def _read_pixel_columns(self, path: Path) -> np.ndarray[Any, np.dtype[np.uint8]]:
        prefix = str(self._competition.pixel_columns)
        try:
            table = pd.read_csv(path, usecols=lambda name: is_pixel(name, prefix), dtype=np.float32, encoding="utf-8-sig")
            values = table[sorted(table.columns, key=lambda name: int(str(name).strip().removeprefix(prefix)))].to_numpy()
        except (ValueError, OSError) as error:
            raise UserError(f'{path}: the columns "{prefix}..." are not all numbers: {" ".join(str(error).split())}') from None
        if not values.shape[1]:
            raise UserError(f'{path}: no column is named "{prefix}" and a number; check competition.pixel_columns')
        if values.size and not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 255):
            raise UserError(f'{path}: the columns "{prefix}..." hold values outside 0 to 255; a pixel is a number from 0 to 255')
        if values.size and values.max() <= 1 and (values % 1 != 0).any():
            values = values * np.float32(255)
        shape = self._competition.pixel_shape or (math.isqrt(values.shape[1]),) * 2
        if math.prod(shape) != values.shape[1]:
            raise UserError(f'{path}: {values.shape[1]} columns "{prefix}..." are no picture of {shape}; write competition.pixel_shape: [height, width]')
        return np.asarray(np.rint(values), dtype=np.uint8).reshape(-1, *shape)


def is_pixel(name: object, prefix: str) -> bool:
    """Whether a column holds a pixel: the prefix, then a number."""
    return str(name).strip().removeprefix(prefix).isdigit() and str(name).strip().startswith(prefix)
