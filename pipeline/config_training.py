"""The sections of a config that say how a network is trained: augmentation, model, loss, optimiser, schedule, teacher.

A string below a field is its documentation. `config.py` has the other sections and the whole.
"""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from pipeline.config_data import CLASS_TASKS, Positive, Scale, Section, Share, Slug, Task


def call_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from YAML as libraries want them: lists become tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}


def _duration(value: float | str) -> float | str:
    if re.fullmatch(DURATION, value) if isinstance(value, str) else value >= 0:
        return value
    raise ValueError(f'a duration is epochs (1.5), updates ("300 steps") or a share of the run ("10%"), but got {value!r}')


DURATION = r"\d+(\.\d+)? ?(%|steps?|epochs?)"
_SCHEMA = {"anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": f"^{DURATION}$"}]}
Duration = Annotated[float | str, AfterValidator(_duration), WithJsonSchema(_SCHEMA)]
"""A stretch of training: epochs (1.5 or "1.5 epochs"), updates ("300 steps") or a share of the run ("10%")."""


def in_epochs(duration: float | str, epochs: int) -> float | None:
    """A duration in epochs of a run of `epochs`; None if it is in steps."""
    if not isinstance(duration, str):
        return duration
    number = float(duration.rstrip("% epochst"))
    if duration.endswith("%"):
        return number / 100 * epochs
    return number if "epoch" in duration else None


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
    """Name in timm, or torchvision/NAME for one of torchvision.models, e.g. torchvision/alexnet."""
    weights: Annotated[str, AfterValidator(os.path.expanduser)] | None = "hub"
    """hub: the library's pretrained weights, downloaded; the path of a .pt, .pth or .safetensors file; null: random."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Passed to the library's builder, e.g. {drop_rate: 0.2, drop_path_rate: 0.1}."""


class Loss(Section):
    """What training minimises."""

    name: Literal["auto", "cross_entropy", "binary_cross_entropy", "focal", "asymmetric", "mse", "mae", "huber", "log_cosh", "log_mse"] = "auto"
    """auto: cross entropy for classes, binary cross entropy per label for multilabel, mse for regression. log_mse: mse of log(1 + target)."""
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Label smoothing of cross entropy: this share of each target is spread evenly over the classes."""
    class_weights: Literal["none", "balanced", "square_root"] | Annotated[tuple[Scale, ...], Field(min_length=2)] = "none"
    """Weight of each class in the loss: inverse to its share of the training rows, to the share's square root, or as listed in the order
    of the classes. Multilabel: the weight of a label's positive rows beside its negative ones."""
    arguments: dict[str, float] = Field(default_factory=dict)
    """focal: gamma; asymmetric: gamma_negative, gamma_positive, clip; huber: delta."""


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
    head_multiple: Scale = 1.0
    """The head's learning rate as a multiple of `learning_rate`."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the optimiser, e.g. {betas: [0.9, 0.99]}."""


class Schedule(Section):
    """How the learning rate goes."""

    name: Literal["cosine", "one_cycle", "step", "plateau", "constant"] = "cosine"
    """After the warm-up: cosine and one_cycle fall along half a cosine to `final_share` of the peak; one_cycle also rises along one; step
    multiplies by `factor` after each `every`; plateau after `patience` epochs that bring no better valid score; constant stays."""
    warmup: Duration = 1.0
    """Rise from zero, linear but for one_cycle. Durations are epochs (1.5), updates (300 steps) or a share of the run (10%)."""
    final_share: Share = 0.0
    """cosine, one_cycle: learning rate at the end, as a share of the peak."""
    every: Duration = "30%"
    """step: how long a rate is kept."""
    factor: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    """step, plateau: what the rate is multiplied by."""
    patience: Positive = 2
    """plateau: epochs in a row without a better score after which the rate is lowered."""


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
    freeze: Duration = 0.0
    """How long the head alone learns before the whole network does: epochs, "300 steps" or "10%"."""
    gradient_checkpointing: bool = False
    """Less memory for a quarter more time: activations are computed again in the backward pass, where timm's network can."""
    sampler: Literal["shuffle", "balanced"] = "shuffle"
    """shuffle: every row once an epoch; balanced: as many rows, each class equally often."""
    checkpoint: Literal["last", "average", "best", "soup"] = "last"
    """The weights to predict with: the last ones; the mean of the last `keep` epochs; of the epoch that scores best on the held-out fold; a
    greedy soup of the `keep` best ones. best and soup choose on the fold that they are scored on: their CV is marked optimistic."""
    keep: Positive = 5
    """Epochs that `average` and `soup` mix."""
    patience: Positive | None = None
    """Stop after so many epochs without a better score on the held-out fold, which makes the CV optimistic; null: train to the end."""
    full_data: bool = False
    """Also train one network on all rows, for as many epochs as the folds' weights were; it predicts test rows beside the folds' networks. After
    `best` or `patience` it stops amid its schedule."""
    seeds: Annotated[tuple[int, ...], Field(min_length=1)] = (0,)
    """Each trains every fold once more; their predictions are averaged."""

    @model_validator(mode="after")
    def _seeds_differ(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds must differ, but got {list(self.seeds)}")
        return self


class PseudoLabels(Section):
    """Test rows that a student learns from; fold k's student takes what the teacher's fold k predicts, which has not seen fold k."""

    confidence: Share = 0.0
    """Least probability of the predicted class (multilabel: mean over labels of the likelier side)."""
    share: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """At most this share of the test rows, the surest first."""
    balanced: bool = False
    """Take the share from each predicted class, so that the easy ones do not crowd the others out."""
    hard: bool = False
    """Learn the predicted class instead of the probabilities."""


class Distillation(Section):
    """Train rows whose target is mixed with what a teacher says of them."""

    weight: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Share of the teacher in the target."""
    labels: Literal["nested", "out_of_fold"] = "nested"
    """nested: teachers trained without the student's held-out rows and without the row that they label, n (n - 1) / 2 further networks;
    out_of_fold: the teacher's own folds, at no cost; they saw the student's held-out rows: its CV is marked optimistic."""


class Teacher(Section):
    """An experiment whose predictions a student learns from, in the same folds."""

    experiment: Slug
    """Its name; it is trained already. Its predictions are those with the `predict.tta` that it was trained with."""
    pseudo_labels: PseudoLabels | None = None
    """Test rows to learn from; null: none."""
    distillation: Distillation | None = None
    """Soft targets for train rows; null: none."""

    @model_validator(mode="after")
    def _teaches_something(self) -> Self:
        if self.pseudo_labels is None and self.distillation is None:
            raise ValueError("a teacher needs pseudo_labels or distillation; write e.g. pseudo_labels: {confidence: 0.9}")
        return self


LOSS_TASKS: dict[str, tuple[Task, ...]] = {
    "auto": (*CLASS_TASKS, "multilabel", "regression"),
    "cross_entropy": CLASS_TASKS,
    "binary_cross_entropy": ("multilabel",),
    "focal": (*CLASS_TASKS, "multilabel"),
    "asymmetric": ("multilabel",),
    "mse": ("regression",),
    "mae": ("regression",),
    "huber": ("regression",),
    "log_cosh": ("regression",),
    "log_mse": ("regression",),
}
"""What each loss can train."""
