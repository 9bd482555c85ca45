"""A competition's files on their way from Kaggle: the real client, a server on this machine, the digits; and archives that mean harm."""

import io
import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from loopback import SIGNATURE, TOKEN, Kaggle, loopback_kaggle  # noqa: F401
from tqdm.auto import tqdm

from pipeline.errors import UserError
from pipeline.kaggle import download as way
from pipeline.kaggle.download import download, slug_in
from pipeline.kaggle.unpack import unpack, unpack_inner

ROOT = Path(__file__).parent.parent.parent


def packed(root: Path, **inner: bytes) -> bytes:
    """A folder as an archive; inner: further members."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(path for path in root.rglob("*") if path.is_file()):
            archive.write(path, path.relative_to(root))
        for name, content in inner.items():
            archive.writestr(name.replace("__", "."), content)
    return buffer.getvalue()


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def serve_folder(kaggle: Kaggle, root: Path) -> None:
    kaggle.archive = packed(root)
    kaggle.files = [{"name": name, "totalBytes": len(content)} for name, content in contents(root).items()]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "input" / "digits"


def test_a_competition_arrives_file_for_file_and_nothing_else_is_left(kaggle: Kaggle, digits: Path, target: Path) -> None:
    serve_folder(kaggle, digits)
    kaggle.page = 1200
    found = download("digits", target)
    assert contents(target) == contents(digits)
    assert (found.files, found.size) == (len(kaggle.files), sum(one["totalBytes"] for one in kaggle.files))
    assert [path.name for path in target.parent.iterdir()] == ["digits"]
    assert kaggle.count("ListDataFiles") == 2


def test_the_command_says_what_to_type_next_and_a_second_one_overwrites_nothing(kaggle: Kaggle, digits: Path, target: Path) -> None:
    kaggle.archive = packed(Path("/nowhere"), train__csv=b"id\n1\n", fehlt__zip=b"no archive \x1b[2J")

    def command() -> "subprocess.CompletedProcess[str]":
        words = [sys.executable, ROOT / "scripts/download.py", "https://www.kaggle.com/competitions/digits/data", "--folder", target]
        return subprocess.run(words, text=True, capture_output=True, check=False)

    done = command()
    assert (done.returncode, done.stderr) == (0, "")
    packed_line, *lines = done.stdout.splitlines()
    assert packed_line.startswith("packed  fehlt.zip stays packed: fehlt.zip cannot be unpacked (BadZipFile")
    assert lines == [f"files   2, 20 B -> {target}", f"next    python scripts/new_competition.py {target}"]
    (target / "own.txt").write_text("mine")
    before = contents(target)
    done = command()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {target}: holds files already; write --folder for another place, or delete it to fetch them again\n"
    assert contents(target) == before


@pytest.mark.parametrize(
    ("name", "status", "mend"),
    [
        ("DownloadDataFiles", 403, "competitions/digits/rules while logged in"),
        pytest.param("ListDataFiles", 404, "no competition digits", marks=pytest.mark.slow),
        pytest.param("ListDataFiles", 401, "settings/api", marks=pytest.mark.slow),
        pytest.param("storage", 403, "competitions/digits/rules", marks=pytest.mark.slow),
        pytest.param("DownloadDataFiles", 429, "wait some minutes", marks=pytest.mark.slow),
        pytest.param("storage", 503, "Kaggle's own trouble", marks=pytest.mark.slow),
    ],
)
def test_a_refusal_is_one_line_and_leaves_nothing(kaggle: Kaggle, target: Path, name: str, status: int, mend: str) -> None:
    kaggle.refuse = {name: (status, "{authorization}", {})}
    with pytest.raises(UserError, match=mend) as caught:
        download("digits", target)
    assert list(target.parent.iterdir()) == []
    assert not any(secret in str(caught.value) for secret in (TOKEN, SIGNATURE))


def test_a_full_disk_is_seen_before_the_archive_comes_and_while_it_comes(kaggle: Kaggle, digits: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kaggle.archive = packed(digits)
    kaggle.files = [{"name": "train.csv", "totalBytes": 10**17}]
    with pytest.raises(UserError, match=r"digits unpacked takes 100000\.0 TB, and the disk of .* make room, or write --folder"):
        download("digits", target)
    assert kaggle.count("DownloadDataFiles") == 0
    kaggle.files, kaggle.chunk_delay = [{"name": "train.csv", "totalBytes": 1000}], 0.02
    monkeypatch.setattr(way, "free_space", lambda folder: 1000 + len(kaggle.archive) // 2)
    with pytest.raises(UserError, match=r"of the archive are to come and 1\.0 kB to be unpacked"):
        download("digits", target)
    assert not target.exists()


@pytest.mark.slow
def test_a_download_that_stalls_or_is_slow_is_told_apart(kaggle: Kaggle, digits: Path, target: Path) -> None:
    serve_folder(kaggle, digits)
    kaggle.delay = {"storage": 30}
    with pytest.raises(UserError, match="Kaggle sent nothing for 2 seconds"):
        download("digits", target, stall=2)
    kaggle.delay, kaggle.chunk_delay = {}, 0.02
    kaggle.archive = packed(digits, noise__bin=os.urandom(3 << 20))
    assert download("digits", target, stall=3).files == len(kaggle.files) + 1


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_looks_unfinished_and_the_same_command_goes_on(kaggle: Kaggle, digits: Path, target: Path, signal_number: int) -> None:
    kaggle.archive = packed(digits, noise__bin=os.urandom(6 << 20))
    kaggle.chunk_delay = 0.01
    words = [sys.executable, ROOT / "scripts/download.py", "digits", "--folder", target]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part = target.parent / ".digits.download"
    archive = part / "archive" / "digits.zip"
    until(lambda: archive.exists() and archive.stat().st_size > 2 << 20)
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=10)
    assert not target.exists()
    if signal_number == signal.SIGINT:
        assert process.returncode == 130
        assert errors.splitlines()[-1] == "interrupted; the same command goes on"
    else:  # the client lives on, and keeps others away until it has ended
        with pytest.raises(UserError, match="another download is writing there"):
            download("digits", target)
        until(lambda: archive.stat().st_size == len(kaggle.archive))
        time.sleep(0.5)
    kaggle.chunk_delay = 0.0
    download("digits", target)
    assert len((target / "noise.bin").read_bytes()) == 6 << 20
    assert [path.name for path in target.parent.iterdir()] == ["digits"]
    if signal_number == signal.SIGINT:
        assert kaggle.ranges[-1] is not None
        assert int(kaggle.ranges[-1].removeprefix("bytes=").removesuffix("-")) >= 2 << 20


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_what_a_killed_run_left_is_gone_before_room_is_measured_and_no_part_of_the_result(
    kaggle: Kaggle, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kaggle.archive = packed(Path("/nowhere"), train__csv=b"id\n1\n")
    part = target.parent / ".digits.download"
    for name in ("files/old.csv", "archive/another-competition.zip"):
        (part / name).parent.mkdir(parents=True)
        (part / name).write_text("half")
    seen = []

    def free(folder: Path) -> int:
        seen.append((part / "files" / "old.csv").exists())
        return 10**9

    monkeypatch.setattr("pipeline.kaggle.unpack.free_space", free)
    download("digits", target)
    assert seen == [False, False]
    assert contents(target) == {"train.csv": b"id\n1\n"}


def test_a_folder_that_is_a_disk_of_its_own_is_refused_before_anything_is_asked(kaggle: Kaggle, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda path: path == target)
    target.mkdir(parents=True)
    with pytest.raises(UserError, match=r"is a disk of its own; write --folder .*input/digits/digits$"):
        download("digits", target)
    assert kaggle.requests == []


@pytest.mark.parametrize(("whole", "enough"), [(False, 10_000), (True, 5_100)])
def test_where_the_list_is_cut_there_must_be_room_for_the_archive_twice(tmp_path: Path, whole: bool, enough: int, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / f"digits.zip{way.MARKER}").write_text('{"size": 5000}')
    bar: tqdm[Any] = tqdm(disable=True)
    watch = way._Watch(tmp_path, 100, whole, 60.0, bar)
    monkeypatch.setattr(way, "free_space", lambda folder: enough)
    watch()
    monkeypatch.setattr(way, "free_space", lambda folder: enough - 1)
    with pytest.raises(UserError, match="make room"):
        watch()


def test_what_is_no_whole_archive_is_deleted_and_one_line_says_so(kaggle: Kaggle, target: Path) -> None:
    kaggle.archive = packed(Path("/nowhere"), train__csv=b"id\n1\n" * 999)[:-30]
    with pytest.raises(UserError, match="no whole zip archive; it was deleted: run the same command again"):
        download("digits", target)
    assert not target.exists()
    assert list(target.parent.rglob("*.zip")) == []


def test_a_download_with_a_damaged_file_is_deleted_and_one_line_says_so(kaggle: Kaggle, target: Path) -> None:
    damaged = bytearray(packed(Path("/nowhere"), train__csv=b"id,label\n" * 5000))
    damaged[45:60] = bytes(15)
    kaggle.archive = bytes(damaged)
    with pytest.raises(UserError, match=r"digits\.zip cannot be unpacked .*it was deleted: run the same command again"):
        download("digits", target)
    assert list(target.parent.rglob("*.zip")) == []


@pytest.mark.parametrize("text", ["digit-recognizer", "https://www.kaggle.com/competitions/digit-recognizer", "kaggle.com/c/digit-recognizer/data?x=1"])
def test_a_competition_is_named_by_its_name_or_its_address(text: str) -> None:
    assert slug_in(text) == "digit-recognizer"


@pytest.mark.parametrize("text", ["--help", "../x", "a/b", "", "a b", "-o", "https://elsewhere.org/c/x"])
def test_anything_else_is_no_name(text: str) -> None:
    with pytest.raises(UserError, match="is no competition's name"):
        slug_in(text)


# ---------------------------------------------------------------- archives


def archive_of(path: Path, *members: tuple[str, bytes] | tuple[zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def of_kind(name: str, kind: int) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name)
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    return member


HOSTILE: dict[str, tuple[list[tuple[str, bytes] | tuple[zipfile.ZipInfo, bytes]], str]] = {
    "absolute": ([("/etc/x", b"x")], "absolute path"),
    "a drive": ([("C:\\x", b"x")], "absolute path"),
    "above": ([("a/../../x", b"x")], "leaves the folder"),
    "above, as Windows writes it": ([("..\\x", b"x")], "leaves the folder"),
    "a link": ([(of_kind("x", stat.S_IFLNK), b"/etc/passwd")], "is a link"),
    "a link to a folder, then a file in it": ([(of_kind("x", stat.S_IFLNK), b"/tmp"), ("x/y", b"x")], "is a link"),
    "a pipe": ([(of_kind("x", stat.S_IFIFO), b"")], "is no file"),
    "a file over a folder": ([("a/b", b"x"), ("a", b"x")], "is a file and a folder"),
    "a folder over a file": ([("a", b"x"), ("a/", b"")], "is a file and a folder"),
    "twice": ([("a/b", b"1"), ("a//b", b"2")], "is there twice"),
    "a terminal's orders": ([("a\x1b[2J", b"x")], "is no name"),
    "no name": ([("./", b"")], "is no name"),
}


@pytest.mark.parametrize("case", HOSTILE)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_hostile_archive_writes_nothing_anywhere(tmp_path: Path, case: str) -> None:
    members, why = HOSTILE[case]
    archive = archive_of(tmp_path / "a.zip", ("good.csv", b"1"), *members)
    folder = tmp_path / "deep" / "folder"
    folder.mkdir(parents=True)
    with pytest.raises(UserError, match=why):
        unpack(archive, folder)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.zip", "deep", "folder"]


def test_a_hostile_download_is_one_line_with_the_archive_named_and_the_folder_absent(kaggle: Kaggle, target: Path) -> None:
    kaggle.archive = packed(Path("/nowhere"), **{"../../evil": b"x"})
    with pytest.raises(UserError, match=r'not to be trusted: "\.\./\.\./evil" leaves the folder; nothing .*the archive is .*digits\.zip'):
        download("digits", target)
    assert not target.exists()
    assert not list(target.parent.parent.rglob("evil"))


def test_names_of_all_kinds_stay_as_they_are(tmp_path: Path) -> None:
    names = ["ä ö.png", "日本/写真.jpg", "a'b\"c$d.csv", "-rf", "x" * 200, "CON", "..." + "a", "a:b.png", "👩‍🔬.png"]
    archive = archive_of(tmp_path / "a.zip", *[(name, name.encode()) for name in names], ("win\\dows.csv", b"w"), ("__MACOSX/._a", b"m"), ("empty/", b""))
    folder = tmp_path / "folder"
    folder.mkdir()
    unpack(archive, folder)
    assert contents(folder) == {**{name: name.encode() for name in names}, "win/dows.csv": b"w"}


def declare(archive: Path, old: int, new: int) -> None:
    """Changes the size that an archive declares for a member, in both of its places."""
    content = archive.read_bytes()
    assert content.count(struct.pack("<I", old)) >= 2
    archive.write_bytes(content.replace(struct.pack("<I", old), struct.pack("<I", new)))


def test_a_bomb_stops_at_its_declared_size_and_one_that_is_shorter_is_no_file(tmp_path: Path) -> None:
    size = 12_345_678
    archive = archive_of(tmp_path / "a.zip", ("a.csv", bytes(size)))
    folder = tmp_path / "folder"
    folder.mkdir()
    declare(archive, size, 1000)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(archive, folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 1000
    (folder / "a.csv").unlink()
    declare(archive, 1000, 0xFFFFFFF0)
    with pytest.raises(UserError, match="cannot be unpacked"):
        unpack(archive, folder)
    assert sum(path.stat().st_size for path in folder.iterdir()) <= size


def test_more_than_the_disk_holds_is_refused_before_a_byte_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = archive_of(tmp_path / "a.zip", *[(f"{number}.csv", bytes(1000)) for number in range(5)])
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setattr("pipeline.kaggle.unpack.free_space", lambda path: 4999)
    with pytest.raises(UserError, match=r"unpacking a\.zip takes 5\.0 kB, and the disk of .* has 5\.0 kB"):
        unpack(archive, folder)
    assert list(folder.iterdir()) == []
    monkeypatch.setattr("pipeline.kaggle.unpack.free_space", lambda path: 5000)
    assert unpack(archive, folder) == 5


def test_a_damaged_or_encrypted_archive_is_one_line(tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.zip", ("a.csv", os.urandom(1000)))
    content = bytearray(archive.read_bytes())
    for change, place in ((b"\xff", 500), (b"\x01", content.index(b"PK\x01\x02") + 8)):
        damaged = bytearray(content)
        damaged[place : place + 1] = change
        (tmp_path / "b.zip").write_bytes(damaged)
        folder = tmp_path / f"folder{place}"
        folder.mkdir()
        with pytest.raises(UserError, match=r"b\.zip cannot be unpacked"):
            unpack(tmp_path / "b.zip", folder)


@pytest.mark.parametrize(
    "compression", [zipfile.ZIP_DEFLATED, *(pytest.param(kind, marks=pytest.mark.slow) for kind in (zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))]
)
def test_whatever_byte_is_flipped_the_files_are_as_packed_or_it_is_one_line(tmp_path: Path, compression: int) -> None:
    content = "".join(f"{number},{number % 7}\n" for number in range(60)).encode()
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.writestr("ä.csv", content)
    whole, refused = (tmp_path / "a.zip").read_bytes(), 0
    for place in range(len(whole)):
        root = tmp_path / str(place)
        root.mkdir()
        for flip in (0x01, 0xFF):
            (root / "train.zip").write_bytes(whole[:place] + bytes([whole[place] ^ flip]) + whole[place + 1 :])
            refused += len(unpack_inner(root))
            assert all(found == content for name, found in contents(root).items() if name != "train.zip" and not name.endswith("/train.zip"))
            shutil.rmtree(root)
            root.mkdir()
    assert refused > len(whole) // 2


def test_an_archive_finds_a_place_of_its_own_and_what_stays_packed_is_named(tmp_path: Path) -> None:
    root = tmp_path / "folder"
    root.mkdir()
    archive_of(root / "single.zip", ("1.png", b"1"))  # a folder of one picture
    archive_of(root / "train.csv.zip", ("train.csv", b"id"))
    archive_of(root / "test.zip", ("test.csv", b"id"))
    archive_of(root / "LOUD.ZIP", ("a.png", b"a"), ("b.png", b"b"))
    archive_of(root / "left.zip", ("images/1.png", b"left"))
    archive_of(root / "right.zip", ("images/1.png", b"right"))
    archive_of(root / "late.zip", ("there/1.png", b"new"))
    (root / "there").mkdir()
    (root / "there" / "1.png").write_bytes(b"old")
    (root / "more.tar.gz").write_bytes(b"")
    (root / "more.7z").write_bytes(b"")
    remarks = unpack_inner(root)
    assert contents(root) == {
        "single/1.png": b"1",
        "train.csv": b"id",
        "test.csv": b"id",
        "LOUD/a.png": b"a",
        "LOUD/b.png": b"b",
        "left/images/1.png": b"left",
        "right/images/1.png": b"right",
        "late/there/1.png": b"new",
        "there/1.png": b"old",
        "more.tar.gz": b"",
        "more.7z": b"",
    }
    assert remarks == [f"{name} stays packed: only zip archives are unpacked" for name in ("more.7z", "more.tar.gz")]


def test_archives_among_the_files_are_unpacked_one_level_beside_themselves(tmp_path: Path) -> None:
    root = tmp_path / "folder"
    root.mkdir()
    archive_of(root / "train.zip", ("train/1.png", b"1"), ("train/2.png", b"2"), ("__MACOSX/._x", b""))
    archive_of(root / "test.zip", ("3.png", b"3"), ("4.png", b"4"))
    archive_of(root / "labels.csv.zip", ("labels.csv", b"id"))
    archive_of(root / "deep.zip", ("x/inner.zip", archive_of(tmp_path / "i.zip", ("y", b"y")).read_bytes()))
    archive_of(root / "there.zip", ("there/1.png", b"new"))
    (root / "there").mkdir()
    (root / "there" / "1.png").write_bytes(b"old")
    archive_of(root / "evil.zip", ("../../x", b"x"))
    remarks = unpack_inner(root)
    found = contents(root)
    assert {name for name in found if not name.endswith(".zip")} == {"train/1.png", "train/2.png", "test/3.png", "test/4.png", "labels.csv", "there/1.png"}
    assert {name for name in found if name.endswith(".zip")} == {"x/inner.zip", "there.zip", "evil.zip"}
    assert found["there/1.png"] == b"old"
    assert [remark.partition(":")[0] for remark in remarks] == ["evil.zip stays packed", "there.zip stays packed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "i.zip"]
