import math
from itertools import pairwise
from typing import Any

import pytest
import torch

from pipeline.config import Model, Optimizer, Schedule
from pipeline.runtime import start_torch
from pipeline.training.models import build_model
from pipeline.training.optim import build_optimizer
from pipeline.training.schedules import LearningRate, in_updates

EPOCHS, UPDATES, PEAK = 10, 20, 0.5
TOTAL = EPOCHS * UPDATES
NAMES = ["cosine", "one_cycle", "step", "plateau", "constant"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    start_torch(1)


def small_optimizer() -> torch.optim.Optimizer:
    return build_optimizer(Optimizer(learning_rate=PEAK), torch.nn.Linear(2, 2))


def schedule(**section: Any) -> LearningRate:
    return LearningRate(Schedule(**section), PEAK, small_optimizer(), EPOCHS, UPDATES)


def rates(**section: Any) -> list[float]:
    found = schedule(**section)
    return [found.set(update) for update in range(TOTAL)]


class TestInUpdates:
    @pytest.mark.parametrize(
        ("duration", "updates"),
        [
            (0, 0),
            (1, 20),
            (1.5, 30),
            ("1.5 epochs", 30),
            ("1 epoch", 20),
            ("300 steps", 300),
            ("1 step", 1),
            ("10%", 20),
            ("12.5 %", 25),
            ("0.1%", 0),
            (0.03, 1),
        ],
    )
    def test_every_way_to_write_it(self, duration: float | str, updates: int) -> None:
        assert in_updates(Schedule(warmup=duration).warmup, EPOCHS, UPDATES) == updates

    @pytest.mark.parametrize("epochs", range(1, 40))
    def test_a_share_of_the_run_is_exact(self, epochs: int) -> None:
        assert in_updates("10%", epochs, 10) == epochs


class TestEverySchedule:
    @pytest.mark.parametrize("warmup", [2, "40 steps", "20%", "2 epochs"])
    @pytest.mark.parametrize("name", NAMES)
    def test_the_peak_is_reached_when_the_warm_up_ends_and_never_before(self, name: str, warmup: float | str) -> None:
        found = rates(name=name, warmup=warmup)
        assert found[2 * UPDATES] == max(found) == pytest.approx(PEAK)
        assert found[2 * UPDATES - 1] < PEAK

    @pytest.mark.parametrize("name", NAMES)
    def test_the_warm_up_rises_without_a_jump(self, name: str) -> None:
        rise = rates(name=name, warmup=2)[: 2 * UPDATES + 1]
        steps = [after - before for before, after in pairwise(rise)]
        assert 0 < rise[0] <= PEAK / UPDATES
        assert min(steps) > 0
        assert max(steps) <= 1.02 * PEAK * math.pi / 2 / (2 * UPDATES)

    @pytest.mark.parametrize("name", NAMES)
    def test_without_warm_up_it_starts_at_the_peak(self, name: str) -> None:
        assert rates(name=name, warmup=0)[0] == pytest.approx(PEAK)

    @pytest.mark.parametrize("name", NAMES)
    def test_it_is_a_function_of_the_update_alone(self, name: str) -> None:
        expected, found = rates(name=name, warmup=2), schedule(name=name, warmup=2)
        for update in (150, 3, 39, 40, 3, 199, 0):
            assert found.set(update) == expected[update]

    @pytest.mark.parametrize("name", NAMES)
    def test_layers_keep_their_share_of_it(self, name: str) -> None:
        model = build_model(Model(backbone="test_resnet", weights=None), 10, seed=0)
        optimizer = build_optimizer(Optimizer(learning_rate=PEAK, layer_decay=0.5), model)
        found = LearningRate(Schedule(name=name, warmup=2), PEAK, optimizer, EPOCHS, UPDATES)
        for update in (0, 39, 100, 199):
            highest = found.set(update)
            for group in optimizer.param_groups:
                assert group["lr"] == pytest.approx(highest * group["lr_scale"])

    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.parametrize(("epochs", "warmup"), [(2, 1.6), (1, 0.6), (3, "300 steps"), (1, 0)])
    def test_a_warm_up_that_fills_the_run_still_trains(self, name: str, epochs: int, warmup: float | str) -> None:
        found = LearningRate(Schedule(name=name, warmup=warmup), PEAK, small_optimizer(), epochs, updates_per_epoch=1)
        assert all(0 < found.set(update) <= PEAK for update in range(epochs))
        assert found.set(epochs - 1) == pytest.approx(PEAK)

    @pytest.mark.parametrize("name", sorted(set(NAMES) - {"plateau"}))
    def test_only_plateau_hears_the_scores(self, name: str) -> None:
        found = schedule(name=name)
        for _ in range(EPOCHS):
            found.note(0.0)
        assert [found.set(update) for update in range(TOTAL)] == rates(name=name)


class TestCosine:
    def test_without_warm_up_it_is_half_a_cosine_from_the_peak(self) -> None:
        found = rates(warmup=0)
        assert found == pytest.approx([PEAK / 2 * (1 + math.cos(math.pi * update / TOTAL)) for update in range(TOTAL)])

    def test_the_warm_up_is_a_straight_line_from_zero(self) -> None:
        assert rates(warmup=2)[:40] == pytest.approx([PEAK * (update + 1) / 41 for update in range(40)])

    @pytest.mark.parametrize("warmup", [0.5, 1, 2, 5])
    def test_the_rate_never_jumps(self, warmup: float) -> None:
        found = rates(warmup=warmup)
        rise, fall = warmup * UPDATES, (EPOCHS - warmup) * UPDATES
        steepest = PEAK * max(1 / rise, math.pi / 2 / fall)
        assert max(abs(after - before) for before, after in pairwise(found)) <= 1.02 * steepest

    @pytest.mark.parametrize("name", ["cosine", "one_cycle"])
    def test_it_ends_near_the_final_share_of_the_peak(self, name: str) -> None:
        found = rates(name=name, warmup=1, final_share=0.2)
        assert min(found[UPDATES:]) >= 0.2 * PEAK
        assert found[-1] == pytest.approx(0.2 * PEAK, rel=0.01)

    def test_a_final_share_of_one_keeps_the_peak(self) -> None:
        assert rates(warmup=0, final_share=1.0) == pytest.approx([PEAK] * TOTAL)


class TestOneCycle:
    @pytest.mark.parametrize("warmup", [1, 3, 9])
    @pytest.mark.parametrize("final_share", [1e-6, 0.01, 0.5])
    def test_it_is_torchs(self, warmup: int, final_share: float) -> None:
        """torch counts the update after the run as its last, and names the end as a share of the start."""
        reference = small_optimizer()
        pct_start = (warmup * UPDATES + 1) / (TOTAL + 1)
        torchs = torch.optim.lr_scheduler.OneCycleLR(
            reference, PEAK, total_steps=TOTAL + 1, pct_start=pct_start, cycle_momentum=False, final_div_factor=1 / (25 * final_share)
        )
        expected = []
        for _ in range(TOTAL):
            expected.append(torchs.get_last_lr()[0])
            reference.step()
            torchs.step()
        assert rates(name="one_cycle", warmup=warmup, final_share=final_share) == pytest.approx(expected)


class TestStep:
    @pytest.mark.parametrize(("every", "updates"), [(3, 60), ("30%", 60), ("7 steps", 7), (0.5, 10)])
    def test_each_stretch_after_the_warm_up_has_the_factor_once_more(self, every: float | str, updates: int) -> None:
        found = rates(name="step", warmup=2, every=every, factor=0.5)[40:]
        assert found == pytest.approx([PEAK * 0.5 ** (update // updates) for update in range(TOTAL - 40)])

    def test_a_stretch_shorter_than_an_update_is_one_update(self) -> None:
        found = LearningRate(Schedule(name="step", warmup=0), PEAK, small_optimizer(), 1, 1)
        assert found.set(0) == PEAK


def test_constant_stays() -> None:
    assert rates(name="constant", warmup=1)[UPDATES:] == [PEAK] * (TOTAL - UPDATES)


class TestPlateau:
    def by_epoch(self, scores: list[float], **section: Any) -> list[float]:
        """Rate in each epoch as a multiple of the peak, in the last the one that would follow."""
        found = schedule(**{"name": "plateau", "warmup": 0, "factor": 0.5, "patience": 2, **section})
        shares = [found.set(0) / PEAK]
        for epoch, score in enumerate(scores, start=1):
            found.note(score)
            shares.append(found.set(epoch * UPDATES) / PEAK)
        return shares

    @pytest.mark.parametrize(
        ("scores", "shares"),
        [
            ([1, 2, 3, 4], [1, 1, 1, 1, 1]),
            ([1, 1, 1, 1, 1], [1, 1, 1, 0.5, 0.5, 0.25]),
            ([3, 2, 1, 4, 2, 2], [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
            ([1, 0, 2, 0, 3, 0], [1, 1, 1, 1, 1, 1, 1]),
            ([-3, math.nan, math.nan, -2], [1, 1, 1, 1, 1]),
        ],
    )
    def test_patience_epochs_in_a_row_without_a_better_score_lower_it(self, scores: list[float], shares: list[float]) -> None:
        assert self.by_epoch(scores) == pytest.approx(shares)

    def test_a_patience_of_one_lowers_it_at_once(self) -> None:
        assert self.by_epoch([2, 1, 1], patience=1) == pytest.approx([1, 1, 0.5, 0.25])

    def test_epochs_of_the_warm_up_are_not_counted(self) -> None:
        assert self.by_epoch([1] * 6, warmup=4)[4:] == pytest.approx([1, 1, 0.5])

    @pytest.mark.parametrize("killed_after", range(6))
    def test_a_restored_state_goes_on_as_if_nothing_had_happened(self, killed_after: int) -> None:
        scores = [1.0, 1.0, 1.0, 2.0, 0.0, 0.0]
        section = {"name": "plateau", "warmup": 1, "factor": 0.5}
        whole, first, resumed = schedule(**section), schedule(**section), schedule(**section)
        for score in scores[:killed_after]:
            whole.note(score)
            first.note(score)
        assert all(type(value) in (int, float) for value in first.state().values())
        resumed.restore(first.state())
        for score in scores[killed_after:]:
            whole.note(score)
            resumed.note(score)
            assert resumed.set(100) == whole.set(100)
        assert whole.set(100) == pytest.approx(PEAK / 4)
