"""A kernel on its way to Kaggle: the real client, a server on this machine that keeps datasets and notebooks as Kaggle does."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import small_settings
from loopback import TOKEN, Kaggle, loopback_kaggle  # noqa: F401

from pipeline.config import Config
from pipeline.errors import UserError
from pipeline.kaggle import push as way
from pipeline.kaggle.client import LOGIN
from pipeline.kaggle.push import find_owner, push
from pipeline.stages.kernel import Kernel, send, write_training_kernel

PAUSE = 0.05
NAME = "somebody/podium-digits-training"


class Datasets:
    """What the server keeps beside submissions; its methods become the server's."""

    def __init__(self, kaggle: Kaggle) -> None:
        self.kaggle = kaggle
        self.versions: dict[str, list[dict[str, bytes]]] = {}
        self.told: dict[str, Any] = {}
        self.kernels: list[dict[str, Any]] = []
        self.looks_until_ready = 2
        self.looks = 0
        self.result: dict[str, Any] = {}
        self.said: dict[str, Any] = {}
        for name in ("StartBlobUpload", "GetDatasetStatus", "GetDataset", "CreateDataset", "CreateDatasetVersion", "SaveKernel"):
            setattr(kaggle, name, getattr(self, name))

    def StartBlobUpload(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        token = f"blob-{len(self.kaggle.uploaded)}-{body['name']}"
        self.kaggle.uploaded[token] = b""
        return {"token": token, "createUrl": f"http://localhost/upload/{token}"}

    def GetDatasetStatus(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        self.looks += 1
        of_old_one = len(self.versions[f"{body['ownerSlug']}/{body['datasetSlug']}"]) > 1
        return {"status": "READY" if of_old_one or self.looks > self.looks_until_ready else "BLOBS_RECEIVED"}

    def GetDataset(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        count = len(self.versions[f"{body['ownerSlug']}/{body['datasetSlug']}"])
        return {"currentVersionNumber": count if count == 1 or self.looks > self.looks_until_ready else count - 1}

    def _keep(self, name: str, files: list[dict[str, Any]], body: dict[str, Any]) -> dict[str, Any]:
        if self.result.get("status") != "error":
            self.versions.setdefault(name, []).append({one["token"].split("-", 2)[2]: self.kaggle.uploaded[one["token"]] for one in files})
            self.told, self.looks = body, 0
            self.kaggle.refuse.pop("GetDatasetStatus", None)
        return {"status": "ok", "url": f"https://www.kaggle.com/datasets/{name}", **self.result}

    def CreateDataset(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return self._keep(f"{body['ownerSlug']}/{body['slug']}", body.get("files", []), body)

    def CreateDatasetVersion(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        return self._keep(f"{body['ownerSlug']}/{body['datasetSlug']}", body["body"].get("files", []), body)

    def SaveKernel(self, body: dict[str, Any]) -> dict[str, Any]:  # noqa: N802
        assert self.looks > self.looks_until_ready, "the dataset was not ready"
        self.kernels.append(body)
        return {"url": f"https://www.kaggle.com/code/{body['slug']}", "versionNumber": len(self.kernels), **self.said}


@pytest.fixture
def datasets(kaggle: Kaggle) -> Datasets:
    """A server without datasets, which says of one that is not there that it may not be seen."""
    kaggle.refuse["GetDatasetStatus"] = (403, {"code": 403, "message": "Permission 'datasets.get' was denied"}, {})
    return Datasets(kaggle)


@pytest.fixture
def kernel(digits: Path, tmp_path: Path) -> Kernel:
    return write_training_kernel([Config.model_validate(small_settings(digits, tmp_path / "outputs"))])


def test_a_new_dataset_and_its_notebook_arrive_as_they_are_and_what_is_kept_names_nobody(datasets: Datasets, kernel: Kernel) -> None:
    pushed = push(kernel.dataset, kernel.notebook, pause=PAUSE)
    assert (pushed.dataset, pushed.kernel) == (NAME, f"https://www.kaggle.com/code/{NAME}")
    [files] = datasets.versions[NAME]
    assert files == {path.name: path.read_bytes() for path in kernel.dataset.iterdir() if path.name != "dataset-metadata.json"}
    assert datasets.told["isPrivate"]
    [told] = datasets.kernels
    assert (told["enableInternet"], told["enableGpu"], told["isPrivate"], told["machineShape"]) == (False, True, True, "NvidiaTeslaT4")
    assert (told["datasetDataSources"], told["competitionDataSources"]) == ([NAME], ["digits"])
    sent = json.loads(told["text"])["cells"]
    kept = json.loads((kernel.notebook / "notebook.ipynb").read_text())["cells"]
    assert [cell["source"] for cell in sent] == ["".join(cell["source"]) for cell in kept]
    for path in (*kernel.dataset.iterdir(), *kernel.notebook.iterdir()):
        assert b"somebody" not in path.read_bytes()


@pytest.mark.slow
def test_pushed_again_the_dataset_gets_a_version_and_the_notebook_waits_for_that_one(datasets: Datasets, kernel: Kernel) -> None:
    push(kernel.dataset, kernel.notebook, pause=PAUSE)
    (kernel.dataset / "small.yaml").write_text("experiment: changed\n")
    push(kernel.dataset, kernel.notebook, pause=PAUSE)
    assert [files["small.yaml"][:20] for files in datasets.versions[NAME]] == [b"experiment: small\nou", b"experiment: changed\n"]
    assert len(datasets.kernels) == 2


def test_without_credentials_or_with_wrong_ones_one_line_says_where_to_get_them(kaggle: Kaggle, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_owner() == "somebody"
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_wrong_0123456789")
    with pytest.raises(UserError) as raised:
        find_owner()
    assert str(raised.value) == LOGIN


REFUSALS = {
    "a dataset that Kaggle does not take": ({"result": {"status": "error", "error": "The title is reserved"}}, "The title is reserved"),
    "a notebook that Kaggle does not take": ({"said": {"error": "Maximum batch GPU session count reached"}}, "Maximum batch GPU session count"),
    "a competition that is not joined": ({"said": {"invalidCompetitionSources": ["digits"]}}, r"not digits as its competition; join it at .*/digits/rules"),
    "a dataset that is not an input": ({"said": {"invalidDatasetSources": [NAME]}}, f"not the dataset {NAME} as its input"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", REFUSALS)
def test_what_kaggle_does_not_take_is_one_line_with_what_to_do(case: str, datasets: Datasets, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way, "PAUSE", PAUSE)
    monkeypatch.setattr(push, "__defaults__", (0.5, PAUSE))
    changes, words = REFUSALS[case]
    for name, value in changes.items():
        setattr(datasets, name, value)
    with pytest.raises(UserError, match=words) as raised:
        send(kernel)
    assert "\n" not in str(raised.value)
    assert f"{kernel.folder} is kept" in str(raised.value)
    assert TOKEN not in str(raised.value)


@pytest.mark.slow
def test_a_file_that_does_not_arrive_stops_the_push_though_the_client_makes_the_dataset(datasets: Datasets, kernel: Kernel) -> None:
    datasets.kaggle.refuse["upload"] = (400, "", {})
    with pytest.raises(UserError, match=r"podium\.zip, small\.yaml, training\.json did not arrive"):
        push(kernel.dataset, kernel.notebook, pause=PAUSE)
    assert not datasets.kernels


@pytest.mark.slow
def test_a_dataset_that_is_never_ready_ends_the_wait_with_its_page(datasets: Datasets, kernel: Kernel) -> None:
    datasets.looks_until_ready = 10**6
    started = time.monotonic()
    with pytest.raises(UserError, match=f"not ready after 0.02 minutes; look at https://www.kaggle.com/datasets/{NAME}"):
        push(kernel.dataset, kernel.notebook, minutes=0.02, pause=PAUSE)
    assert time.monotonic() - started < 60
    assert not datasets.kernels
