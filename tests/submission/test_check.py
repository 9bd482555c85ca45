"""scripts/submit.py --check on files of any kind: exit codes, one line each, never a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config import Config
from pipeline.stages.check import check

ROOT = Path(__file__).parents[2]
SAMPLE = "image,label\n007,cat\n008,cat\n"


def script(*words: object) -> tuple[int, list[str], list[str]]:
    """Exit code, lines on standard output, lines on standard error."""
    done = subprocess.run([sys.executable, ROOT / "scripts" / "submit.py", *map(str, words)], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout.splitlines(), done.stderr.splitlines()


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "sample.csv"
    path.write_text(SAMPLE)
    return path


def test_a_file_is_accepted_with_0_and_refused_with_2(sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("image,label\n007,dog\n008,cat\n")
    assert script("--check", path, "--sample", sample) == (0, ["accepted: 2 rows, 2 columns, 28 B"], [])
    path.write_text("image,label\n7,dog\n008,cat\n")
    code, lines, errors = script("--check", path, "--sample", sample)
    assert (code, errors, len(lines), lines[-1]) == (2, [], 2, "refused: 1 error")
    assert lines[0].startswith('error: row 2, column A (image): 1 id with lost leading zeros: "7" where the sample has "007"; read that column as text')


def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, list[str], list[str]]:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import submit

    code = submit.main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out.splitlines(), printed.err.splitlines()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such file"),
        (b"", "is empty, 0 bytes"),
        (b" \n\n", "holds nothing but spaces"),
        (b"PK\x03\x04....", "is a zip archive, as .xlsx is one; save the table as CSV"),
        (bytes(range(256)) * 9, "is no text"),
    ],
)
def test_what_is_no_table_is_one_line_and_2(
    content: bytes | None, said: str, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine\n.csv"
    if content is not None:
        path.write_bytes(content)
    code, lines, errors = in_process(monkeypatch, capsys, "--check", path, "--sample", sample)
    assert (code, lines, len(errors)) == (2, [], 1)
    assert said in errors[0]
    code, lines, errors = in_process(monkeypatch, capsys, "--check", sample, "--sample", path)
    assert (code, lines, len(errors)) == (2, [], 1)
    assert errors[0].startswith("error: ")


def test_a_folder_a_missing_sample_and_a_lonely_override_are_one_line_and_2(
    sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for words, said in [
        (("--check", tmp_path, "--sample", sample), "is a folder"),
        (("--check", sample, "--sample", tmp_path), "not a readable CSV"),
        (("--check", sample), "wants the competition's sample submission, --sample PATH, or a CONFIG"),
        (("--check", sample, "train.epochs=3"), "name the config"),
        (("--check", sample, "nowhere.yaml"), "no such config"),
    ]:
        code, lines, errors = in_process(monkeypatch, capsys, *words)
        assert (code, lines, len(errors)) == (2, [], 1)
        assert said in errors[0]


def test_help_shows_both_ways(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["--help"], ["--check", "mine.csv", "--help"]):
        with pytest.raises(SystemExit):
            in_process(monkeypatch, capsys, *words)
        printed = capsys.readouterr().out
        assert "configs/digits.yaml [CONFIG ...] [key=value ...] [--force STAGE]" in printed
        assert "--check FILE --sample SAMPLE" in printed


def test_a_config_knows_the_sample_and_the_labels_and_nothing_is_trained(digits: Path, small: Config, tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    lines = (digits / "sample_submission.csv").read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace(",0", ",12"), *lines[2:]]) + "\n")
    diagnosis = check(path, None, small)
    assert [(finding.level, finding.where) for finding in diagnosis.findings] == [("error", "row 2, column B (label)")]
    assert '"12" is no label of the train table' in diagnosis.findings[0].what
    index = tmp_path / "outputs" / "digits" / "prepared" / "index.parquet"
    before = index.stat().st_mtime_ns
    other = tmp_path / "sample.csv"
    other.write_text("\n".join(lines[:3]) + "\n")
    diagnosis = check(path, other, small)
    assert diagnosis.findings[0].what.startswith(f"{len(lines) - 3} ids are not in the sample")
    assert index.stat().st_mtime_ns == before
    assert not list((tmp_path / "outputs").rglob("last.pt"))


def test_a_config_says_whether_the_metric_minds_the_scale(digits: Path, small: Config, tmp_path: Path) -> None:
    ids = [line.split(",")[0] for line in (digits / "sample_submission.csv").read_text().splitlines()[1:]]
    sample, path = tmp_path / "sample.csv", tmp_path / "ranks.csv"
    header = "id, " + ", ".join("0123456789") + "\n"
    sample.write_text(header + "".join(f"{name}{',0.1' * 10}\n" for name in ids))
    path.write_text(header + "".join(f"{name}{f',{number}' * 10}\n" for number, name in enumerate(ids)))
    for metric, levels in (("roc_auc", {"note"}), ("log_loss", {"error"})):
        config = small.model_copy(update={"competition": small.competition.model_copy(update={"metric": metric})})
        assert {finding.level for finding in check(path, sample, config).findings} == levels
