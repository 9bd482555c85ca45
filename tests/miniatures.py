"""Miniatures of real competitions: each with that one's file names, columns, order and quirks, and a few dozen learnable pictures.

A picture is one of scikit-learn's digits, tinted by its class, on a background of its own: no two are copies, and a small
network learns them. The same call writes the same files.
"""

import zipfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

Pixels = npt.NDArray[np.uint8]
HEX = "0123456789abcdef"


@cache
def _digits() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images / 16, digits.target


def grey_digit(number: int, row: int, size: int) -> Pixels:
    """The row-th picture of the digit `number % 10`, [size, size], 0 to 255."""
    images, targets = _digits()
    mine = images[targets == number % 10]
    grown = cv2.resize(mine[row % len(mine)], (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(grown * 255, 0, 255).astype(np.uint8)


def picture(number: int, row: int, shape: tuple[int, int] = (40, 40)) -> Pixels:
    """A tinted digit on a cloudy background, RGB, [height, width, 3]; `number` is the class, `row` makes it unlike all others."""
    random = np.random.default_rng([number, row])
    height, width = shape
    clouds = cv2.resize(random.uniform(0, 110, (4, 4, 3)), (width, height), interpolation=cv2.INTER_CUBIC)
    tint = np.random.default_rng(number).uniform(0.3, 1.0, 3)
    digit = cv2.resize(grey_digit(number, row, 32), (width, height), interpolation=cv2.INTER_LINEAR)[..., None] / 255
    return np.clip(clouds * (1 - digit) + 255 * tint * digit, 0, 255).astype(np.uint8)


def write_picture(path: Path, pixels: Pixels) -> None:
    """Writes RGB or grey pixels in the format of the path's ending."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def write_csv(path: Path, columns: dict[str, Sequence[object]]) -> None:
    """Writes a CSV with a header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(columns).to_csv(path, index=False)


def _zip(path: Path, *members: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.write(member, member.relative_to(path.parent))


def _names(count: int, seed: int, length: int) -> list[str]:
    """Different hexadecimal names, the first character never a digit."""
    random = np.random.default_rng(seed)
    names: dict[str, None] = {}
    while len(names) < count:
        names["abcdef"[random.integers(6)] + "".join(HEX[k] for k in random.integers(16, size=length - 1))] = None
    return list(names)


def _shuffled(numbers: Sequence[int], seed: int = 0) -> list[int]:
    return [int(numbers[k]) for k in np.random.default_rng(seed).permutation(len(numbers))]


# ---------------------------------------------------------------- tables of labels


def classify_leaves(root: Path, rows: int = 60) -> None:
    """train.csv image,label with images/0.jpg as id; test.csv image; 6 of 176 species."""
    species = ["maclura_pomifera", "ulmus_rubra", "broussonettia_papyrifera", "prunus_virginiana", "acer_rubrum", "quercus_alba"]
    numbers = _shuffled([row % 6 for row in range(rows)])
    for row in range(rows + 18):
        write_picture(root / "images" / f"{row}.jpg", picture(numbers[row] if row < rows else row % 6, row))
    test = [f"images/{row}.jpg" for row in range(rows, rows + 18)]
    write_csv(root / "train.csv", {"image": [f"images/{row}.jpg" for row in range(rows)], "label": [species[number] for number in numbers]})
    write_csv(root / "test.csv", {"image": test})
    write_csv(root / "sample_submission.csv", {"image": test, "label": [species[0]] * 18})


def plant_pathology_2020(root: Path, rows: int = 60) -> None:
    """train.csv with four one-hot columns; Train_0, Test_0 in one folder; the sample says 0.25 everywhere."""
    classes = ["healthy", "multiple_diseases", "rust", "scab"]
    numbers = _shuffled([row % 4 for row in range(rows)])
    for row, number in enumerate(numbers):
        write_picture(root / "images" / f"Train_{row}.jpg", picture(number, row, (40, 60)))
    for row in range(16):
        write_picture(root / "images" / f"Test_{row}.jpg", picture(row % 4, 100 + row, (40, 60)))
    hot = {name: [int(number == k) for number in numbers] for k, name in enumerate(classes)}
    write_csv(root / "train.csv", {"image_id": [f"Train_{row}" for row in range(rows)], **hot})
    test = [f"Test_{row}" for row in range(16)]
    write_csv(root / "test.csv", {"image_id": test})
    write_csv(root / "sample_submission.csv", {"image_id": test, **{name: [0.25] * 16 for name in classes}})


def plant_pathology_2021(root: Path, rows: int = 70) -> None:
    """Several labels in a cell; no test.csv; a hidden test of three rows."""
    cells = ["healthy", "scab", "frog_eye_leaf_spot", "rust", "complex", "powdery_mildew"]
    cells += ["scab frog_eye_leaf_spot", "rust frog_eye_leaf_spot", "scab frog_eye_leaf_spot complex", "rust complex"]
    numbers = _shuffled([row % 10 for row in range(rows)])
    names = [f"{name}.jpg" for name in _names(rows + 3, seed=21, length=16)]
    for row, number in enumerate(numbers):
        write_picture(root / "train_images" / names[row], picture(number, row, (40, 60)))
    for row in range(3):
        write_picture(root / "test_images" / names[rows + row], picture(row, 100 + row, (40, 60)))
    write_csv(root / "train.csv", {"image": names[:rows], "labels": [cells[number] for number in numbers]})
    write_csv(root / "sample_submission.csv", {"image": names[rows:], "labels": ["healthy"] * 3})


def cassava(root: Path, rows: int = 60) -> None:
    """Numbers as classes, ids with their ending, a hidden test of one row, files that are no pictures beside them."""
    numbers = _shuffled([row % 5 for row in range(rows)])
    names = [f"{1000015157 + 997 * row}.jpg" for row in range(rows)]
    for row, number in enumerate(numbers):
        write_picture(root / "train_images" / names[row], picture(number, row, (48, 64)))
    write_picture(root / "test_images" / "2216849948.jpg", picture(4, 100, (48, 64)))
    (root / "label_num_to_disease_map.json").write_text('{"0": "Cassava Bacterial Blight (CBB)", "4": "Healthy"}')
    (root / "train_tfrecords").mkdir()
    (root / "train_tfrecords" / "ld_train00-1338.tfrec").write_bytes(b"records")
    write_csv(root / "train.csv", {"image_id": names, "label": numbers})
    write_csv(root / "sample_submission.csv", {"image_id": ["2216849948.jpg"], "label": [4]})


def aptos2019(root: Path, rows: int = 60) -> None:
    """Grades 0 to 4; .png of many shapes with a dark frame; ids without their ending."""
    numbers = _shuffled([row % 5 for row in range(rows)])
    names = _names(rows + 15, seed=19, length=12)
    for row in range(rows + 15):
        inner = picture(numbers[row] if row < rows else row % 5, row, (36, 36 + row % 7))
        framed = np.zeros((40, inner.shape[1] + 16, 3), dtype=np.uint8)
        framed[2:38, 8:-8] = inner
        write_picture(root / ("train_images" if row < rows else "test_images") / f"{names[row]}.png", framed)
    write_csv(root / "train.csv", {"id_code": names[:rows], "diagnosis": numbers})
    write_csv(root / "test.csv", {"id_code": names[rows:]})
    write_csv(root / "sample_submission.csv", {"id_code": names[rows:], "diagnosis": [0] * 15})


def siim_melanoma(root: Path, rows: int = 80) -> None:
    """Patients repeat; metadata with commas and empty cells; leaks of the answer (diagnosis, benign_malignant) in train.csv alone."""
    numbers = _shuffled([int(row % 5 == 0) for row in range(rows)])
    total = rows + 15
    names = [f"ISIC_{15719 + 37 * row:07d}" for row in range(total)]
    for row in range(total):
        split = "train" if row < rows else "test"
        write_picture(root / "jpeg" / split / f"{names[row]}.jpg", picture(numbers[row] if row < rows else row % 2, row, (40, 60)))
        (root / split).mkdir(exist_ok=True)
        (root / split / f"{names[row]}.dcm").write_bytes(b"DICM")
    about = {
        "image_name": names,
        "patient_id": [f"IP_{row // 3 * 7919 % 10_000_000:07d}" for row in range(total)],
        "sex": [["female", "male", ""][row % 3] for row in range(total)],
        "age_approx": [["45.0", "", "70.0", "50.0"][row % 4] for row in range(total)],
        "anatom_site_general_challenge": [["head/neck", "torso, front", "", "palms/soles"][row % 4] for row in range(total)],
    }
    answers = {
        "diagnosis": ["melanoma" if number else ["unknown", "nevus"][row % 2] for row, number in enumerate(numbers)],
        "benign_malignant": ["malignant" if number else "benign" for number in numbers],
        "target": numbers,
    }
    write_csv(root / "train.csv", {**{name: cells[:rows] for name, cells in about.items()}, **answers})
    write_csv(root / "test.csv", {name: cells[rows:] for name, cells in about.items()})
    write_csv(root / "sample_submission.csv", {"image_name": names[rows:], "target": [0] * 15})


def dog_breed(root: Path, rows: int = 64) -> None:
    """labels.csv instead of train.csv; no test.csv; one column of the sample per breed, in its own order; zips left beside the folders."""
    breeds = ["affenpinscher", "african_hunting_dog", "airedale", "beagle", "black-and-tan_coonhound", "flat-coated_retriever", "pug", "whippet"]
    numbers = _shuffled([row % 8 for row in range(rows)])
    names = _names(rows + 16, seed=12, length=32)
    for row in range(rows + 16):
        number = numbers[row] if row < rows else row % 8
        write_picture(root / ("train" if row < rows else "test") / f"{names[row]}.jpg", picture(number, row, (40 + row % 9, 52)))
    write_csv(root / "labels.csv", {"id": names[:rows], "breed": [breeds[number] for number in numbers]})
    write_csv(root / "sample_submission.csv", {"id": names[rows:], **{breed: [1 / 8] * 16 for breed in breeds}})
    _zip(root / "labels.csv.zip", root / "labels.csv")
    _zip(root / "train.zip", root / "train" / f"{names[0]}.jpg")


def leaf_classification(root: Path, rows: int = 64) -> None:
    """192 numbers beside each id in both tables; black leaves on white; train and test ids mixed in one folder."""
    species = [
        "Acer_Opalus",
        "Acer_Palmatum",
        "Alnus_Rubra",
        "Betula_Pendula",
        "Quercus_Alnifolia",
        "Quercus_x_Hispanica",
        "Tilia_Tomentosa",
        "Zelkova_Serrata",
    ]
    numbers = _shuffled([row % 8 for row in range(rows)])
    ids = _shuffled(range(1, rows + 17), seed=1)
    for row, name in enumerate(ids):
        leaf = 255 - picture(numbers[row] if row < rows else row % 8, row, (40, 44 + row % 20)).mean(axis=2).astype(np.uint8)
        write_picture(root / "images" / f"{name}.jpg", leaf)
    values = np.round(np.random.default_rng(0).uniform(0, 0.1, (len(ids), 192)), 6)
    names = [f"{kind}{number}" for kind in ("margin", "shape", "texture") for number in range(1, 65)]
    numbers_of = {name: values[:, k] for k, name in enumerate(names)}
    train = {name: column[:rows] for name, column in numbers_of.items()}
    write_csv(root / "train.csv", {"id": ids[:rows], "species": [species[number] for number in numbers], **train})
    write_csv(root / "test.csv", {"id": ids[rows:], **{name: column[rows:] for name, column in numbers_of.items()}})
    write_csv(root / "sample_submission.csv", {"id": ids[rows:], **{name: [1 / 8] * 16 for name in species}})


def petfinder_pawpularity(root: Path, rows: int = 80) -> None:
    """A number from 1 to 100; twelve flags in both tables; a hidden test; the sample holds fractions."""
    flags = ["Subject Focus", "Eyes", "Face", "Near", "Action", "Accessory", "Group", "Collage", "Human", "Occlusion", "Info", "Blur"]
    random = np.random.default_rng(6)
    numbers = _shuffled([row % 10 for row in range(rows)])
    scores = [int(np.clip(10 * number + random.integers(1, 11), 1, 100)) for number in numbers]
    names = _names(rows + 8, seed=5, length=32)
    for row in range(rows + 8):
        number = numbers[row] if row < rows else row
        write_picture(root / ("train" if row < rows else "test") / f"{names[row]}.jpg", picture(number, row, (44 + row % 11, 40)))
    cells = {flag: random.integers(0, 2, rows + 8) for flag in flags}
    write_csv(root / "train.csv", {"Id": names[:rows], **{flag: column[:rows] for flag, column in cells.items()}, "Pawpularity": scores})
    write_csv(root / "test.csv", {"Id": names[rows:], **{flag: column[rows:] for flag, column in cells.items()}})
    write_csv(root / "sample_submission.csv", {"Id": names[rows:], "Pawpularity": np.round(random.uniform(1, 100, 8), 2)})


def histopathologic_cancer(root: Path, rows: int = 48) -> None:
    """train_labels.csv; .tif of 96 pixels, 8-bit RGB; no test.csv; the sample says 0 everywhere."""
    numbers = _shuffled([int(row % 5 < 2) for row in range(rows)])
    names = _names(rows + 12, seed=96, length=40)
    for row in range(rows + 12):
        number = numbers[row] if row < rows else row % 2
        write_picture(root / ("train" if row < rows else "test") / f"{names[row]}.tif", picture(number, row, (96, 96)))
    write_csv(root / "train_labels.csv", {"id": names[:rows], "label": numbers})
    write_csv(root / "sample_submission.csv", {"id": names[rows:], "label": [0] * 12})


def hotel_id_2021(root: Path, rows: int = 72) -> None:
    """Pictures in a folder per chain for train, in one for test; five ids in a cell of the sample; a hidden test of one row."""
    hotels = [str(10_001 + 2_657 * number) for number in range(8)]
    numbers = _shuffled([row % 8 for row in range(rows)])
    names = [f"{name}.jpg" for name in _names(rows + 1, seed=2021, length=16)]
    chains = [number % 3 + 4 for number in numbers]
    for row, number in enumerate(numbers):
        write_picture(root / "train_images" / str(chains[row]) / names[row], picture(number, row, (40, 40 + row % 15)))
    write_picture(root / "test_images" / names[rows], picture(3, 100))
    times = [f"2018-{1 + row % 12:02d}-{1 + row % 28:02d} 09:{row % 60:02d}:37" for row in range(rows)]
    write_csv(root / "train.csv", {"image": names[:rows], "chain": chains, "hotel_id": [hotels[number] for number in numbers], "timestamp": times})
    write_csv(root / "sample_submission.csv", {"image": names[rows:], "hotel_id": [" ".join(hotels[:5])]})


# ---------------------------------------------------------------- labels in folders, names and pixel columns


def plant_seedlings(root: Path, rows: int = 60) -> None:
    """A folder per species, with spaces in names; a flat test folder; no table but the sample."""
    species = ["Black-grass", "Charlock", "Fat Hen", "Loose Silky-bent", "Maize", "Shepherds Purse", "Small-flowered Cranesbill", "Sugar beet"]
    names = [f"{name}.png" for name in _names(rows + 16, seed=8, length=9)]
    for row in range(rows):
        write_picture(root / "train" / species[row % 8] / names[row], picture(row % 8, row, (40 + row % 13, 40 + row % 13)))
    for row in range(16):
        write_picture(root / "test" / names[rows + row], picture(row % 8, 100 + row, (44, 44)))
    write_csv(root / "sample_submission.csv", {"file": names[rows:], "species": ["Sugar beet"] * 16})


def dogs_vs_cats(root: Path, rows: int = 60) -> None:
    """The label in the file's name, numbers repeated for each class; test ids unpadded; the sample says 0.5 everywhere; zips beside the folders."""
    for row in range(rows):
        write_picture(root / "train" / f"{('cat', 'dog')[row % 2]}.{row // 2}.jpg", picture(row % 2, row, (40, 40 + row % 17)))
    for row in range(1, 17):
        write_picture(root / "test" / f"{row}.jpg", picture(row % 2, 100 + row, (40, 44)))
    write_csv(root / "sample_submission.csv", {"id": range(1, 17), "label": [0.5] * 16})
    _zip(root / "train.zip", root / "train" / "cat.0.jpg")
    _zip(root / "test.zip", root / "test" / "1.jpg")


def digit_recognizer(root: Path, rows: int = 100) -> None:
    """Pixels in columns; neither table has ids, the sample counts from 1."""
    numbers = _shuffled([row % 10 for row in range(rows)])
    pixels = np.stack([grey_digit(number, row, 28) for row, number in enumerate([*numbers, *(row % 10 for row in range(20))])]).reshape(-1, 784)
    columns = {f"pixel{k}": pixels[:, k] for k in range(784)}
    write_csv(root / "train.csv", {"label": numbers, **{name: values[:rows] for name, values in columns.items()}})
    write_csv(root / "test.csv", {name: values[rows:] for name, values in columns.items()})
    write_csv(root / "sample_submission.csv", {"ImageId": range(1, 21), "Label": [0] * 20})


MINIATURES: dict[str, Callable[[Path], None]] = {
    "classify-leaves": classify_leaves,
    "plant-pathology-2020": plant_pathology_2020,
    "plant-pathology-2021": plant_pathology_2021,
    "cassava": cassava,
    "aptos2019": aptos2019,
    "siim-isic-melanoma": siim_melanoma,
    "dog-breed": dog_breed,
    "leaf-classification": leaf_classification,
    "plant-seedlings": plant_seedlings,
    "digit-recognizer": digit_recognizer,
    "petfinder-pawpularity": petfinder_pawpularity,
    "dogs-vs-cats": dogs_vs_cats,
    "histopathologic-cancer": histopathologic_cancer,
    "hotel-id-2021": hotel_id_2021,
}
"""The builder of each ready config, by the config's name."""
