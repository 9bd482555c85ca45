"""Submissions on their way to Kaggle: the real client, a server on this machine, and a finished run of the digits without its training."""

import base64
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import small_settings
from loopback import KEY, SIGNATURE, TOKEN, Kaggle, loopback_kaggle  # noqa: F401

from pipeline.artifacts import Manifest, Workspace
from pipeline.cli import exit_code
from pipeline.config import Config
from pipeline.config_files import write_config
from pipeline.errors import UserError
from pipeline.files import digest_file, read_json
from pipeline.kaggle import client
from pipeline.kaggle import upload as way
from pipeline.runtime import start_logging
from pipeline.stages import upload as stage
from pipeline.stages.ledger import note_score, read_ledger
from pipeline.stages.upload import describe, upload, wait

ROOT = Path(__file__).parent.parent.parent
FAST = (0.05, 1.5, 0.2)


@pytest.fixture(scope="session")
def written(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """outputs/ with a checked submission: the sample's ids, the labels that the solution has."""
    outputs = tmp_path_factory.mktemp("written")
    work = Workspace(outputs / "digits")
    write_submission(work, digits, "20260101T000000", "solution.csv")
    stage.check(work.kept_submission("20260101T000000", "small"), None, config_of(digits, outputs))  # builds the index
    return outputs


def config_of(digits: Path, outputs: Path) -> Config:
    return Config.model_validate(small_settings(digits, outputs))


def write_submission(work: Workspace, digits: Path, stamp: str, source: str) -> Path:
    """As the submit stage leaves it."""
    kept = work.kept_submission(stamp, "small")
    kept.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(digits / source, kept)
    shutil.copyfile(kept, work.submission)
    record = {"kept": kept.name, "cv": {"metric": "accuracy", "cv": 0.97123}}
    Manifest("submit", 1, "f", {}, {}, digest_file(kept), record).write(work.submission_manifest)
    return kept


@pytest.fixture
def config(digits: Path, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    shutil.copytree(written, tmp_path / "outputs")
    monkeypatch.setattr(way, "PAUSES", FAST)
    monkeypatch.setattr(way.wait_for_score, "__defaults__", (FAST,))
    return config_of(digits, tmp_path / "outputs")


def folder(config: Config) -> Path:
    return config.outputs / "digits"


def record_of(config: Config) -> dict[str, Any]:
    return dict(read_json(folder(config) / "submissions" / "20260101T000000-small.json"))


def test_a_submission_arrives_byte_for_byte_with_its_message_and_its_score_is_in_the_ledger(kaggle: Kaggle, config: Config, digits: Path) -> None:
    message = 'it\'s "best" of $HOME; `x` ünï --quiet'
    sent = upload(config, "digit-recognizer", message)
    [one] = kaggle.submissions
    assert (one["bytes"], one["description"], one["competition"]) == ((digits / "solution.csv").read_bytes(), message, "digit-recognizer")
    assert (sent.reference, sent.file) == (7001, "20260101T000000-small.csv")
    scored = wait(config, "digit-recognizer")
    [noted] = read_ledger(Workspace(folder(config)))
    assert (noted.submission, noted.public, noted.private) == (sent.file, 0.975, None)
    assert record_of(config)["reference"] == 7001
    assert describe(scored)[-1] == "leaderboard public 0.975"


@pytest.mark.slow
def test_the_same_bytes_are_sent_once_and_other_bytes_or_force_send_anew(kaggle: Kaggle, config: Config, digits: Path) -> None:
    work = Workspace(folder(config))
    upload(config, "digits")
    assert upload(config, "digits").reference == 7001
    write_submission(work, digits, "20260102T000000", "solution.csv")
    assert upload(config, "digits").file == "20260101T000000-small.csv"
    assert len(kaggle.submissions) == 1
    assert upload(config, "digits", anew=True).file == "20260102T000000-small.csv"
    write_submission(work, digits, "20260103T000000", "sample_submission.csv")
    assert upload(config, "digits").file == "20260103T000000-small.csv"
    assert [one["fileName"][:8] for one in kaggle.submissions] == ["20260103", "20260102", "20260101"]


@pytest.mark.slow
def test_a_score_that_comes_late_is_found_by_the_same_command_and_nothing_is_sent_twice(kaggle: Kaggle, config: Config) -> None:
    kaggle.scores_after = 10**6
    upload(config, "digits")
    pending = wait(config, "digits", 0.02)
    assert pending.status == "pending"
    assert "no score yet" in describe(pending)[-1]
    assert read_ledger(Workspace(folder(config))) == []
    kaggle.scores_after, kaggle.verdict = 0, {"status": "COMPLETE", "publicScore": "0.9", "privateScore": "0.89"}
    upload(config, "digits")
    [noted] = read_ledger(Workspace(folder(config)))
    assert (noted.public, noted.private, len(kaggle.submissions)) == (0.9, 0.89, 1)


@pytest.mark.slow
def test_waiting_outlives_looks_that_fail_and_ends_with_the_score(kaggle: Kaggle, config: Config) -> None:
    kaggle.scores_after = 10**6
    upload(config, "digits")
    kaggle.scores_after = 0
    kaggle.refuse, kaggle.refusals = {"ListSubmissions": (503, "", {})}, {"ListSubmissions": way.PATIENCE - 1}
    assert wait(config, "digits").public == 0.975
    assert kaggle.refusals == {"ListSubmissions": -1}


def test_an_upload_that_was_cut_off_after_it_arrived_is_found_again_and_its_message_is_name_and_cv(kaggle: Kaggle, config: Config) -> None:
    kaggle.lose_answer = {"CreateSubmission"}
    with pytest.raises(UserError, match=r"small.csv is kept"):
        upload(config, "digits")
    assert record_of(config)["status"] == "sending"
    kaggle.lose_answer = set()
    assert upload(config, "digits").reference == 7001
    assert [one["description"] for one in kaggle.submissions] == ["small: CV accuracy 0.9712"]


@pytest.mark.slow
def test_an_upload_that_did_not_arrive_is_sent_by_the_same_command(kaggle: Kaggle, config: Config) -> None:
    kaggle.refuse = {"CreateSubmission": (500, "", {})}
    with pytest.raises(UserError, match="Kaggle's own trouble"):
        upload(config, "digits")
    with pytest.raises(UserError, match="was cut off, and Kaggle does not list it; --upload sends it again"):
        wait(config, "digits", 0.005)
    kaggle.refuse = {}
    assert upload(config, "digits").reference == 7001


def test_a_submission_that_kaggle_cannot_score_is_one_line_and_noted_beside_what_was_noted(kaggle: Kaggle, config: Config) -> None:
    kaggle.scores_after = 1
    kaggle.verdict = {"status": "ERROR", "errorDescription": "Unable to find 360 required\nkey \x1b[31mvalues"}
    upload(config, "digits")
    note_score(Workspace(folder(config)), "latest", note="my best")
    for _ in range(2):
        with pytest.raises(UserError, match=r"could not score it: .*submissions, and mend that or send it anew") as caught:
            wait(config, "digits")
        assert str(caught.value).isprintable()
    [noted] = read_ledger(Workspace(folder(config)))
    assert noted.note.startswith("my best; Kaggle could not score it: ")
    assert noted.note.count("could not") == 1
    assert noted.public is None


@pytest.mark.slow
def test_what_was_sent_a_moment_ago_is_looked_for_a_few_times_whatever_is_forced(kaggle: Kaggle, config: Config, digits: Path) -> None:
    kaggle.lose_answer = {"CreateSubmission"}
    with pytest.raises(UserError, match=r"is kept"):
        upload(config, "digits")
    kaggle.lose_answer = set()
    kaggle.refuse, kaggle.refusals = {"ListSubmissions": (200, {"submissions": []}, {})}, {"ListSubmissions": way.PATIENCE - 1}
    write_submission(Workspace(folder(config)), digits, "20260102T000000", "solution.csv")
    assert upload(config, "digits", anew=True).reference == 7001
    assert len(kaggle.submissions) == 1


@pytest.mark.slow
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_client_that_outlives_its_run_is_waited_for_and_nothing_is_sent_twice(
    kaggle: Kaggle, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_number: int
) -> None:
    monkeypatch.setattr(stage, "JUST_NOW", 0.0)  # the lock alone must do
    kaggle.delay = {"CreateSubmission": 3.0}
    (tmp_path / "small.yaml").write_text(write_config(config))
    code = "import sys; from pipeline.cli import load_configs; from pipeline.stages.upload import upload; upload(load_configs(sys.argv[1:])[0], 'digits')"
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path / "small.yaml"], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 30
    while "CreateSubmission" not in kaggle.requests:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(signal_number)
    assert process.wait(10) == -signal_number
    assert upload(config, "digits").reference == 7001
    assert len(kaggle.submissions) == 1


def test_a_score_is_known_although_the_ledger_is_damaged(kaggle: Kaggle, config: Config, caplog: pytest.LogCaptureFixture) -> None:
    work = Workspace(folder(config))
    work.ledger.write_text("no,ledger\n")
    upload(config, "digits")
    assert wait(config, "digits").public == 0.975
    assert "the score is not in" in caplog.text
    assert work.ledger.read_text() == "no,ledger\n"


@pytest.mark.slow
def test_the_private_score_of_a_scored_submission_is_looked_for_and_a_look_may_fail(kaggle: Kaggle, config: Config) -> None:
    upload(config, "digits")
    assert wait(config, "digits").private is None
    kaggle.refuse = {"ListSubmissions": (503, "", {})}
    assert upload(config, "digits").public == wait(config, "digits").public == 0.975
    kaggle.refuse, kaggle.verdict = {}, {"status": "COMPLETE", "publicScore": "0.975", "privateScore": "0.96"}
    assert upload(config, "digits").private == 0.96
    [noted] = read_ledger(Workspace(folder(config)))
    assert (noted.public, noted.private) == (0.975, 0.96)


def test_what_would_stop_an_upload_is_said_before_the_first_stage(kaggle: Kaggle, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def line(message: str | None = None, minutes: float | None = None, send_it: bool = True) -> str:
        with pytest.raises(UserError) as caught:
            stage.require_ready(config, send_it, message, minutes)
        return str(caught.value)

    assert "--wait takes a number of minutes" in line(minutes=float("nan"))
    assert "--message goes with --upload" in line("x", send_it=False)
    assert "--message is no UTF-8" in line("caf\udce9")
    assert kaggle.requests == []
    kaggle.refuse = {"ListSubmissions": (403, "", {})}
    assert re.search(r"join and accept.*write competition\.slug=NAME", line())
    kaggle.refuse = {"ListSubmissions": (503, "", {})}
    stage.require_ready(config, True, "ü", 1.0)
    monkeypatch.setattr(client.sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "the kaggle client is not installed" in line()


@pytest.mark.parametrize(("word", "sent"), [("", False), ("0", False), ("no", False), ("false", False), ("1", True), ("yes", True)])
def test_make_uploads_only_where_it_is_asked_to(word: str, sent: bool) -> None:
    done = subprocess.run(["make", "-n", "-C", ROOT, "submit", f"UPLOAD={word}"], text=True, capture_output=True, check=True)
    assert ("--upload" in done.stdout) == sent


REFUSALS: dict[str, tuple[str, tuple[int, Any, dict[str, str]], str]] = {
    "401": ("StartSubmissionUpload", (401, {"code": 401, "message": "{authorization}"}, {}), "settings/api and save it in ~/.kaggle/access_token"),
    "403": ("StartSubmissionUpload", (403, "", {}), "competitions/digits/rules while logged in, join and accept"),
    "403 in words": ("StartSubmissionUpload", (403, {"code": 403, "message": "You must accept this competition's rules. {authorization}"}, {}), "digits/rules"),
    "404": ("StartSubmissionUpload", (404, "", {}), "no competition digits, .* write competition.slug=NAME"),
    "404 in words": ("StartSubmissionUpload", (404, {"code": 404, "message": "Not found"}, {}), "competition.slug=NAME"),
    "the limit of the day": (
        "StartSubmissionUpload",
        (400, {"code": 400, "message": "Your team has used its allowance (5)\x1b[2J today"}, {}),
        r"\(5\).*today",
    ),
    "400 without words": ("CreateSubmission", (400, "", {}), "competitions/digits: its deadline"),
    "429": ("StartSubmissionUpload", (429, "", {"Retry-After": "0"}), "wait some minutes"),
    "500": ("StartSubmissionUpload", (500, "", {}), "Kaggle's own trouble: try again later"),
    "503 on logging in": ("IntrospectToken", (503, "{authorization}", {}), "Kaggle's own trouble"),
    "a page to log in": ("StartSubmissionUpload", (200, "<html>", {}), "what answered is not Kaggle"),
    "a file not taken": ("upload", (403, "{authorization}", {}), "did not take the file"),
    "an unknown token": ("IntrospectToken", (404, "{authorization}", {}), "settings/api"),
}


FREQUENT = ("403 in words", "the limit of the day", "a file not taken")


@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case in FREQUENT else pytest.mark.slow) for case in REFUSALS])
def test_every_refusal_is_one_line_that_says_what_to_do_and_names_the_kept_file(
    kaggle: Kaggle, config: Config, case: str, capsys: pytest.CaptureFixture[str]
) -> None:
    name, answer, mend = REFUSALS[case]
    kaggle.refuse = {name: answer}
    with pytest.raises(UserError, match=mend) as caught:
        upload(config, "digits")
    line = str(caught.value)
    assert line.isprintable()
    assert len(line) < 600
    assert line.endswith(f"({folder(config)}/submissions/20260101T000000-small.csv is kept)")
    assert (folder(config) / "submissions" / "20260101T000000-small.csv").exists()
    assert "secret" not in line + capsys.readouterr().err


def test_without_credentials_client_network_or_proxy_there_is_one_line_each(kaggle: Kaggle, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def line() -> str:
        with pytest.raises(UserError) as caught:
            upload(config, "digits")
        return str(caught.value)

    monkeypatch.delenv("KAGGLE_API_TOKEN")
    assert "settings/api" in line()
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://somebody:pass-secret@127.0.0.1:9")
    assert "the proxy refused the way" in line()
    monkeypatch.setattr(client.sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    assert "the kaggle client is not installed; write /nowhere/python -m pip install kaggle six" in line()


def answer(code: int = 1, output: str = "", errors: str = "") -> client.Answer:
    return client.Answer(code, output, errors)


@pytest.mark.parametrize(
    ("given", "mend"),
    [
        (answer(errors="HTTPSConnectionPool(host='h'): ... (Caused by NameResolutionError(\"Failed to resolve 'h'\"))"), "no network"),
        (answer(errors="(Caused by SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))"), "REQUESTS_CA_BUNDLE"),
        (answer(errors="HTTPConnectionPool(host='h', port=80): Read timed out."), "too slow"),
        (answer(errors="('Connection aborted.', ConnectionResetError(104, 'Connection reset by peer'))"), "broke off"),
        (answer(errors="Traceback (most recent call last):\n  x\nModuleNotFoundError: No module named 'six'"), "pip install kaggle six --upgrade"),
        (answer(2, errors="usage: kaggle\nkaggle: error: unrecognized arguments: --page-size=100"), "of an older kind"),
        (answer(errors="OSError: [Errno 28] No space left on device"), "disk is full"),
        (answer(-9), "ended with code -9"),
        (
            answer(errors="400 Client Error: x\nThis competition only accepts Submissions from Notebooks."),
            "kaggle_kernel.py CONFIG --push, and choose Submit to",
        ),
        (answer(errors="Column 'id' not found in the file"), "^Kaggle says: Column 'id' not found in the file$"),
    ],
)
def test_what_the_client_says_becomes_what_to_do(given: client.Answer, mend: str) -> None:
    assert re.search(mend, client.explain(given, client.competition_advice("digits")))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["KAGGLE_API_TOKEN", "a token in a file", "kaggle.json"])
def test_no_credential_signature_or_header_reaches_a_line_a_log_or_a_file(
    kaggle: Kaggle,
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    home = tmp_path / "home" / ".kaggle"
    home.mkdir()
    if kind != "KAGGLE_API_TOKEN":
        monkeypatch.delenv("KAGGLE_API_TOKEN")
        name, text = ("access_token", TOKEN) if kind == "a token in a file" else ("kaggle.json", json.dumps({"username": "somebody", "key": KEY}))
        (home / name).write_text(text)
    monkeypatch.setenv("VERBOSE", "1")  # at which the client prints its headers
    start_logging()
    said = []
    own = KEY if kind == "kaggle.json" else TOKEN
    echo = f"no: {{authorization}}, {own} at https://somebody:{own}@host/x?token={SIGNATURE}"
    for name in ("StartSubmissionUpload", "upload", "CreateSubmission", "ListSubmissions"):
        for status in (400, 403):
            kaggle.refuse = {name: (status, {"code": status, "message": echo}, {})}
            with pytest.raises(UserError) as caught:
                upload(config, "digits")
            said.append(str(caught.value))
    kaggle.refuse = {}
    kaggle.scores_after, kaggle.verdict = 1, {"status": "ERROR", "errorDescription": echo}
    upload(config, "digits")
    with pytest.raises(UserError):
        wait(config, "digits")
    [noted] = read_ledger(Workspace(folder(config)))
    assert "could not score it" in noted.note
    files = [path for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    everything = "\n".join([*said, *capfd.readouterr(), *(path.read_text(errors="replace") for path in files)])
    assert any(header for header in kaggle.headers)
    assert "sending 2026" in everything
    assert said[0].startswith("upload: Kaggle says: no: ")
    for secret in (TOKEN, KEY, SIGNATURE, base64.b64encode(f"somebody:{KEY}".encode()).decode()):
        assert secret not in everything


def test_a_file_that_kaggle_would_refuse_is_not_sent(kaggle: Kaggle, config: Config, digits: Path) -> None:
    work = Workspace(folder(config))
    kept = work.kept_submission("20260101T000000", "small")
    lines = kept.read_text().splitlines()
    kept.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match=r"was changed; --force submit writes it again"):
        upload(config, "digits")
    manifest = Manifest.read(work.submission_manifest)
    assert manifest is not None
    Manifest("submit", 1, "f", {}, {}, digest_file(kept), manifest.record).write(work.submission_manifest)
    with pytest.raises(UserError, match=r"not sent, since Kaggle would refuse it .*1 id of the sample is missing"):
        upload(config, "digits")
    assert kaggle.requests == []


def test_a_client_that_hangs_is_ended_with_all_that_it_started(kaggle: Kaggle, config: Config) -> None:
    kaggle.delay = {"ListSubmissions": 30}
    started = time.monotonic()
    with pytest.raises(UserError, match="did not answer within 1 seconds"):
        way.list_submissions("digits", limit=1.0)
    assert time.monotonic() - started < 5


@pytest.mark.slow
def test_an_interrupted_wait_leaves_the_upload_and_says_how_to_look_later(kaggle: Kaggle, config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    kaggle.scores_after = 10**6
    upload(config, "digits")
    threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    assert exit_code(lambda: wait(config, "digits") and 0) == 130
    assert "reference 7001 stays on Kaggle; --wait looks for its score again" in capsys.readouterr().err
    kaggle.scores_after = 0
    assert wait(config, "digits").public == 0.975


def script(name: str) -> Any:
    specification = importlib.util.spec_from_file_location(f"{name}_script", ROOT / "scripts" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_an_older_submission_is_sent_by_its_name_without_any_stage(
    kaggle: Kaggle, config: Config, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "small.yaml").write_text(write_config(config))
    write_submission(Workspace(folder(config)), digits, "20260102T000000", "sample_submission.csv")
    main = script("submit").main
    (tmp_path / "other.csv").write_text("id\n")
    assert main([str(tmp_path / "small.yaml"), "--upload", str(tmp_path / "other.csv")]) == 2
    assert "is no file in" in capsys.readouterr().err
    assert main(["--upload", "20260101T000000-small.csv", str(tmp_path / "small.yaml"), "--wait"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "leaderboard public 0.975"
    [one] = kaggle.submissions
    assert one["bytes"] == (digits / "solution.csv").read_bytes()
    assert not (folder(config) / "small").exists()


@pytest.mark.slow
def test_the_command_trains_writes_sends_and_waits_and_a_second_one_sends_nothing(
    kaggle: Kaggle, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way.wait_for_score, "__defaults__", (FAST,))
    path = tmp_path / "small.yaml"
    settings = small_settings(digits, tmp_path / "outputs")
    settings["competition"]["slug"] = "digit-recognizer"
    path.write_text(write_config(Config.model_validate(settings)))
    main = script("submit").main
    assert main([str(path), "--message", "x"]) == 2
    assert "--message goes with --upload" in capsys.readouterr().err
    kaggle.scores_after = 2
    assert main([str(path), "--upload", "--message", "a b", "--wait", "1"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "leaderboard public 0.975"
    assert main(["--upload", str(path)]) == 0
    assert main([str(path), "--wait"]) == 0
    assert [one["competition"] for one in kaggle.submissions] == ["digit-recognizer"]
    kaggle.refuse = {"StartSubmissionUpload": (403, "", {})}
    assert main([str(path), "--upload", "--force", "submit"]) == 2
    done = capsys.readouterr()
    assert "is kept)" in done.err
    assert "submission  " in done.out
    kaggle.refuse = {}

    def failing(experiments: Any, folder: Path, force: bool) -> Path:
        write_submission(Workspace(tmp_path / "outputs" / "digits"), digits, "20990101T000000", "solution.csv")  # another run's
        raise UserError("no report today")

    monkeypatch.setattr("pipeline.stages.report.report", failing)
    assert main([str(path), "--upload", "--force", "submit"]) == 2
    assert "no report today" in capsys.readouterr().err
    assert [one["fileName"].startswith("2099") for one in kaggle.submissions] == [False, False]
