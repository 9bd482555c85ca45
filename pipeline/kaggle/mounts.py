"""Where a kernel's inputs are: the bundle and the competition, in any of the layouts in which Kaggle has mounted them.

    /kaggle/input/<slug>    competitions/<slug>    datasets/<owner>/<slug>    models/<owner>/<model>/<framework>/<variation>/<version>

A competition may hold a million pictures, so folders are looked into level by level, and none that is as full as those of pictures.
"""

import itertools
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from pipeline.config_data import Competition, ExtraTrain
from pipeline.data.paths import fixed_folder
from pipeline.errors import UserError
from pipeline.kaggle.bundle import MARKER
from pipeline.kaggle.unpack import unpack

log = logging.getLogger(__name__)
DEPTH = 8  # levels below the inputs
FULLEST = 300  # entries of a folder whose folders are looked into
FOLDERS = 5_000  # that are looked into at most
ARCHIVE = ".zip"


def folders_below(top: Path, without: Path | None = None) -> Iterator[Path]:
    """`top` and the folders below it, shallow ones first, by name; bounded in depth and number. without: a folder that is passed over."""

    def walk() -> Iterator[Path]:
        level = [top]
        for _ in range(DEPTH):
            yield from level
            level = sorted(folder for folder in itertools.chain.from_iterable(map(_inside, level)) if folder != without)

    return itertools.islice(walk(), FOLDERS)


def _inside(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            found = list(itertools.islice(entries, FULLEST))
        return [Path(entry.path) for entry in found if entry.is_dir()] if len(found) < FULLEST else []
    except OSError:  # what may not be looked into holds nothing for us
        return []


def mounted(inputs: Path) -> str:
    """What is attached, in words: the folders of the first levels that hold something."""
    names = [str(folder.relative_to(inputs)) for folder in itertools.islice(folders_below(inputs), 1, 21)]
    return f"{inputs} holds {', '.join(names)}" if names else f"{inputs} is empty"


# ---------------------------------------------------------------- the bundle


def find_bundle(inputs: Path) -> Path:
    """The folder that holds bundle.json; one in a zip that nobody unpacked is unpacked into a temporary folder.

    UserError where there is none, or several that differ.
    """
    found: dict[bytes, Path] = {}
    for folder in folders_below(inputs):
        if (folder / MARKER).is_file():
            found.setdefault((folder / MARKER).read_bytes(), folder)  # the same dataset may be mounted at two places
    if len(found) > 1:
        raise UserError(f"{', '.join(map(str, found.values()))} each hold a {MARKER}; attach one dataset, or name one of these")
    if found:
        return next(iter(found.values()))
    for archive in _archives(inputs):
        if _holds(archive, MARKER):
            folder = Path(tempfile.mkdtemp(prefix="podium-"))
            unpack(archive, folder)
            return find_bundle(folder)
    raise UserError(f"no {MARKER} among the inputs; attach the dataset that scripts/kaggle_kernel.py wrote (Add Input -> Your Work): {mounted(inputs)}")


def _archives(inputs: Path) -> Iterator[Path]:
    """Zips beside few other files."""
    for folder in folders_below(inputs):
        try:
            with os.scandir(folder) as entries:
                yield from sorted(Path(entry.path) for entry in itertools.islice(entries, FULLEST) if entry.name.endswith(ARCHIVE) and entry.is_file())
        except OSError:
            continue


def _holds(archive: Path, name: str) -> bool:
    import zipfile

    try:
        with zipfile.ZipFile(archive) as opened:
            return any(PurePosixPath(member).name == name for member in opened.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


# ---------------------------------------------------------------- the competition


def find_competition(inputs: Path, slug: str, competition: Competition) -> Path:
    """The folder in which the test table and the sample submission lie, perhaps zipped; slug: the competition's name on Kaggle.

    Of several the one that the slug names. UserError where there is none, or none that is surely meant.
    """
    wanted = _wanted(competition)
    counts: dict[Path, int] = {}
    for folder in folders_below(inputs):
        if count := sum(_is_there(folder, name) for name in wanted):
            counts[folder] = count
    named = [folder for folder in counts if folder.name == slug] or [folder for folder in counts if slug in folder.relative_to(inputs).parts]
    among = named or list(counts)
    chosen = [folder for folder in among if counts[folder] == max(counts[one] for one in among)]
    if not chosen:
        names = " and ".join(wanted)
        raise UserError(f"no {names} among the inputs; attach the competition {slug} (Add Input -> Competitions): {mounted(inputs)}")
    shallow = [folder for folder in chosen if len(folder.parts) == len(chosen[0].parts)]  # which come first
    if len(shallow) > 1:
        raise UserError(f"{', '.join(map(str, shallow))} may each be the competition {slug}; attach one of them alone")
    return shallow[0]


def _wanted(competition: Competition) -> list[str]:
    """Files or folders by which the competition's folder is known."""
    names = [competition.sample_submission, _place_of(competition.test_table)]
    return [name for name in names if name] or [name for name in [_pictures(competition.image_path, "test").partition("/")[0]] if name]


def _is_there(folder: Path, name: str) -> bool:
    try:
        return (folder / name).exists() or _archive_of(folder, name) is not None
    except OSError:
        return False


def _archive_of(folder: Path, name: str) -> Path | None:
    """The zip that holds a file or a folder: test.csv.zip or test.zip, of any folder on the way."""
    for place in (PurePosixPath(name), *PurePosixPath(name).parents[:-1]):
        for archive in (folder / f"{place}{ARCHIVE}", folder / place.with_suffix(ARCHIVE)):
            if archive.is_file():
                return archive
    return None


def unpacked(competition: Competition, temporary: Path) -> Competition:
    """The section with a root in which everything that the test rows need is unpacked: its own, or below `temporary`, new and empty.

    There, what is not zipped is a link to where it lies, and pictures may be read from both places.
    """
    root = competition.root
    archives = _needed(competition)
    if not archives:
        return competition
    overlay = temporary / "competition"
    overlay.mkdir()
    for number, (archive, name) in enumerate(archives):
        place = temporary / str(number)
        place.mkdir()
        log.info("kernel    unpacking %s", archive)
        unpack(archive, place)
        folder = overlay / archive.relative_to(root).parent
        folder.mkdir(parents=True, exist_ok=True)
        _put(place, folder, name)
    _link(root, overlay)
    return competition.model_copy(update={"root": overlay, "extra_train": (ExtraTrain(table=MARKER, root=root),)})


def _link(folder: Path, overlay: Path) -> None:
    """What lies in a folder and not in the overlay, as links."""
    for entry in os.scandir(folder):
        place = overlay / entry.name
        if not place.exists():
            place.symlink_to(entry.path)
        elif entry.is_dir() and place.is_dir() and not place.is_symlink():
            _link(Path(entry.path), place)


def require_unpacked(competition: Competition) -> None:
    """UserError where something that training needs lies in a zip: pictures are read for hours, from where they lie."""
    names = [_place_of(competition.train_table), *_tested(competition), _pictures(competition.image_path, "train")]
    names += [_place_of(extra.table) for extra in competition.extra_train if extra.root is None]
    if archives := [archive for archive, _ in _zipped(competition.root, names)]:
        raise UserError(
            f"{archives[0]} is not unpacked, and the training notebook wants unpacked files; "
            "attach a dataset that holds the competition's files unpacked instead (Kaggle unpacks a zip that is uploaded as one)"
        )


def _place_of(table: str | None) -> str:
    """The file of a table, or the folder below which the files of a pattern lie."""
    return fixed_folder(table) if table and "{" in table else table or ""


def _pictures(template: str | None, split: str) -> str:
    """The folder of a split's pictures; empty where the template does not say."""
    return fixed_folder((template or "").replace("{split}", split))


def _tested(competition: Competition) -> list[str]:
    """Files and folders that the test rows need."""
    return [competition.sample_submission or "", _place_of(competition.test_table), _pictures(competition.image_path, "test")]


def _zipped(root: Path, names: Iterable[str]) -> list[tuple[Path, str]]:
    """Zips that hold those of some files and folders that are missing, each with the name of what is to lie beside it."""
    found = {}
    for name in names:
        if name and not (root / name).exists() and (archive := _archive_of(root, name)):
            found[archive] = PurePosixPath(name).parts[len(archive.relative_to(root).parts) - 1]
    return list(found.items())


def _needed(competition: Competition) -> list[tuple[Path, str]]:
    """Zips that hold what is missing, each with the name of that."""
    root, table = competition.root, competition.test_table
    found = dict(_zipped(root, _tested(competition)))
    in_table = competition.pixel_columns is not None or (table is not None and "{" in table)
    if not in_table and not _pictures(competition.image_path, "test"):  # the ids say where the pictures are
        for archive in sorted(root.glob(f"*{ARCHIVE}")):
            if "train" not in archive.name and archive not in found and not (root / archive.stem).exists():
                found[archive] = archive.stem
    return list(found.items())


def _put(place: Path, overlay: Path, name: str) -> None:
    """Moves what was unpacked to where it belongs: as it is where it has the name itself, else into a folder of that name."""
    entries = list(place.iterdir())
    if any(entry.name == name for entry in entries) or "." in name:
        for entry in entries:
            if not (overlay / entry.name).exists():
                entry.rename(overlay / entry.name)
    else:
        place.rename(overlay / name)
