"""Two fingerprints of a decoded picture: one of its exact pixels, one of how it looks."""

import hashlib

import cv2
import numpy as np
import numpy.typing as npt

from pipeline.data.images import Pixels

Hashes = npt.NDArray[np.uint64]

BITS = 64
VIEWS = ("identity", "horizontal_flip", "vertical_flip", "rotate_90", "rotate_180", "rotate_270", "transpose", "anti_transpose")

_WORDS = 1 << 16  # per block of the pixel digest; its weights stay in the second-level cache
_WEIGHTS = np.random.PCG64(20261120).random_raw(2 * _WORDS).reshape(2, _WORDS) | np.uint64(1)
_HALF = np.uint64(32)

_SIDE = 32  # of the grey picture that is transformed
_LONGEST = 256  # a larger picture is sampled down to this first, which costs less than averaging all of it
_FLAT = 0.5  # coefficients this small are rounding: a plain picture has no signs, and all plain pictures share the hash 0

# Lowest frequencies first: vertical and horizontal together from 1 to 10 half waves, (5, 5) left out so that there are 64.
_FREQUENCIES = tuple((total - across, across) for total in range(1, 11) for across in range(total + 1) if (total, across) != (10, 5))
_DOWN = np.array([down for down, _ in _FREQUENCIES])
_ACROSS = np.array([across for _, across in _FREQUENCIES])


def _window() -> npt.NDArray[np.float32]:
    """Weights [32, 32]: the outermost 2 pixels are not seen, towards the middle the square root of half a sine wave.

    A crop or a border moves the edge of a picture most and its middle least.
    """
    wave = np.sqrt(np.sin(np.pi * (np.arange(_SIDE) + 0.5) / _SIDE))
    wave[[0, 1, -2, -1]] = 0
    return np.outer(wave, wave).astype(np.float32)


_WINDOW = _window()
_WINDOW_SHARES = _WINDOW / _WINDOW.sum()


def pixel_digest(pixels: Pixels) -> str:
    """Hex digest (32 digits) of shape and RGB pixels: equal for equal pixels, whatever the file's format, header or name.

    Four times as fast as SHA-256 alone: blocks of 64-bit words are first summed with random odd weights (multilinear
    universal hashing, whole words and their upper halves), then SHA-256 of the sums. Two different pictures share it with a
    chance of 2^-33 at most. It is no defence against pictures that were made to collide.
    """
    flat = np.ascontiguousarray(pixels).reshape(-1)
    words = flat[: flat.size // 8 * 8].view(np.uint64)
    sums = [pixels.shape]
    for start in range(0, words.size, _WORDS):
        block = words[start : start + _WORDS]
        sums.append((int(np.dot(block, _WEIGHTS[0, : block.size])), int(np.dot(block >> _HALF, _WEIGHTS[1, : block.size]))))
    return hashlib.sha256(repr((sums, flat[words.size * 8 :].tobytes())).encode()).hexdigest()[:32]


def perceptual_hash(pixels: Pixels) -> int:
    """64 bits of how a picture [height, width, 3] looks: the signs of its 64 lowest DCT frequencies, of a windowed grey 32 x 32.

    After the DCT hash of Zauner (2010), with signs in place of the median and a window: signs make a flip an XOR and a
    transposition a permutation of bits (`dihedral`), the window lets crops and borders change fewer bits.
    """
    height, width = pixels.shape[:2]
    if max(height, width) > _LONGEST:
        scale = _LONGEST / max(height, width)
        shape = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, shape, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    grey = cv2.resize(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    signs = cv2.dct((grey - (grey * _WINDOW_SHARES).sum()) * _WINDOW)[_DOWN, _ACROSS] > _FLAT
    return int.from_bytes(np.packbits(signs, bitorder="little").tobytes(), "little")


def dihedral(hashes: Hashes) -> Hashes:
    """Hashes [8, N] of the eight flipped and turned views, in the order of VIEWS, from the hashes [N] alone.

    Turns are counterclockwise. Coefficients that are zero in truth, as those of a plain or symmetric picture, may differ.
    """
    across, down = _mask(_ACROSS % 2 == 1), _mask(_DOWN % 2 == 1)
    turned = _transposed(hashes)
    return np.stack([
        hashes,
        hashes ^ across,
        hashes ^ down,
        turned ^ down,
        hashes ^ across ^ down,
        turned ^ across,
        turned,
        turned ^ across ^ down,
    ])  # fmt: skip


def _mask(bits: npt.NDArray[np.bool_]) -> np.uint64:
    return np.uint64(sum(1 << int(bit) for bit in np.flatnonzero(bits)))


def _transposed(hashes: Hashes) -> Hashes:
    result = np.zeros_like(hashes)
    for to, (down, across) in enumerate(_FREQUENCIES):
        result |= ((hashes >> np.uint64(_FREQUENCIES.index((across, down)))) & np.uint64(1)) << np.uint64(to)
    return result
