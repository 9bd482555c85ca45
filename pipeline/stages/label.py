"""New pictures labelled by a finished run: a folder of them, or the rows of a CSV."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from pipeline.config import Config
from pipeline.data.pictures import Pictures
from pipeline.data.tables import new_rows
from pipeline.data.targets import split_labels
from pipeline.ensembling.schemes import Blend
from pipeline.ensembling.temperature import with_temperature
from pipeline.ensembling.weights import blend
from pipeline.errors import UserError
from pipeline.files import digest, read_json, write_table
from pipeline.runtime import cores, ordered_map
from pipeline.stages.ensemble import decided_target, taking_part
from pipeline.stages.networks import Network
from pipeline.stages.predicted import Predicted
from pipeline.stages.prepare import workspace

log = logging.getLogger(__name__)
Values = npt.NDArray[np.float32]


def label(experiments: Sequence[Predicted], folder: Path, source: Path, output: Path | None = None) -> Path:
    """Writes a CSV with what an ensemble says of new pictures; returns where it is.

    Columns: id, label, the probability of each class (of a regression the number alone), and why a picture could not be read. What
    ranks would merge or blend is averaged instead, so that no label depends on the pictures beside it. source: a folder, looked
    through to the bottom, or a CSV.
    """
    members = taking_part(experiments)
    config, prepared = members[0].config, members[0].prepared
    competition, rows = new_rows(config.competition, source)
    pictures = [Pictures(competition, member.config.images) for member in members]
    problems = list(ordered_map(pictures[0].fault, rows["path"], cores()))
    good = [path for path, problem in zip(rows["path"], problems, strict=True) if not problem]
    if not good:
        raise UserError(f"{source}: none of {len(rows)} pictures can be read, e.g. {rows['path'].iloc[0]}: {problems[0]}")
    values = _blended(members, pictures, good, folder)
    target = decided_target(prepared.target, folder)
    labels = target.labels(values)
    if target.task == "multilabel":
        labels = [config.competition.label_separator.join(split_labels(text)) for text in labels]
    found = pd.DataFrame({"path": good, "label": labels})
    if target.task != "regression":
        found = found.join(pd.DataFrame(values, columns=[f"probability of {name}" for name in target.classes]))
    table = rows.assign(problem=problems).merge(found.drop_duplicates("path"), on="path", how="left")
    columns = ["id", *found.columns[1:], "problem"] if any(problems) else ["id", *found.columns[1:]]
    path = output or workspace(config).labelled(source.resolve().name if source.is_dir() else source.stem)
    names = [name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for name in table["id"]]  # a file's name may be no text
    write_table(path, table.assign(id=names)[columns])
    bad = sum(bool(problem) for problem in problems)
    log.info("label     %s pictures%s -> %s", f"{len(good):,}", f", {bad} could not be read" if bad else "", path)
    return path


def _blended(members: Sequence[Predicted], pictures: Sequence[Pictures], paths: Sequence[str], folder: Path) -> Values:
    """What the ensemble says of pictures [rows, outputs]."""
    weights = read_json(folder / "weights.json")
    assert weights["names"] == [member.config.experiment for member in members]
    groups: dict[str, list[int]] = {}
    for number, member in enumerate(members):
        groups.setdefault(_input(member.config), []).append(number)
    values: dict[int, Values] = {}
    for numbers in groups.values():
        values |= _of_one_input({number: members[number] for number in numbers}, pictures[numbers[0]], paths, weights)
    fitted = Blend.from_json(weights["blend"])
    ranked = any(member.config.predict.merge == "ranks" for member in members)
    if fitted.scheme == "ranks" or (fitted.scheme == "stacked" and ranked):  # ranks would depend on the pictures beside, and are merged as probabilities here
        fitted = Blend.equal(fitted.task, len(members))
    return fitted.apply([values[number] for number in range(len(members))])


def _input(config: Config) -> str:
    return digest([config.images.model_dump(mode="json"), config.predict.batch_size, config.runtime.device])


def _of_one_input(members: dict[int, Predicted], pictures: Pictures, paths: Sequence[str], weights: dict[str, Any]) -> dict[int, Values]:
    """By number of an experiment its predictions; all networks read each picture once."""
    from pipeline.inference.predict import predict_merged
    from pipeline.training.datasets import NewImages

    config = next(iter(members.values())).config
    networks = [(number, Network(member.config, member.prepared, task)) for number, member in members.items() for task in member.predicting]
    merges = {number: "logits" if member.config.predict.merge == "logits" else "probabilities" for number, member in members.items()}  # ranks depend on others
    looking = [network.member(members[number].views, merges[number]) for number, network in networks]  # type: ignore[arg-type]
    found = predict_merged(networks[0][1].reader, looking, NewImages(pictures, paths, config.images), "label")
    result = {}
    for number, member in members.items():
        name, task = member.config.experiment, member.prepared.target.task
        parts, shares = [], []
        for (other, network), part in zip(networks, found, strict=True):
            if other == number:
                temperature = weights["temperatures"][name][network.task.name]
                parts.append(part if temperature == 1 else with_temperature(part, temperature, task))
                shares.append(weights["networks"][name][network.task.name])
        result[number] = blend(parts, np.array(shares))
    return result
