"""A Kaggle kernel on this machine: inputs laid out as Kaggle mounts them, read-only; a Jupyter kernel without network that knows no repository."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

ROOT = Path(__file__).parent.parent.parent
LIMIT = 300  # seconds of a cell

READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
"""In namespaces of its own: no network at all, and inputs that not even root can write to."""

LAUNCH = """
import sys

def refuse(event, arguments):
    if event in ("socket.getaddrinfo", "socket.gethostbyname") or (event == "socket.connect" and not isinstance(arguments[1], (str, bytes))):
        raise OSError("no network here")

sys.addaudithook(refuse)
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""
"""A kernel whose Python refuses every address but files, should namespaces not be allowed."""

LAYOUTS = {  # where the dataset is mounted, where the competition, and what became of zips
    "flat": ("podium-digits", "digits", "kept"),
    "flat, unpacked": ("podium-digits", "digits", "unpacked"),
    "by kind": ("datasets/somebody/podium-digits", "competitions/digits", "unpacked"),
    "by kind, kept": ("datasets/somebody/podium-digits", "competitions/digits", "kept"),
    "a model": ("models/somebody/podium-digits/pytorch/default/1", "competitions/digits", "kept"),
    "nested": ("podium-digits/kernel/dataset", "digits/digits", "unpacked"),
    "zipped": ("podium-digits", "digits", "all in one"),
}


def lay_out(layout: str, dataset: Path, competition: Path, inputs: Path) -> Path:
    """Mounts a dataset, without the metadata that Kaggle keeps to itself, and a competition."""
    place, competition_place, zips = LAYOUTS[layout]
    mounted = inputs / place
    shutil.copytree(competition, inputs / competition_place, ignore=shutil.ignore_patterns("solution.csv"))
    shutil.copytree(dataset, mounted, ignore=shutil.ignore_patterns("dataset-metadata.json"))
    if zips == "unpacked":
        with zipfile.ZipFile(mounted / "podium.zip") as archive:
            archive.extractall(mounted / "podium")
        (mounted / "podium.zip").unlink()
    if zips == "all in one":
        shutil.make_archive(str(inputs / "whole"), "zip", mounted)
        shutil.rmtree(mounted)
        mounted.mkdir()
        (inputs / "whole.zip").rename(mounted / "archive.zip")
    return mounted


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass
class Executed:
    """A notebook that ran to its end."""

    text: str
    """Everything that it printed."""
    pictures: int
    tables: int


CHECK = f"""
import socket
import pipeline
assert str(pipeline.__file__).startswith(str(packages[0])), pipeline.__file__
assert all(str(module.__file__).startswith(str(packages[0])) for name, module in sys.modules.items() if name.startswith("pipeline."))
assert not any(Path(entry).resolve() == Path({str(ROOT)!r}) for entry in sys.path), sys.path
try:
    socket.create_connection(("127.0.0.1", 9), 1)
except OSError as error:
    assert not isinstance(error, ConnectionRefusedError), "there is a network"
"""


def execute(notebook: Path, inputs: Path, working: Path, before_all: str = "", **environment: str) -> Executed:
    """Runs every cell, and one that looks where the package came from and whether there is a network; before_all: a cell that comes first."""
    import nbformat
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    working.mkdir(exist_ok=True)
    book = nbformat.read(notebook, as_version=4)
    nbformat.validate(book)
    book.cells = [nbformat.v4.new_code_cell(before_all), *book.cells, nbformat.v4.new_code_cell(CHECK)]
    command = [*_alone(inputs), sys.executable, "-S", "-P", "-c", LAUNCH, "-f", "{connection_file}"]  # -S: no editable install

    class Manager(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(argv=command, display_name="alone", language="python")

    for path in (inputs, *inputs.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = contents(inputs)
    packages = [entry for entry in sys.path if entry and ("site-packages" in entry or not Path(entry).is_relative_to(ROOT))]
    with tempfile.TemporaryDirectory() as home:
        known = {"PATH": os.environ["PATH"], "HOME": home, "PYTHONPATH": os.pathsep.join(packages), "KAGGLE_KERNEL_RUN_TYPE": "Batch"}
        known |= {"PODIUM_INPUT": str(inputs), "PODIUM_WORKING": str(working), "OMP_NUM_THREADS": "1", **environment}
        manager = Manager(transport="ipc", ip=f"{home}/ipc")  # files, which reach into a namespace without network
        client = nbclient.NotebookClient(book, km=manager, timeout=LIMIT, resources={"metadata": {"path": str(working)}})
        try:
            client.execute(env=known)
        finally:
            for path in (inputs, *inputs.rglob("*")):
                path.chmod(0o755 if path.is_dir() else 0o644)
    assert contents(inputs) == before, "the inputs were written to"
    outputs: list[Any] = [output for cell in book.cells for output in cell.get("outputs", ())]
    data = [output["data"] for output in outputs if "data" in output]
    text = "".join(output.get("text", "") for output in outputs)
    return Executed(text, sum("image/png" in one for one in data), sum("text/html" in one for one in data))


def _alone(inputs: Path) -> list[str]:
    """The start of a command that runs without network and cannot write to the inputs; empty where this machine does not allow it."""
    command = ["unshare", "-rnm", "sh", "-c", READ_ONLY, str(inputs)]
    if shutil.which("unshare") and subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
        return command
    return []
