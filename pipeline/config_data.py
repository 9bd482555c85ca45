"""The sections of a config that say what the data is: competition, folds, pictures, copies, cache.

A string below a field is its documentation. `config.py` has the other sections and the whole.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

Slug = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Scale = Annotated[float, Field(gt=0.0)]
Channels = tuple[float, float, float]
AnyPath = Annotated[Path, AfterValidator(Path.expanduser)]


class Section(BaseModel):
    """Base of every section: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


Task = Literal["multiclass", "binary", "multilabel", "ordinal", "regression"]
CLASS_TASKS: tuple[Task, ...] = ("multiclass", "binary", "ordinal")
MetricName = Literal[
    "accuracy",
    "balanced_accuracy",
    "macro_f1",
    "micro_f1",
    "samples_f1",
    "log_loss",
    "roc_auc",
    "average_precision",
    "quadratic_kappa",
    "matthews_correlation",
    "map_at_3",
    "map_at_5",
    "top_3_accuracy",
    "top_5_accuracy",
    "probabilistic_f1",
    "rmse",
    "mae",
    "rmsle",
    "r2",
]


class ExtraTrain(Section):
    """A further table of labelled rows: trained on, never validated on."""

    table: str
    """CSV, or pattern of file names with columns in braces, below `root`."""
    root: AnyPath | None = None
    """Folder of its files; null: the competition's."""
    id: str | None = None
    """Column that names a row; null: the competition's."""
    target: str | Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Column or columns of the label; null: the competition's."""
    image_path: str | None = None
    """Where a row's picture is below `root`; null: as the competition's, with extra for {split}."""


class Thresholds(Section):
    """Scores that the competition's medals took; a yardstick, printed beside the CV, never used."""

    gold: float | None = None
    """Lowest score (highest, where less is better) with a gold medal."""
    silver: float | None = None
    """The same for silver."""
    bronze: float | None = None
    """The same for bronze."""
    median: float | None = None
    """Of all teams."""


class Competition(Section):
    """What the competition gave: tables, columns, where the pictures are, how it scores."""

    name: Slug
    """Folder under `outputs/` in which everything of this competition is written."""
    slug: Slug | None = None
    """Its name in its address on Kaggle; null: `name`."""
    root: AnyPath
    """Folder of the competition's files; never written (the bundled digits excepted)."""
    id: str | None
    """Column of the train table that names a row, as text: "007" is "007"; null: rows are numbered as in the sample, from 0 or 1."""
    target: str | Annotated[tuple[str, ...], Field(min_length=2)]
    """Column of the train table with the label; or a list of 0/1 columns, one per class."""
    metric: MetricName
    """What the competition scores."""
    task: Task = "multiclass"
    """One of many classes; of two (binary); any number of labels; grades in order; or a number."""
    image_path: str | None = None
    """Where a row's picture is below `root`: columns in braces, {id[0]} for a character, {split} for train or test, * for any ending
    (images/{id}.*), **/ for any folders. Null: the pictures are in the tables, or every table is a pattern of file names."""
    train_table: str = "train.csv"
    """Table of the labelled rows: a CSV; a pattern of file names with columns in braces (train/{label}/{file}; {number:d}
    takes digits alone), for which the column path is each file's; or MNIST's ...images-idx3-ubyte.gz, whose labels lie beside it."""
    test_table: str | None = "test.csv"
    """Table of the rows to predict, in the same forms; null: take the ids from the sample submission, if that is null too, none."""
    sample_submission: str | None = "sample_submission.csv"
    """The competition's example: its ids, columns and order are what a submission is checked against; null: one is made of the test rows."""
    pixel_columns: str | None = None
    """Start of the names of the columns that hold a picture's pixels, row by row (pixel for pixel0, pixel1, ...); a square unless pixel_shape."""
    pixel_shape: tuple[Positive, Positive] | tuple[Positive, Positive, Literal[3]] | None = None
    """Height, width (and 3 for colour) of the pictures in pixel_columns; null: a grey square."""
    classes: Annotated[tuple[str, ...], Field(min_length=2)] | None = None
    """Every class in order; null: those of the train table, as the sample's columns, by number, or as text."""
    positive: str | None = None
    """Binary: the class whose probability is submitted; null: the last of the two."""
    label_separator: Annotated[str, Field(min_length=1)] = " "
    """Multilabel: what stands between labels in one cell; also between the classes of a top-k list."""
    extra_train: tuple[ExtraTrain, ...] = ()
    """Further labelled rows; copies of train rows are left out."""
    solution: str | None = None
    """Table with the test answers, if one has them: printed as the true score, never tuned on."""
    thresholds: Thresholds | None = None
    """What the medals took."""
    bundled: Literal["digits"] | None = None
    """A data set that comes with scikit-learn, written to `root` if that does not exist."""

    @property
    def target_columns(self) -> list[str]:
        """The column or columns of the label."""
        return [self.target] if isinstance(self.target, str) else list(self.target)


class Folds(Section):
    """How the train rows are split; frozen in folds.csv."""

    strategy: Literal["kfold", "stratified", "group", "stratified_group", "column"] = "stratified_group"
    """kfold: at random; stratified: equal shares of each class, label or quantile bin; group, stratified_group: the same, with copies of a
    picture and rows of equal `group` columns in one fold; column: the competition's own."""
    n_splits: Annotated[int, Field(ge=2)] = 5
    """Number of folds."""
    seed: int = 42
    """Seed of the split alone."""
    group: tuple[str, ...] = ()
    """Columns of the train table, e.g. [patient_id]: rows that agree in any of them stay in one fold."""
    column: str | None = None
    """Column of the train table with the fold, for strategy column."""
    bins: Annotated[int, Field(ge=2)] = 10
    """Regression: quantile bins that are stratified over."""

    @model_validator(mode="after")
    def _keys_agree(self) -> Self:
        if self.group and "group" not in self.strategy:
            raise ValueError(f"group columns are kept together by strategy group or stratified_group, but got {self.strategy}")
        if (self.column is not None) != (self.strategy == "column"):
            raise ValueError(f"strategy column and the key column go together, but got strategy {self.strategy} and column {self.column}")
        return self


class Images(Section):
    """How a picture becomes the model's input."""

    preprocess: tuple[Literal["crop_black_border", "subtract_local_average"], ...] = ()
    """Done once to each decoded picture, before anything else looks at it: cut a dark frame off (retina scans); centre each pixel on
    the average around it."""
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


class Dedup(Section):
    """Copies of a picture among the rows: what is looked for, and what becomes of them."""

    exact: Literal["first", "together", "report"] = "first"
    """Train rows with the same pixels and one label: keep the first id; keep all, in one fold; or only list them."""
    conflict: Literal["drop", "together", "report"] = "drop"
    """Train rows with the same pixels and different labels: drop all; keep all, in one fold; or only list them."""
    near: Literal["together", "report", "off"] = "together"
    """Resized, recompressed, slightly cropped or brightened copies: keep all, in one fold; only list them; or do not look."""
    mirrored: bool = False
    """Whether flipped and turned copies are looked for, too."""
    radius: Annotated[int, Field(ge=0, le=16)] = 8
    """Bits of 64 in which the perceptual hashes of near copies may differ, before their pixels are compared."""
    largest_group: Share = 0.01
    """A near group of more than this share of the train rows, and of more than ten, is listed and not kept together."""


class Cache(Section):
    """Every picture decoded and resized once, shared by all folds, models and trials."""

    mode: Literal["auto", "raw", "jpeg", "none"] = "auto"
    """raw pixels; jpeg, re-encoded; none, decoded from the file each time; auto: the first the disk allows."""
    quality: Annotated[int, Field(ge=1, le=100)] = 95
    """Of the jpeg mode."""
