"""The schema of a config: every section, every key, its unit, its choices and its default.

A config is frozen once read. A string below a field is its documentation; it also ends up in
`configs/schema.json`, from which editors complete keys. The sections on data are in `config_data.py`,
those on training in `config_training.py`, that on studies in `config_tuning.py`; reading files is `config_files.py`.
"""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.config_data import CLASS_TASKS, AnyPath, Cache, Competition, Dedup, ExtraTrain, Folds, Images, Positive, Section, Slug, Task, Thresholds
from pipeline.config_training import (
    LOSS_TASKS,
    Augment,
    Component,
    Distillation,
    Duration,
    Loss,
    Mixing,
    Model,
    Optimizer,
    PseudoLabels,
    Schedule,
    Teacher,
    Train,
    call_arguments,
    in_epochs,
)
from pipeline.config_tuning import Tune, Tuned

__all__ = ["Augment", "Cache", "Competition", "Component", "Config", "Dedup", "Distillation", "Duration", "Ensemble", "ExtraTrain", "Folds", "Images"]
__all__ += ["Loss", "Mixing", "Model", "Optimizer", "Predict", "PseudoLabels", "Runtime", "Schedule", "Section", "Submission", "Task", "Teacher"]
__all__ += ["Thresholds", "Train", "Tune", "Tuned", "View", "call_arguments", "CLASS_TASKS", "FORMAT_TASKS", "LOSS_TASKS", "METRIC_TASKS"]

View = Literal[
    "identity",
    "horizontal_flip",
    "vertical_flip",
    "rotate_90",
    "rotate_180",
    "rotate_270",
    "transpose",
    "anti_transpose",
    "crop_centre",
    "crop_top_left",
    "crop_top_right",
    "crop_bottom_left",
    "crop_bottom_right",
    "zoom_in",
    "zoom_out",
    "brighter",
    "darker",
    "more_contrast",
]
TRANSPOSING: tuple[View, ...] = ("rotate_90", "rotate_270", "transpose", "anti_transpose")
"""Views that want a square input."""


class Predict(Section):
    """Out-of-fold and test predictions."""

    tta: Literal["none", "horizontal", "flips", "dihedral", "crops", "zooms", "colour", "auto"] | Annotated[tuple[View, ...], Field(min_length=1)] = "none"
    """Test-time augmentation: none, horizontal (2 views), flips (4), dihedral (8), crops (5), zooms (3), colour (4), a list of views; or auto:
    those of `views` that help out of fold, scored on rows that the choice did not see."""
    views: Annotated[tuple[View, ...], Field(min_length=1)] | None = None
    """What auto chooses from; null: every view that fits the input. Each costs a forward pass over the train rows, once."""
    merge: Literal["probabilities", "logits", "ranks"] = "probabilities"
    """What of the views is averaged: probabilities (of a regression its numbers); logits, the geometric mean; or ranks among the rows of
    a network, for metrics that look at ranks alone."""
    batch_size: Positive = 64
    """Pictures per forward pass."""
    max_hours: Annotated[float, Field(gt=0.0)] | None = None
    """Longest that predicting the test rows may take; what costs most for least out-of-fold loss is left out until it fits. Null: all of it."""


class Ensemble(Section):
    """How folds and experiments are averaged, and how what is predicted becomes a decision."""

    folds: Literal["equal", "score"] = "equal"
    """Weights of one model's folds on test rows: equal, or by how far each beats the worst fold."""
    models: Literal["auto", "equal", "ranks", "geometric", "greedy", "simplex", "metric", "stacked"] = "auto"
    """Of the experiments: equal mean; mean of ranks within a fold; geometric mean; greedy selection with replacement; weights that sum to 1,
    fitted on the metric's smooth stand-in (simplex) or on the metric itself; or a logistic regression on all of them. What is fitted is
    cross-fitted for its CV. auto: the equal mean, unless simplex or greedy weights surely beat it, in 95 % of the bootstrap draws and more."""
    temperature: Literal["none", "per_fold"] = "none"
    """per_fold: each network's probabilities are sharpened or flattened by one number fitted on its held-out rows, before any averaging."""
    decisions: Literal["auto", "default", "fitted"] = "auto"
    """Cut points between grades, and thresholds of labels and of the positive class, for metrics that want labels: default (nearest grade, one
    half), fitted out of fold, or auto: fitted where that beats the default in 95 % of the bootstrap draws."""
    draws: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap draws behind every interval and comparison; copies of one picture are drawn together."""
    seed: int = 0
    """Of the bootstrap and of the halves of a fold."""


class Submission(Section):
    """The file that goes to the competition."""

    format: Literal["auto", "label", "probabilities", "indicators", "score", "top_k"] = "auto"
    """label: the predicted class, or the labels in one cell; probabilities: one column per class; indicators: one column per class, 1 where it is
    predicted and else 0; score: one number, the positive class's probability or the regression's value; top_k: the k most probable classes in one
    cell; auto: what task, metric and sample say."""
    k: Positive | None = None
    """Classes in a top_k cell; null: as many as the metric looks at (map_at_3: 3), else 5."""


class Runtime(Section):
    """The machine. Nothing here changes what is computed, but for `threads` and `compile` in the last bits."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    """auto: every GPU there is, else the CPU; or cpu, cuda, cuda:1."""
    workers: Annotated[int, Field(ge=0)] = 2
    """Processes that load pictures, per training process; 0: none, load in the training process."""
    threads: Positive = 2
    """CPU threads of the model, per training process; recorded, since it decides the last bits on a CPU."""
    jobs_per_device: Positive = 1
    """Folds that train side by side on one device."""
    compile: bool = False
    """torch.compile the network: minutes at the start, faster steps on a GPU."""
    checkpoint_minutes: Annotated[float, Field(gt=0.0)] = 10.0
    """Longest stretch of training that a kill can cost; the end of an epoch always saves."""


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
    "top_3_accuracy": ("multiclass",),
    "top_5_accuracy": ("multiclass",),
    "probabilistic_f1": ("binary",),
    "rmse": ("regression",),
    "mae": ("regression",),
    "rmsle": ("regression",),
    "r2": ("regression",),
}
"""What each metric can score."""

RANKING_METRICS = ("roc_auc", "average_precision")
"""Metrics that look at the order of the rows alone."""

FORMAT_TASKS: dict[str, tuple[Task, ...]] = {
    "auto": (*CLASS_TASKS, "multilabel", "regression"),
    "label": (*CLASS_TASKS, "multilabel"),
    "probabilities": (*CLASS_TASKS, "multilabel"),
    "indicators": (*CLASS_TASKS, "multilabel"),
    "score": ("binary", "regression"),
    "top_k": ("multiclass",),
}
"""What each form of a submission can hold."""


def ranks_looked_at(metric: str) -> int | None:
    """How many ranked classes a metric looks at: 5 of map_at_5 and top_5_accuracy; None for one that ranks nothing."""
    found = re.fullmatch(r"(?:map_at|top)_(\d+)(?:_accuracy)?", metric)
    return int(found[1]) if found else None


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
    teacher: Teacher | None = None
    predict: Predict = Predict()
    ensemble: Ensemble = Ensemble()
    submission: Submission = Submission()
    runtime: Runtime = Runtime()
    tune: Tune = Tune()
    tuned: Tuned | None = None

    @model_validator(mode="after")
    def _sections_agree(self) -> Self:
        height, width = self.images.shape
        for key, views in (("predict.tta", self.predict.tta), ("predict.views", self.predict.views or ())):
            asked = set(TRANSPOSING) if views == "dihedral" else set(views)
            if height != width and asked & set(TRANSPOSING):
                raise ValueError(f"{key} turns pictures by 90 degrees, so images.size must be square, but got {[height, width]}")
        for key, duration in (("schedule.warmup", self.schedule.warmup), ("train.freeze", self.train.freeze)):
            if (epochs := in_epochs(duration, self.train.epochs)) is not None and epochs >= self.train.epochs:
                raise ValueError(f"{key} must be below train.epochs, but got {duration} and {self.train.epochs}")
        if in_epochs(self.schedule.every, self.train.epochs) == 0 or self.schedule.every in ("0 steps", "0 step"):
            raise ValueError(f"schedule.every must be above 0, but got {self.schedule.every}")
        if self.tune.unseen_seed == self.folds.seed:
            raise ValueError(f"tune.unseen_seed is of a split that a study has not seen, but got folds.seed, {self.folds.seed}; write another, or -1")
        if self.teacher is not None and self.teacher.experiment == self.experiment:
            raise ValueError(f"teacher.experiment: {self.experiment} cannot teach itself; give the student a name of its own: experiment=NEW")
        return self

    @property
    def chooses_by_score(self) -> bool:
        """Whether the metric on the held-out rows decides a network's weights."""
        return self.train.checkpoint in ("best", "soup") or self.train.patience is not None or self.schedule.name == "plateau"

    @property
    def optimistic(self) -> tuple[str, ...]:
        """Why the CV of this experiment flatters it: what chooses on the rows that it is scored on."""
        chosen = {
            f"train.checkpoint={self.train.checkpoint}": self.train.checkpoint in ("best", "soup"),
            "train.patience": self.train.patience is not None,
            "schedule.name=plateau": self.schedule.name == "plateau",
            "teacher.distillation.labels=out_of_fold": bool(self.teacher and self.teacher.distillation and self.teacher.distillation.labels == "out_of_fold"),
            self._study: bool(self.tuned and (self.folds.seed in self.tuned.split_seeds or self.folds.strategy == "column")),
        }
        return tuple(reason for reason, holds in chosen.items() if holds)

    @property
    def _study(self) -> str:
        if self.tuned is None:
            return ""
        number = f"{self.tuned.trials} trials" if self.tuned.trials else "the trials"
        return f"chosen on these folds among {number} of study {self.tuned.study}"

    @property
    def classes_in_a_cell(self) -> int:
        """Of a top_k submission."""
        return ranks_looked_at(self.competition.metric) or self.submission.k or 5

    @model_validator(mode="after")
    def _task_agrees(self) -> Self:
        task = self.competition.task
        chosen = {"competition.metric": self.competition.metric, "loss.name": self.loss.name, "submission.format": self.submission.format}
        for (key, name), tasks in zip(chosen.items(), (METRIC_TASKS, LOSS_TASKS, FORMAT_TASKS), strict=True):
            if task not in tasks[name]:
                fitting = ", ".join(other for other, fits in tasks.items() if task in fits)
                raise ValueError(f"{key}: {name} is for {' or '.join(tasks[name])}, but competition.task is {task}; fitting are {fitting}")
        for key, averaged in (("predict.merge", self.predict.merge), ("ensemble.models", self.ensemble.models)):
            if averaged == "ranks" and self.competition.metric not in RANKING_METRICS:
                raise ValueError(f"{key}: ranks are for {' and '.join(RANKING_METRICS)}, but competition.metric is {self.competition.metric}")
        if self.predict.merge == "ranks" and self.ensemble.temperature != "none":
            raise ValueError("ensemble.temperature: per_fold is of probabilities, which predict.merge ranks does not give; write none")
        if task == "regression":
            self._refuse_for_numbers()
        if self.submission.k not in (None, self.classes_in_a_cell):
            raise ValueError(f"submission.k: {self.competition.metric} looks at {self.classes_in_a_cell} classes, but got {self.submission.k}")
        if self.loss.smoothing and task in ("multilabel", "regression"):
            raise ValueError(f"loss.smoothing spreads one class over the others, which competition.task {task} has not; write 0")
        if self.loss.smoothing and self.loss.name not in ("auto", "cross_entropy"):
            raise ValueError(f"loss.smoothing is of cross_entropy, but loss.name is {self.loss.name}; write 0")
        if self.loss.class_weights != "none" and task == "regression":
            raise ValueError("loss.class_weights weigh classes, which competition.task regression has not; write none")
        if self.train.sampler == "balanced" and task == "regression":
            raise ValueError("train.sampler: balanced draws each class equally often, but competition.task regression has none; write shuffle")
        if self.train.sampler == "balanced" and self.loss.class_weights in ("balanced", "square_root"):
            raise ValueError("train.sampler=balanced and loss.class_weights even the classes out twice; write train.sampler=shuffle or loss.class_weights=none")
        return self

    def _refuse_for_numbers(self) -> None:
        """What probabilities have and a regression has not."""
        refused = {"predict.merge": ("logits", "probabilities"), "ensemble.models": ("geometric", "equal"), "ensemble.temperature": ("per_fold", "none")}
        for key, (name, instead) in refused.items():
            section, field = key.split(".")
            if getattr(getattr(self, section), field) == name:
                raise ValueError(f"{key}: {name} is of probabilities, which competition.task regression has not; write {instead}")
