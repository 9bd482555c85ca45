"""A PostgreSQL server of the tests' own: in a temporary folder, on loopback, with a password."""

import contextlib
import glob
import importlib.util
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ACCOUNT = "postgres"  # PostgreSQL refuses to run as root


@dataclass(frozen=True)
class Server:
    """Where it listens."""

    port: int
    password: str

    def url(self, password: str | None = None, database: str = "postgres") -> str:
        """As SQLAlchemy takes it; with another password where one is given."""
        return f"postgresql+psycopg://tester:{password or self.password}@127.0.0.1:{self.port}/{database}"


def programs() -> Path:
    """The folder of initdb and pg_ctl; skips the test where there is none, or no driver."""
    if importlib.util.find_spec("psycopg") is None:
        pytest.skip("psycopg, the driver for PostgreSQL, is not installed")
    folders = [*os.environ.get("PATH", "").split(os.pathsep), *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]
    for folder in map(Path, folders):
        if all((folder / name).exists() for name in ("initdb", "pg_ctl", "postgres")):
            return folder
    pytest.skip("PostgreSQL is not installed: there is no initdb beside pg_ctl")


@contextlib.contextmanager
def running_server() -> Iterator[Server]:
    """Starts one in a new folder, and stops it."""
    bin_folder = programs()
    user = None
    if os.geteuid() == 0:
        try:
            user = pwd.getpwnam(ACCOUNT).pw_name
        except KeyError:
            pytest.skip(f"there is no account {ACCOUNT} to run PostgreSQL, which refuses to run as root")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        server = Server(free.getsockname()[1], secrets.token_hex(8))
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))  # short: the path of a unix socket has 107 bytes
    (folder / "password").write_text(server.password)
    if user is not None:
        for path in (folder, folder / "password"):
            shutil.chown(path, user)

    def call(program: str, *words: str) -> None:
        command = [str(bin_folder / program), "-D", str(folder / "data"), *words]
        environment = {**os.environ, "LC_ALL": "C"}
        done = subprocess.run(command, user=user, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        assert done.returncode == 0, done.stdout

    options = f"-c listen_addresses=127.0.0.1 -p {server.port} -k {folder} -c fsync=off"
    try:
        call("initdb", "-U", "tester", "-A", "scram-sha-256", f"--pwfile={folder / 'password'}", "-E", "UTF8", "--no-sync")
        call("pg_ctl", "start", "-w", "-l", str(folder / "log"), "-o", options)
        try:
            yield server
        finally:
            call("pg_ctl", "stop", "-w", "-m", "immediate")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
