"""The report's pictures: thumbnails as data URIs of bounded size, contact sheets, augmented views, mixed batches."""

import base64
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from PIL import Image

from pipeline.augment.mixing import mix
from pipeline.augment.transforms import Transforms
from pipeline.config import Config, Mixing
from pipeline.data.eda.copies import CopyGroup
from pipeline.data.eda.facts import TIMES, percent, readable, short
from pipeline.data.eda.labels import Group, sheet_groups, split_labels
from pipeline.data.images import CorruptImage, Pixels, fit_to, resize, shrink
from pipeline.errors import UserError
from pipeline.runtime import cores, ordered_map, stream

SMALL_SIDE = 64  # up to this, a picture is kept as it is, without loss, and enlarged by the browser
THUMBNAIL_SIDE, THUMBNAIL_BYTES = 200, 7_000
VIEW_SIDE, VIEW_BYTES = 224, 12_000
MOST_SHEET_PICTURES = 240
MOST_PER_SHEET = 12
NUM_VIEWS = 12
NUM_MIXED = 6
MIXING_DRAWS = 64
SHOWN_ALPHA = 1.0  # for a mixing that the config has switched off
Tone = Literal["train", "extra", "test", ""]


@dataclass(frozen=True)
class Picture:
    """A thumbnail, ready for the page."""

    uri: str
    width: int
    """Of the encoded picture, pixels."""
    height: int
    description: str
    caption: tuple[str, ...] = ()
    tone: Tone = ""
    """Split whose colour marks it."""
    dropped: bool = False

    @property
    def pixelated(self) -> bool:
        """Whether it is so small that its pixels should stay visible."""
        return max(self.width, self.height) <= SMALL_SIDE


@dataclass(frozen=True)
class Sheet:
    """A contact sheet."""

    title: str
    note: str
    pictures: tuple[Picture, ...]


def thumbnail(pixels: Pixels, description: str, side: int = THUMBNAIL_SIDE, most: int = THUMBNAIL_BYTES, **more: object) -> Picture:
    """A data URI of at most `most` bytes before base64: PNG up to 64 px, else a JPEG whose longer side is at most `side`."""
    longer = max(pixels.shape[:2])
    if longer > side:
        scale = side / longer
        pixels = resize(pixels, (max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale))))
    kind, data = ("png", _encode(pixels, "PNG")) if longer <= SMALL_SIDE else ("jpeg", b"")
    for quality in (80, 65, 50, 35, 20):
        if data and len(data) <= most:
            break
        kind, data = "jpeg", _encode(pixels, "JPEG", quality)
    if len(data) > most:  # noise: what a JPEG cannot make small
        return thumbnail(pixels, description, side // 2, most, **more)
    uri = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return Picture(uri, pixels.shape[1], pixels.shape[0], description, **more)  # type: ignore[arg-type]


def _encode(pixels: Pixels, kind: str, quality: int = 80) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=quality, optimize=True)
    return buffer.getvalue()


def thumbnails(rows: pd.DataFrame, read: Callable[[str], Pixels], caption: bool = False) -> tuple[Picture, ...]:
    """One per row that can be read, in order. rows: split, id, path, target."""

    def make(row: tuple[str, str, str, str]) -> Picture | None:
        split, name, path, target = row
        try:
            words = (short(name, 40), short(target, 40)) if caption else ()
            return thumbnail(read(path), short(f"{name} · {target}" if target else name), caption=words, tone=split if caption else "")
        except CorruptImage:
            return None

    wanted = rows[["split", "id", "path", "target"]].astype(str).itertuples(index=False, name=None)
    return tuple(picture for picture in ordered_map(make, wanted, cores()) if picture)


# ---------------------------------------------------------------- contact sheets


def contact_sheets(
    rows: pd.DataFrame, read: Callable[[str], Pixels], config: Config, classes: Sequence[str], random: np.random.Generator
) -> tuple[tuple[Sheet, ...], str]:
    """A sheet per class, label or target bin, and one of test pictures; at most 240 pictures in all. Also how they were chosen."""
    labelled = readable(rows, "train", "extra")
    groups, how = sheet_groups(labelled, config.competition.task, classes, random)
    test = readable(rows, "test")
    most = max(1, min(MOST_PER_SHEET, MOST_SHEET_PICTURES // (len(groups) + 1)))
    sheets = [_sheet(group, labelled[group.members.to_numpy(dtype=bool)], read, most, random) for group in groups]
    if len(test):
        sheets.append(_sheet(Group("test", f"{len(test):,} rows without a label", test["id"].notna()), test, read, most, random))
    return tuple(sheets), how


def _sheet(group: Group, members: pd.DataFrame, read: Callable[[str], Pixels], most: int, random: np.random.Generator) -> Sheet:
    chosen = np.sort(random.choice(len(members), size=min(most, len(members)), replace=False))
    return Sheet(group.name, group.note, thumbnails(members.iloc[chosen], read))


def size_examples(rows: pd.DataFrame, read: Callable[[str], Pixels], config: Config) -> tuple[tuple[Picture, Picture], ...]:
    """The tallest, the most usual and the widest picture, each beside what the model is given; nothing if all have one shape."""
    known = readable(rows, "train", "extra", "test")
    if known.empty:
        return ()
    aspect = np.log(known["width"].to_numpy(np.float64) / known["height"].to_numpy(np.float64))
    if np.ptp(aspect) < 0.05:
        return ()
    places = {"tallest": aspect.argmin(), "middling": np.abs(aspect - np.median(aspect)).argmin(), "widest": aspect.argmax()}
    pairs = []
    for name, place in places.items():
        path, row = (str(known[column].iloc[place]) for column in ("path", "id"))
        try:
            pixels = read(path)
        except CorruptImage:
            continue
        before = thumbnail(pixels, short(row), caption=(f"{name}: {pixels.shape[1]} {TIMES} {pixels.shape[0]}",))
        pairs.append((before, thumbnail(model_input(pixels, config), short(row), caption=("to the model",))))
    return tuple(pairs)


def copy_pictures(group: CopyGroup, rows: pd.DataFrame, read: Callable[[str], Pixels]) -> tuple[Picture, ...]:
    """The shown members of a group of copies with id, split and label. rows: the index, on (split, id)."""
    members = group.members
    known = rows.reindex(pd.MultiIndex.from_frame(members[["split", "id"]]))
    pictures = []
    for member, path, problem in zip(members.itertuples(), known["path"], known["problem"], strict=True):
        if pd.isna(path) or problem:
            continue
        dropped = str(member.action) == "drop"
        words = [short(str(member.id), 40), short(str(member.target), 40) or "no label", str(member.split) + (", dropped" if dropped else "")]
        try:
            pictures.append(thumbnail(read(path), short(str(member.id)), caption=tuple(words), tone=str(member.split), dropped=dropped))
        except CorruptImage:
            continue
    return tuple(pictures)


# ---------------------------------------------------------------- augmentation


@dataclass(frozen=True)
class Batch:
    """Pictures mixed with one another."""

    title: str
    note: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class Augmented:
    """One picture as it is, as validation sees it, as training sees it; and mixed batches."""

    source: tuple[Picture, ...]
    views: tuple[Picture, ...]
    problem: str
    """Why the config's augmentations cannot be applied; empty if they can."""
    batches: tuple[Batch, ...]


def _spoken(target: str, config: Config) -> str:
    return " + ".join(split_labels(target)) if config.competition.task == "multilabel" else target


def model_input(pixels: Pixels, config: Config) -> Pixels:
    """What the model is given without augmentation."""
    return fit_to(shrink(pixels, config.images.cache_size), config.images.shape, config.images.fit)


def augmented(rows: pd.DataFrame, read: Callable[[str], Pixels], config: Config, random: np.random.Generator) -> Augmented | None:
    """Draws a few train pictures, augments the first and mixes them all; None if no train picture can be read."""
    train = readable(rows, "train")
    order = random.permutation(len(train))[: 4 * NUM_MIXED]
    loaded: list[tuple[Pixels, str, str]] = []
    for row in train.iloc[order].itertuples():
        try:
            loaded.append((read(str(row.path)), str(row.id), _spoken(str(row.target), config)))
        except CorruptImage:
            continue
        if len(loaded) == NUM_MIXED:
            break
    if not loaded:
        return None
    pixels, name, target = loaded[0]
    cached = shrink(pixels, config.images.cache_size)
    size = f"{pixels.shape[1]} {TIMES} {pixels.shape[0]}"
    source = (
        _view(pixels, name, short(f"{name} · {target}", 60), f"as given, {size}"),
        _view(model_input(pixels, config), name, "validation and test", f"{config.images.shape[1]} {TIMES} {config.images.shape[0]}"),
    )
    views, problem = _views(cached, name, config)
    batches = tuple(_mixed_batch(kind, loaded, config) for kind in ("mixup", "cutmix")) if len(loaded) > 1 else ()
    return Augmented(source, views, problem, batches)


def _view(pixels: Pixels, name: str, *caption: str) -> Picture:
    return thumbnail(pixels, short(name), VIEW_SIDE, VIEW_BYTES, caption=caption)


def _views(cached: Pixels, name: str, config: Config) -> tuple[tuple[Picture, ...], str]:
    if not config.augment.train:
        return (), ""
    seed = config.train.seeds[0]
    try:
        transforms = Transforms(config.augment.train)
        transforms.check([(cached.shape[0], cached.shape[1])])
        made = [transforms(cached, stream("augment", seed, 0, 0, position)) for position in range(NUM_VIEWS)]
    except UserError as error:
        return (), str(error)
    return tuple(_view(fit_to(view, config.images.shape, config.images.fit), f"augmented view of {name}") for view in made), ""


def _mixed_batch(kind: str, loaded: Iterable[tuple[Pixels, str, str]], config: Config) -> Batch:
    """Of 64 draws the one whose share is nearest to 0.6, so that something can be seen."""
    pixels, _, targets = zip(*loaded, strict=True)
    images = torch.from_numpy(np.stack([model_input(one, config) for one in pixels])).permute(0, 3, 1, 2).float()
    alpha = getattr(config.augment.mixing, kind)
    section = Mixing.model_validate({kind: alpha or SHOWN_ALPHA})
    identity = torch.eye(len(images))
    draws = [mix(images, identity, section, stream("mix", config.train.seeds[0], 0, 0, step)) for step in range(MIXING_DRAWS)]
    mixed, shares = min(draws, key=lambda draw: abs(_largest_share(draw[1]) - 0.6))
    rows = mixed.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    pictures = tuple(_view(np.ascontiguousarray(view), f"{kind} of two pictures", *_parts(share, targets)) for view, share in zip(rows, shares, strict=True))
    title = {"mixup": "Mixup", "cutmix": "CutMix"}[kind]
    off = f"Off in this config; shown as `augment.mixing.{kind}: {SHOWN_ALPHA}` would look"
    on = f"On: `augment.mixing.{kind}: {alpha}`, {percent(_batch_share(kind, config.augment.mixing))} of the batches"
    return Batch(title, (on if alpha else off) + f". Of {MIXING_DRAWS} draws the one nearest to 60 : 40.", pictures)


def _largest_share(shares: torch.Tensor) -> float:
    """Of the first row that is mixed with another one."""
    return min(float(row.max()) for row in shares)


def _batch_share(kind: str, section: Mixing) -> float:
    both = section.mixup > 0 and section.cutmix > 0
    return section.prob / 2 if both else section.prob


def _parts(shares: torch.Tensor, targets: Sequence[str]) -> tuple[str, ...]:
    parts = sorted(((float(share), target) for share, target in zip(shares, targets, strict=True) if share > 0), reverse=True)
    return tuple(f"{100 * share:.0f} % {short(target, 24) or 'no label'}" for share, target in parts)
