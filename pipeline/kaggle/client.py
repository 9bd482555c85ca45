"""The kaggle client, run as a program: what it says becomes its answer, or one line that says what to do.

Importing its package prints and logs in, so the executable is run. It exits with 0 after some failures and with a traceback after others;
callers therefore ask for a proof of what they wanted.
"""

import base64
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from pipeline.errors import UserError
from pipeline.submission.findings import printable

ANSWER_LIMIT = 120.0  # seconds for a question and its answer; the client itself waits for ever
PAUSE = 0.25  # seconds between looks at the running client
LONGEST_WORDS = 300  # characters of a server's words in an error
HIDDEN = "[hidden]"
VERBOSE = ("VERBOSE", "VERBOSE_OUTPUT")  # they make the client print its headers, credentials among them
SLUG = r"[A-Za-z0-9][A-Za-z0-9_-]*"


class Unreachable(UserError):
    """Kaggle could not be asked now; what was asked for may be right all the same."""


@dataclass(frozen=True)
class Answer:
    """What the client printed, and its exit code."""

    code: int
    output: str
    errors: str


def ask(
    arguments: Sequence[str],
    advice: Mapping[int, str],
    limit: float | None = ANSWER_LIMIT,
    watch: Callable[[], None] | None = None,
    keep_open: Sequence[int] = (),
) -> str:
    """What the client prints when asked, with exit code 0. UserError with one line for everything else.

    advice: what to do about HTTP status 403, 404, ..., in words; limit: seconds, None: as long as it takes; watch: called a few times a second,
    and what it raises ends the client; keep_open: file descriptors that the client holds too, e.g. locks.
    """
    answer = run_client(arguments, limit, watch, keep_open)
    if answer.code != 0:
        raise UserError(explain(answer, advice))
    return answer.output


def competition_advice(slug: str, key: str = "") -> dict[int, str]:
    """What to do about a refusal, for a question about a competition; key: of the config, where its name on Kaggle is written."""
    page = f"https://www.kaggle.com/competitions/{slug}"
    where = key and f": write {key}=NAME"
    return {
        400: f"look at {page}: its deadline, its limit of the day, what it takes",
        403: f"open {page}/rules while logged in, join and accept the rules; where there is no such page, the name {slug} is wrong{where}",
        404: f"there is no competition {slug}, or it is closed; its name is the end of its page's address{where}",
    }


def find_client() -> Path:
    """The client's executable: beside this Python, else on the PATH. UserError where there is none."""
    beside = Path(sys.executable).with_name("kaggle")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("kaggle")
    if found is None:
        raise UserError(f"the kaggle client is not installed; {_install()}")
    return Path(found)


def _install() -> str:
    return f"write {sys.executable} -m pip install kaggle six"


def run_client(arguments: Sequence[str], limit: float | None = ANSWER_LIMIT, watch: Callable[[], None] | None = None, keep_open: Sequence[int] = ()) -> Answer:
    """Runs the client in a session of its own, without a shell; see `ask`. It never outlives an exception here."""
    environment = {name: value for name, value in os.environ.items() if name not in VERBOSE}
    environment["PYTHONUTF8"] = "1"  # a description may hold any letter, whatever the terminal's encoding
    started = time.monotonic()
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(  # noqa: S603
                [str(find_client()), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=environment,
                start_new_session=True,
                pass_fds=keep_open,
            )
        except OSError as error:
            raise UserError(f"the kaggle client cannot be run ({error.strerror}); {_install()}") from None
        try:
            while not _ended(process):
                if watch is not None:
                    watch()
                if limit is not None and time.monotonic() - started > limit:
                    raise Unreachable(f"Kaggle did not answer within {limit:.0f} seconds; look at the network, then run the same command again")
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        return Answer(process.returncode, _read(output), _read(errors))


def _ended(process: "subprocess.Popen[bytes]") -> bool:
    try:
        process.wait(PAUSE)
    except subprocess.TimeoutExpired:
        return False
    return True


def _read(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


# ---------------------------------------------------------------- what went wrong

LOGIN = (
    "Kaggle knows no credentials, or refuses those that are there; make a token at https://www.kaggle.com/settings/api "
    "and save it in ~/.kaggle/access_token, or write it into KAGGLE_API_TOKEN"
)
STATUS_WORDS = (  # of answers that do not show their number
    (401, r"authentication required|must authenticate|unauthori[sz]ed|unauthenticated|invalid credentials"),
    (403, r"don't have access to this resource|forbidden|permission .*denied|access denied|accept .*rules|have not joined|must join"),
    (404, r"could not find competition|resource was not found|^not found|competition .*not found"),
    (429, r"rate limited|too many requests"),
    (500, r"problem on kaggle's side|internal server error|service unavailable"),
)
NOTEBOOKS_ONLY = "only accepts submissions from notebooks"
FAULTS = (
    (r"ProxyError|proxy connection|Tunnel connection failed|407 .*Proxy", "the proxy refused the way to Kaggle; look at http_proxy, https_proxy and no_proxy"),
    (
        r"SSLError|CERTIFICATE_VERIFY_FAILED",
        "the certificate of what answered is not Kaggle's; behind a company's proxy, name its certificates in REQUESTS_CA_BUNDLE",
    ),
    (r"NameResolutionError|Failed to resolve|gaierror|Name or service not known|Temporary failure in name", "no network: Kaggle's address is not found"),
    (r"Timeout|timed out", "Kaggle is too slow to answer, or the network is; try again"),
    (
        r"ConnectionError|Connection (refused|reset|aborted)|RemoteDisconnected|IncompleteRead|Max retries exceeded|does not match expected size",
        "the network broke off, or there is none; try again",
    ),
    (r"ModuleNotFoundError|ImportError", "the kaggle client is not whole"),
    (r"unrecognized arguments|invalid choice|^usage:", "the kaggle client is of an older kind"),
    (r"No space left on device", "the disk is full; make room, then run the same command again"),
    (r"Could not submit to competition", "Kaggle did not take the file; run the same command again"),
    (r"JSONDecodeError|Expecting value: line", "what answered is not Kaggle: a page to log in to the network?"),
)

PASSING = ("the proxy", "the certificate", "no network", "Kaggle is too slow", "the network broke", "what answered is not Kaggle")


def explain(answer: Answer, advice: Mapping[int, str]) -> str:
    """One line for an answer that is no success: what is wrong and what to do, in Kaggle's words where only Kaggle knows."""
    text = f"{answer.errors}\n{answer.output}"
    words = _words(answer)
    status = _status(text, words)
    if status == 401:
        return LOGIN
    if NOTEBOOKS_ONLY in text.lower():
        return f"Kaggle says: {words}; write python scripts/kaggle_kernel.py CONFIG --push, and choose Submit to Competition when it has run"
    if status is not None and status in advice:
        return f"Kaggle says: {words}; {advice[status]}"
    if status == 429:
        return f"Kaggle says: {words}; too many questions in a short time: wait some minutes, then run the same command again"
    if status is not None and status >= 500:
        return f"Kaggle says: {words}; that is Kaggle's own trouble: try again later"
    if status is None:
        for pattern, line in FAULTS:
            if re.search(pattern, text, re.MULTILINE):
                return f"{line}; {_install()} --upgrade" if line.startswith("the kaggle client") else line
    return f"Kaggle says: {words}" if words else f"the kaggle client ended with code {answer.code} and said nothing; try again"


def refusal(answer: Answer, advice: Mapping[int, str]) -> UserError:
    """The error for an answer that is no success: Unreachable where the network, the proxy or Kaggle itself is to blame."""
    line = explain(answer, advice)
    status = _status(f"{answer.errors}\n{answer.output}", _words(answer))
    passing = line.startswith(PASSING) if status is None else status == 429 or status >= 500
    return Unreachable(line) if passing else UserError(line)


def _status(text: str, words: str) -> int | None:
    if number := re.search(r"\b([45]\d\d) (?:Client|Server) Error", text):
        return int(number[1])
    if re.search("authentication required to call", text, re.IGNORECASE):
        return 401
    looked_at = text if "Traceback" not in text else words
    if any(re.search(pattern, looked_at) for pattern, _ in FAULTS):
        return None
    return next((status for status, pattern in STATUS_WORDS if re.search(pattern, looked_at, re.IGNORECASE | re.MULTILINE)), None)


def _words(answer: Answer) -> str:
    """What the client says is wrong: the end of a traceback, else its first paragraph without remarks on the way."""
    said = answer.errors if answer.errors.strip() else answer.output
    lines = [line for line in said.strip().splitlines() if not line.startswith(("Request failed:", "Warning:", "Looks like you're using"))]
    if "Traceback (most recent call last):" in lines:
        return cleaned(lines[-1])
    return cleaned("\n".join(lines).strip().partition("\n\n")[0]).removesuffix(".")


def cleaned(text: str) -> str:
    """A stranger's text on one line: nothing a terminal would obey, no credential, no signed address, not endless."""
    text = " ".join(text.split())
    for secret in _secrets():
        text = text.replace(secret, HIDDEN)
    text = re.sub(r"\b(Bearer|Basic)\s+\S+", rf"\1 {HIDDEN}", text, flags=re.IGNORECASE)
    text = re.sub(r"\bKGAT_\w+", HIDDEN, text)
    text = re.sub(r"(://)[^/\s@]*@", rf"\1{HIDDEN}@", text)
    text = re.sub(r"((?:https?:/|url: )/?[^\s?]*)\?[^\s)'\"]*", r"\1", text)
    text = printable(re.sub(r" for url: \S+", "", text))
    return text if len(text) <= LONGEST_WORDS else text[:LONGEST_WORDS] + "..."


def _secrets() -> list[str]:
    """Every credential that the client may use, in the forms in which it is sent; the longest first."""
    variables = [os.environ.get(name, "") for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_IAP_TOKEN")]
    folders = [Path(os.environ.get("KAGGLE_CONFIG_DIR") or "~/.kaggle"), Path("~/.kaggle"), Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config") / "kaggle"]
    found, user = set(variables), os.environ.get("KAGGLE_USERNAME", "")
    for path in [path for path in map(Path, variables[:1]) if variables[0]] + [folder / name for folder in folders for name in CREDENTIAL_FILES]:
        with contextlib.suppress(OSError, RuntimeError, ValueError):
            text = path.expanduser().read_text(encoding="utf-8").strip()
            values = json.loads(text) if text.startswith("{") else {"token": text}
            user = str(values.get("username", user))
            found |= {str(value) for key, value in values.items() if key not in ("username", "scopes")}
    found |= {base64.b64encode(f"{user}:{secret}".encode()).decode() for secret in found if user and secret}
    return sorted((secret for secret in found if len(secret) >= 8), key=len, reverse=True)


CREDENTIAL_FILES = ("kaggle.json", "access_token", "access_token.txt", "credentials.json")
