"""The ready configs against miniatures of their competitions, and what new_competition.py makes of the same folders unaided."""

import importlib.util
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from miniatures import MINIATURES

from pipeline.cli import run_script, submit_all
from pipeline.config import Config
from pipeline.config_files import load_config
from pipeline.stages.prepare import Prepared, prepare

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"
BUILT_BY_HAND = {"base", "digits", "trash"}
NAMES = list(MINIATURES)
TINY = ["images.size=32", "images.cache_size=32", "images.preprocess=[]", "images.fit=stretch", "augment.train=[]", "folds.n_splits=2", "train.epochs=1"]
TINY += ["schedule.warmup=0", "train.batch_size=16", "train.ema=null", "model.backbone=test_resnet", "model.weights=null", "optimizer.layer_decay=null"]
TINY += ["predict.tta=none", "runtime.device=cpu", "runtime.workers=0", "runtime.threads=1", "runtime.jobs_per_device=1"]


@pytest.fixture(scope="session")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a miniature, built once; read it, do not write to it."""
    built: dict[str, Path] = {}

    def build(name: str) -> Path:
        if name not in built:
            built[name] = tmp_path_factory.mktemp("input") / name
            MINIATURES[name](built[name])
        return built[name]

    return build


@pytest.fixture(scope="session")
def written(miniature: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The config that new_competition.py writes for a miniature."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "base.yaml").write_text((CONFIGS / "base.yaml").read_text())

    def write(name: str) -> Path:
        output = folder / f"{name}.yaml"
        if not output.exists():
            assert new_competition()([str(miniature(name)), "--output", str(output)]) == 0
        return output

    return write


def new_competition() -> Callable[[list[str]], int]:
    """The main function of scripts/new_competition.py."""
    if "new_competition" not in sys.modules:
        spec = importlib.util.spec_from_file_location("new_competition", ROOT / "scripts" / "new_competition.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules["new_competition"] = module
    main: Callable[[list[str]], int] = sys.modules["new_competition"].main
    return main


def tiny(path: Path, root: Path, outputs: Path) -> list[str]:
    return [str(path), f"competition.root={root}", f"outputs={outputs}", *TINY]


def prepared(path: Path, root: Path, outputs: Path) -> tuple[Config, Prepared]:
    config = load_config(path, tiny(path, root, outputs)[1:])
    return config, prepare(config)


def content(ready: Prepared) -> dict[str, Any]:
    """What a competition's reading comes to, whatever words the config used for it."""
    rows = ready.rows.sort_values(["split", "path"])
    return {
        "pictures": rows[["split", "path"]].values.tolist(),
        "targets": rows["target"].tolist(),
        "test ids": ready.sample.iloc[:, 0].tolist(),
        "classes": sorted(ready.classes),
        "last class": ready.classes[-1] if ready.target.task == "binary" else "",
        "task": ready.target.task,
        "form": ready.form,
    }


def test_every_ready_config_has_a_miniature() -> None:
    assert {path.stem for path in CONFIGS.glob("*.yaml")} >= set(NAMES)
    assert len(NAMES) == 14


@pytest.mark.parametrize("name", NAMES)
def test_a_ready_config_says_what_it_is_and_never_an_unmeasured_score(name: str) -> None:
    head = (CONFIGS / f"{name}.yaml").read_text().partition("_base_")[0]
    assert f"configs/{name}.yaml: " in head
    assert f"make submit CONFIG=configs/{name}.yaml" in head
    assert "not run here at full size" in head
    assert "CV" not in head


@pytest.mark.parametrize("name", NAMES)
def test_a_ready_config_passes_the_data_stages_on_its_miniature(name: str, miniature: Callable[[str], Path], tmp_path: Path) -> None:
    config, ready = prepared(CONFIGS / f"{name}.yaml", miniature(name), tmp_path)
    assert (ready.rows["problem"] == "").all()
    assert set(ready.folds["fold"]) == {0, 1}
    assert len(ready.folds) > 35
    sample = config.competition.sample_submission
    assert sample is not None
    assert ready.ids("test") == pd.read_csv(miniature(name) / sample, dtype=str).iloc[:, 0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_seen_for_the_first_time_is_read_as_its_ready_config_reads_it(
    name: str, miniature: Callable[[str], Path], written: Callable[[str], Path], tmp_path: Path
) -> None:
    _, known = prepared(CONFIGS / f"{name}.yaml", miniature(name), tmp_path / "known")
    config, found = prepared(written(name), miniature(name), tmp_path / "found")
    assert content(found) == content(known)
    expected = load_config(CONFIGS / f"{name}.yaml")
    assert config.competition.task == expected.competition.task
    assert config.competition.target == expected.competition.target
    assert config.folds.group == expected.folds.group
    assert config.submission.k == expected.submission.k or found.form != "top_k"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_of_a_written_config_builds_and_says_the_metric_is_a_guess(name: str, written: Callable[[str], Path]) -> None:
    from pipeline.augment.transforms import Transforms

    config = load_config(written(name))
    Transforms(config.augment.train).check([(40, 60), config.images.shape])
    assert "a guess from task and sample" in written(name).read_text()


def test_patients_of_the_melanoma_miniature_stay_in_one_fold(miniature: Callable[[str], Path], tmp_path: Path) -> None:
    _, ready = prepared(CONFIGS / "siim-isic-melanoma.yaml", miniature("siim-isic-melanoma"), tmp_path)
    table = pd.read_csv(miniature("siim-isic-melanoma") / "train.csv", dtype=str).set_index("image_name")
    patients = table.loc[ready.folds["id"], "patient_id"].to_numpy()
    assert (ready.folds.groupby(patients)["fold"].nunique() == 1).all()


def check_submission(path: Path, sample_path: Path) -> None:
    sample = pd.read_csv(sample_path, dtype=str)
    made = pd.read_csv(path, dtype=str)
    assert list(made.columns) == list(sample.columns)
    assert made.iloc[:, 0].tolist() == sample.iloc[:, 0].tolist()
    assert not made.isna().any().any()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_of_a_ready_config_ends_in_a_submission_of_the_samples_shape(name: str, miniature: Callable[[str], Path], tmp_path: Path) -> None:
    root = miniature(name)
    assert run_script("", submit_all, tiny(CONFIGS / f"{name}.yaml", root, tmp_path)) == 0
    check_submission(tmp_path / name / "submission.csv", root / "sample_submission.csv")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_of_a_written_config_ends_in_a_submission_of_the_samples_shape(
    name: str, miniature: Callable[[str], Path], written: Callable[[str], Path], tmp_path: Path
) -> None:
    root = miniature(name)
    assert run_script("", submit_all, tiny(written(name), root, tmp_path)) == 0
    check_submission(tmp_path / name / "submission.csv", root / "sample_submission.csv")


@pytest.mark.slow
def test_the_command_printed_for_a_hidden_test_set_ends_in_a_submission(
    miniature: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "hidden"
    shutil.copytree(miniature("cassava"), root)
    shutil.rmtree(root / "test_images")
    output = tmp_path / "hidden.yaml"
    assert new_competition()([str(root), "--output", str(output)]) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:3] == ["make", "submit", f"CONFIG={output}"]
    arguments = [*tiny(output, root, tmp_path / "outputs"), "competition.name=hidden"]
    assert run_script("", submit_all, arguments) == 2
    assert run_script("", submit_all, [*arguments, words[3].removeprefix("ARGS=")]) == 0
    check_submission(tmp_path / "outputs" / "hidden" / "submission.csv", root / "sample_submission.csv")
