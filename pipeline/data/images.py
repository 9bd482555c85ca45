"""Pictures: bytes to RGB pixels, decoded deliberately and strictly; resizing; fitting to an input.

One decoder, Pillow, both checks and reads: it raises on truncated data where OpenCV returns a
half-filled picture, and the pixels that were checked are the pixels that are trained on.
"""

import contextlib
import io
import warnings
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

MOST_PIXELS = 90_000_000  # Pillow warns above this; a warning would be said per process, not per picture
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Pixels = npt.NDArray[np.uint8]  # RGB, [height, width, 3]


class CorruptImage(Exception):
    """A picture that cannot be read in full; the message is the reason."""


def decode(data: bytes) -> Pixels:
    """RGB pixels of an encoded picture, its EXIF orientation applied. Raises CorruptImage.

    Transparent pixels lie on white; palettes and greyscale become RGB; 16-bit grey keeps its upper
    8 bits; of several frames the first counts.
    """
    if not data:
        raise CorruptImage("zero bytes")
    try:
        image = Image.open(io.BytesIO(data))
        if image.width * image.height > MOST_PIXELS:
            raise CorruptImage(f"too many pixels ({image.width} x {image.height})")
        image.load()
        return np.asarray(_to_rgb(_upright(image)))
    except Image.DecompressionBombError:
        raise CorruptImage("too many pixels") from None
    except CorruptImage:
        raise
    except Exception as error:  # Pillow's plugins raise whatever their format's parser meets
        raise CorruptImage(_reason(error)) from None


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"
    return " ".join(str(error).split()) or type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # a broken EXIF block says nothing about the pixels
        ImageOps.exif_transpose(image, in_place=True)  # else it would copy the picture, turned or not
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _from_16_bit(np.asarray(image), image.info.get("transparency"))
    if image.mode == "F":
        raise CorruptImage("floating-point pixels; convert the file to 8 or 16 bits")
    if image.mode in {"RGBA", "LA", "PA", "La", "RGBa"} or "transparency" in image.info:
        pixels = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels).convert("RGB")
    return image.convert("RGB")


def _from_16_bit(values: npt.NDArray[np.generic], transparent: int | None) -> Image.Image:
    wide = np.where(values == transparent, 0xFFFF, values.astype(np.int64))
    if wide.size and (wide.min() < 0 or wide.max() > 0xFFFF):
        raise CorruptImage("32-bit pixels; convert the file to 8 or 16 bits")
    return Image.fromarray((wide >> 8).astype(np.uint8)).convert("RGB")


def read(path: Path) -> Pixels:
    """RGB pixels of a file. Raises CorruptImage, also where there is no file."""
    try:
        if path.exists() and not path.is_file():
            raise CorruptImage("cannot be read: not a file")
        return decode(path.read_bytes())
    except FileNotFoundError:
        raise CorruptImage("no such file") from None
    except OSError as error:
        raise CorruptImage(f"cannot be read: {error.strerror or error}") from None


def cached_shape(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width after the shorter side became `size`; a smaller picture stays as it is."""
    shorter = min(height, width)
    if shorter <= size:
        return height, width
    return max(size, round(height * size / shorter)), max(size, round(width * size / shorter))


def shrink(pixels: Pixels, size: int) -> Pixels:
    """The picture with its shorter side at most `size`, aspect ratio kept."""
    return resize(pixels, cached_shape(pixels.shape[0], pixels.shape[1], size))


def resize(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    """To exactly [height, width]: by area where it shrinks, cubic where it grows."""
    height, width = shape
    if pixels.shape[:2] == shape:
        return pixels
    shrinks = height * width < pixels.shape[0] * pixels.shape[1]
    result = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
    return result.astype(np.uint8, copy=False)


def fit_to(pixels: Pixels, shape: tuple[int, int], fit: str) -> Pixels:
    """To exactly [height, width] by `images.fit`; a picture that has this shape is returned as it is."""
    height, width = pixels.shape[:2]
    if (height, width) == shape:
        return pixels
    if fit == "crop":
        scale = min(height / shape[0], width / shape[1])
        inner = (min(height, max(1, round(shape[0] * scale))), min(width, max(1, round(shape[1] * scale))))
        top, left = (height - inner[0]) // 2, (width - inner[1]) // 2
        return resize(pixels[top : top + inner[0], left : left + inner[1]], shape)
    if fit == "pad":
        scale = min(shape[0] / height, shape[1] / width)
        inner = (min(shape[0], max(1, round(height * scale))), min(shape[1], max(1, round(width * scale))))
        canvas = np.zeros((*shape, 3), dtype=np.uint8)
        top, left = (shape[0] - inner[0]) // 2, (shape[1] - inner[1]) // 2
        canvas[top : top + inner[0], left : left + inner[1]] = resize(pixels, inner)
        return canvas
    return resize(pixels, shape)
