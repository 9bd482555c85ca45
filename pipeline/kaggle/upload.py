"""A submission's way to Kaggle: sent with its client, found again in the list of submissions, and its score waited for."""

import csv
import io
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm.auto import tqdm

from pipeline.errors import UserError
from pipeline.kaggle.client import ANSWER_LIMIT, cleaned, competition_advice, explain, refusal, run_client

SLOWEST = 20_000  # bytes per second; an upload that is slower is given up
LISTED = 100  # submissions looked through, newest first
PAUSES = (3.0, 1.5, 60.0)  # seconds before the second look, growth from look to look, longest
KEY = "competition.slug"
PATIENCE = 3  # looks in a row that may fail
LOST = ("Could not submit to competition", "User cancelled operation", "Could not find competition")  # said with exit code 0 by some clients


@dataclass(frozen=True)
class Submitted:
    """A submission as Kaggle lists it."""

    reference: int | None
    """None: from a client that does not show it."""
    file: str
    status: Literal["pending", "complete", "error"]
    public: float | None
    private: float | None
    """Shown once the competition is over."""


def send(path: Path, slug: str, message: str, limit: float | None = None, keep_open: Sequence[int] = ()) -> int | None:
    """Uploads a file as a submission; returns its reference, None where the client does not print it.

    limit: seconds; None: by the file's size; keep_open: descriptors that the client holds too, for it may outlive this process.
    UserError with one line; after one, the list of submissions alone says whether the file arrived.
    """
    limit = ANSWER_LIMIT + path.stat().st_size / SLOWEST if limit is None else limit
    with tqdm(bar_format="upload: {elapsed}", leave=False, delay=2, disable=None) as bar:
        answer = run_client(["competitions", "submit", slug, f"--file={path}", f"--message={message}", "--quiet"], limit, bar.refresh, keep_open)
    advice = competition_advice(slug, KEY)
    if answer.code != 0 or not answer.output.strip() or any(words in answer.output for words in LOST):
        raise UserError(explain(answer, advice))
    reference = re.search(r"^Submission ref: (\d+)", answer.output, re.MULTILINE)
    return int(reference[1]) if reference else None


def list_submissions(slug: str, limit: float = ANSWER_LIMIT) -> list[Submitted]:
    """The newest submissions of the one who is logged in, newest first. UserError with one line."""
    advice = competition_advice(slug, KEY)
    answer = run_client(["competitions", "submissions", slug, "--csv", f"--page-size={LISTED}", "--quiet"], limit)
    if answer.code != 0:
        raise refusal(answer, advice)
    header = re.search(r"^(ref,)?fileName,.*$", answer.output, re.MULTILINE)
    if header is None and "No submissions found" not in answer.output:
        raise refusal(answer, advice)
    rows = csv.DictReader(io.StringIO(answer.output[header.start() :], newline="")) if header else ()
    return [_submitted(row) for row in rows]


def _submitted(row: dict[str, str]) -> Submitted:
    status = (row["status"] or "").rpartition(".")[2].lower()
    reference = row.get("ref") or ""
    return Submitted(
        int(reference) if reference.isdigit() else None,
        row["fileName"],
        "complete" if status == "complete" else "error" if status == "error" else "pending",
        _score(row["publicScore"]),
        _score(row["privateScore"]),
    )


def _score(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"-?\d+(\.\d*)?([eE][-+]?\d+)?", text) else None


def find(slug: str, file: str, reference: int | None) -> Submitted | None:
    """The submission with a reference; without one, the newest of a file's name, which Kaggle keeps; None where it is not listed."""
    submissions = list_submissions(slug)
    if reference is not None and any(one.reference is not None for one in submissions):
        return next((one for one in submissions if one.reference == reference), None)
    return next((one for one in submissions if one.file == file), None)


def find_sent_just_now(slug: str, file: str, reference: int | None) -> Submitted | None:
    """As `find`, with a few looks: the list may be behind what was sent a moment ago."""
    for _, pause in zip(range(PATIENCE - 1), _growing(PAUSES), strict=False):
        if (found := find(slug, file, reference)) is not None:
            return found
        time.sleep(pause)
    return find(slug, file, reference)


def reason(reference: int | None) -> str:
    """Why Kaggle could not score a submission, in its words; empty where the client cannot tell."""
    if reference is None:
        return ""
    try:
        answer = run_client(["competitions", "submission", str(reference)])
    except UserError:
        return ""
    found = re.search(r"^Error:\s+(.*?)(?=^Public Score:)", answer.output, re.MULTILINE | re.DOTALL)
    return cleaned(found[1]) if answer.code == 0 and found else ""


def wait_for_score(slug: str, file: str, reference: int | None, minutes: float, pauses: tuple[float, float, float] = PAUSES) -> Submitted | None:
    """Looks until the submission is scored or failed, with growing pauses; what it was at the last look, None where it was never listed.

    UserError only where several looks in a row fail: a score that takes long outlives a weak network.
    """
    end = time.monotonic() + 60 * minutes
    found: Submitted | None = None
    failures = 0
    words = "score: {elapsed} of at most " + f"{minutes:g} minutes"
    with tqdm(bar_format=words, leave=False, disable=None) as bar:
        for pause in _growing(pauses):
            try:
                found, failures = find(slug, file, reference) or found, 0
            except UserError:
                failures += 1
                if failures == PATIENCE or time.monotonic() >= end:
                    raise
            if (found and found.status != "pending") or time.monotonic() >= end:
                return found
            until = min(time.monotonic() + pause, end)
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(left, 1.0))
                bar.refresh()
    raise AssertionError("pauses never end")


def _growing(pauses: tuple[float, float, float]) -> Iterator[float]:
    pause, growth, longest = pauses
    while True:
        yield min(pause, longest)
        pause = min(pause * growth, longest)
