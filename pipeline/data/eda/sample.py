"""What a sample of the pixels says: channel means, and whether a classifier can tell train from test."""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from pipeline.config import Config, Images
from pipeline.data.eda.facts import Curve, Finding, Histogram, Numbers, number, percent, readable
from pipeline.data.images import CorruptImage, Pixels, fit_to, shrink
from pipeline.runtime import cores, ordered_map

MOST_PICTURES = 2400
MOST_PIXELS = 2_000_000_000  # decoding: some 20 s on two cores
FEWEST_PICTURES = 200  # however large they are
FEWEST_PER_SPLIT = 40  # below this an AUC says nothing
SMALL = 128  # shorter side, pixels, on which colours are measured
CROP = 256  # side of the middle at full resolution on which detail is measured
LEVELS = 32  # bins of the brightness curves
NUM_FOLDS = 5

COLOURS = ("black", "blue", "green", "cyan", "red", "magenta", "yellow", "white")
FEATURES = (
    *("width", "height", "width : height"),
    *("mean red", "mean green", "mean blue", "contrast red", "contrast green", "contrast blue"),
    *("saturation", "darkest 5 %", "brightest 5 %", "coarse detail", "fine detail", "border against centre"),
    *(f"share of {colour} pixels" for colour in COLOURS),
)


@dataclass(frozen=True)
class Measured:
    """One picture's numbers."""

    features: Numbers
    """float64 [features], of the picture as decoded."""
    moments: Numbers
    """float64 [2, 3]: mean and mean square per channel of the model's input, 0..1."""
    levels: Numbers
    """float64 [3, 32]: share of pixels per brightness."""
    grey: bool


@dataclass(frozen=True)
class Sample:
    """The pictures that were measured, in one order."""

    splits: Numbers
    features: Numbers
    moments: Numbers
    levels: Numbers
    grey: Numbers
    total: int
    """Readable pictures that the sample was drawn from."""


def draw_sample(rows: pd.DataFrame, read: Callable[[str], Pixels], section: Images, random: np.random.Generator) -> Sample | None:
    """Measures up to 2,400 readable pictures of train and test, half of each where there are enough; None if there are none."""
    from tqdm.auto import tqdm

    known = {split: readable(rows, split) for split in ("train", "test")}
    total = sum(len(part) for part in known.values())
    if not total:
        return None
    area = pd.concat(list(known.values()))[["height", "width"]].prod(axis=1).mean()
    most = int(np.clip(MOST_PIXELS / max(1.0, area), FEWEST_PICTURES, MOST_PICTURES))
    num_test = min(len(known["test"]), max(most // 2, most - len(known["train"])))
    sizes = {"train": min(len(known["train"]), most - num_test), "test": num_test}
    places = {split: np.sort(random.choice(len(part), size=sizes[split], replace=False)) for split, part in known.items() if len(part)}
    wanted = [(split, str(path)) for split, chosen in places.items() for path in known[split]["path"].iloc[chosen]]

    def measure_file(item: tuple[str, str]) -> tuple[str, Measured] | None:
        try:
            return item[0], measure(read(item[1]), section)
        except CorruptImage:  # it could be read when the index was made
            return None

    found = ordered_map(measure_file, wanted, cores())
    measured = [item for item in tqdm(found, total=len(wanted), desc="eda", unit="img", leave=False, delay=2, disable=None) if item]
    if not measured:
        return None
    splits = np.array([split for split, _ in measured])
    features, moments, levels, grey = (np.stack([getattr(one, name) for _, one in measured]) for name in ("features", "moments", "levels", "grey"))
    return Sample(splits, features, moments, levels, grey, total)


def measure(pixels: Pixels, section: Images) -> Measured:
    """Cheap numbers of one picture; channel means are those of the model's input, without augmentation."""
    seen = fit_to(shrink(pixels, section.cache_size), section.shape, section.fit)
    small = shrink(pixels, SMALL)
    mean, deviation = (part.ravel() for part in cv2.meanStdDev(seen))
    moments = np.stack([mean, deviation**2 + mean**2]) / [[255.0], [255.0**2]]
    levels = np.stack([np.bincount(small[..., channel].ravel() >> 3, minlength=LEVELS) for channel in range(3)])
    grey = bool((small[..., 0] == small[..., 1]).all() and (small[..., 1] == small[..., 2]).all())
    return Measured(_features(pixels, small), moments, levels / small[..., 0].size, grey)


def _features(pixels: Pixels, small: Pixels) -> Numbers:
    height, width = pixels.shape[:2]
    mean, deviation = (part.ravel() for part in cv2.meanStdDev(small))
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    spread = small.max(axis=2).astype(np.int16) - small.min(axis=2)
    corners = (small >= 128).astype(np.int64) @ np.array([4, 2, 1])  # the corner of the colour cube nearest to each pixel
    colours = np.bincount(corners.ravel(), minlength=8) / corners.size
    top, left = max(0, (height - CROP) // 2), max(0, (width - CROP) // 2)
    middle = cv2.cvtColor(np.ascontiguousarray(pixels[top : top + CROP, left : left + CROP]), cv2.COLOR_RGB2GRAY)
    rows, columns = grey.shape[0] // 4, grey.shape[1] // 4
    centre = grey[rows : grey.shape[0] - rows, columns : grey.shape[1] - columns].mean()
    dark, bright = np.percentile(grey, [5, 95])
    scalars = [spread.mean(), dark, bright, _detail(grey), _detail(middle), grey.mean() - centre]
    return np.array([width, height, width / height, *mean, *deviation, *scalars, *colours], dtype=np.float64)


def _detail(grey: Numbers) -> float:
    """Logarithm of the Laplacian's variance, a usual measure of sharpness."""
    return float(np.log1p(cv2.Laplacian(grey, cv2.CV_64F).var()))


# ---------------------------------------------------------------- channels


@dataclass(frozen=True)
class Channels:
    """Mean and spread per channel of what the model is given, scale 0..1."""

    table: tuple[tuple[str, int, tuple[float, ...], tuple[float, ...]], ...]
    """Split, pictures, means, standard deviations over pixels."""
    histogram: Histogram
    config: tuple[str, ...]
    findings: tuple[Finding, ...]


def channel_statistics(sample: Sample, config: Config) -> Channels:
    """Pooled over pixels, each picture of one weight; beside the config's mean and std."""
    table = []
    for split in ("train", "test"):
        moments = sample.moments[sample.splits == split]
        if len(moments):
            mean, square = moments.mean(axis=0)
            table.append((split, len(moments), tuple(mean.tolist()), tuple(np.sqrt(np.maximum(0, square - mean**2)).tolist())))
    levels = sample.levels.mean(axis=0)
    names = ("red", "green", "blue")
    curves = tuple(Curve(name, name, tuple((levels[i] / levels.max()).tolist())) for i, name in enumerate(names))
    means, deviations = table[0][2], table[0][3]
    lines = [_normalisation_line(config.images, means, deviations)]
    if config.model.weights is not None:
        lines.append("`model.weights` names trained weights: they expect the mean and std that they were trained with, which may differ from the pictures'.")
    findings = []
    grey = float(sample.grey.mean())
    if grey > 0:
        lines.append(f"{percent(grey)} of the sampled pictures are grey (red, green and blue equal); the model is given three equal channels.")
    offset = max(abs(mean - own) / std for mean, own, std in zip(means, config.images.mean, config.images.std, strict=True))
    scale = max(max(own / std, std / max(own, 1e-6)) for own, std in zip(deviations, config.images.std, strict=True))
    if config.model.weights is None and (offset > 1 or scale > 3):
        text = f"`images.mean` and `images.std` are far from the pictures' own; for random weights write mean {_vector(means)} and std {_vector(deviations)}."
        findings.append(Finding("decide", text, "channels"))
    return Channels(tuple(table), Histogram("Brightness", curves, "0", "255"), tuple(lines), tuple(findings))


def _normalisation_line(section: Images, means: tuple[float, ...], deviations: tuple[float, ...]) -> str:
    after_mean = [(own - mean) / std for own, mean, std in zip(means, section.mean, section.std, strict=True)]
    after_std = [own / std for own, std in zip(deviations, section.std, strict=True)]
    return (
        f"`images.mean: {_vector(section.mean)}` and `images.std: {_vector(section.std)}` give the model channels of mean {_vector(after_mean)} and"
        f" std {_vector(after_std)}. For mean 0 and std 1 write mean {_vector(means)} and std {_vector(deviations)}."
    )


def _vector(values: "tuple[float, ...] | list[float]") -> str:
    return "[" + ", ".join(f"{value:.3g}" if abs(value) >= 0.0005 else "0" for value in values) + "]"


# ---------------------------------------------------------------- train against test


@dataclass(frozen=True)
class Separation:
    """How well a classifier on cheap features tells test pictures from train pictures."""

    auc: float
    low: float
    high: float
    folds: tuple[float, ...]
    num_train: int
    num_test: int
    verdict: str
    meaning: str
    features: tuple[tuple[str, float, str, str, bool], ...]
    """Name, AUC of the feature alone (at least .5), medians of train and test, whether it is beyond chance."""
    findings: tuple[Finding, ...]


def separate(sample: Sample, seed: int) -> Separation | None:
    """Cross-validated AUC of a random forest; None with fewer than 40 pictures of either split."""
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    is_test = sample.splits == "test"
    num_test, num_train = int(is_test.sum()), int((~is_test).sum())
    if min(num_test, num_train) < FEWEST_PER_SPLIT:
        return None
    scores, variances = [], []
    for fitted, held_out in StratifiedKFold(NUM_FOLDS, shuffle=True, random_state=seed % 2**32).split(sample.features, is_test):
        forest = RandomForestClassifier(100, min_samples_leaf=5, max_features="sqrt", class_weight="balanced", random_state=seed % 2**32)
        forest.fit(sample.features[fitted], is_test[fitted])
        score = float(roc_auc_score(is_test[held_out], forest.predict_proba(sample.features[held_out])[:, 1]))
        scores.append(score)
        variances.append(auc_variance(score, int(is_test[held_out].sum()), int((~is_test[held_out]).sum())))
    auc, half = float(np.mean(scores)), 1.96 * float(np.sqrt(np.mean(variances) / NUM_FOLDS))
    low, high = max(0.0, auc - half), min(1.0, auc + half)
    verdict, meaning = _verdict(auc, low)
    if high < 0.5:
        meaning += " Below 0.5 is no mistake: it happens where train and test were dealt out evenly, class by class."
    findings: tuple[Finding, ...] = ()
    if low > 0.5 and auc >= 0.6:
        text = f"{verdict}: a classifier on cheap features tells them apart with AUC {auc:.2f}, so the CV may not hold on the leaderboard."
        findings = (Finding("decide", text, "train-test"),)
    return Separation(auc, low, high, tuple(scores), num_train, num_test, verdict, meaning, _single_features(sample.features, is_test), findings)


def auc_variance(auc: float, positives: int, negatives: int) -> float:
    """Variance of an AUC (Hanley and McNeil, 1982)."""
    both_positive, both_negative = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (both_positive - auc**2) + (negatives - 1) * (both_negative - auc**2)
    return max(0.0, spread / (positives * negatives))


def _verdict(auc: float, low: float) -> tuple[str, str]:
    """A line and what it means, in plain words. low: lower end of the AUC's interval."""
    if low <= 0.5:
        meaning = "No better than guessing (0.5): these features show no difference. Others, such as what is in the picture, may."
        return "Train and test look alike", meaning
    if auc < 0.6:
        return "Train and test look almost alike", "Better than guessing, but hardly: a slight difference, of little weight for a CV on random rows."
    if auc < 0.75:
        meaning = "Many pictures could be from either, but some kinds are more frequent in one. Compare the sheets, and see which features separate."
        return "Train and test differ somewhat", meaning
    if auc < 0.95:
        meaning = "Most test pictures can be told from train pictures without knowing what they show: another camera, place, time or processing."
        return "Train and test differ clearly", meaning
    return (
        "Train and test can be told apart",
        "Nearly every picture gives its split away by size, colour or sharpness alone: another source, or other processing.",
    )


def _single_features(features: Numbers, is_test: Numbers) -> tuple[tuple[str, float, str, str, bool], ...]:
    """The five features that separate most on their own."""
    from scipy.stats import norm
    from sklearn.metrics import roc_auc_score

    num_test, num_train = int(is_test.sum()), int((~is_test).sum())
    error = np.sqrt((num_test + num_train + 1) / (12 * num_test * num_train))
    limit = float(norm.isf(0.025 / len(FEATURES))) * error  # of all features together, one in twenty reports exceeds it by chance
    alone = [float(roc_auc_score(is_test, column)) for column in features.T]
    order = sorted(range(len(FEATURES)), key=lambda i: -abs(alone[i] - 0.5))[:5]
    medians = [np.median(features[part], axis=0) for part in (~is_test, is_test)]
    return tuple((FEATURES[i], 0.5 + abs(alone[i] - 0.5), number(medians[0][i]), number(medians[1][i]), abs(alone[i] - 0.5) > limit) for i in order)
