"""Decoding is strict and deliberate; shrinking never enlarges; fitting gives exactly the asked-for shape."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.data.images import CorruptImage, Pixels, cached_shape, decode, fit_to, read, resize, shrink

WHITE, RED = (255, 255, 255), (255, 0, 0)


def noise(height: int, width: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> Pixels:
    """A picture that JPEG and resizing hardly change: red grows downwards, green to the right."""
    rows, columns = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
    return np.stack([rows, columns, np.full((height, width), 128)], axis=2).round().astype(np.uint8)


def encoded(image: Image.Image | np.ndarray, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, form, **options)
    return buffer.getvalue()


def png_with_header(height: int, width: int) -> bytes:
    """A PNG whose header promises a size that its data do not hold."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")


# ---------------------------------------------------------------- whole pictures


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("PPM", {})])
def test_a_lossless_picture_is_read_pixel_by_pixel(form: str, options: dict[str, Any]) -> None:
    pixels = noise(7, 11)
    read_back = decode(encoded(pixels, form, **options))
    assert read_back.dtype == np.uint8
    np.testing.assert_array_equal(read_back, pixels)


def test_a_jpeg_is_read_in_rgb_and_close_to_its_source() -> None:
    pixels = smooth(40, 30)
    assert np.abs(decode(encoded(pixels, "JPEG", quality=95)).astype(int) - pixels).max() < 16


def test_the_bundled_digits_are_read_as_grey_in_three_channels(digits: Path) -> None:
    pixels = read(digits / "images" / "0000.png")
    assert pixels.shape == (8, 8, 3)
    assert (pixels == pixels[:, :, :1]).all()
    assert pixels.max() > 200


def test_one_pixel_is_a_picture() -> None:
    assert decode(encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG")).tolist() == [[[1, 2, 3]]]


# ---------------------------------------------------------------- damaged pictures


@pytest.mark.parametrize("share", [0.02, 0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize(("form", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("BMP", {})])
def test_a_truncated_picture_is_refused(form: str, options: dict[str, Any], share: float) -> None:
    data = encoded(noise(60, 80), form, **options)
    with pytest.raises(CorruptImage):
        decode(data[: int(share * len(data))])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
def test_a_picture_cut_anywhere_is_refused_or_whole(form: str) -> None:
    data = encoded(noise(12, 9), form)
    whole = decode(data)
    for length in range(len(data)):
        try:
            pixels = decode(data[:length])
        except CorruptImage:
            continue
        np.testing.assert_array_equal(pixels, whole, err_msg=f"{length} of {len(data)} bytes")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "zero bytes"),
        (b"id,label\n1,cat\n", "not an image"),
        (b"<html>404 not found</html>", "not an image"),
        (bytes(1000), "not an image"),
        (b"\xff\xd8\xff\xe0", ""),
        (b"\x89PNG\r\n\x1a\n", ""),
    ],
    ids=["zero bytes", "text", "html", "zeros", "start of a JPEG", "start of a PNG"],
)
def test_what_is_no_picture_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptImage) as caught:
        decode(data)
    assert reason in str(caught.value)
    assert str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=60), st.sampled_from(["JPEG", "PNG", "GIF", "BMP"]), st.integers(0, 200))
def test_any_bytes_are_a_picture_or_corrupt_and_nothing_else(junk: bytes, form: str, at: int) -> None:
    data = encoded(smooth(8, 8), form)
    try:
        pixels = decode(data[:at] + junk + data[at + len(junk) :])
    except CorruptImage:
        return
    assert pixels.ndim == 3
    assert pixels.shape[2] == 3
    assert pixels.dtype == np.uint8


@pytest.mark.parametrize(("height", "width"), [(10_000, 10_000), (20_000, 20_000), (60_000, 60_000), (1, 2**31 - 1)])
def test_a_header_that_promises_too_many_pixels_is_refused_before_it_costs_memory(height: int, width: int) -> None:
    with pytest.raises(CorruptImage, match="too many pixels"):
        decode(png_with_header(height, width))


def test_a_missing_file_and_a_folder_are_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(CorruptImage, match="no such file"):
        read(tmp_path / "gone.png")
    with pytest.raises(CorruptImage, match="cannot be read"):
        read(tmp_path)


# ---------------------------------------------------------------- kinds of pixels


def test_sixteen_bit_grey_keeps_its_upper_eight_bits() -> None:
    values = np.array([[0x0000, 0x00FF, 0x0100], [0x7FFF, 0x8000, 0xFFFF]], dtype=np.uint16)
    pixels = decode(encoded(Image.fromarray(values), "PNG"))
    assert pixels[:, :, 0].tolist() == [[0, 0, 1], [127, 128, 255]]
    assert (pixels == pixels[:, :, :1]).all()


def test_floating_point_and_32_bit_pixels_are_refused_since_their_range_is_unknown() -> None:
    with pytest.raises(CorruptImage, match="floating-point"):
        decode(encoded(Image.fromarray(np.array([[0.5, 2.0]], dtype=np.float32)), "TIFF"))
    with pytest.raises(CorruptImage, match="32-bit"):
        decode(encoded(Image.fromarray(np.array([[1, 100_000]], dtype=np.int32)), "TIFF"))


def test_a_palette_becomes_its_colours() -> None:
    pixels = np.array([[RED, WHITE], [(0, 0, 255), RED]], dtype=np.uint8)
    image = Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE, colors=3)
    assert image.mode == "P"
    np.testing.assert_array_equal(decode(encoded(image, "PNG")), pixels)


def test_a_bitmap_and_grey_become_rgb() -> None:
    bits = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert decode(encoded(bits, "PNG")).tolist() == [[[0] * 3, [255] * 3]]
    assert decode(encoded(np.array([[7, 200]], dtype=np.uint8), "PNG")).tolist() == [[[7] * 3, [200] * 3]]


def test_transparent_pixels_lie_on_white() -> None:
    image = Image.fromarray(np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 128]]], dtype=np.uint8), "RGBA")
    opaque, clear, half = decode(encoded(image, "PNG"))[0].tolist()
    assert opaque == list(RED)
    assert clear == list(WHITE)
    assert half == pytest.approx([127, 127, 127], abs=1)


def test_transparent_grey_lies_on_white() -> None:
    image = Image.fromarray(np.array([[[9, 255], [9, 0]]], dtype=np.uint8), "LA")
    assert decode(encoded(image, "PNG"))[0].tolist() == [[9] * 3, [255] * 3]


@pytest.mark.parametrize(
    ("image", "key"),
    [
        (Image.fromarray(np.array([[9, 50]], dtype=np.uint8)), 9),
        (Image.fromarray(np.array([[RED, (0, 50, 0)]], dtype=np.uint8)), RED),
        (Image.fromarray(np.array([[RED, (0, 50, 0)]], dtype=np.uint8)).quantize(2), None),
        (Image.fromarray(np.array([[9 << 8, 50 << 8]], dtype=np.uint16)), 9 << 8),
    ],
    ids=["grey", "rgb", "palette", "16-bit grey"],
)
def test_a_colour_that_a_png_declares_transparent_lies_on_white(image: Image.Image, key: Any) -> None:
    if key is None:
        key = image.getpixel((0, 0))
    clear, opaque = decode(encoded(image, "PNG", transparency=key))[0].tolist()
    assert clear == list(WHITE)
    assert opaque in ([50] * 3, [0, 50, 0])


@pytest.mark.parametrize(("ink", "colour"), [((0, 0, 0, 0), WHITE), ((0, 255, 255, 0), RED), ((0, 0, 0, 255), (0, 0, 0))])
def test_a_cmyk_jpeg_is_not_read_as_its_negative(ink: tuple[int, ...], colour: tuple[int, ...]) -> None:
    pixels = decode(encoded(Image.new("CMYK", (8, 8), ink), "JPEG", quality=100))
    assert pixels[4, 4].tolist() == pytest.approx(colour, abs=3)


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda stored: stored),
        (2, lambda stored: stored[:, ::-1]),
        (3, lambda stored: stored[::-1, ::-1]),
        (4, lambda stored: stored[::-1]),
        (5, lambda stored: stored.transpose(1, 0, 2)),
        (6, lambda stored: np.rot90(stored, -1)),
        (7, lambda stored: np.rot90(stored, 2).transpose(1, 0, 2)),
        (8, lambda stored: np.rot90(stored, 1)),
    ],
)
def test_a_picture_is_turned_as_its_exif_orientation_says(form: str, orientation: int, upright: Any) -> None:
    stored = smooth(16, 32)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    pixels, expected = decode(encoded(stored, form, exif=exif, **options)), upright(stored)
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).max() <= 6


@pytest.mark.filterwarnings("ignore:Corrupt EXIF:UserWarning")
def test_broken_exif_says_nothing_about_the_pixels() -> None:
    pixels = smooth(8, 8)
    read_back = decode(encoded(pixels, "JPEG", quality=100, subsampling=0, exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff junk"))
    assert np.abs(read_back.astype(int) - pixels).max() <= 6


def test_of_an_animation_the_first_frame_counts() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in (RED, (0, 255, 0), (0, 0, 255))]
    for form in ("GIF", "WEBP", "PNG"):
        options = {"lossless": True} if form == "WEBP" else {}
        data = encoded(frames[0], form, save_all=True, append_images=frames[1:], duration=50, **options)
        assert decode(data).tolist() == [[list(RED)] * 5] * 4, form


# ---------------------------------------------------------------- shrinking


@pytest.mark.parametrize(
    ("shape", "size", "expected"),
    [
        ((400, 600), 200, (200, 300)),
        ((600, 400), 200, (300, 200)),
        ((300, 300), 100, (100, 100)),
        ((100, 3), 50, (100, 3)),
        ((8, 8), 8, (8, 8)),
        ((1, 1), 224, (1, 1)),
        ((1001, 1000), 10, (10, 10)),
    ],
)
def test_the_shorter_side_becomes_the_cache_size(shape: tuple[int, int], size: int, expected: tuple[int, int]) -> None:
    assert cached_shape(*shape, size) == expected
    assert shrink(noise(*shape), size).shape == (*expected, 3)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 600))
def test_shrinking_keeps_the_aspect_ratio_and_never_enlarges(height: int, width: int, size: int) -> None:
    new_height, new_width = cached_shape(height, width, size)
    assert 1 <= new_height <= height
    assert 1 <= new_width <= width
    assert min(new_height, new_width) == min(height, width, size)
    scale = min(1.0, size / min(height, width))
    assert abs(new_height - height * scale) <= 0.5 + 1e-9
    assert abs(new_width - width * scale) <= 0.5 + 1e-9


def test_a_small_picture_is_returned_untouched() -> None:
    pixels = noise(5, 9)
    assert shrink(pixels, 5) is pixels


def test_shrinking_averages_and_does_not_skip_pixels() -> None:
    checkerboard = np.indices((64, 64)).sum(axis=0) % 2 * 255
    pixels = shrink(np.repeat(checkerboard[:, :, None], 3, axis=2).astype(np.uint8), 16)
    assert np.abs(pixels.astype(int) - 127).max() <= 1


def test_resizing_gives_the_asked_for_shape_and_keeps_a_plain_colour() -> None:
    plain = np.full((10, 20, 3), (10, 200, 77), dtype=np.uint8)
    for shape in ((5, 40), (40, 5), (1, 1), (10, 20), (33, 66)):
        resized = resize(plain, shape)
        assert resized.shape == (*shape, 3)
        assert resized.dtype == np.uint8
        assert (resized == plain[0, 0]).all()


# ---------------------------------------------------------------- fitting

BANDS = np.zeros((20, 60, 3), dtype=np.uint8)  # three squares side by side: red, green, blue
BANDS[:, :20, 0] = BANDS[:, 20:40, 1] = BANDS[:, 40:, 2] = 255


def test_crop_takes_the_middle() -> None:
    assert fit_to(BANDS, (10, 10), "crop").reshape(-1, 3).tolist() == [[0, 255, 0]] * 100
    upright = fit_to(BANDS.transpose(1, 0, 2), (10, 10), "crop")
    assert upright.reshape(-1, 3).tolist() == [[0, 255, 0]] * 100


def test_crop_to_another_shape_keeps_the_whole_of_the_tighter_side() -> None:
    fitted = fit_to(BANDS, (10, 20), "crop")
    np.testing.assert_array_equal(fitted[:, 5:15].reshape(-1, 3), [[0, 255, 0]] * 100)
    np.testing.assert_array_equal(fitted[:, :5].reshape(-1, 3), [[255, 0, 0]] * 50)
    np.testing.assert_array_equal(fitted[:, 15:].reshape(-1, 3), [[0, 0, 255]] * 50)


def test_crop_enlarges_a_picture_that_is_too_small() -> None:
    fitted = fit_to(BANDS[:4, 28:32], (8, 16), "crop")
    assert fitted.shape == (8, 16, 3)
    assert (fitted == (0, 255, 0)).all()


def test_pad_keeps_the_whole_picture_in_the_middle_of_black() -> None:
    fitted = fit_to(np.full((10, 30, 3), 200, dtype=np.uint8), (30, 30), "pad")
    assert (fitted[10:20] == 200).all()
    assert not fitted[:10].any()
    assert not fitted[20:].any()


def test_pad_to_another_shape_pads_the_looser_side() -> None:
    fitted = fit_to(np.full((10, 10, 3), 200, dtype=np.uint8), (20, 40), "pad")
    assert (fitted[:, 10:30] == 200).all()
    assert not fitted[:, :10].any()
    assert not fitted[:, 30:].any()


def test_stretch_changes_the_aspect_ratio_and_loses_nothing() -> None:
    fitted = fit_to(BANDS, (30, 30), "stretch")
    np.testing.assert_array_equal(fitted[15, [3, 15, 26]], [[255, 0, 0], [0, 255, 0], [0, 0, 255]])


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_a_picture_of_the_right_shape_is_returned_as_it_is(fit: str) -> None:
    pixels = noise(6, 9)
    assert fit_to(pixels, (6, 9), fit) is pixels


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["crop", "pad", "stretch"]), st.tuples(*[st.integers(1, 70)] * 4))
def test_fitting_gives_exactly_the_asked_for_shape(fit: str, sides: tuple[int, int, int, int]) -> None:
    height, width, *shape = sides
    pixels = np.full((height, width, 3), 90, dtype=np.uint8)
    pixels.setflags(write=False)
    fitted = fit_to(pixels, (shape[0], shape[1]), fit)
    assert fitted.shape == (*shape, 3)
    assert fitted.dtype == np.uint8
    assert set(np.unique(fitted)) <= ({0, 90} if fit == "pad" else {90})
    assert (fitted == 90).any()
