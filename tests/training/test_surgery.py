import copy

import pytest
import timm
import torch

from pipeline.config import Model
from pipeline.errors import UserError
from pipeline.training.models import build_model, head_names
from pipeline.training.surgery import average_weights, freeze_backbone, recalibrate_batch_norm, train_mode, use_gradient_checkpointing


def network(backbone: str = "test_resnet", **arguments: object) -> torch.nn.Module:
    return build_model(Model(backbone=backbone, weights=None, arguments=arguments), 5, seed=0)


def pictures(*, seed: int = 0, count: int = 8, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    layers = (torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4, momentum=0.3), torch.nn.ReLU(), torch.nn.Dropout(0.5), torch.nn.BatchNorm2d(4))
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(4 * 30 * 30, 5))


class TestHeadNames:
    @pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "torchvision/squeezenet1_1", "levit_128s"])
    def test_they_are_what_the_number_of_classes_changes(self, backbone: str) -> None:
        few, many = (dict(build_model(Model(backbone=backbone, weights=None), classes, seed=0).named_parameters()) for classes in (5, 6))
        changed = {name for name, values in few.items() if values.shape != many[name].shape}
        assert head_names(network(backbone)) == changed

    def test_they_are_empty_where_no_head_is_known(self) -> None:
        assert head_names(small_network()) == frozenset()


class TestFreezing:
    @pytest.mark.parametrize("backbone", ["test_resnet", "test_vit", "torchvision/shufflenet_v2_x0_5"])
    def test_a_frozen_step_moves_the_head_and_nothing_else(self, backbone: str) -> None:
        model = network(backbone)
        head = head_names(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        freeze_backbone(model, head, frozen=True)
        train_mode(model, head, frozen=True)
        before = copy.deepcopy(model.state_dict())
        size = 160 if backbone == "test_vit" else 32
        model(torch.nn.functional.interpolate(pictures(), size)).square().mean().backward()
        optimizer.step()
        assert {name for name, values in model.state_dict().items() if not torch.equal(values, before[name])} == head

    def test_given_back_everything_learns_but_what_the_network_keeps_fixed(self) -> None:
        model = network()
        model.get_parameter("conv1.0.weight").requires_grad_(False)
        head = head_names(model)
        freeze_backbone(model, head, frozen=True)
        freeze_backbone(model, head, frozen=True)
        freeze_backbone(model, head, frozen=False)
        assert {name for name, values in model.named_parameters() if not values.requires_grad} == {"conv1.0.weight"}

    def test_a_network_that_was_never_frozen_stays_as_it_is(self) -> None:
        model = network()
        freeze_backbone(model, head_names(model), frozen=False)
        assert all(values.requires_grad for values in model.parameters())

    def test_an_unknown_head_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"train\.freeze"):
            freeze_backbone(small_network(), frozenset(), frozen=True)

    def test_the_modules_that_hold_the_head_train_and_all_others_stand_still(self) -> None:
        model = network("torchvision/squeezenet1_1")
        train_mode(model, head_names(model), frozen=True)
        assert {path for path, module in model.named_modules() if module.training} == {"", "classifier", "classifier.1"}

    def test_once_given_back_every_module_trains(self) -> None:
        model = network()
        train_mode(model, head_names(model), frozen=True)
        train_mode(model, head_names(model), frozen=False)
        assert all(module.training for module in model.modules())

    def test_dropout_and_drop_path_are_off_before_the_head(self) -> None:
        model = network("test_vit", drop_rate=0.5, drop_path_rate=0.5)
        train_mode(model, head_names(model), frozen=True)
        batch = torch.rand(2, 3, 160, 160)
        assert torch.equal(model(batch), model(batch))


class TestGradientCheckpointing:
    @pytest.mark.parametrize(("backbone", "block"), [("test_resnet", "layer1.0"), ("test_convnext", "stages.0.blocks.0")])
    def test_gradients_are_equal_with_and_without_it(self, backbone: str, block: str) -> None:
        plain, saving = network(backbone), network(backbone)
        use_gradient_checkpointing(saving)
        forwards = []
        saving.get_submodule(block).register_forward_pre_hook(lambda *_: forwards.append(1))
        for model in (plain, saving):
            model.train()(pictures()).square().mean().backward()
        assert len(forwards) == 2
        for (name, first), second in zip(plain.named_parameters(), saving.parameters(), strict=True):
            assert torch.equal(first.grad, second.grad), name

    @pytest.mark.parametrize("backbone", ["torchvision/squeezenet1_1", "dla46_c"])
    def test_a_network_that_cannot_is_named(self, backbone: str) -> None:
        with pytest.raises(UserError, match=rf"train\.gradient_checkpointing: {backbone} cannot; write false"):
            use_gradient_checkpointing(network(backbone))


class TestAverageWeights:
    def test_it_is_the_mean_and_counters_are_the_last(self) -> None:
        states = [
            {"weight": torch.tensor([value, 2 * value]), "num_batches_tracked": torch.tensor(count)} for value, count in [(1.0, 10), (4.0, 20), (1.0, 35)]
        ]
        mean = average_weights(states)
        assert mean["weight"].tolist() == [2.0, 4.0]
        assert mean["num_batches_tracked"].item() == 35

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_equal_weights_come_back_as_they_are(self, dtype: torch.dtype) -> None:
        weights = torch.randn(1000, generator=torch.Generator().manual_seed(0)).to(dtype)
        mean = average_weights([{"weight": weights}] * 7)["weight"]
        assert mean.dtype == dtype
        assert torch.equal(mean, weights)

    def test_large_half_precision_values_do_not_overflow(self) -> None:
        assert average_weights([{"weight": torch.tensor([6e4], dtype=torch.float16)}] * 4)["weight"].isfinite().all()

    def test_the_states_are_not_changed_with_it(self) -> None:
        state = {"weight": torch.ones(3), "count": torch.tensor(1)}
        mean = average_weights([state])
        mean["weight"] += 1
        mean["count"] += 1
        assert state["weight"].tolist() == [1, 1, 1]
        assert state["count"].item() == 1

    @pytest.mark.parametrize("backbone", ["test_resnet", "torchvision/mnasnet0_5"])
    def test_a_network_loads_it(self, backbone: str) -> None:
        model = network(backbone)
        model.load_state_dict(average_weights([model.state_dict(), model.state_dict()]))


class TestRecalibrateBatchNorm:
    @staticmethod
    def _plain(model: torch.nn.Module, batches: list[torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Statistics of the inputs of each BatchNorm: mean over batches of their means and unbiased variances, written out."""
        model = copy.deepcopy(model).eval()
        norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        seen: list[list[torch.Tensor]] = [[] for _ in norms]
        for norm, into in zip(norms, seen, strict=True):
            norm.register_forward_pre_hook(lambda module, inputs, into=into: into.append(inputs[0].detach().transpose(0, 1).flatten(1)))
            norm.train()
        with torch.no_grad():
            for batch in batches:
                model(batch)
        return [(torch.stack([x.mean(1) for x in each]).mean(0), torch.stack([x.var(1) for x in each]).mean(0)) for each in seen]

    @pytest.mark.parametrize("model", [small_network(), network(), network("test_efficientnet", drop_path_rate=0.3)], ids=["plain", "resnet", "drop_path"])
    def test_statistics_are_the_mean_over_the_batches_without_dropout(self, model: torch.nn.Module) -> None:
        batches = [pictures(seed=seed, scale=1.0 + seed) for seed in range(3)]
        expected = self._plain(model, batches)
        recalibrate_batch_norm(model, iter(batches))
        found = [(module.running_mean, module.running_var) for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs)

    def test_what_was_there_before_does_not_count(self) -> None:
        first, second = small_network(), small_network()
        first.train()(pictures(seed=9, scale=100.0))
        for model in (first, second):
            recalibrate_batch_norm(model, [pictures()])
        assert all(torch.equal(values, second.state_dict()[name]) for name, values in first.state_dict().items())

    def test_it_leaves_the_network_in_eval_with_its_momentum_and_weights(self) -> None:
        model = small_network().train()
        before = copy.deepcopy(dict(model.named_parameters()))
        recalibrate_batch_norm(model, [pictures()])
        assert not any(module.training for module in model.modules())
        assert [module.momentum for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)] == [0.3, 0.1]
        assert all(torch.equal(values, before[name]) for name, values in model.named_parameters())

    def test_a_network_without_batch_norm_reads_no_batch(self) -> None:
        def no_batches() -> object:
            raise AssertionError("read")
            yield

        model = network("test_vit").train()
        recalibrate_batch_norm(model, no_batches())  # type: ignore[arg-type]
        assert not model.training

    def test_an_interrupted_pass_gives_the_momentum_back(self) -> None:
        model = small_network()
        with pytest.raises(KeyboardInterrupt):
            recalibrate_batch_norm(model, (_interrupt() for _ in range(1)))
        assert model[1].momentum == 0.3


def _interrupt() -> torch.Tensor:
    raise KeyboardInterrupt


def test_timm_knows_the_networks_used_here() -> None:
    assert {"test_resnet", "test_vit", "test_convnext", "test_efficientnet", "levit_128s", "dla46_c"} <= set(timm.list_models())
