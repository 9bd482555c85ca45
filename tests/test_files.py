"""Files and manifests: atomic writes, digests, locks that die with their holder, stages that run once."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import files
from pipeline.artifacts import Build, Manifest, Stage, Workspace, differences, run_stage
from pipeline.files import (
    DigestMemory,
    atomic,
    digest,
    digest_file,
    digest_table,
    free_space,
    lock,
    read_json,
    remove_leftovers,
    write_json,
    write_table,
    write_text,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


# ---------------------------------------------------------------- atomic writes


def test_a_writer_that_raises_leaves_the_old_content_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write() -> None:
        with atomic(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["table.csv"]


def test_the_new_content_is_there_only_after_the_writer_is_done(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "file"
    with atomic(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["file"]


def test_who_reads_the_old_file_meanwhile_reads_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("old and long")
    with path.open() as reader:
        write_text(path, "new")
        assert reader.read() == "old and long"
    assert path.read_text() == "new"


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".table.csv.123.tmp", ".lock", "table.csv", "notes.tmp"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".lock", "notes.tmp", "table.csv"]


def test_writing_a_file_removes_what_its_killed_writers_left(tmp_path: Path) -> None:
    for name in (".a[1].json.123.tmp", ".b.json.123.tmp", f".a[1].json.{os.getppid()}.tmp"):
        (tmp_path / name).touch()
    write_json(tmp_path / "a[1].json", 1)
    assert sorted(os.listdir(tmp_path)) == [f".a[1].json.{os.getppid()}.tmp", ".b.json.123.tmp", "a[1].json"]


def test_json_that_cannot_be_written_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_json(path, {"ä": [1, None]})
    with pytest.raises(TypeError):
        write_json(path, {"path": tmp_path})
    assert read_json(path) == {"ä": [1, None]}
    assert os.listdir(tmp_path) == ["manifest.json"]


def test_the_same_table_gives_the_same_bytes_on_every_system(tmp_path: Path) -> None:
    write_table(tmp_path / "table.csv", pd.DataFrame({"id": ["007", "a,b"], "share": [0.5, 1.0]}))
    assert (tmp_path / "table.csv").read_bytes() == b'id,share\n007,0.5\n"a,b",1.0\n'


def test_a_parquet_table_keeps_text_as_text(tmp_path: Path) -> None:
    table = pd.DataFrame({"id": ["007", ""], "fold": np.array([0, -1], dtype=np.int16)})
    write_table(tmp_path / "table.parquet", table)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)


# ---------------------------------------------------------------- digests


def test_the_digest_of_a_value_is_that_of_its_shortest_json_with_sorted_keys() -> None:
    text = '{"a":"ä","b":[1,2.5,null,true]}'
    assert digest({"b": (1, 2.5, None, True), "a": "ä"}) == hashlib.sha256(text.encode()).hexdigest()


def test_the_order_of_keys_does_not_enter_a_digest_but_the_order_of_a_list_does() -> None:
    assert digest({"a": 1, "b": {"c": 2, "d": 3}}) == digest({"b": {"d": 3, "c": 2}, "a": 1})
    assert digest([1, 2]) != digest([2, 1])


@given(JSON, JSON)
def test_values_that_differ_have_digests_that_differ(one: Any, other: Any) -> None:
    same = repr(canonical(one)) == repr(canonical(other))
    assert (digest(one) == digest(other)) == same


def canonical(value: Any) -> Any:
    """The value with its keys in order, so that equal reprs mean equal JSON."""
    if isinstance(value, dict):
        return {key: canonical(value[key]) for key in sorted(value)}
    return [canonical(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("value", [Path("somewhere"), float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_a_value_that_is_no_plain_json_has_no_digest(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        digest({"value": value})


def test_the_digest_of_a_table_is_of_its_content_and_not_of_its_row_labels() -> None:
    table = pd.DataFrame({"id": ["a", "b", "c"], "fold": [0, 1, 0]})
    assert digest_table(table.set_axis([7, 8, 9])) == digest_table(table)
    assert digest_table(table[::-1]) != digest_table(table)
    assert digest_table(table[["fold", "id"]]) != digest_table(table)
    assert digest_table(table.assign(fold=[0, 1, 1])) != digest_table(table)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was read for its digest."""
    read: list[Path] = []
    monkeypatch.setattr(files, "digest_file", lambda path: read.append(path) or digest_file(path))
    return read


def test_a_file_that_was_not_touched_is_not_read_again(tmp_path: Path, reads: list[Path]) -> None:
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text(path.name)
    first = DigestMemory(tmp_path / "digests.parquet").digests(paths)
    assert first == [digest_file(path) for path in paths]
    assert sorted(reads) == paths
    assert DigestMemory(tmp_path / "digests.parquet").digests(paths) == first
    assert len(reads) == 3


def test_a_changed_file_is_read_again_and_a_touched_one_keeps_its_digest(tmp_path: Path, reads: list[Path]) -> None:
    changed, touched = tmp_path / "changed", tmp_path / "touched"
    changed.write_text("one")
    touched.write_text("same")
    memory = tmp_path / "digests.parquet"
    before = DigestMemory(memory).digests([changed, touched])
    reads.clear()
    changed.write_text("two")
    for path in (changed, touched):
        os.utime(path, ns=(0, 12345))
    after = DigestMemory(memory).digests([changed, touched])
    assert sorted(reads) == [changed, touched]
    assert after[0] == digest_file(changed) != before[0]
    assert after[1] == before[1]
    reads.clear()
    assert DigestMemory(memory).digests([changed, touched]) == after
    assert reads == []


def test_a_longer_file_of_the_same_time_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    memory = DigestMemory(tmp_path / "digests.parquet")
    for text in ("one", "longer"):
        path.write_text(text)
        os.utime(path, ns=(0, 12345))
        assert memory.digests([path]) == [digest_file(path)]


def test_a_missing_file_and_a_folder_have_no_digest(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    paths = [tmp_path / "gone", tmp_path / "file", tmp_path]
    assert DigestMemory(tmp_path / "digests.parquet").digests(paths) == [None, digest_file(tmp_path / "file"), None]


def test_a_damaged_memory_costs_time_and_no_answers(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "digests.parquet").write_bytes(b"PAR1 not really")
    assert DigestMemory(tmp_path / "digests.parquet").digests([tmp_path / "file"]) == [digest_file(tmp_path / "file")]
    assert list(pd.read_parquet(tmp_path / "digests.parquet").columns) == ["path", "size", "mtime_ns", "digest"]


# ---------------------------------------------------------------- locks

HOLD = """
import os, sys, time
from pathlib import Path
from pipeline.files import lock
with lock(Path(sys.argv[1]), wait=None) as held:
    ready, child_is = os.pipe()
    child = os.fork() if sys.argv[2] == "fork" else -1
    if child == 0:
        os.write(child_is, b"ready")
        time.sleep(60)
        os._exit(0)
    if child > 0:
        os.read(ready, 5)
    print(held, child, flush=True)
    time.sleep(60)
"""


class Holder:
    """Another process that tries to hold a lock, and perhaps forks a child that lives on."""

    def __init__(self, path: Path, how: str) -> None:
        root = Path(__file__).parents[1]
        self.process = subprocess.Popen([sys.executable, "-c", HOLD, str(path), how], stdout=subprocess.PIPE, text=True, cwd=root)
        assert self.process.stdout is not None
        held, child = self.process.stdout.readline().split()
        self.held, self.child = held == "True", int(child)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def hold() -> Iterator[Any]:
    holders: list[Holder] = []

    def start(path: Path, how: str = "alone") -> Holder:
        holders.append(Holder(path, how))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        if holder.child > 0:
            os.kill(holder.child, signal.SIGKILL)
        holder.process.stdout.close()


def is_free(path: Path) -> bool:
    with lock(path, wait=None) as held:
        return held


def test_a_lock_is_exclusive_between_processes_and_dies_with_its_holder(tmp_path: Path, hold: Any) -> None:
    path = tmp_path / "deep" / ".lock"
    holder = hold(path)
    assert holder.held
    assert not is_free(path)
    holder.kill()
    assert is_free(path)


def test_a_lock_that_this_process_holds_is_not_given_to_another_one(tmp_path: Path, hold: Any) -> None:
    with lock(tmp_path / ".lock", wait=None) as held:
        assert held
        assert not hold(tmp_path / ".lock").held


def test_a_lock_dies_with_its_holder_even_if_a_forked_child_lives_on(tmp_path: Path, hold: Any) -> None:
    holder = hold(tmp_path / ".lock", "fork")
    assert holder.held
    assert not is_free(tmp_path / ".lock")
    holder.kill()
    os.kill(holder.child, 0)
    assert is_free(tmp_path / ".lock")


def test_a_lock_is_given_back_when_its_block_raises(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock(tmp_path / ".lock", wait=None):
        raise RuntimeError
    assert is_free(tmp_path / ".lock")


def test_who_waits_says_so_and_gets_the_lock_when_its_holder_dies(
    tmp_path: Path, hold: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = hold(tmp_path / ".lock")
    killer = subprocess.Popen([sys.executable, "-c", f"import os, time; time.sleep(0.5); os.kill({holder.process.pid}, 9)"])
    started = time.monotonic()
    monkeypatch.setattr(logging.getLogger("pipeline"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="pipeline.files"), lock(tmp_path / ".lock", wait="waiting for the other one") as held:
        assert held
    killer.wait()
    assert time.monotonic() - started > 0.2
    assert "waiting for the other one" in caplog.messages


def test_free_space_is_that_of_the_nearest_folder_that_exists(tmp_path: Path) -> None:
    assert free_space(tmp_path / "not" / "there" / "yet") > 0


# ---------------------------------------------------------------- stages


class Counting:
    """A build that counts its runs and writes one file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, 0

    def __call__(self) -> tuple[str, dict[str, Any]]:
        self.runs += 1
        assert not (self.folder / "manifest.json").exists(), "an old manifest is gone before its folder changes"
        (self.folder / "output").write_text(str(self.runs))
        return f"digest {self.runs}", {"rows": 3}


def stage(**settings: Any) -> Stage:
    return Stage("folds", 1, {"n_splits": 5, **settings}, {"rows": "abc"})


def test_a_stage_with_the_same_fingerprint_is_skipped(tmp_path: Path) -> None:
    build = Counting(tmp_path)
    first = run_stage(stage(), tmp_path, build)
    assert run_stage(stage(), tmp_path, build) == first
    assert build.runs == 1
    assert first == Manifest.read(tmp_path / "manifest.json")
    assert (first.digest, first.record["rows"]) == ("digest 1", 3)


@pytest.mark.parametrize(
    "changed",
    [
        Stage("folds", 1, {"n_splits": 6}, {"rows": "abc"}),
        Stage("folds", 2, {"n_splits": 5}, {"rows": "abc"}),
        Stage("folds", 1, {"n_splits": 5}, {"rows": "abd"}),
        Stage("fold", 1, {"n_splits": 5}, {"rows": "abc"}),
    ],
    ids=["settings", "version", "inputs", "name"],
)
def test_a_stage_runs_again_when_anything_in_its_fingerprint_changes(tmp_path: Path, changed: Stage) -> None:
    build = Counting(tmp_path)
    run_stage(stage(), tmp_path, build)
    assert run_stage(changed, tmp_path, build).fingerprint == changed.fingerprint
    assert build.runs == 2


def test_a_forced_stage_runs_again(tmp_path: Path) -> None:
    build = Counting(tmp_path)
    run_stage(stage(), tmp_path, build)
    assert run_stage(stage(), tmp_path, build, force=True).digest == "digest 2"


@pytest.mark.parametrize("build_before", [False, True])
def test_a_build_that_raises_leaves_no_manifest(tmp_path: Path, build_before: bool) -> None:
    if build_before:
        run_stage(stage(), tmp_path, Counting(tmp_path))

    def build() -> tuple[str, dict[str, Any]]:
        (tmp_path / "output").write_text("half")
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        run_stage(stage(), tmp_path, build, force=True)
    assert not (tmp_path / "manifest.json").exists()
    again = Counting(tmp_path)
    run_stage(stage(), tmp_path, again)
    assert again.runs == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"fingerprint": 3}', "null", '"text"'])
def test_a_damaged_manifest_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    build: Build = Counting(tmp_path)
    assert run_stage(stage(), tmp_path, build).digest == "digest 1"


def test_a_build_starts_without_the_leftovers_of_a_killed_one(tmp_path: Path) -> None:
    (tmp_path / ".output.99.tmp").touch()
    run_stage(stage(), tmp_path, Counting(tmp_path))
    assert sorted(os.listdir(tmp_path)) == [".lock", "manifest.json", "output"]


def test_a_key_shows_its_words_and_the_start_of_the_fingerprint() -> None:
    one = stage()
    assert one.key("stratified", 5, "seed42") == f"stratified-5-seed42-{one.fingerprint[:8]}"


def test_the_order_of_settings_does_not_enter_a_fingerprint() -> None:
    assert Stage("a", 1, {"x": 1, "y": 2}, {}).fingerprint == Stage("a", 1, {"y": 2, "x": 1}, {}).fingerprint


# ---------------------------------------------------------------- differences and names


def test_differences_name_every_changed_key_with_both_values() -> None:
    old = {"train": {"epochs": 3, "ema": 0.9}, "seed": 0, "gone": 1, "size": [1, 2]}
    new = {"train": {"epochs": 4, "ema": 0.9}, "seed": 0, "size": [1, 3], "added": "x"}
    assert differences(old, new) == ['added: null -> "x"', "gone: 1 -> null", "size: [1, 2] -> [1, 3]", "train.epochs: 3 -> 4"]


def test_a_tuple_and_its_list_are_no_difference_and_long_values_are_shortened() -> None:
    assert differences({"size": (1, 2)}, {"size": [1, 2]}) == []
    (line,) = differences({"a": "x" * 500}, {"a": 1})
    assert len(line) < 80


@given(st.dictionaries(st.text(max_size=2), JSON, max_size=3))
def test_a_value_has_no_differences_from_its_reordered_self(value: dict[str, Any]) -> None:
    assert differences(value, reverse(value)) == []


def reverse(value: Any) -> Any:
    """The same JSON with its keys in the opposite order."""
    if isinstance(value, dict):
        return {key: reverse(value[key]) for key in reversed(value)}
    return [reverse(item) for item in value] if isinstance(value, list) else value


def test_a_blend_of_many_experiments_has_a_folder_of_its_own_that_file_systems_take(tmp_path: Path) -> None:
    names = [f"experiment_number_{number}" for number in range(40)]
    folder = Workspace(tmp_path).ensemble(names)
    folder.mkdir(parents=True)
    assert folder != Workspace(tmp_path).ensemble([*names[:-1], "another"])


def test_a_setting_at_its_default_stays_out_of_the_fingerprint_of_decisive_settings() -> None:
    before = Stage("train", 1, {"epochs": 3}, {}, {"epochs": 3})
    with_a_new_key = Stage("train", 1, {"epochs": 3, "added_later": 0}, {}, {"epochs": 3})
    assert with_a_new_key.fingerprint == before.fingerprint
    assert Stage("train", 1, {"epochs": 4}, {}, {"epochs": 4}).fingerprint != before.fingerprint
