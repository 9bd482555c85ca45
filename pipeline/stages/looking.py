"""What networks say of the rows that they did not see, each picture read once for all that take the same input."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.executor import Task
from pipeline.files import digest
from pipeline.predictions import Predictions
from pipeline.stages.jobs import Job, test_rows
from pipeline.stages.learning import held_out_rows
from pipeline.stages.networks import Network, Piece, cached, manifest_of

MOST_BYTES = 4e9  # of networks that look at a picture together, and of what they say; more take turns
Wanted = tuple[Job, Task, Piece]


def groups_of(wanted: Iterable[Wanted], split: str) -> list[list[Wanted]]:
    """Networks that look at the same pictures in the same form, and fit into memory together."""
    found: dict[str, list[list[Wanted]]] = {}
    for job, task, piece in wanted:
        config, prepared = job.config, job.trained.prepared
        rows = [test_rows(job.trained)] if split == "test" else [prepared.folds_digest, *task.hidden]
        images, runtime = config.images.model_dump(mode="json", exclude={"corrupt"}), config.runtime
        alike = [str(prepared.cache), prepared.cache_digest[split], rows, images, config.predict.batch_size, runtime.device, runtime.threads]
        groups = found.setdefault(digest(alike), [[]])
        if groups[-1] and sum(_bytes(other, one, split) for other, one, _ in groups[-1]) + _bytes(job, task, split) > MOST_BYTES:
            groups.append([])
        groups[-1].append((job, task, piece))
    return [group for groups in found.values() for group in groups]


def _bytes(job: Job, task: Task, split: str) -> float:
    """Of a network in memory, and of what it says: view by view, where the views are not merged batch by batch."""
    prepared = job.trained.prepared
    views = len(job.looked) if split == "train" else len(job.views) if job.config.predict.merge == "ranks" else 1
    rows = len(held_out_rows(prepared, task)) if split == "train" else len(prepared.ids("test"))
    return 4.0 * (float(manifest_of(task).record["parameters"]) + views * rows * len(prepared.classes))


def looking(jobs: Sequence[Job]) -> list[list[Wanted]]:
    """The networks that have not looked at their held-out rows, in groups."""
    return groups_of([(job, task, piece) for job in jobs for task in job.folds if not (piece := job.piece(task, "views", job.looked)).done], "train")


def look(group: Sequence[Wanted]) -> None:
    """What networks say of their held-out rows, view by view."""
    from pipeline.inference.predict import predict_views

    job, task, _ = group[0]
    networks = [Network(other.config, other.trained.prepared, one) for other, one, _ in group]
    members = [network.member(other.looked) for network, (other, _, _) in zip(networks, group, strict=True)]
    pictures = cached(job.config, job.trained.prepared, "train", held_out_rows(job.trained.prepared, task)["id"].tolist())
    for (_, _, piece), values in zip(group, predict_views(networks[0].reader, members, pictures), strict=True):
        piece.save_views(values)


def held_out(job: Job, task: Task) -> Predictions:
    """What a network says of the rows that it did not see, the views merged that had no say from these rows."""
    from pipeline.inference.tta import merge_views

    prepared, rows = job.trained.prepared, held_out_rows(job.trained.prepared, task)
    told = job.piece(task, "views", job.looked).load_views()
    fold = rows["fold"].to_numpy(dtype=np.int16)
    values = np.empty((len(rows), len(prepared.classes)), dtype=np.float32)
    for number in np.unique(fold).tolist():
        inside, views = np.flatnonzero(fold == number), job.views_of_fold.get(number, job.views)
        chosen: npt.NDArray[np.float32] = told[[job.looked.index(view) for view in views]][:, inside]
        values[inside] = merge_views(chosen, job.config.predict.merge, prepared.target.task)
    return job.piece(task, "oof", job.views_of_fold.get(task.fold, job.views)).save(Predictions(tuple(rows["id"]), prepared.classes, values, fold))
