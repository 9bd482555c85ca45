import copy
import math
from itertools import pairwise

import pytest
import torch

from pipeline.config import Model, Optimizer, Schedule
from pipeline.errors import UserError
from pipeline.runtime import start_torch
from pipeline.training.models import build_model
from pipeline.training.optim import LearningRate, build_ema, build_optimizer

NAMES = ["adamw", "sgd", "momentum", "lamb", "lion", "nadamw", "radam", "adan", "rmsproptf"]
EPOCHS, UPDATES, PEAK = 10, 20, 0.5


@pytest.fixture(autouse=True)
def one_thread() -> None:
    start_torch(1)


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))


def rates(warmup_epochs: float, final_share: float = 0.0) -> list[float]:
    optimizer = build_optimizer(Optimizer(learning_rate=PEAK), small_network())
    schedule = LearningRate(Schedule(warmup_epochs=warmup_epochs, final_share=final_share), PEAK, optimizer, EPOCHS, UPDATES)
    return [schedule.set(update) for update in range(EPOCHS * UPDATES)]


class TestLearningRate:
    def test_without_warm_up_it_is_half_a_cosine_from_the_peak(self) -> None:
        found, total = rates(0), EPOCHS * UPDATES
        assert found[0] == pytest.approx(PEAK)
        assert found[total // 2] == pytest.approx(PEAK / 2)
        assert found[-1] == pytest.approx(PEAK / 2 * (1 + math.cos(math.pi * (total - 1) / total)))
        assert found == sorted(found, reverse=True)

    def test_the_first_update_moves_and_the_warm_up_is_a_straight_line(self) -> None:
        rise = rates(2)[: 2 * UPDATES]
        assert 0 < rise[0] <= PEAK / UPDATES
        steps = [after - before for before, after in pairwise(rise)]
        assert steps == pytest.approx([steps[0]] * len(steps))
        assert steps[0] > 0

    @pytest.mark.parametrize("warmup_epochs", [0.5, 1, 2, 5, 9])
    def test_the_peak_is_reached_when_the_warm_up_ends(self, warmup_epochs: float) -> None:
        found, end = rates(warmup_epochs), round(warmup_epochs * UPDATES)
        assert found[end] == pytest.approx(PEAK, rel=0.02)
        assert max(found) == pytest.approx(PEAK, rel=0.02)

    @pytest.mark.parametrize("warmup_epochs", [0.5, 1, 2, 5])
    def test_the_rate_never_jumps(self, warmup_epochs: float) -> None:
        found = rates(warmup_epochs)
        rise, fall = warmup_epochs * UPDATES, (EPOCHS - warmup_epochs) * UPDATES
        steepest = PEAK * max(1 / rise, math.pi / 2 / fall)
        assert max(abs(after - before) for before, after in pairwise(found)) <= 1.02 * steepest

    def test_it_ends_near_the_final_share_of_the_peak(self) -> None:
        found = rates(1, final_share=0.2)
        assert min(found[UPDATES:]) >= 0.2 * PEAK
        assert found[-1] == pytest.approx(0.2 * PEAK, rel=0.01)

    def test_a_final_share_of_one_keeps_the_peak(self) -> None:
        assert rates(0, final_share=1.0) == pytest.approx([PEAK] * (EPOCHS * UPDATES))

    @pytest.mark.parametrize(("epochs", "warmup_epochs"), [(2, 1.6), (1, 0.6)])
    def test_a_warm_up_that_rounds_to_the_whole_run_still_trains(self, epochs: int, warmup_epochs: float) -> None:
        optimizer = build_optimizer(Optimizer(learning_rate=PEAK), small_network())
        schedule = LearningRate(Schedule(warmup_epochs=warmup_epochs), PEAK, optimizer, epochs, updates_per_epoch=1)
        assert all(0 < schedule.set(update) <= PEAK for update in range(epochs))

    def test_it_is_a_function_of_the_update_alone(self) -> None:
        expected = rates(2)
        optimizer = build_optimizer(Optimizer(learning_rate=PEAK), small_network())
        schedule = LearningRate(Schedule(warmup_epochs=2), PEAK, optimizer, EPOCHS, UPDATES)
        for update in (150, 3, 39, 40, 3, 199, 0):
            assert schedule.set(update) == expected[update]
            assert {group["lr"] for group in optimizer.param_groups} == {expected[update]}

    def test_layers_keep_their_share_of_it(self) -> None:
        model = build_model(Model(backbone="test_resnet", weights=None), 10, seed=0)
        optimizer = build_optimizer(Optimizer(learning_rate=PEAK, layer_decay=0.5), model)
        schedule = LearningRate(Schedule(warmup_epochs=2), PEAK, optimizer, EPOCHS, UPDATES)
        for update in (0, 39, 100, 199):
            highest = schedule.set(update)
            for group in optimizer.param_groups:
                assert group["lr"] == pytest.approx(highest * group["lr_scale"])


class TestOptimizer:
    def test_norms_and_biases_get_no_weight_decay_and_all_else_does(self) -> None:
        model = build_model(Model(backbone="test_resnet", weights=None), 10, seed=0)
        optimizer = build_optimizer(Optimizer(weight_decay=0.07), model)
        decay = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
        for name, parameter in model.named_parameters():
            spared = parameter.ndim <= 1 or name.endswith(".bias")
            assert decay[id(parameter)] == (0.0 if spared else 0.07), name
        assert len(decay) == len(list(model.parameters()))

    @pytest.mark.parametrize(("written", "meant"), [("adamww", "adamw"), ("AdamW", "adamw"), ("sdg", "sgd")])
    def test_an_unknown_name_is_named_with_the_nearest(self, written: str, meant: str) -> None:
        with pytest.raises(UserError, match=rf'optimizer\.name.*"{written}".*"{meant}'):
            build_optimizer(Optimizer(name=written), small_network())

    def test_an_unknown_argument_is_named(self) -> None:
        with pytest.raises(UserError, match=r"optimizer.*adamw.*beta_one"):
            build_optimizer(Optimizer(arguments={"beta_one": 0.9}), small_network())

    def test_a_wrong_value_is_refused(self) -> None:
        with pytest.raises(UserError, match="optimizer"):
            build_optimizer(Optimizer(arguments={"betas": [0.9, 1.5]}), small_network())

    def test_arguments_reach_the_optimizer(self) -> None:
        optimizer = build_optimizer(Optimizer(arguments={"betas": [0.8, 0.95]}), small_network())
        assert {group["betas"] for group in optimizer.param_groups} == {(0.8, 0.95)}

    @pytest.mark.parametrize("name", NAMES)
    def test_steps_lower_the_loss(self, name: str) -> None:
        model = small_network()
        optimizer = build_optimizer(Optimizer(name=name, learning_rate=1e-3), model)
        losses = [step(model, optimizer) for _ in range(6)]
        assert all(math.isfinite(loss) for loss in losses)
        assert losses[-1] < losses[0]

    @pytest.mark.parametrize("name", NAMES)
    def test_a_restored_state_goes_on_in_the_same_bits(self, name: str) -> None:
        model = small_network()
        optimizer = build_optimizer(Optimizer(name=name), model)
        for _ in range(3):
            step(model, optimizer)
        weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
        for _ in range(7):
            step(model, optimizer)
        resumed = small_network()
        again = build_optimizer(Optimizer(name=name), resumed)
        resumed.load_state_dict(weights)
        again.load_state_dict(state)
        for _ in range(7):
            step(resumed, again)
        assert all(torch.equal(left, right) for left, right in zip(model.parameters(), resumed.parameters(), strict=True))

    def test_layer_decay_gives_smaller_rates_to_earlier_layers(self) -> None:
        model = build_model(Model(backbone="test_resnet", weights=None), 10, seed=0)
        optimizer = build_optimizer(Optimizer(layer_decay=0.5), model)
        scale = {id(parameter): group["lr_scale"] for group in optimizer.param_groups for parameter in group["params"]}
        by_name = {name: scale[id(parameter)] for name, parameter in model.named_parameters()}
        path = ["conv1.0.weight", "layer1.0.conv1.weight", "layer2.0.conv1.weight", "layer3.0.conv1.weight", "layer4.0.conv1.weight", "fc.weight"]
        shares = [by_name[name] for name in path]
        assert shares == sorted(shares)
        assert shares[0] < shares[2] < shares[-1] == 1.0


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> float:
    generator = torch.Generator().manual_seed(0)
    images, targets = torch.randn(8, 3, 8, 8, generator=generator), torch.randint(3, (8,), generator=generator)
    loss = torch.nn.functional.cross_entropy(model(images), targets)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


class TestMovingAverage:
    def test_none_is_none(self) -> None:
        assert build_ema(None, small_network()) is None

    def test_it_follows_the_weights_and_the_batch_statistics(self) -> None:
        model = small_network()
        ema = build_ema(0.9, model)
        assert ema is not None
        start = ema.module.state_dict()["0.weight"].clone()
        with torch.no_grad():
            model.get_parameter("0.weight").add_(1.0)
            model.get_buffer("1.running_mean").add_(1.0)
        for number in range(1, 400):
            ema.update(model, step=number)
        state = ema.module.state_dict()
        assert torch.allclose(state["0.weight"], start + 1, atol=1e-4)
        assert torch.allclose(state["1.running_mean"], torch.ones(4), atol=1e-4)

    def test_its_decay_rises_to_the_one_asked_for(self) -> None:
        ema = build_ema(0.99, small_network())
        assert ema is not None
        decays = [ema.get_decay(number) for number in (1, 10, 100, 1_000, 1_000_000)]
        assert decays == sorted(decays)
        assert decays[0] < decays[1] < 0.9
        assert decays[-1] == 0.99


def test_an_optimiser_that_needs_second_derivatives_is_refused() -> None:
    with pytest.raises(UserError, match=r"adahessian.*second derivatives"):
        build_optimizer(Optimizer(name="adahessian"), small_network())
