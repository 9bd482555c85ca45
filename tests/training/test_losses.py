import pytest
import torch

from pipeline.config import Loss
from pipeline.training.losses import LOSSES, build_loss

ROWS, CLASSES = 12, 5


def logits_and_targets(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = (scale * torch.randn(ROWS, CLASSES, generator=generator)).requires_grad_()
    return logits, torch.randn(ROWS, CLASSES, generator=generator).softmax(dim=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("name", LOSSES)
class TestEveryLoss:
    def build(self, name: str, smoothing: float) -> torch.nn.Module:
        return build_loss(Loss.model_validate({"name": name, "smoothing": smoothing}))

    @pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
    def test_soft_targets_give_a_finite_number_and_finite_gradients(self, name: str, smoothing: float, scale: float) -> None:
        logits, targets = logits_and_targets(scale)
        loss = self.build(name, smoothing)(logits, targets)
        loss.backward()
        assert loss.shape == ()
        assert torch.isfinite(loss)
        assert logits.grad is not None
        assert torch.isfinite(logits.grad).all()

    def test_a_step_along_the_gradient_lowers_it(self, name: str, smoothing: float) -> None:
        logits, targets = logits_and_targets()
        loss = self.build(name, smoothing)
        before = loss(logits, targets)
        before.backward()
        assert logits.grad is not None
        assert loss(logits - 0.1 * logits.grad, targets) < before

    def test_right_logits_lose_less_than_wrong_ones(self, name: str, smoothing: float) -> None:
        targets = torch.eye(CLASSES)
        loss = self.build(name, smoothing)
        assert loss(3 * targets, targets) < loss(torch.zeros(CLASSES, CLASSES), targets) < loss(-3 * targets, targets)

    def test_it_is_the_mean_of_the_rows(self, name: str, smoothing: float) -> None:
        logits, targets = logits_and_targets()
        loss = self.build(name, smoothing)
        rows = torch.stack([loss(logits[row : row + 1], targets[row : row + 1]) for row in range(ROWS)])
        assert torch.allclose(loss(logits, targets), rows.mean(), atol=1e-6)

    def test_neither_logits_nor_targets_are_changed(self, name: str, smoothing: float) -> None:
        logits, targets = logits_and_targets()
        before = logits.detach().clone(), targets.clone()
        self.build(name, smoothing)(logits, targets).backward()
        assert torch.equal(logits.detach(), before[0])
        assert torch.equal(targets, before[1])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_its_formula_with_smoothed_soft_targets(smoothing: float) -> None:
    logits, targets = logits_and_targets()
    smooth = (1 - smoothing) * targets.double() + smoothing / CLASSES
    expected = -(smooth * logits.detach().double().log_softmax(dim=1)).sum(dim=1).mean()
    assert float(build_loss(Loss(smoothing=smoothing))(logits.detach(), targets)) == pytest.approx(float(expected), abs=1e-6)
