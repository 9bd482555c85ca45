"""The package's own source, and weights for training, as files that Kaggle keeps as they are.

A dataset on Kaggle loses its folders on the way there, and zips may be unpacked where they arrive; the notebook takes either.
"""

import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pipeline
from pipeline.config import Model, call_arguments
from pipeline.errors import UserError
from pipeline.files import atomic, digest, digest_file
from pipeline.runtime import stay_offline_without_network

if TYPE_CHECKING:
    import torch

PACKAGE = "podium.zip"
KEPT = (".py", ".jinja")
"""Endings of the package's files; what else lies there was made by running it."""
LONG_AGO = (1980, 1, 1, 0, 0, 0)


def write_package(folder: Path) -> Path:
    """podium.zip in `folder`, holding pipeline/; the same source gives the same bytes."""
    source = Path(pipeline.__file__).parent
    path = folder / PACKAGE
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file in sorted(source.rglob("*")):
            if file.suffix in KEPT:
                entry = zipfile.ZipInfo(f"pipeline/{file.relative_to(source).as_posix()}", LONG_AGO)
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, file.read_bytes(), zipfile.ZIP_DEFLATED)
    return path


def copy_weights(section: Model, folder: Path) -> str | None:
    """Copies what a network's training starts from into `folder`; the file's name there, None where it starts from nothing.

    Weights of the hub are downloaded, as the network with its arguments has them. UserError where there is no such file, or no way to the hub.
    """
    if section.weights is None:
        return None
    if section.weights == "hub":
        return _save_hub(section, folder)
    path = Path(section.weights)
    if not path.is_file():
        raise UserError(f"model.weights: no such file: {path}; write a path, hub, or null for random weights")
    name = path.name
    if (folder / name).exists() and digest_file(folder / name) != digest_file(path):
        name = f"{digest_file(path)[:8]}-{name}"
    with atomic(folder / name) as temporary:
        shutil.copyfile(path, temporary)
    return name


def _save_hub(section: Model, folder: Path) -> str:
    from safetensors.torch import save_file

    name = f"{section.backbone.replace('/', '-')}-{digest(section.arguments)[:8]}.safetensors"
    if not (folder / name).exists():
        weights = {key: values.detach().clone().contiguous() for key, values in _hub_weights(section).items()}
        with atomic(folder / name) as temporary:
            save_file(weights, temporary)
    return name


def _hub_weights(section: Model) -> "dict[str, torch.Tensor]":
    """By name, with the head that the hub's network has."""
    stay_offline_without_network()
    import timm

    from pipeline.training.models import check_backbone
    from pipeline.training.torchvision_models import PREFIX, hub_weights

    check_backbone(section)
    try:
        if section.backbone.startswith(PREFIX):
            return hub_weights(section.backbone.removeprefix(PREFIX))
        return dict(timm.create_model(section.backbone, pretrained=True, **call_arguments(section.arguments)).state_dict())
    except Exception as error:  # backbones, the hub and the network each raise their own kinds
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model.weights: no pretrained weights of {section.backbone} from the hub ({reason}); write a file's path, or null") from None
