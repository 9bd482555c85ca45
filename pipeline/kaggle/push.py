"""A kernel on its way to Kaggle: the dataset first, and the notebook once Kaggle has it ready.

The client exits with 0 after a dataset or kernel that Kaggle refused, and pushes a notebook without the inputs that it does not find: each step
is believed on its proof alone.
"""

import contextlib
import json
import logging
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from pipeline.errors import UserError
from pipeline.files import read_json, write_json
from pipeline.kaggle.client import ANSWER_LIMIT, LOGIN, SLUG, Answer, ask, cleaned, explain, run_client
from pipeline.kaggle.notebook import with_owner

log = logging.getLogger(__name__)
DATASET, KERNEL = "dataset-metadata.json", "kernel-metadata.json"
MINUTES = 30.0  # that a dataset may take to become ready
PAUSE = 5.0  # seconds between looks
PATIENCE = 12  # looks in a row that may fail
SLOWEST = 20_000.0  # bytes per second of an upload that is not given up
ABSENT = "there is no such dataset yet"


@dataclass(frozen=True)
class Pushed:
    """Where the two are."""

    dataset: str
    """Owner and name."""
    kernel: str
    """Its page's address."""


def push(dataset: Path, notebook: Path, minutes: float = MINUTES, pause: float = PAUSE) -> Pushed:
    """Uploads the dataset, new or as its next version, waits until it is ready, and pushes the notebook, which Kaggle then runs.

    minutes: that the dataset may take to become ready; pause: seconds between looks. UserError with one line; the same command sends it again.
    """
    owner = find_owner()
    with _addressed(dataset, DATASET, owner) as folder:
        name = str(read_json(folder / DATASET)["id"])
        before = _version(name)
        log.info("kernel    uploading the dataset %s (%.1f MB)", name, _size(folder) / 1e6)
        _upload(folder, new=before is None)
        _wait_until_ready(name, before or 0, minutes, pause)
    with _addressed(notebook, KERNEL, owner) as folder:
        return Pushed(name, _push_notebook(folder))


def find_owner() -> str:
    """The name of the one who is logged in, of whose datasets and kernels it becomes a part. UserError where nobody is."""
    output = ask(["config", "view"], {})
    found = re.search(rf"^- username: ({SLUG})$", output, re.MULTILINE)
    if found is None or found[1] == "None":
        raise UserError(LOGIN)
    return found[1]


@contextlib.contextmanager
def _addressed(folder: Path, metadata: str, owner: str) -> Iterator[Path]:
    """A copy of a folder, of links, whose metadata name the owner; what is kept never does."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place).resolve() / folder.name
        copy.mkdir()
        for file in folder.iterdir():
            if file.name != metadata:
                (copy / file.name).symlink_to(file.resolve())
        write_json(copy / metadata, with_owner(read_json(folder / metadata), owner))
        yield copy


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


# ---------------------------------------------------------------- the dataset


def _version(name: str) -> int | None:
    """The number of the dataset's newest version that is ready; None where there is no such dataset."""
    answer = run_client(["datasets", "status", name, "--format=json"])
    if answer.code != 0:
        reason = explain(answer, {403: ABSENT, 404: ABSENT})  # for a dataset that is not there Kaggle says that it is not to be seen
        if reason.endswith(ABSENT):
            return None
        raise UserError(reason)
    return int(_status(answer).get("current_version_number") or 0)


def _status(answer: Answer) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(answer.output)
    except ValueError:
        raise UserError(explain(answer, {})) from None
    return found


def _upload(folder: Path, new: bool) -> None:
    arguments = ["create"] if new else ["version", "--message=podium"]
    limit = ANSWER_LIMIT + _size(folder) / SLOWEST
    with tqdm(bar_format="dataset: {elapsed}", leave=False, delay=2, disable=None) as bar:
        answer = run_client(["datasets", *arguments, f"--path={folder}", "--dir-mode=zip"], limit, watch=bar.refresh)
    if answer.code != 0 or "is being created" not in answer.output:
        raise UserError(_refusal(answer))
    missing = [file.name for file in folder.iterdir() if file.name != DATASET and f"Upload successful: {file.name} " not in answer.output]
    if missing:
        raise UserError(f"{', '.join(sorted(missing)[:3])} did not arrive on Kaggle; run the same command again")


def _refusal(answer: Answer) -> str:
    """One line for what Kaggle did not take; the client may say it after many lines of progress, with exit code 0."""
    said = re.findall(r"(?:creation|push) error: (.*)", answer.output)
    return f"Kaggle says: {cleaned(said[-1])}" if answer.code == 0 and said else explain(answer, {})


def _wait_until_ready(name: str, before: int, minutes: float, pause: float) -> None:
    """Returns when a version above `before` is ready. A dataset that was made a moment ago may not be found yet."""
    end = time.monotonic() + 60 * minutes
    failures = 0
    with tqdm(bar_format="dataset: Kaggle is unpacking it, {elapsed}", leave=False, disable=None) as bar:
        while True:
            answer = run_client(["datasets", "status", name, "--format=json"])
            failures = failures + 1 if answer.code else 0
            if failures == PATIENCE:
                raise UserError(explain(answer, {}))
            found = _status(answer) if answer.code == 0 else {}
            if found.get("status") == "ready" and int(found.get("current_version_number") or 0) > before:
                return
            if found.get("status") == "failed":
                raise UserError(f"Kaggle could not unpack the dataset; look at https://www.kaggle.com/datasets/{name}")
            if time.monotonic() >= end:
                raise UserError(f"the dataset is not ready after {minutes:g} minutes; look at https://www.kaggle.com/datasets/{name}, then push again")
            time.sleep(pause)
            bar.refresh()


# ---------------------------------------------------------------- the notebook


def _push_notebook(folder: Path) -> str:
    """Its page's address. UserError where Kaggle took the notebook without its inputs, too: it would fail in an hour."""
    metadata = read_json(folder / KERNEL)
    [competition] = metadata["competition_sources"]
    answer = run_client(["kernels", "push", f"--path={folder}"])
    if answer.code != 0 or "successfully pushed" not in answer.output:
        raise UserError(_refusal(answer))
    if "not valid competition sources" in answer.output:
        raise UserError(
            f"Kaggle took the notebook, but not {competition} as its competition; join it at https://www.kaggle.com/competitions/{competition}/rules, "
            "or write its name on Kaggle into competition.slug"
        )
    if "not valid dataset sources" in answer.output:
        raise UserError(f"Kaggle took the notebook, but not the dataset {metadata['dataset_sources'][0]} as its input; push again in some minutes")
    found = re.search(r"(https?://\S+)", answer.output[answer.output.index("successfully pushed") :])
    return cleaned(found[1]) if found else f"https://www.kaggle.com/code/{metadata['id']}"
