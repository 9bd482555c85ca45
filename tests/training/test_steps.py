"""Out of memory, a batch goes through the network in parts, and the update is that of the whole batch."""

import logging

import pytest
import torch

from pipeline.errors import RunFailed
from pipeline.training.steps import Gradients

CPU = torch.device("cpu")


class SmallMemory(torch.nn.Module):
    """A linear layer that, as a device with little memory, takes only so many pictures at a time."""

    def __init__(self, fits: int, words: str = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = torch.nn.Linear(3, 2)
        self.fits, self.words, self.seen = fits, words, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if len(images) > self.fits:
            raise RuntimeError(self.words)
        self.seen += len(images)
        logits: torch.Tensor = self.layer(images.mean((2, 3)))
        return logits


def batch(number: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(number)
    images = torch.randn(7, 3, 2, 2, generator=random)
    return images, torch.nn.functional.one_hot(torch.arange(7) % 2, 2).float()


def gradients(network: SmallMemory, micro_batch: int = 7) -> Gradients:
    optimizer = torch.optim.SGD(network.parameters())
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    return Gradients(network, torch.nn.CrossEntropyLoss(), optimizer, scaler, CPU, None, micro_batch)


def test_the_update_in_parts_is_that_of_whole_batches(caplog: pytest.LogCaptureFixture) -> None:
    roomy, tight = SmallMemory(fits=7), SmallMemory(fits=2)
    expected = gradients(roomy).of([3, 4], batch)
    steps = gradients(tight)
    with caplog.at_level(logging.WARNING, "pipeline"):
        logging.getLogger("pipeline").propagate = True
        found = steps.of([3, 4], batch)
    torch.testing.assert_close(torch.stack(found), torch.stack(expected))
    torch.testing.assert_close(tight.layer.weight.grad, roomy.layer.weight.grad)
    assert (steps.micro_batch, steps.halvings) == (2, [7, 4])
    assert "out of memory: goes on with 2 pictures at a time" in caplog.text


def test_an_update_that_broke_off_in_its_second_batch_starts_anew() -> None:
    roomy, tight = SmallMemory(fits=7), SmallMemory(fits=7)
    expected = gradients(roomy).of([3, 4], batch)
    steps = gradients(tight)

    def memory_shrinks(number: int) -> tuple[torch.Tensor, torch.Tensor]:
        tight.fits = 7 if tight.seen < 7 else 4
        return batch(number)

    torch.testing.assert_close(torch.stack(steps.of([3, 4], memory_shrinks)), torch.stack(expected))
    torch.testing.assert_close(tight.layer.weight.grad, roomy.layer.weight.grad)


def test_the_micro_batch_that_fits_is_kept_for_the_updates_that_follow() -> None:
    network = SmallMemory(fits=4)
    steps = gradients(network)
    steps.of([0], batch)
    network.seen = 0
    steps.of([1], batch)
    assert (network.seen, steps.halvings) == (7, [7])


def test_one_picture_that_does_not_fit_fails_the_fold_in_one_line() -> None:
    with pytest.raises(RunFailed, match=r"^out of memory with 1 pictures at a time; write .*"):
        gradients(SmallMemory(fits=0)).of([0], batch)


@pytest.mark.parametrize("pictures", [2, 3, 5, 16, 33])
@pytest.mark.parametrize("micro_batch", [2, 3, 16])
def test_no_part_is_a_single_picture_where_batch_norm_would_refuse_it(pictures: int, micro_batch: int) -> None:
    network = torch.nn.Sequential(SmallMemory(fits=99), torch.nn.BatchNorm1d(2))
    steps = Gradients(network, torch.nn.MSELoss(), torch.optim.SGD(network.parameters()), torch.amp.GradScaler("cpu", enabled=False), CPU, None, micro_batch)
    sizes = [len(part) for part in steps.parts(torch.zeros(pictures, 3, 2, 2))]
    assert sum(sizes) == pictures
    assert min(sizes) >= 2
    assert max(sizes) <= micro_batch + 1
    steps.of([0], lambda _: (torch.randn(pictures, 3, 2, 2), torch.zeros(pictures, 2)))


def test_a_network_with_batch_norm_fails_rather_than_see_single_pictures() -> None:
    network = torch.nn.Sequential(SmallMemory(fits=1), torch.nn.BatchNorm1d(2))
    steps = Gradients(network, torch.nn.MSELoss(), torch.optim.SGD(network.parameters()), torch.amp.GradScaler("cpu", enabled=False), CPU, None, 7)
    with pytest.raises(RunFailed, match="out of memory with 2 pictures"):
        steps.of([0], batch)


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(RuntimeError, match="sizes do not match"):
        gradients(SmallMemory(fits=0, words="sizes do not match")).of([0], batch)
