"""The schema of a config: every section, every key, its unit, its choices and its default.

A config is frozen once read. A string below a field is its documentation; it also ends up in
`configs/schema.json`, from which editors complete keys. Reading files is `config_files.py`.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Scale = Annotated[float, Field(gt=0.0)]
Channels = tuple[float, float, float]
AnyPath = Annotated[Path, AfterValidator(Path.expanduser)]


def call_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments from YAML as libraries want them: lists become tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Component(BaseModel):
    """A class of a library by its name; every other key is one of its arguments."""

    model_config = ConfigDict(frozen=True, extra="allow", use_attribute_docstrings=True)

    name: str
    """Name of the class, e.g. HorizontalFlip."""

    @property
    def arguments(self) -> dict[str, Any]:
        """Every key but the name."""
        return dict(self.model_extra or {})


class Competition(Section):
    """What the competition gave: tables, columns, where the pictures are, how it scores."""

    name: Slug
    """Folder under `outputs/` in which everything of this competition is written."""
    root: AnyPath
    """Folder of the competition's files; never written (the bundled digits excepted)."""
    id: str
    """Column of the train table that names a row. Ids stay text: "007" is "007"."""
    target: str
    """Column of the train table with the class."""
    image_path: str
    """Where a row's picture is below `root`: columns in braces, and {split}, which is train or test."""
    metric: Literal["accuracy", "macro_f1", "log_loss"]
    """What the competition scores."""
    train_table: str = "train.csv"
    """Table of the labelled rows."""
    test_table: str | None = "test.csv"
    """Table of the rows to predict; null: take the ids from the sample submission."""
    sample_submission: str = "sample_submission.csv"
    """The competition's example: its ids, columns and order are what a submission is checked against."""
    solution: str | None = None
    """Table with the test answers, if one has them: printed as the true score, never tuned on."""
    bundled: Literal["digits"] | None = None
    """A data set that comes with scikit-learn, written to `root` if that does not exist."""


class Folds(Section):
    """How the train rows are split; frozen in folds.csv."""

    strategy: Literal["stratified", "kfold"] = "stratified"
    """stratified keeps the class shares in every fold; kfold ignores them."""
    n_splits: Annotated[int, Field(ge=2)] = 5
    """Number of folds."""
    seed: int = 42
    """Seed of the split alone."""


class Images(Section):
    """How a picture becomes the model's input."""

    cache_size: Positive = 256
    """Shorter side in the cache, pixels; smaller pictures are kept as they are."""
    size: Positive | tuple[Positive, Positive] = 224
    """Input of the model, pixels: a square's side, or [height, width]."""
    fit: Literal["crop", "pad", "stretch"] = "crop"
    """To `size`: the largest centre crop of its shape, padding with black, or changing the shape."""
    mean: Channels = (0.485, 0.456, 0.406)
    """Subtracted per channel, on a scale of 0 to 1. Default: ImageNet's."""
    std: tuple[Scale, Scale, Scale] = (0.229, 0.224, 0.225)
    """Divided by per channel."""
    corrupt: Literal["fail", "skip"] = "fail"
    """A picture that cannot be read: stop, or leave its train row out (test rows are never left out)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the model's input, pixels."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size


class Cache(Section):
    """Every picture decoded and resized once, shared by all folds, models and trials."""

    mode: Literal["auto", "raw", "jpeg", "none"] = "auto"
    """raw pixels; jpeg, re-encoded; none, decoded from the file each time; auto: the first the disk allows."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """Of the jpeg mode."""


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
    arguments: dict[str, Any] = {}
    """Passed to timm.create_model, e.g. {drop_rate: 0.2}."""


class Loss(Section):
    """What training minimises."""

    name: Literal["cross_entropy"] = "cross_entropy"
    """Cross entropy with soft targets."""
    smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Label smoothing: this share of each target is spread evenly over the classes."""


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
    arguments: dict[str, Any] = {}
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

    format: Literal["auto", "label", "probabilities"] = "auto"
    """label: the most probable class; probabilities: one column per class; auto: what the sample's columns say."""


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


class Config(Section):
    """One experiment."""

    experiment: Slug
    """Its name; by default the config file's."""
    outputs: AnyPath = Path("outputs")
    """Folder for everything that is written."""
    competition: Competition
    folds: Folds = Folds()
    images: Images = Images()
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
