"""How well and how fast copies are found: recall per edit, precision, speed of the index, time and memory of the search."""

import itertools
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.data.duplicates.hashing import VIEWS, Hashes, dihedral, perceptual_hash, pixel_digest
from pipeline.data.duplicates.search import candidates, pairs_within
from pipeline.data.duplicates.verify import are_alike, has_detail, seen_as, thumbnail, verified
from pipeline.data.images import Pixels, decode, read
from pipeline.runtime import ordered_map

RADII = tuple(range(3, 11))


def _as_jpeg(pixels: Pixels, quality: int = 90) -> Pixels:
    return decode(cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes())


def _cropped(pixels: Pixels, share: float) -> Pixels:
    """Without this share of each side, saved again."""
    height, width = pixels.shape[:2]
    top, left = round(share * height), round(share * width)
    return _as_jpeg(np.ascontiguousarray(pixels[top : height - top, left : width - left]))


def _framed(pixels: Pixels, grey: int) -> Pixels:
    """With a border of 4 % of the shorter side, saved again."""
    width = round(0.04 * min(pixels.shape[:2]))
    return _as_jpeg(np.pad(pixels, ((width, width), (width, width), (0, 0)), constant_values=grey))


def _scaled(pixels: Pixels, share: float) -> Pixels:
    return np.asarray(cv2.resize(pixels, None, fx=share, fy=share, interpolation=cv2.INTER_AREA), dtype=np.uint8)


EDITS: dict[str, Callable[[Pixels], Pixels]] = {
    "JPEG 50": lambda pixels: _as_jpeg(pixels, 50),
    "resize 0.5x": lambda pixels: _scaled(pixels, 0.5),
    "crop 3 % (1.5 % of each side)": lambda pixels: _cropped(pixels, 0.015),
    "crop 3 % of each side": lambda pixels: _cropped(pixels, 0.03),
    "brightness +10 %": lambda pixels: _as_jpeg(np.clip(pixels * 1.1, 0, 255).astype(np.uint8)),
    "brightness -10 %": lambda pixels: _as_jpeg((pixels * 0.9).astype(np.uint8)),
    "black border": lambda pixels: _framed(pixels, 0),
    "white border": lambda pixels: _framed(pixels, 255),
}


def _hashes_of(pictures: list[Pixels]) -> Hashes:
    return np.array([perceptual_hash(pixels) for pixels in pictures], dtype=np.uint64)


def _measure_recall(pictures: list[Pixels], chosen: list[int]) -> dict[str, list[Pixels]]:
    """Prints the share of edited pictures found at each radius, and how many of those at radius 8 pass the second look."""
    own = _hashes_of(pictures)[chosen]
    thumbnails = [thumbnail(pictures[place]) for place in chosen]
    print("| edit | " + " | ".join(f"r = {radius}" for radius in RADII) + " | second look alone | both, r = 8 |")
    print("|---" * (len(RADII) + 3) + "|")
    edited = {name: [edit(pictures[place]) for place in chosen] for name, edit in EDITS.items()}
    for name, copies in edited.items():
        distance = np.bitwise_count(own ^ _hashes_of(copies))
        _print_recall(name, distance, [are_alike(one, thumbnail(copy)) and has_detail(one) for one, copy in zip(thumbnails, copies, strict=True)])
    for number, view in enumerate(VIEWS[1:6], 1):
        turned = [seen_as(pictures[place], view) for place in chosen]
        distance = np.bitwise_count(dihedral(own)[number] ^ _hashes_of(turned))
        seen = [are_alike(seen_as(one, view), thumbnail(copy)) and has_detail(one) for one, copy in zip(thumbnails, turned, strict=True)]
        _print_recall(f"{view} (mirrored)", distance, seen)
    return edited


def _print_recall(name: str, distance: np.ndarray, seen: list[bool]) -> None:
    shares = [float((distance <= radius).mean()) for radius in RADII] + [float(np.mean(seen)), float(((distance <= 8) & seen).mean())]
    print(f"| {name} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")


def _measure_precision(pictures: list[Pixels], edited: dict[str, list[Pixels]], chosen: list[int], found_among_originals: set[tuple[int, int]]) -> None:
    """Prints the share of true pairs among all that are found in originals and edited pictures together."""
    everything = pictures + [copy for copies in edited.values() for copy in copies]
    source = np.array(list(range(len(pictures))) + chosen * len(edited))
    hashes = _hashes_of(everything)
    for radius in (4, 6, 8, 10):
        start = time.perf_counter()
        pairs = candidates(hashes, radius, mirrored=False)
        same = verified(pairs, [str(place) for place in range(len(everything))], lambda path: everything[int(path)])
        left, right = source[pairs.left], source[pairs.right]
        copies = np.array([one == two or (min(one, two), max(one, two)) in found_among_originals for one, two in zip(left, right, strict=True)])
        seconds = time.perf_counter() - start
        print(
            f"radius {radius}: {len(copies)} candidates, {copies.mean():.3f} true; verified {same.sum()}, {copies[same].mean():.4f} true"
            f" ({(same & ~copies).sum()} false); {seconds:.1f} s"
        )


def _pairs_of_originals(pictures: list[Pixels], radius: int) -> set[tuple[int, int]]:
    pairs = candidates(_hashes_of(pictures), radius, mirrored=False)
    same = verified(pairs, [str(place) for place in range(len(pictures))], lambda path: pictures[int(path)])
    return {(int(min(pair)), int(max(pair))) for pair in zip(pairs.left[same], pairs.right[same], strict=True)}


def _tiled(pictures: list[Pixels]) -> bytes:
    """A JPEG of 1024 x 768 pixels from 16 pictures: real texture at a real density."""
    parts = [np.asarray(cv2.resize(pixels, (256, 192), interpolation=cv2.INTER_AREA), dtype=np.uint8) for pixels in pictures]
    whole = np.vstack([np.hstack(parts[row : row + 4]) for row in range(0, 16, 4)])
    return bytes(cv2.imencode(".jpg", whole[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())


def _fingerprints(data: bytes) -> tuple[str, int]:
    pixels = decode(data)
    return pixel_digest(pixels), perceptual_hash(pixels)


def _measure_index(name: str, files: list[bytes], threads: int) -> None:
    """Prints pictures per second of bare cv2, of the strict decoder, and of the decoder with both hashes; best of five."""
    ways: dict[str, Callable[[bytes], Any]] = {
        "cv2.imdecode": lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) is None,
        "decode": lambda data: decode(data).size,
        "decode and both hashes": _fingerprints,
    }
    best = dict.fromkeys(ways, np.inf)
    for _, (way, function) in itertools.product(range(5), ways.items()):
        start = time.perf_counter()
        for _ in ordered_map(function, files, threads):
            pass
        best[way] = min(best[way], time.perf_counter() - start)
    rates = {way: len(files) / seconds for way, seconds in best.items()}
    bare = rates["cv2.imdecode"]
    print(f"{name}, {threads} threads: " + ", ".join(f"{way} {rate:.0f}/s ({rate / bare:.2f})" for way, rate in rates.items()))


def _realistic(real: Hashes, count: int) -> Hashes:
    """Real hashes with random flips, from none to four bits in ten: crowds, chains and strangers."""
    rng = np.random.default_rng(0)
    hashes, share = rng.choice(real, count), rng.random(count) * 0.4
    for bit in range(64):
        hashes = hashes ^ np.where(rng.random(count) < share, np.uint64(1) << np.uint64(bit), np.uint64(0))
    return np.asarray(hashes, dtype=np.uint64)


def _search_once(kind: str, real: Hashes, count: int, radius: int) -> None:
    hashes = np.random.default_rng(0).integers(0, 2**64, count, dtype=np.uint64) if kind == "uniform" else _realistic(real, count)
    if kind == "half identical":
        hashes[: count // 2] = hashes[0]
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    pairs = len(candidates(hashes, radius, mirrored=False).left if kind == "half identical" else pairs_within(np.unique(hashes), radius)[0])
    seconds, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"| {count:,} | {kind} | {radius} | {pairs:,} | {seconds:.1f} | {peak // 1024} (before: {before // 1024}) |", flush=True)


def _measure_search(real: Hashes) -> None:
    """Prints time and peak memory of the search, each in its own process."""
    print("| hashes | kind | radius | pairs | seconds | peak RSS, MB |\n|---|---|---|---|---|---|", flush=True)
    context = multiprocessing.get_context("spawn")
    for count, kind, radius in itertools.product((100_000, 1_000_000), ("uniform", "realistic", "half identical"), (7, 8)):
        process = context.Process(target=_search_once, args=(kind, real, count, radius))
        process.start()
        process.join()


def _measure_imagededup(directory: Path, pictures: list[Pixels], edited: dict[str, list[Pixels]], chosen: list[int]) -> None:
    """Prints recall of imagededup's PHash at its default distance of 10, the pairs it finds among originals, and its time."""
    sys.path.append(str(directory))
    from imagededup.methods import PHash  # type: ignore[import-not-found]

    method = PHash(verbose=False)
    start = time.perf_counter()
    own = [method.encode_image(image_array=pixels) for pixels in pictures]
    seconds = time.perf_counter() - start
    codes = np.array([int(code, 16) for code in own], dtype=np.uint64)
    for name, copies in edited.items():
        there = np.array([int(method.encode_image(image_array=pixels), 16) for pixels in copies], dtype=np.uint64)
        distance = np.bitwise_count(codes[chosen] ^ there)
        print(f"| {name} | " + " | ".join(f"{float((distance <= radius).mean()):.3f}" for radius in RADII) + " |")
    start = time.perf_counter()
    found = method.find_duplicates(encoding_map={str(place): code for place, code in enumerate(own)}, max_distance_threshold=10)
    print(f"encoding {len(own) / seconds:.0f}/s; pairs among originals at 10: {sum(map(len, found.values())) // 2}; {time.perf_counter() - start:.1f} s")


def measure(folders: Sequence[Path], sample: int, search: bool, threads: int, imagededup: Path | None) -> None:
    """Prints every measure of the pictures in `folders`; `sample`: how many are edited; `imagededup`: directory with the package."""
    cv2.setNumThreads(1)
    real = np.empty(0, dtype=np.uint64)
    for folder in folders:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in {".jpg", ".jpeg", ".png"})
        pictures = [read(path) for path in paths]
        chosen = sorted(np.random.default_rng(0).permutation(len(paths))[:sample].tolist())
        true_pairs = _pairs_of_originals(pictures, 10)
        print(f"\n## {folder}: {len(paths)} pictures, {len(chosen)} edited\n{len(true_pairs)} verified pairs of originals: {sorted(true_pairs)}\n")
        _measure_index("these files", [path.read_bytes() for path in paths[:400]], threads)
        _measure_index("1024 x 768", [_tiled(pictures[start : start + 16]) for start in range(0, 16 * 24, 16)], threads)
        edited = _measure_recall(pictures, chosen)
        _measure_precision(pictures, edited, chosen, true_pairs)
        if imagededup is not None:
            _measure_imagededup(imagededup, pictures, edited, chosen)
        real = np.concatenate([real, _hashes_of(pictures)])
    if search:
        _measure_search(np.unique(real))
