"""The upload: a written submission sent to Kaggle once, and what the leaderboard says of it kept in the ledger.

Beside submissions/<time>-<name>.csv a JSON file says where it was sent. It is written before the client runs and gets Kaggle's reference behind
it, so that a run that was cut off looks whether its file arrived before it sends anything again.
"""

import contextlib
import fcntl
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.artifacts import Manifest, Workspace
from pipeline.errors import UserError
from pipeline.files import digest_file, read_json, write_json
from pipeline.kaggle.client import Unreachable
from pipeline.kaggle.upload import Submitted, find, find_sent_just_now, list_submissions, reason, send, wait_for_score
from pipeline.stages.check import check
from pipeline.stages.ledger import note_score, read_ledger
from pipeline.stages.prepare import workspace
from pipeline.stages.standing import read_standings
from pipeline.submission.findings import printable

if TYPE_CHECKING:
    from pipeline.config import Config

log = logging.getLogger(__name__)
MINUTES = 15.0  # that --wait waits without a number
JUST_NOW = 60.0  # seconds in which Kaggle's list may be behind


@dataclass(frozen=True)
class Kept:
    """A written submission, by the bytes that were checked."""

    path: Path
    """In submissions/."""
    digest: str
    cv: Mapping[str, Any] | None
    """Metric and CV; None: not known for an old file."""


@dataclass(frozen=True)
class Upload:
    """What is known of a file that was sent, or was about to be."""

    file: str
    """In submissions/."""
    digest: str
    slug: str
    message: str
    started: str
    reference: int | None = None
    """Kaggle's; None: not known to have arrived."""
    status: Literal["sending", "pending", "complete", "error"] = "sending"
    public: float | None = None
    private: float | None = None
    error: str = ""
    """Kaggle's words, where it could not score the file."""


def slug_of(config: "Config") -> str:
    """The competition's name on Kaggle: the end of its page's address."""
    return config.competition.slug or config.competition.name


def upload(config: "Config", slug: str, message: str | None = None, anew: bool = False, kept: Kept | None = None) -> Upload:
    """Sends a submission, checked once more, unless its bytes were sent before; looks for its score once.

    message: shown beside the submission on Kaggle; None: name and CV; anew: send bytes that were sent before; kept: what to send; None: the latest.
    UserError with one line, the file kept and named.
    """
    work = workspace(config)
    with _claimed(work) as claim:
        kept = kept or latest(config)
        _require_unchanged(kept)
        path = kept.path
        try:
            earlier = _earlier(work, kept.digest, slug)
            anew = anew and earlier is not None and earlier.file != path.name and earlier.status != "sending"
            known = None if earlier is None or anew else _arrived(work, earlier)
            if known is not None:
                log.info("upload    these bytes were sent before, as %s at %s: not sent again (--force submit sends them)", _name(known), known.started)
                return _look(work, known)
            _check(path, config)
            started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            return _send(work, Upload(path.name, kept.digest, slug, message or _message(kept), started), claim)
        except UserError as error:
            raise UserError(f"upload: {error} ({path} is kept)") from None


def wait(config: "Config", slug: str, minutes: float = MINUTES, kept: Kept | None = None) -> Upload:
    """Waits for the score of a submission's upload, of the latest if none is given, and notes it.

    UserError where it was never sent, or Kaggle could not score it.
    """
    work = workspace(config)
    kept = kept or latest(config)
    path = kept.path
    sent = _earlier(work, kept.digest, slug)
    if sent is None:
        raise UserError(f"{path}: was not uploaded; write --upload")
    if sent.status in ("complete", "error"):
        return _look(work, sent)
    try:
        found = wait_for_score(slug, sent.file, sent.reference, minutes)
    except KeyboardInterrupt:
        log.info("upload    %s stays on Kaggle; --wait looks for its score again", _name(sent))
        raise
    except UserError as error:
        raise UserError(f"upload: {error} ({path} is kept; --wait looks for its score again)") from None
    if found is None and sent.status == "sending":
        raise UserError(f"{path}: its upload was cut off, and Kaggle does not list it; --upload sends it again")
    return _noted(work, _keep(work, sent, found))


def describe(upload: Upload) -> list[str]:
    """The lines at the end of a run: the reference, and the score or how to look for it."""
    lines = [f"uploaded    {upload.file} to {upload.slug}, {_name(upload)}: https://www.kaggle.com/competitions/{upload.slug}/submissions"]
    if upload.status == "complete":
        scores = ", ".join(f"{name} {score:g}" for name, score in (("public", upload.public), ("private", upload.private)) if score is not None)
        return [*lines, f"leaderboard {scores or 'no score is shown for this submission'}"]
    return [*lines, "leaderboard no score yet; the same command with --wait MINUTES waits for it, and sends nothing twice"]


# ---------------------------------------------------------------- what was sent


def latest(config: "Config", source: str | None = None) -> Kept:
    """The latest submission, byte for byte as the submit stage wrote it.

    source: digest of the ensemble that it must be of; None: any. UserError where there is none, or another run wrote one in the meantime.
    """
    work = workspace(config)
    manifest = Manifest.read(work.submission_manifest)
    if manifest is None:
        raise UserError(f"{work.root}: no submission yet; python scripts/submit.py CONFIG makes one")
    if source is not None and manifest.inputs.get("predictions") != source:
        raise UserError(f"{work.submission}: another run has written its own in the meantime; run the same command again")
    kept = Kept(work.kept_submission("", "").parent / manifest.record["kept"], manifest.digest, manifest.record["cv"])
    _require_unchanged(kept)
    return kept


def kept_file(config: "Config", file: Path) -> Kept:
    """A submission of an earlier run, by its name in submissions/ or its path. UserError for any other file."""
    work = workspace(config)
    path = work.kept_submission("", "").parent / file.name
    if not path.is_file() or (file.exists() and not file.samefile(path)):
        raise UserError(f"--upload {file}: is no file in {path.parent}; write the name of one that is there")
    row = next((row for row in read_standings(work)[0] if row.file == path.name), None)
    return Kept(path, digest_file(path), None if row is None or row.cv is None else {"metric": row.metric, "cv": row.cv})


def _require_unchanged(kept: Kept) -> None:
    if not kept.path.exists() or digest_file(kept.path) != kept.digest:
        raise UserError(f"{kept.path}: is gone or was changed; --force submit writes it again")


@contextlib.contextmanager
def _claimed(work: Workspace) -> Iterator[int]:
    """The right to upload; yields the lock's descriptor, for the client to hold too: it may outlive this process."""
    work.root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(work.root / ".upload.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("upload: waiting for another process")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def _record(work: Workspace, file: str) -> Path:
    return work.kept_submission("", "").parent / f"{file.removesuffix('.csv')}.json"


def _earlier(work: Workspace, digest: str, slug: str) -> Upload | None:
    """The newest upload of the same bytes to the same competition."""
    for path in sorted(work.kept_submission("", "").parent.glob("[!.]*.json"), reverse=True):
        try:
            record = Upload(**read_json(path))
        except (OSError, ValueError, TypeError):
            raise UserError(f"{path}: is damaged; delete it to send its submission anew") from None
        if record.digest == digest and record.slug == slug:
            return record
    return None


def _arrived(work: Workspace, record: Upload) -> Upload | None:
    """The record, with what Kaggle's list says where the run that sent it did not learn of it; None if the file did not arrive."""
    if record.status != "sending":
        return record
    age = time.time() - datetime.strptime(record.started, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    found = (find_sent_just_now if age < JUST_NOW else find)(record.slug, record.file, record.reference)
    return None if found is None else _keep(work, record, found)


def _send(work: Workspace, record: Upload, claim: int) -> Upload:
    write_json(_record(work, record.file), asdict(record))
    path = work.kept_submission("", "").parent / record.file
    log.info('upload    sending %s (%.1f MB) to %s: "%s"', path.name, path.stat().st_size / 1e6, record.slug, printable(record.message))
    record = replace(record, reference=send(path, record.slug, record.message, keep_open=(claim,)), status="pending")
    log.info("upload    arrived, %s", _name(record))
    write_json(_record(work, record.file), asdict(record))
    if record.reference is None:  # the client did not print it
        try:
            record = _keep(work, record, find(record.slug, record.file, None))
        except UserError as error:
            log.info("upload    sent, but where it is listed is not known yet: %s", error)
    return _noted(work, record)


def _look(work: Workspace, record: Upload) -> Upload:
    """One look for the score of a file that has arrived; for the private one, which comes with the competition's end, a look may fail."""
    if record.status == "pending":
        record = _keep(work, record, find(record.slug, record.file, record.reference))
    elif record.status == "complete" and record.private is None:
        try:
            record = _keep(work, record, find(record.slug, record.file, record.reference))
        except UserError as error:
            log.info("upload    whether there is a private score is not known: %s", error)
    return _noted(work, record)


def _keep(work: Workspace, record: Upload, found: Submitted | None) -> Upload:
    """The record with what Kaggle's list says, written."""
    if found is None:
        return record
    reference = found.reference if record.reference is None else record.reference
    error = reason(reference) or "no reason given" if found.status == "error" else ""
    record = replace(record, reference=reference, status=found.status, public=found.public, private=found.private, error=error)
    write_json(_record(work, record.file), asdict(record))
    return record


def _noted(work: Workspace, record: Upload) -> Upload:
    """The record, its score in the ledger. UserError for a submission that Kaggle could not score."""
    if record.status == "error":
        words = f"Kaggle could not score it: {record.error}"
        with _ledger_trouble(work):
            old = next((one.note for one in read_ledger(work) if one.submission == record.file), "")
            note_score(work, record.file, note=old if words in old else f"{old}; {words}".removeprefix("; "))
        page = f"https://www.kaggle.com/competitions/{record.slug}/submissions"
        raise UserError(f"{record.file} ({_name(record)}): {words}; look at {page}, and mend that or send it anew with --force submit")
    if record.status == "complete" and (record.public is not None or record.private is not None):
        with _ledger_trouble(work):
            note_score(work, record.file, record.public, record.private)
            log.info("upload    score -> %s", work.ledger)
    return record


@contextlib.contextmanager
def _ledger_trouble(work: Workspace) -> Iterator[None]:
    """A ledger that cannot be written hides no score."""
    try:
        yield
    except (UserError, OSError) as error:
        log.warning("upload    the score is not in %s: %s", work.ledger, error)


# ---------------------------------------------------------------- what is sent


def _check(path: Path, config: "Config") -> None:
    """UserError unless the file is as the sample asks for."""
    diagnosis = check(path, None, config)
    if diagnosis.errors:
        first = next(finding for finding in diagnosis.findings if finding.level == "error")
        raise UserError(f"not sent, since Kaggle would refuse it ({first}); --force submit writes it again")


def _message(kept: Kept) -> str:
    """Name and CV."""
    name = kept.path.stem.partition("-")[2]
    return name if kept.cv is None else f"{name}: CV {kept.cv['metric']} {kept.cv['cv']:.4f}"


def _name(record: Upload) -> str:
    return "reference not known yet" if record.reference is None else f"reference {record.reference}"


# ---------------------------------------------------------------- what a command asks for


def require_ready(config: "Config", send_it: bool, message: str | None, minutes: float | None) -> None:
    """UserError, before hours of training, for what would stop an upload behind them; without a network there is only a warning."""
    if minutes is not None and not 0 < minutes < math.inf:
        raise UserError(f"--wait takes a number of minutes, but got {minutes:g}")
    if message is not None and not send_it:
        raise UserError("--message goes with --upload, which sends it")
    if not _is_text(message or ""):
        raise UserError("--message is no UTF-8; write it in a terminal that is, or leave it out")
    if send_it:
        try:
            list_submissions(slug_of(config))
        except Unreachable as error:
            log.warning("upload    Kaggle cannot be asked now, and is asked again behind the last stage: %s", error)
        except UserError as error:
            raise UserError(f"upload: {error} (nothing was run yet)") from None


def _is_text(text: str) -> bool:
    """Whether a word of the command line was UTF-8."""
    return text == text.encode("utf-8", "replace").decode("utf-8")


class Delivery:
    """What --upload and --wait ask for, in two steps: the file is sent as soon as it is written, and its score waited for at the end."""

    def __init__(self, send_it: bool, message: str | None, minutes: float | None, anew: bool) -> None:
        self.send_it, self.message, self.minutes, self.anew = send_it, message, minutes, anew

    def send(self, config: "Config", kept: Kept) -> None:
        """Sends the file, where that is asked for."""
        self.config, self.kept = config, kept
        self.record = upload(config, slug_of(config), self.message, self.anew, kept) if self.send_it else None

    def lines(self) -> list[str]:
        """Waits, where that is asked for; the lines to print."""
        if self.minutes is not None and (self.record is None or self.record.status == "pending"):
            self.record = wait(self.config, slug_of(self.config), self.minutes, self.kept)
        assert self.record is not None
        return describe(self.record)
