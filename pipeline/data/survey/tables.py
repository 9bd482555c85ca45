"""Which table is which: the labelled rows, the rows to predict, the example of a submission; or the names of files in their place."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import pandas as pd

from pipeline.config_data import Competition
from pipeline.data.paths import files_like
from pipeline.data.survey.files import Folder, Table
from pipeline.data.survey.places import Place, find_place
from pipeline.data.tables import open_source
from pipeline.errors import UserError

SAMPLE_NAME = re.compile(r"sample|submi|(^|[^a-z])sub([^a-z]|$)|benchmark")
SPLIT_NAME = re.compile(r"(train|test|val|valid|validation|dev|images?|img|imgs|pictures|photos|masks?|labels?|data|dataset|extra|unlabell?ed)s?([-_ ]?\d+)?")
STANDARD_WORDS = re.compile(r"(train|test|valid)(ing|ation)?([-_ ].*|images?|set|data|\d*)")
WORD = r"(?P<label>.*?[^\d\W].*?)"
TEST_NAME = re.compile(r"test|eval|private|predict")
NAMES_WITH_LABELS = [("{label} ({number:d})", rf"{WORD} \(\d+\)")]
NAMES_WITH_LABELS += [(f"{{label}}{mark}{{number:d}}", rf"{WORD}{re.escape(mark)}\d+") for mark in (".", "_", "-", " ", "")]
NAMES_WITH_LABELS += [(f"{{number:d}}{mark}{{label}}", rf"\d+{re.escape(mark)}{WORD}") for mark in (".", "_", "-", " ", "")]


@dataclass
class Roles:
    """The parts that tables and files play; names as the config writes them."""

    train_table: str
    train: pd.DataFrame
    why: str
    id: str | None = None
    target: str | None = None
    """Known already where the label is in a name or an idx file."""
    place: Place | None = None
    """Of the train pictures; None where the table says them."""
    test: Table | None = None
    unnamed_test: Table | None = None
    """By its name the rows to predict, but without the column that names a train row."""
    sample: Table | None = None
    pixel_columns: str | None = None
    num_pixels: int = 0
    test_table: str | None = None
    notes: list[str] = field(default_factory=list)
    mend: list[str] = field(default_factory=list)


def find_sample(folder: Folder) -> Table | None:
    """The example of a submission, by its name."""
    fitting = [table for table in folder.tables if SAMPLE_NAME.search(table.stem) and "train" not in table.stem and len(table.rows.columns) >= 2]
    return min(fitting, key=lambda table: ("sample" not in table.stem, table.name.count("/"), len(table.name)), default=None)


def find_roles(folder: Folder) -> Roles | None:
    """The roles of a folder's files; None where nothing in it carries a label."""
    sample = find_sample(folder)
    others = [table for table in folder.tables if table is not sample and not SAMPLE_NAME.search(table.stem)]
    ranked = sorted(((rank_train(folder, table, sample), number) for number, table in enumerate(others)), reverse=True)
    if ranked and ranked[0][0] > 0:
        train = others[ranked[0][1]]
        roles = _from_table(folder, train, sample)
        roles.notes += [f"{others[number].name} might be the train table, too" for score, number in ranked[1:3] if score > 4]
        roles.test = _find_test(others, train, roles)
        if roles.test is None and roles.pixel_columns is None:
            named = [table for table in others if table is not train and len(table.rows) and TEST_NAME.search(table.stem) and "train" not in table.stem]
            roles.unnamed_test = next((table for table in named if roles.id not in table.rows.columns), None)
        return roles
    return _from_idx(folder) or _from_folders(folder, sample) or _from_names(folder, sample)


def rank_train(folder: Folder, table: Table, sample: Table | None) -> float:
    """How much a table looks like that of the labelled rows; not above 0 where no row leads to a picture."""
    columns = {name.lower() for name in table.rows.columns}
    place = None if table.pixel_columns is not None else find_place(folder, table.rows.head(60), "train")
    if table.pixel_columns is None and (len(columns) < 2 or place is None or place.share < 0.2):
        return 0
    score = 1.0 if table.pixel_columns is not None or place is None else place.share
    score += 2 * ("train" in table.stem) + ("label" in table.stem) - 0.1 * table.name.count("/") - 0.01 * len(table.stem)
    score -= 4 * ("test" in table.stem) + 2 * bool(re.search(r"val|fold|bbox|box|mask|meta", table.stem))
    if sample is not None:
        wanted = [name.lower() for name in sample.rows.columns[1:]]
        score += 4 * any(name in columns for name in wanted)
        score += 4 * (len(wanted) > 1 and class_column(table.rows, sample.rows) is not None)
        score -= 6 * (len(table.rows.columns) > 0 and set(sample.rows.iloc[:, 0]) == set(table.rows.iloc[:, 0]))
    return max(score, 0.01)


def class_column(train: pd.DataFrame, sample: pd.DataFrame) -> str | None:
    """The train column whose values are the sample's columns, or else the one with the most of them and no other."""
    wanted = set(sample.columns[1:])
    some: list[tuple[int, str]] = []
    for column in train.columns:
        values = set(train[column].unique())
        if len(values & wanted) > 0.8 * max(len(wanted), len(values)):
            return str(column)
        if len(values) > 1 and values <= wanted:
            some.append((len(values), str(column)))
    return max(some, key=lambda found: found[0], default=(0, None))[1]


def pattern_of_rows(folder: Folder, table: Table, name: str | None) -> str | None:
    """A pattern of file names that fits the pictures of a table's rows and no others; None where there is none."""
    place = find_place(folder, table.rows, "test")
    if place is None or place.share < 1 or name is None or not re.fullmatch(r"[A-Za-z_]\w*", name) or name == "path":
        return None
    parts = table.rows[place.column].str.rpartition("/")
    if parts[0].nunique() > 1 or not parts[2].is_unique:
        return None
    for template in place.templates:
        head, _, tail = template.partition(f"{{{place.column}}}")
        pattern = f"{head}{parts[0].iloc[0]}{parts[1].iloc[0]}{{{name}}}{tail}"
        if not re.search(r"[{}*]", head + parts[0].iloc[0] + tail) and set(files_like(folder.root, pattern)[name]) == set(parts[2]):
            return pattern
    return None


def _from_table(folder: Folder, train: Table, sample: Table | None) -> Roles:
    roles = Roles(train.name, train.rows, f"{len(train.rows):,} rows", sample=sample, pixel_columns=train.pixel_columns, num_pixels=train.num_pixels)
    columns = list(train.rows.columns)
    named = next((name for name in columns if sample is not None and name.lower() == str(sample.rows.columns[0]).lower()), None)
    if train.pixel_columns is not None:
        roles.id = named if named is not None and train.rows[named].is_unique else None
        return roles
    roles.place = find_place(folder, train.rows, "train", [named] if named is not None else None)
    if roles.place is None or roles.place.share < 0.5:
        roles.place = find_place(folder, train.rows, "train")
    assert roles.place is not None, "a table that leads to no picture is not ranked"
    roles.id = named if named is not None and train.rows[named].is_unique else roles.place.column
    return roles


def _find_test(others: list[Table], train: Table, roles: Roles) -> Table | None:
    """The table of the rows to predict: it has the train table's id, and the sample's ids or a name that says test."""
    asked = set() if roles.sample is None else set(roles.sample.rows.iloc[:, 0])
    best: tuple[float, Table] | None = None
    for table in others:
        fits = roles.id in table.rows.columns if roles.pixel_columns is None else table.pixel_columns == roles.pixel_columns
        if table is train or not fits or len(table.rows) == 0:
            continue
        same = bool(asked) and roles.id is not None and len(asked & set(table.rows[roles.id])) > len(asked) / 2
        named = bool(TEST_NAME.search(table.stem)) and "train" not in table.stem
        score = 2.0 * same + named - 0.1 * table.name.count("/") - 0.01 * len(table.stem)
        if score > 0.5 and (best is None or score > best[0]):
            best = (score, table)
    return best[1] if best else None


def _from_idx(folder: Folder) -> Roles | None:
    """MNIST's files: train-images-idx3-ubyte.gz and t10k-images-idx3-ubyte.gz."""
    pictures = [name for name in folder.idx if "images" in name.rpartition("/")[2]]
    train = next((name for name in pictures if "train" in name), None)
    if train is None:
        return None
    asked = Competition(name="idx", root=folder.root, id=None, target="label", metric="accuracy")
    table = open_source(folder.root, train, asked).table
    if "label" not in table.columns:
        return None
    test = next((name for name in pictures if name != train), None)
    return Roles(train, table, f"{len(table):,} pictures, their labels beside them", target="label", test_table=test)


# ---------------------------------------------------------------- labels in the names of folders and files


def _from_folders(folder: Folder, sample: Table | None) -> Roles | None:
    """A folder per class: at least two folders side by side that hold pictures and whose names are no split's; UserError beside others."""
    counts = Counter(str(PurePosixPath(picture).parent) for picture in folder.pictures)
    groups: dict[tuple[str, str], set[str]] = defaultdict(set)
    held: Counter[tuple[str, str]] = Counter()
    for at, count in counts.items():
        parts = PurePosixPath(at).parts
        for number, part in enumerate(parts):
            if SPLIT_NAME.fullmatch(part.lower()) or STANDARD_WORDS.fullmatch(part.lower()):
                continue
            keys = {("/".join(parts[:number]), "/".join(parts[number + 1 :]))}
            keys |= {(f"{parts[0]}/**", "")} if number == len(parts) - 1 and number > 1 else set()
            for key in keys:
                groups[key].add(part)
                held[key] += count
    groups = {key: names for key, names in groups.items() if len(names) > 1}
    if not groups:
        return None
    head, tail = max(groups, key=lambda key: ("train" in key[0].lower(), not re.search(r"test|val", key[0].lower()), held[key], -len(key[0])))
    name, label = _brace_names(sample, "file", "label")
    pattern = _without_others(folder, "/".join(filter(None, (head, f"{{{label}}}", tail, f"{{{name}}}"))))
    train = files_like(folder.root, pattern)
    if odd := sorted(set(train[label]) - groups[head, tail]):
        raise UserError(f'{folder.root}: "{odd[0]}" lies beside the folders of the classes and is none; move these into a folder of their own, train/')
    roles = _from_pattern(pattern, train, name, label, sample, f"a folder per class, {len(groups[head, tail])} of them")
    further = sorted(at for at, rest in groups if (at, rest) != (head, tail) and "*" not in at and re.search(r"val|test", at.lower()))
    roles.notes += [f"{at}/ has a folder per class, too; as further labelled rows: extra_train: [{{table: {at}/{{{label}}}/{{{name}}}}}]" for at in further]
    return roles


def _without_others(folder: Folder, pattern: str) -> str:
    """The pattern with the pictures' one ending, where files that are no pictures would fit it, too."""
    found = files_like(folder.root, pattern)["path"].tolist()
    pictures = set(folder.pictures)
    endings = {PurePosixPath(path).suffix for path in found if path in pictures}
    return pattern + endings.pop() if len(endings) == 1 and any(path not in pictures for path in found) else pattern


def _brace_names(sample: Table | None, name: str, label: str) -> tuple[str, str]:
    """Names for the braces: the sample's columns where they may stand in a pattern."""
    columns = [] if sample is None else [str(column) for column in sample.rows.columns]
    if columns and re.fullmatch(r"[A-Za-z_]\w*", columns[0]) and columns[0] != "path":
        name = columns[0]
    if len(columns) == 2 and re.fullmatch(r"[A-Za-z_]\w*", columns[1]) and columns[1] not in ("path", name):
        label = columns[1]
    return name, label


def _from_pattern(pattern: str, train: pd.DataFrame, name: str, label: str, sample: Table | None, why: str) -> Roles:
    """Roles of files whose names say the label; the id is the file's name unless names repeat, then its path."""
    roles = Roles(pattern, train, f"{len(train):,} files, {why}", id=name, target=label, sample=sample)
    if name in train.columns and not train[name].is_unique:
        other = next(word for word in ("file", "picture", "number") if word != name)
        roles.train_table = pattern.replace(f"{{{name}}}", f"{{{other}}}")
        roles.train = train.rename(columns={name: other})
        roles.id = name if sample is not None else "path"
        roles.notes.append("names of files repeat between folders, so a train row's id is its path")
    return roles


def _from_names(folder: Folder, sample: Table | None) -> Roles | None:
    """The label in each file's name, before or after a number: train/cat.0.jpg."""
    counts: dict[str, list[str]] = defaultdict(list)
    for picture in folder.pictures:
        counts[str(PurePosixPath(picture).parent)].append(picture)
    ordered = sorted(counts, key=lambda at: ("train" not in at.lower(), bool(re.search(r"test|val", at.lower())), -len(counts[at])))
    name, label = _brace_names(sample, "id", "label")
    for at in ordered:
        stems = [PurePosixPath(file).stem for file in counts[at]]
        for kind, strict in NAMES_WITH_LABELS:
            matches = [re.fullmatch(strict, stem) for stem in stems]
            labels = pd.Series([match["label"] for match in matches if match], dtype=str)
            if len(labels) >= 0.95 * len(stems) and 2 <= labels.nunique() <= len(labels) / 2:
                return _named_pattern(folder, at, counts[at], kind, labels, (name, label), sample)
    return None


def _named_pattern(
    folder: Folder, at: str, files: list[str], kind: str, labels: "pd.Series[str]", names: tuple[str, str], sample: Table | None
) -> Roles | None:
    endings = {PurePosixPath(file).suffix for file in files}
    name, label = names
    number = "number" if "number" not in names else "counter"
    leaf = kind.replace("{label}", f"{{{label}}}").replace("{number:d}", f"{{{number}:d}}") + (endings.pop() if len(endings) == 1 else ".*")
    pattern = leaf if at == "." else f"{at}/{leaf}"
    train = files_like(folder.root, pattern)
    roles = Roles(pattern, train, f"{len(train):,} files with the label in their names", id=name if sample is not None else "path", target=label, sample=sample)
    if set(train[label]) != set(labels):
        odd = sorted(set(labels) - set(train[label])) or sorted(set(labels))
        roles.mend.append(f'{pattern} does not take the label "{odd[0]}" whole: write a train.csv with path and label instead')
    if other := sorted(set(files) - set(train["path"])):
        roles.notes.append(f"{len(other)} files beside these have another kind of name and are left out, e.g. {other[0]}")
    return roles
