import math
import typing

import pytest
import torch

from pipeline.config import LOSS_TASKS, Loss, Task
from pipeline.training.losses import AUTO, LOSSES, build_loss

ROWS, CLASSES = 12, 5
PAIRS: list[tuple[str, Task, float]] = [(name, task, 0.0) for name, tasks in LOSS_TASKS.items() for task in tasks]
PAIRS += [("cross_entropy", "multiclass", 0.1), ("auto", "ordinal", 0.1)]


def logits_and_targets(task: Task, scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Soft targets, as mixing makes them: shares of classes, shares of each label, or numbers."""
    generator = torch.Generator().manual_seed(0)
    outputs = {"regression": 1, "binary": 2}.get(task, CLASSES)
    logits = (scale * torch.randn(ROWS, outputs, generator=generator)).requires_grad_()
    values = torch.randn(ROWS, outputs, generator=generator)
    return logits, values if task == "regression" else values.sigmoid() if task == "multilabel" else values.softmax(dim=1)


def right_logits(task: Task) -> tuple[torch.Tensor, torch.Tensor]:
    if task == "regression":
        targets = torch.tensor([[-1.0], [0.5], [2.0]])
        return targets, targets
    targets = torch.eye(2 if task == "binary" else CLASSES)
    return 3 * (2 * targets - 1), targets


@pytest.mark.parametrize(("name", "task", "smoothing"), PAIRS)
class TestEveryLoss:
    def build(self, name: str, task: Task, smoothing: float) -> torch.nn.Module:
        return build_loss(Loss.model_validate({"name": name, "smoothing": smoothing}), task)

    @pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
    def test_soft_targets_give_a_finite_number_and_finite_gradients(self, name: str, task: Task, smoothing: float, scale: float) -> None:
        logits, targets = logits_and_targets(task, scale)
        loss = self.build(name, task, smoothing)(logits, targets)
        loss.backward()
        assert loss.shape == ()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()

    def test_a_step_along_the_gradient_lowers_it(self, name: str, task: Task, smoothing: float) -> None:
        logits, targets = logits_and_targets(task)
        loss = self.build(name, task, smoothing)
        before = loss(logits, targets)
        before.backward()
        assert logits.grad is not None
        assert loss(logits - 0.1 * logits.grad, targets) < before

    def test_right_logits_lose_less_than_wrong_ones(self, name: str, task: Task, smoothing: float) -> None:
        logits, targets = right_logits(task)
        loss = self.build(name, task, smoothing)
        assert loss(logits, targets) < loss(torch.zeros_like(logits), targets) < loss(-logits, targets)

    def test_it_is_the_mean_of_the_rows(self, name: str, task: Task, smoothing: float) -> None:
        logits, targets = logits_and_targets(task)
        loss = self.build(name, task, smoothing)
        rows = torch.stack([loss(logits[row : row + 1], targets[row : row + 1]) for row in range(ROWS)])
        assert torch.allclose(loss(logits, targets), rows.mean(), atol=1e-6)

    def test_neither_logits_nor_targets_are_changed(self, name: str, task: Task, smoothing: float) -> None:
        logits, targets = logits_and_targets(task)
        before = logits.detach().clone(), targets.clone()
        self.build(name, task, smoothing)(logits, targets).backward()
        assert torch.equal(logits.detach(), before[0])
        assert torch.equal(targets, before[1])


def test_config_tasks_and_program_know_the_same_losses() -> None:
    names = set(typing.get_args(Loss.model_fields["name"].annotation))
    assert names == set(LOSS_TASKS) == set(LOSSES) | {"auto"}


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
    assert type(build_loss(Loss(), task)) is kind
    assert task in LOSS_TASKS[AUTO.get(task, "cross_entropy")]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_formula_with_smoothed_soft_targets(smoothing: float) -> None:
    logits, targets = logits_and_targets("multiclass")
    smooth = (1 - smoothing) * targets.double() + smoothing / CLASSES
    expected = -(smooth * logits.detach().double().log_softmax(dim=1)).sum(dim=1).mean()
    assert float(build_loss(Loss(smoothing=smoothing), "multiclass")(logits.detach(), targets)) == pytest.approx(float(expected), abs=1e-6)


def test_binary_cross_entropy_is_its_formula_over_all_cells() -> None:
    logits, targets = logits_and_targets("multilabel")
    share = logits.detach().double().sigmoid()
    expected = -(targets * share.log() + (1 - targets) * (1 - share).log()).mean()
    assert float(build_loss(Loss(), "multilabel")(logits.detach(), targets)) == pytest.approx(float(expected), abs=1e-6)
    assert float(build_loss(Loss(), "multilabel")(torch.zeros(2, 3), torch.ones(2, 3))) == pytest.approx(math.log(2))


def test_losses_of_numbers_by_hand() -> None:
    found, wanted = torch.tensor([[0.0], [3.0]]), torch.tensor([[0.5], [0.0]])
    expected = {"mse": (0.25 + 9) / 2, "mae": (0.5 + 3) / 2, "huber": (0.125 + 2.5) / 2}
    for name, value in expected.items():
        assert float(build_loss(Loss.model_validate({"name": name}), "regression")(found, wanted)) == pytest.approx(value)
