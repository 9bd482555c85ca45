"""The schema of a config: every section, every key, its unit, its choices and its default.

A config is frozen once read. A string below a field is its documentation; it also ends up in
`configs/schema.json`, from which editors complete keys. The sections on data are in `config_data.py`;
reading files is `config_files.py`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from pipeline.config_data import AnyPath, Cache, Competition, Dedup, ExtraTrain, Folds, Images, Positive, Section, Share, Slug, Task, Thresholds

__all__ = ["Augment", "Cache", "Competition", "Component", "Config", "Dedup", "Ensemble", "ExtraTrain", "Folds", "Images", "Loss", "Mixing", "Model"]
__all__ += ["Optimizer", "Predict", "Runtime", "Schedule", "Section", "Submission", "Task", "Thresholds", "Train", "View", "call_arguments"]
__all__ += ["CLASS_TASKS", "FORMAT_TASKS", "LOSS_TASKS", "METRIC_TASKS"]


def call_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from YAML as libraries want them: lists become tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}


class Component(BaseModel):
    """A class of a library by its name; every other key is one of its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str
    """Name of the class, e.g. HorizontalFlip."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Every key but the name."""
        return dict(self.model_extra or {})


class Mixing(Section):
    """Two pictures in one, with a soft target, on the device."""

    mixup: Annotated[float, Field(ge=0.0)] = 0.0
    """Alpha of Beta(alpha, alpha) from which Mixup's share is drawn; 0: no Mixup."""
    cutmix: Annotated[float, Field(ge=0.0)] = 0.0
    """Alpha of CutMix's Beta distribution; 0: no CutMix. With both, each batch takes one or the other."""
    prob: Share = 1.0
    """Share of the batches that are mixed."""
    off_epochs: Annotated[int, Field(ge=0)] = 0
    """Last epochs that train without mixing."""


class Augment(Section):
    """What changes a training picture."""

    train: tuple[Component, ...] = ()
    """albumentations classes by name, in order; `images.fit` follows if the size is not reached yet."""
    mixing: Mixing = Mixing()
    """Mixup and CutMix."""


class Model(Section):
    """The network."""

    backbone: str
    """Name in timm."""
    weights: Annotated[str, AfterValidator(os.path.expanduser)] | None = "hub"
    """hub: timm's pretrained weights, downloaded; a file's path; null: random."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Passed to timm.create_model, e.g. {drop_rate: 0.2}."""


class Loss(Section):
    """What training minimises."""

    name: Literal["auto", "cross_entropy", "binary_cross_entropy", "mse", "mae", "huber"] = "auto"
    """auto: cross entropy for classes, binary cross entropy per label for multilabel, mse for regression."""
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Label smoothing of cross entropy: this share of each target is spread evenly over the classes."""


class Optimizer(Section):
    """How the weights move."""

    name: str = "adamw"
    """Name in timm's optimiser factory."""
    learning_rate: Annotated[float, Field(gt=0.0)] = 1e-3
    """Peak learning rate."""
    weight_decay: Annotated[float, Field(ge=0.0)] = 0.05
    """Not applied to norms and biases."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Factor on the learning rate per layer group, from the head down."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the optimiser, e.g. {betas: [0.9, 0.99]}."""


class Schedule(Section):
    """How the learning rate goes."""

    name: Literal["cosine"] = "cosine"
    """Half a cosine from the peak to `final_share` of it."""
    warmup_epochs: Annotated[float, Field(ge=0.0)] = 1.0
    """Linear rise from zero, in epochs; a fraction is fine."""
    final_share: Share = 0.0
    """Learning rate at the end, as a share of the peak."""


class Train(Section):
    """One fold's training."""

    epochs: Positive = 10
    """Passes over the training rows."""
    batch_size: Positive = 32
    """Pictures per step on the device."""
    accumulation: Positive = 1
    """Batches whose gradients are averaged into one update."""
    clip_norm: Annotated[float, Field(gt=0.0)] | None = 5.0
    """Largest gradient norm; null: no clipping."""
    ema: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.99
    """Decay of the exponential moving average of the weights, warmed up; null: none."""
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto"
    """auto: bf16 or else fp16 on a GPU, fp32 on a CPU."""
    channels_last: bool = True
    """Memory layout of pictures and weights."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Each trains every fold once more; their predictions are averaged."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, but got {list(self.seeds)}")
        return self


View = Literal[
    "identity",
    "horizontal_flip",
    "vertical_flip",
    "rotate_90",
    "rotate_180",
    "rotate_270",
    "transpose",
    "anti_transpose",
]


class Predict(Section):
    """Out-of-fold and test predictions."""

    tta: Literal["none", "horizontal", "flips", "dihedral"] | Annotated[tuple[View, ...], Field(min_length=1)] = "none"
    """Test-time augmentation: none, horizontal (2 views), flips (4), dihedral (8), or a list of views."""
    batch_size: Positive = 64
    """Pictures per forward pass."""


class Ensemble(Section):
    """How folds and experiments are averaged."""

    folds: Literal["equal", "score"] = "equal"
    """Weights of one model's folds on test rows: equal, or by how far each beats the worst fold."""
    models: Literal["equal", "fitted"] = "equal"
    """Weights of the experiments: equal, or fitted on out-of-fold log loss; its CV is cross-fitted."""


class Submission(Section):
    """The file that goes to the competition."""

    format: Literal["auto", "label", "probabilities", "score", "top_k"] = "auto"
    """label: the predicted class, or the labels in one cell; probabilities: one column per class; score: one number, the positive class's
    probability or the regression's value; top_k: the k most probable classes in one cell; auto: what task, metric and sample say."""
    k: Positive | None = None
    """Classes in a top_k cell; null: as many as the metric looks at (map_at_3: 3), else 5."""


class Runtime(Section):
    """The machine. Nothing here changes what is computed, but for `threads` in the last bits."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto: every GPU there is, else the CPU; or cpu, cuda, cuda:1."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that load pictures, per training process; 0: none, load in the training process."""
    threads: Positive = 2
    """CPU threads of the model, per training process; recorded, since it decides the last bits on a CPU."""
    jobs_per_device: Positive = 1
    """Folds that train side by side on one device."""
    checkpoint_minutes: Annotated[float, Field(gt=0.0)] = 10.0
    """Longest stretch of training that a kill can cost; the end of an epoch always saves."""


CLASS_TASKS: tuple[Task, ...] = ("multiclass", "binary", "ordinal")
METRIC_TASKS: dict[str, tuple[Task, ...]] = {
    "accuracy": (*CLASS_TASKS, "multilabel"),
    "balanced_accuracy": CLASS_TASKS,
    "macro_f1": (*CLASS_TASKS, "multilabel"),
    "micro_f1": (*CLASS_TASKS, "multilabel"),
    "samples_f1": ("multilabel",),
    "log_loss": (*CLASS_TASKS, "multilabel"),
    "roc_auc": (*CLASS_TASKS, "multilabel"),
    "average_precision": ("binary", "multilabel"),
    "quadratic_kappa": ("ordinal",),
    "matthews_correlation": CLASS_TASKS,
    "map_at_3": ("multiclass",),
    "map_at_5": ("multiclass",),
    "rmse": ("regression",),
    "mae": ("regression",),
    "rmsle": ("regression",),
    "r2": ("regression",),
}
"""What each metric can score."""

LOSS_TASKS: dict[str, tuple[Task, ...]] = {
    "auto": (*CLASS_TASKS, "multilabel", "regression"),
    "cross_entropy": CLASS_TASKS,
    "binary_cross_entropy": ("multilabel",),
    "mse": ("regression",),
    "mae": ("regression",),
    "huber": ("regression",),
}
"""What each loss can train."""

FORMAT_TASKS: dict[str, tuple[Task, ...]] = {
    "auto": (*CLASS_TASKS, "multilabel", "regression"),
    "label": (*CLASS_TASKS, "multilabel"),
    "probabilities": (*CLASS_TASKS, "multilabel"),
    "score": ("binary", "regression"),
    "top_k": ("multiclass",),
}
"""What each form of a submission can hold."""


class Config(Section):
    """One experiment."""

    experiment: Slug
    """Its name; by default the config file's."""
    outputs: AnyPath = Path("outputs")
    """Folder for everything that is written."""
    competition: Competition
    folds: Folds = Folds()
    images: Images = Images()
    dedup: Dedup = Dedup()
    cache: Cache = Cache()
    augment: Augment = Augment()
    model: Model
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    train: Train = Train()
    predict: Predict = Predict()
    ensemble: Ensemble = Ensemble()
    submission: Submission = Submission()
    runtime: Runtime = Runtime()

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        height, width = self.images.shape
        transposing = {"rotate_90", "rotate_270", "transpose", "anti_transpose"}
        views = {"rotate_90"} if self.predict.tta == "dihedral" else set(self.predict.tta)
        if height != width and views & transposing:
            raise ValueError(f"predict.tta turns pictures by 90 degrees, so images.size must be square, but got {[height, width]}")
        if self.schedule.warmup_epochs >= self.train.epochs:
            raise ValueError(f"schedule.warmup_epochs must be below train.epochs, but got {self.schedule.warmup_epochs} and {self.train.epochs}")
        return self

    @property
    def classes_in_a_cell(self) -> int:
        """Of a top_k submission."""
        metric, _, k = self.competition.metric.rpartition("_at_")
        return int(k) if metric else self.submission.k or 5

    @model_validator(mode="after")
    def _task_agrees(self) -> Self:
        task = self.competition.task
        chosen = {"competition.metric": self.competition.metric, "loss.name": self.loss.name, "submission.format": self.submission.format}
        for (key, name), tasks in zip(chosen.items(), (METRIC_TASKS, LOSS_TASKS, FORMAT_TASKS), strict=True):
            if task not in tasks[name]:
                fitting = ", ".join(other for other, fits in tasks.items() if task in fits)
                raise ValueError(f"{key}: {name} is for {' or '.join(tasks[name])}, but competition.task is {task}; fitting are {fitting}")
        if self.submission.k is not None and self.competition.metric.startswith("map_at_") and self.submission.k != self.classes_in_a_cell:
            raise ValueError(f"submission.k: {self.competition.metric} looks at {self.classes_in_a_cell} classes, but got {self.submission.k}")
        if self.loss.smoothing and task in ("multilabel", "regression"):
            raise ValueError(f"loss.smoothing spreads one class over the others, which competition.task {task} has not; write 0")
        return self
