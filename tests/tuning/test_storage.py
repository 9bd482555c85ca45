"""Where studies are kept: which file or database, and what a killed writer leaves of it."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toys import OWN, run, toy_plan

from pipeline.errors import UserError
from pipeline.tuning.storage import is_local_file, locate, open_storage, without_password
from pipeline.tuning.study import open_study


def test_a_study_is_found_again_whatever_the_number_of_workers(tmp_path: Path) -> None:
    database, journal = f"sqlite:///{tmp_path}/s.db", f"{tmp_path}/s.journal"
    assert (locate(None, tmp_path, "s", 1), locate(None, tmp_path, "s", 2)) == (database, journal)
    (tmp_path / "s.journal").touch()
    assert locate(None, tmp_path, "s", 1) == journal
    assert locate("sqlite", tmp_path, "s", 2) == database
    (tmp_path / "s.db").touch()
    with pytest.raises(UserError, match=r"s\.db and .*s\.journal; write --storage"):
        locate(None, tmp_path, "s", 1)
    (tmp_path / "s.journal").unlink()
    assert locate(None, tmp_path, "s", 2) == database
    assert locate("journal", tmp_path, "s", 1) == journal


def test_storages_are_named_by_kind_path_or_url(tmp_path: Path) -> None:
    assert locate("mine/a.journal", tmp_path, "s", 1) == "mine/a.journal"
    assert locate("mine/a.db", tmp_path, "s", 1) == "sqlite:///mine/a.db"
    url = "postgresql+psycopg://me:pw@there:5432/optuna"
    assert locate(url, tmp_path, "s", 1) == url
    assert [is_local_file(place) for place in ("mine/a.journal", "sqlite:///mine/a.db", url)] == [True, True, False]
    for wrong, said in (("sqllite", 'did you mean "sqlite"'), ("a.txt", "not a storage"), ("pg://me:pw@there:port/x", r"me:\*\*\*@"), ("sqlite://", "lost")):
        with pytest.raises(UserError, match=said):
            locate(wrong, tmp_path, "s", 1)


@pytest.mark.parametrize("password", ["pw", "p@ss", "a:b", "x/y", "{z}"])
def test_no_password_is_shown(password: str) -> None:
    assert without_password(f"postgresql+psycopg://me:{password}@there:1/db") == "postgresql+psycopg://me:***@there:1/db"
    assert without_password(f"postgresql+psycopg://there/db?user=me&password={password}&x=1") == "postgresql+psycopg://there/db?user=me&password=***&x=1"
    with pytest.raises(UserError) as caught:
        open_storage(f"postgresql+psycopg://me:{password.replace('@', '%40').replace('/', '%2F')}@127.0.0.1:9/db")
    assert password not in str(caught.value).replace("psycopg", "")
    assert "\n" not in str(caught.value)
    assert caught.value.__suppress_context__, "nor in a traceback"


def test_a_line_that_a_killed_writer_left_half_is_dropped(tmp_path: Path) -> None:
    whole = run(toy_plan(tmp_path / "whole"))
    plan = toy_plan(tmp_path, trials=5)
    run(plan)
    path = tmp_path / "toy.journal"
    lines = path.read_bytes().splitlines(keepends=True)
    for cut in (1, len(lines[-1]) // 2, len(lines[-1]) - 1):
        path.write_bytes(b"".join(lines[:-1]) + lines[-1][:cut])
        run(plan)
    rows = run(toy_plan(tmp_path))
    assert [json.loads(line) for line in path.read_bytes().splitlines()]
    assert [(row.number, row.parameters, row.state) for row in rows] == [(row.number, row.parameters, row.state) for row in whole]


@pytest.mark.parametrize("name", ["toy.journal", "toy.db"])
@pytest.mark.parametrize("garbage", [b"\x00\xffnot a study\n" * 400, b'{"op_code": 77}\n["x"]\n' * 50])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, garbage: bytes) -> None:
    (tmp_path / name).write_bytes(garbage)
    with pytest.raises(UserError, match=rf"{name}: .*; restore it from a copy, or move it away"):
        run(toy_plan(tmp_path, name))
    assert (tmp_path / name).read_bytes() == garbage


def test_a_journal_damaged_at_its_end_is_named_before_more_is_written(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, trials=1)
    run(plan)
    with (tmp_path / "toy.journal").open("ab") as file:
        file.write(b"garbage\n")
    with pytest.raises(UserError, match="is damaged"):
        run(plan)


HOLD = """
import sys, time
from pathlib import Path
from pipeline.tuning.storage import _JournalLock
_JournalLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_killed_writer_holds_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "toy.journal"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert open_study(toy_plan(tmp_path), {}, OWN).study_name == "toy"
    assert sorted(found.name for found in tmp_path.iterdir()) == ["toy", "toy.journal"], "no lock's file beside it"
