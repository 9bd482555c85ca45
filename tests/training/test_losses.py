"""Every loss over one contract, each against its formula, torch or a case by hand; and what class weights do."""

import math
import typing

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax

from pipeline.config import CLASS_TASKS, LOSS_TASKS, Loss, Task
from pipeline.errors import UserError
from pipeline.training.losses import ARGUMENTS, AUTO, LOSSES, build_loss, class_weights

ROWS, CLASSES = 12, 5
OUTPUTS: dict[Task, int] = {"regression": 1, "binary": 2, "multiclass": CLASSES, "ordinal": CLASSES, "multilabel": CLASSES}
PAIRS: list[tuple[Task, dict[str, typing.Any]]] = [(task, {"name": name}) for name, tasks in LOSS_TASKS.items() for task in tasks]
WEIGHTED = [(task, {**settings, "class_weights": "balanced"}) for task, settings in PAIRS if task != "regression" and settings["name"] != "auto"]
SMOOTHED: list[tuple[Task, dict[str, typing.Any]]] = [("multiclass", {"name": "cross_entropy", "smoothing": 0.1}), ("ordinal", {"smoothing": 0.1})]
SMOOTHED += [("multiclass", {"smoothing": 0.1, "class_weights": "square_root"})]
SHARP: list[tuple[Task, dict[str, typing.Any]]] = [
    ("multiclass", {"name": "focal", "arguments": {"gamma": 0.5}}),
    ("multilabel", {"name": "focal", "arguments": {"gamma": 0.0}}),
    ("multilabel", {"name": "asymmetric", "arguments": {"gamma_negative": 0.5, "gamma_positive": 0.0, "clip": 0.0}}),
]


def learned_targets(task: Task) -> np.ndarray:
    """Hard targets of 20 skewed training rows; the last class or label has none."""
    if task == "regression":
        return np.linspace(0, 9, 20, dtype=np.float32).reshape(-1, 1)
    numbers = np.repeat(np.arange(OUTPUTS[task]), {2: [16, 4], CLASSES: [10, 6, 3, 1, 0]}[OUTPUTS[task]])
    return np.eye(CLASSES, dtype=np.float32)[numbers] if task == "multilabel" else numbers


def build(task: Task, **settings: object) -> torch.nn.Module:
    return build_loss(Loss.model_validate(settings), task, learned_targets(task), OUTPUTS[task])


def logits_and_targets(task: Task, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft targets, as mixing makes them: shares of classes, shares of each label, or numbers."""
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(ROWS, OUTPUTS[task], generator=generator)).requires_grad_()
    values = torch.randn(ROWS, OUTPUTS[task], generator=generator)
    return logits, values if task == "regression" else values.sigmoid() if task == "multilabel" else values.softmax(dim=1)


def hard_targets(task: Task) -> torch.Tensor:
    if task == "regression":
        return torch.tensor([[-1.0], [0.5], [2.0]])
    return torch.eye(OUTPUTS[task])


@pytest.mark.parametrize(("task", "settings"), PAIRS + WEIGHTED + SMOOTHED + SHARP, ids=str)
class TestEveryLoss:
    @pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
    @pytest.mark.parametrize("soft", [True, False])
    def test_any_logits_give_a_finite_number_and_finite_gradients(self, task: Task, settings: dict[str, object], scale: float, soft: bool) -> None:
        logits, targets = logits_and_targets(task, scale)
        if not soft and task != "regression":
            targets = targets.round() if task == "multilabel" else torch.eye(OUTPUTS[task])[targets.argmax(dim=1)]
        loss = build(task, **settings)(logits, targets)
        loss.backward()
        assert loss.shape == ()
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()

    @pytest.mark.parametrize("size", [1e4, -1e4])
    def test_certainty_right_or_wrong_is_finite_with_finite_gradients(self, task: Task, settings: dict[str, object], size: float) -> None:
        targets = hard_targets(task)
        logits = (size * (2 * targets - 1)).requires_grad_()
        loss = build(task, **settings)(logits, targets)
        loss.backward()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()

    def test_a_step_along_the_gradient_lowers_it(self, task: Task, settings: dict[str, object]) -> None:
        logits, targets = logits_and_targets(task)
        loss = build(task, **settings)
        before = loss(logits, targets)
        before.backward()
        assert logits.grad is not None
        assert loss(logits - 0.1 * logits.grad, targets) < before

    def test_right_logits_lose_less_than_wrong_ones(self, task: Task, settings: dict[str, object]) -> None:
        targets = hard_targets(task)
        logits = targets if task == "regression" else 3 * (2 * targets - 1)
        loss = build(task, **settings)
        assert loss(logits, targets) < loss(torch.zeros_like(logits), targets) < loss(-logits, targets)

    def test_it_is_the_mean_of_the_rows(self, task: Task, settings: dict[str, object]) -> None:
        logits, targets = logits_and_targets(task)
        loss = build(task, **settings)
        rows = torch.stack([loss(logits[row : row + 1], targets[row : row + 1]) for row in range(ROWS)])
        assert torch.allclose(loss(logits, targets), rows.mean(), atol=1e-6)

    def test_neither_logits_nor_targets_are_changed(self, task: Task, settings: dict[str, object]) -> None:
        logits, targets = logits_and_targets(task)
        before = logits.detach().clone(), targets.clone()
        build(task, **settings)(logits, targets).backward()
        assert torch.equal(logits.detach(), before[0])
        assert torch.equal(targets, before[1])

    def test_nothing_of_it_is_learned_and_all_of_it_moves_with_it(self, task: Task, settings: dict[str, object]) -> None:
        loss = build(task, **settings)
        assert not list(loss.parameters())
        loss = loss.to("meta")
        assert all(not isinstance(value, torch.Tensor) or value.is_meta for module in loss.modules() for value in vars(module).values())
        assert all(buffer.is_meta for buffer in loss.buffers())
        logits, targets = logits_and_targets(task)
        assert loss(logits.to("meta"), targets.to("meta")).is_meta


def lowest_at_soft_targets() -> list[tuple[Task, dict[str, typing.Any]]]:
    """All but asymmetric, whose two sides differ on purpose; smoothing and a label's positive weight move the minimum, too."""
    return [(task, settings) for task, settings in PAIRS if settings["name"] != "asymmetric"] + SHARP[:2]


@pytest.mark.parametrize(("task", "settings"), lowest_at_soft_targets(), ids=str)
def test_the_truth_itself_has_the_lowest_loss_of_a_soft_target(task: Task, settings: dict[str, object]) -> None:
    logits, targets = logits_and_targets(task)
    truth = {"regression": targets, "multilabel": targets.logit()}.get(task, targets.log()).detach()
    loss = build(task, **settings)
    for other in (logits.detach(), truth + 0.1, truth - 0.1, 1.1 * truth, 0.9 * truth):
        moved = other if task in ("regression", "multilabel") else other * torch.linspace(1, 1.3, OUTPUTS[task])
        assert loss(truth, targets) < loss(moved, targets)


@pytest.mark.parametrize(("task", "settings"), PAIRS + WEIGHTED, ids=str)
def test_certainty_of_a_hard_target_costs_nothing(task: Task, settings: dict[str, object]) -> None:
    targets = hard_targets(task)
    logits = targets if task == "regression" else 100 * (2 * targets - 1)
    assert float(build(task, **settings)(logits, targets)) == pytest.approx(0, abs=1e-7)


def test_config_tasks_and_program_know_the_same_losses() -> None:
    names = set(typing.get_args(Loss.model_fields["name"].annotation))
    assert names == set(LOSS_TASKS) == set(LOSSES) | {"auto"}
    assert set(ARGUMENTS) <= set(LOSSES)


@pytest.mark.parametrize(
    ("task", "kind"),
    [
        ("multiclass", torch.nn.CrossEntropyLoss),
        ("binary", torch.nn.CrossEntropyLoss),
        ("ordinal", torch.nn.CrossEntropyLoss),
        ("multilabel", torch.nn.BCEWithLogitsLoss),
        ("regression", torch.nn.MSELoss),
    ],
)
def test_auto_is_the_loss_of_the_task_and_fits_it(task: Task, kind: type) -> None:
    assert type(build(task)) is kind
    assert task in LOSS_TASKS[AUTO.get(task, "cross_entropy")]


# ---------------------------------------------------------------- known values


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_formula_with_smoothed_soft_targets(smoothing: float) -> None:
    logits, targets = logits_and_targets("multiclass")
    smooth = (1 - smoothing) * targets.double() + smoothing / CLASSES
    expected = -(smooth * logits.detach().double().log_softmax(dim=1)).sum(dim=1).mean()
    assert float(build("multiclass", smoothing=smoothing)(logits.detach(), targets)) == pytest.approx(float(expected), abs=1e-6)


def test_binary_cross_entropy_is_its_formula_over_all_cells() -> None:
    logits, targets = logits_and_targets("multilabel")
    share = logits.detach().double().sigmoid()
    expected = -(targets * share.log() + (1 - targets) * (1 - share).log()).mean()
    assert float(build("multilabel")(logits.detach(), targets)) == pytest.approx(float(expected), abs=1e-6)
    assert float(build("multilabel")(torch.zeros(2, 5), torch.ones(2, 5))) == pytest.approx(math.log(2))


def test_losses_of_numbers_by_hand() -> None:
    found, wanted = torch.tensor([[0.0], [3.0]]), torch.tensor([[0.5], [0.0]])
    expected = {"mse": (0.25 + 9) / 2, "mae": (0.5 + 3) / 2, "huber": (0.125 + 2.5) / 2, "log_mse": (0.25 + 9) / 2}
    expected["log_cosh"] = (math.log(math.cosh(0.5)) + math.log(math.cosh(3))) / 2
    for name, value in expected.items():
        assert float(build("regression", name=name)(found, wanted)) == pytest.approx(value)
    assert float(build("regression", name="huber", arguments={"delta": 2})(found, wanted)) == pytest.approx((0.125 + 2 * (3 - 1)) / 2)
    assert float(build("regression", name="log_cosh")(torch.tensor([[1e4]]), torch.zeros(1, 1))) == pytest.approx(1e4 - math.log(2))


def test_focal_loss_of_certain_classes_by_hand() -> None:
    # a true class of probability 1/4 loses (3/4)^gamma log 4
    logits, targets = torch.tensor([[1.0, 3.0]]).log(), torch.tensor([[1.0, 0.0]])
    assert float(build("binary", name="focal")(logits, targets)) == pytest.approx(0.75**2 * math.log(4))
    assert float(build("binary", name="focal", arguments={"gamma": 0.5})(logits, targets)) == pytest.approx(0.75**0.5 * math.log(4))
    # labels: a positive of 1/4 and a negative of 3/4 lose the same, a negative of 1/4 (1/4)^2 log 4/3
    cells = torch.tensor([[-1.0, 1.0, -1.0, -1.0]]) * math.log(3)
    expected = (2 * 0.75**2 * math.log(4) + 2 * 0.25**2 * math.log(4 / 3)) / 4
    loss = build_loss(Loss(name="focal"), "multilabel", np.zeros((1, 4)), 4)
    assert float(loss(cells, torch.tensor([[1.0, 0.0, 0.0, 0.0]]))) == pytest.approx(expected)


def test_focal_loss_of_hard_labels_is_that_of_torchvision() -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits, targets = logits_and_targets("multilabel", scale=3)
    expected = sigmoid_focal_loss(logits.detach(), targets.round(), alpha=-1, gamma=2, reduction="mean")
    assert float(build("multilabel", name="focal")(logits.detach(), targets.round())) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_focal_loss_of_soft_targets_is_its_formula_and_without_gamma_cross_entropy(task: Task) -> None:
    logits, targets = logits_and_targets(task)
    given, wanted = logits.detach().double().numpy(), targets.double().numpy()
    share = softmax(given, axis=1) if task == "multiclass" else expit(given)
    cells = -wanted * np.log(share) - (0 if task == "multiclass" else (1 - wanted) * np.log(1 - share))
    expected = (np.abs(wanted - share) ** 2 * cells).sum(axis=1).mean() / (1 if task == "multiclass" else CLASSES)
    assert float(build(task, name="focal")(logits.detach(), targets)) == pytest.approx(expected, rel=1e-5)
    assert float(build(task, name="focal", arguments={"gamma": 0})(logits.detach(), targets)) == pytest.approx(
        float(build(task)(logits.detach(), targets)), rel=1e-6
    )


def test_asymmetric_loss_is_its_formula() -> None:
    logits, targets = logits_and_targets("multilabel", scale=3)
    logits = logits.detach()
    share, wanted = expit(logits.double().numpy()), targets.double().numpy()
    for gamma_negative, gamma_positive, clip in ((4.0, 1.0, 0.05), (2.0, 0.0, 0.2), (1.5, 2.0, 0.0)):
        shifted = np.maximum(share - clip, 0)
        expected = -(wanted * (1 - share) ** gamma_positive * np.log(share) + (1 - wanted) * shifted**gamma_negative * np.log(1 - shifted)).mean()
        given = {"gamma_negative": gamma_negative, "gamma_positive": gamma_positive, "clip": clip}
        assert float(build("multilabel", name="asymmetric", arguments=given)(logits, targets)) == pytest.approx(expected, rel=1e-5)
        if clip == 0.05:
            assert float(build("multilabel", name="asymmetric")(logits, targets)) == pytest.approx(expected, rel=1e-5), "the paper's by default"


def test_negatives_that_are_less_probable_than_the_clip_teach_nothing() -> None:
    logits = torch.full((1, CLASSES), math.log(0.04 / 0.96), requires_grad=True)
    loss = build("multilabel", name="asymmetric")(logits, torch.zeros(1, CLASSES))
    loss.backward()
    assert float(loss.detach()) == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "focal", "arguments": {"gama": 2}}, 'loss.arguments.gama: no argument of focal; did you mean "gamma"?'),
        ({"name": "focal", "arguments": {"gamma": -1}}, "loss.arguments.gamma: must be from 0 to 100, but got -1"),
        ({"arguments": {"gamma": 2}}, "loss.arguments.gamma: cross_entropy takes no arguments; write arguments: {}"),
        ({"class_weights": (1.0, 2.0)}, "loss.class_weights: lists 2 weights, but there are 5 classes; write one for each, in order"),
    ],
)
def test_arguments_and_weights_that_do_not_fit_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as error:
        build("multiclass", **settings)
    assert str(error.value) == message


# ---------------------------------------------------------------- class weights


def weights(task: Task, given: object, learned: np.ndarray | None = None) -> np.ndarray:
    found = class_weights(Loss.model_validate({"class_weights": given}), task, learned_targets(task) if learned is None else learned, OUTPUTS[task])
    assert found is not None
    assert found.dtype == torch.float32
    return found.double().numpy()


def test_class_weights_by_hand() -> None:
    # shares 0.8 and 0.2: inverse 1.25 and 5, whose mean over the rows is 2; roots of the inverse 1 : 2, whose mean over the rows is 1.2
    assert weights("binary", "balanced").tolist() == pytest.approx([0.625, 2.5])
    assert weights("binary", "square_root").tolist() == pytest.approx([1 / 1.2, 2 / 1.2])
    assert weights("binary", (3.0, 1.0)).tolist() == pytest.approx([3 / 2.6, 1 / 2.6])
    assert class_weights(Loss(), "binary", learned_targets("binary"), 2) is None
    assert class_weights(Loss(class_weights="balanced"), "regression", learned_targets("regression"), 1) is None


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    learned = learned_targets("multiclass")
    assert weights("multiclass", "balanced")[:4] == pytest.approx(compute_class_weight("balanced", classes=np.arange(4), y=learned))


@pytest.mark.parametrize("task", CLASS_TASKS)
@pytest.mark.parametrize("given", ["balanced", "square_root", "listed"])
def test_the_mean_weight_over_the_training_rows_is_one(task: Task, given: str) -> None:
    asked = tuple(range(1, OUTPUTS[task] + 1)) if given == "listed" else given
    hard = learned_targets(task)
    soft = np.random.default_rng(0).dirichlet(np.ones(OUTPUTS[task]), size=20).astype(np.float32)
    assert weights(task, asked)[hard].mean() == pytest.approx(1)
    assert (soft @ weights(task, asked, soft)).mean() == pytest.approx(1)
    assert weights(task, asked, np.eye(OUTPUTS[task])[hard]) == pytest.approx(weights(task, asked)), "one-hot targets are the hard ones"


def test_positive_weights_are_negatives_over_positives_and_listed_ones_stay() -> None:
    assert weights("multilabel", "balanced")[:4].tolist() == pytest.approx([10 / 10, 14 / 6, 17 / 3, 19 / 1])
    assert weights("multilabel", "square_root")[:4] == pytest.approx(np.sqrt([10 / 10, 14 / 6, 17 / 3, 19 / 1]))
    assert weights("multilabel", (1.0, 2.0, 3.0, 4.0, 5.0)).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("given", ["balanced", "square_root"])
def test_a_class_that_no_row_has_and_a_label_that_every_row_has_keep_a_finite_weight(given: str) -> None:
    assert np.isfinite(weights("multiclass", given)).all()
    found = weights("multilabel", given, np.tile(np.array([1, 1, 0, 0, 1], dtype=np.float32), (20, 1)))
    assert np.isfinite(found).all()
    assert (found > 0).all(), "such a label is learned all the same"
    faint = np.tile(np.array([1.0, 1e-300, 0, 0, 0]), (20, 1))
    assert np.isfinite(weights("multiclass", given, faint)).all()


@pytest.mark.parametrize("settings", [{}, {"smoothing": 0.2}, {"name": "focal"}], ids=str)
def test_a_row_weighs_what_its_class_does(settings: dict[str, object]) -> None:
    logits, _ = logits_and_targets("multiclass")
    numbers = torch.arange(ROWS) % CLASSES
    targets = torch.eye(CLASSES)[numbers]
    plain, weighted = build("multiclass", **settings), build("multiclass", **settings, class_weights="balanced")
    factor = torch.from_numpy(weights("multiclass", "balanced")).float()
    rows = torch.stack([plain(logits[row : row + 1], targets[row : row + 1]) * factor[numbers[row]] for row in range(ROWS)])
    assert torch.allclose(weighted(logits, targets), rows.mean())


def test_a_mixed_row_weighs_what_its_shares_do() -> None:
    logits, targets = logits_and_targets("multiclass")
    weight = torch.from_numpy(weights("multiclass", "balanced")).float()
    expected = torch.nn.CrossEntropyLoss(weight=weight)(logits, targets)
    assert torch.allclose(build("multiclass", class_weights="balanced")(logits, targets), expected), "torch's own, where nothing is smoothed"
    pure = [build("multiclass", class_weights="balanced", smoothing=0.1)(logits, torch.eye(CLASSES)[[number] * ROWS]) for number in (0, 3)]
    mixed = build("multiclass", class_weights="balanced", smoothing=0.1)(logits, (0.7 * torch.eye(CLASSES)[0] + 0.3 * torch.eye(CLASSES)[3]).repeat(ROWS, 1))
    assert torch.allclose(mixed, 0.7 * pure[0] + 0.3 * pure[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_balanced_weights_make_every_class_weigh_alike(smoothing: float) -> None:
    learned = np.repeat(np.arange(4), [70, 25, 4, 1])
    loss = build_loss(Loss(class_weights="balanced", smoothing=smoothing), "multiclass", learned, 4)
    logits = torch.zeros(1, 4, requires_grad=True)
    loss(logits.expand(100, 4), torch.eye(4)[torch.from_numpy(learned)]).backward()
    assert logits.grad is not None
    assert torch.allclose(logits.grad, torch.zeros(1, 4), atol=1e-6), "where all is equal, equal shares are the best answer"


def test_a_label_s_weight_is_that_of_its_positive_rows() -> None:
    logits = logits_and_targets("multilabel")[0].detach()
    factor = weights("multilabel", "balanced").mean()
    for name in ("binary_cross_entropy", "focal", "asymmetric"):
        plain, weighted = build("multilabel", name=name), build("multilabel", name=name, class_weights="balanced")
        assert torch.allclose(weighted(logits, torch.zeros(ROWS, CLASSES)), plain(logits, torch.zeros(ROWS, CLASSES)))
        alike = torch.full_like(logits, 0.3)
        assert float(weighted(alike, torch.ones(ROWS, CLASSES))) == pytest.approx(factor * float(plain(alike, torch.ones(ROWS, CLASSES))), rel=1e-5)
