"""Kaggle on this machine: a server that speaks what the real client speaks, reached by it as its proxy; every other address is refused."""

import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.kaggle.client import find_client

TOKEN = "KGAT_0123456789secret"
KEY = "fedcba9876543210secret"
SIGNATURE = "signed-5ecret"


class Kaggle:
    """What the server knows and does; `refuse` names requests that it answers otherwise: (status, body, headers)."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.headers: list[str] = []
        self.submissions: list[dict[str, Any]] = []
        self.uploaded: dict[str, bytes] = {}
        self.scores_after = 0  # looks that find a submission pending
        self.verdict: dict[str, Any] = {"status": "COMPLETE", "publicScore": "0.97500"}
        self.refuse: dict[str, tuple[int, Any, dict[str, str]]] = {}
        self.refusals: dict[str, int] = {}  # how often, if not always
        self.delay: dict[str, float] = {}
        self.lose_answer: set[str] = set()  # requests that are done, and never answered
        self.files: list[dict[str, Any]] = []
        self.page = 1000
        self.archive = b""
        self.chunk_delay = 0.0
        self.cut_after: int | None = None  # bytes after which each download breaks off
        self.ranges: list[str | None] = []
        self.lock = threading.Lock()

    def count(self, name: str) -> int:
        return self.requests.count(name)

    def answer(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        return dict(getattr(self, name)(body))

    def IntrospectToken(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"active": body["token"] == TOKEN, "username": "somebody"}

    def StartSubmissionUpload(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        with self.lock:
            token = f"blob-{len(self.uploaded)}-{body['fileName']}"
            self.uploaded[token] = b""
        return {"token": token, "createUrl": f"http://localhost/upload/{token}?upload_id={SIGNATURE}"}

    def CreateSubmission(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        token = body["blobFileTokens"]
        with self.lock:
            reference = 7001 + len(self.submissions)
            one = {"ref": reference, "fileName": token.split("-", 2)[2], "date": "2026-11-21T10:00:00.123Z", "description": body["submissionDescription"]}
            self.submissions.insert(0, {**one, "bytes": self.uploaded[token], "competition": body["competitionName"], "looks": 0})
        return {"message": "Successfully submitted to Digits", "ref": reference}

    def ListSubmissions(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"submissions": [self._shown(one) for one in self.submissions]}

    def GetSubmission(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return next(self._shown(one) for one in self.submissions if one["ref"] == body["ref"])

    def _shown(self, one: dict[str, Any]) -> dict[str, Any]:
        one["looks"] += 1
        shown = {key: one[key] for key in ("ref", "fileName", "date", "description")}
        return {**shown, "status": "PENDING"} if one["looks"] <= self.scores_after else {**shown, **self.verdict}

    def GetSubmissionLimits(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return {"numAllowedNow": 4}

    def ListDataFiles(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        start = int(body.get("pageToken") or 0)
        more = {"nextPageToken": str(start + self.page)} if start + self.page < len(self.files) else {}
        return {"files": self.files[start : start + self.page], **more}


class Handler(BaseHTTPRequestHandler):
    kaggle: Kaggle

    def log_message(self, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        self._handle()

    do_GET = do_PUT = do_CONNECT = do_POST  # noqa: N815

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        path = re.sub(r"^http://localhost", "", self.path).partition("?")[0]
        name = path.rpartition("/")[2] if path.startswith("/api/v1/") else path.split("/")[1] if path.startswith(("/upload/", "/storage/")) else "outside"
        self.kaggle.requests.append(name)
        self.kaggle.headers.append(self.headers.get("Authorization", ""))
        time.sleep(self.kaggle.delay.get(name, 0.0))
        if self._refuses(name):
            status, answer, headers = self.kaggle.refuse[name]
            self._send(status, answer, headers)
        elif name == "outside":
            self._send(502, "this server is the only one there is", {})
        elif name == "upload":
            self.kaggle.uploaded[path.split("/", 2)[2]] = body
            self._send(200, "", {})
        elif name == "DownloadDataFiles":
            self._send(302, "", {"Location": f"http://localhost/storage/archive.zip?X-Goog-Signature={SIGNATURE}"})
        elif name == "storage":
            self._stream()
        else:
            answer = self.kaggle.answer(name, json.loads(body or b"{}"))
            if name in self.kaggle.lose_answer:
                self.close_connection = True
            else:
                self._send(200, answer, {})

    def _refuses(self, name: str) -> bool:
        if name not in self.kaggle.refuse:
            return False
        left = self.kaggle.refusals.get(name)
        if left is not None:
            self.kaggle.refusals[name] = left - 1
        return left is None or left > 0

    def _chunks(self) -> bytes:
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, status: int, answer: Any, headers: dict[str, str]) -> None:
        text = answer if isinstance(answer, str) else json.dumps(answer)
        text = text.replace("{authorization}", self.headers.get("Authorization", ""))
        self.send_response(status)
        for name, value in {"Content-Type": "text/html" if isinstance(answer, str) else "application/json", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def _stream(self) -> None:
        asked = self.headers.get("Range")
        self.kaggle.ranges.append(asked)
        archive = self.kaggle.archive
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        self.send_response(206 if asked else 200)
        for name, value in {"ETag": f'"{hash(archive)}"', "Last-Modified": "Sat, 21 Nov 2015 10:00:00 GMT", "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Length", str(len(archive) - start))
        self.end_headers()
        end = len(archive) if self.kaggle.cut_after is None else min(start + self.kaggle.cut_after, len(archive))
        for position in range(start, end, 16384):
            self.wfile.write(archive[position : min(position + 16384, end)])
            time.sleep(self.kaggle.chunk_delay)
        self.close_connection = True


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was ended in mid-download is no error here."""


@contextmanager
def serve() -> Iterator[tuple[Kaggle, int]]:
    kaggle = Kaggle()
    server = Quiet(("127.0.0.1", 0), type("Bound", (Handler,), {"kaggle": kaggle}))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield kaggle, server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(name="kaggle")
def loopback_kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kaggle]:
    """The server, its address and somebody's token in the environment."""
    try:
        find_client()
    except UserError as error:
        pytest.skip(str(error))
    home = tmp_path / "home"
    home.mkdir()
    for name in ("KAGGLE_CONFIG_DIR", "XDG_CONFIG_HOME", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_KERNEL_RUN_TYPE", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    with serve() as (server, port):
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{port}")
        yield server
