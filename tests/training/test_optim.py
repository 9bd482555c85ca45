import copy
import math

import pytest
import torch
from timm.optim import list_optimizers

from pipeline.config import Model, Optimizer, Schedule
from pipeline.errors import UserError
from pipeline.runtime import start_torch
from pipeline.training.models import build_model, head_names
from pipeline.training.optim import accepted_optimizers, build_ema, build_optimizer
from pipeline.training.schedules import LearningRate

NAMES = ["adamw", "sgd", "momentum", "lamb", "lion", "nadamw", "radam", "adan", "rmsproptf"]
HEAD = ("3.weight", "3.bias")


@pytest.fixture(autouse=True)
def one_thread() -> None:
    start_torch(1)


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Flatten(), torch.nn.Linear(4 * 36, 3))


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


class TestRefused:
    def test_second_derivatives(self) -> None:
        with pytest.raises(UserError, match=r"adahessian.*second derivatives"):
            build_optimizer(Optimizer(name="adahessian"), small_network())

    @pytest.mark.parametrize(
        ("name", "package", "instead"),
        [
            ("fusedadamw", "apex", "adamw"),
            ("fusednovograd", "apex", "novograd"),
            ("bnblion8bit", "bitsandbytes", "lion"),
            ("bnbademamix", "bitsandbytes", "adamw"),
            ("kron", "opt_einsum", "adamw"),
            ("kronw", "opt_einsum", "adamw"),
            ("lookahead_kron", "opt_einsum", "adamw"),
        ],
    )
    def test_what_needs_a_further_package_names_it_and_what_to_write(self, name: str, package: str, instead: str) -> None:
        with pytest.raises(UserError, match=rf'optimizer\.name: "{name}" needs the package {package}.*write e\.g\. {instead}$'):
            build_optimizer(Optimizer(name=name), small_network())

    def test_nothing_else_of_timm(self) -> None:
        refused = {str(name) for name in list_optimizers()} - set(accepted_optimizers())
        assert {name for name in refused if not name.startswith(("fused", "bnb", "kron"))} == {"adahessian"}

    @pytest.mark.parametrize(("name", "argument"), [("adamw", "momentum"), ("sgd", "betas"), ("lion", "eps"), ("adamw", "filter_bias_and_bn")])
    def test_an_argument_that_the_optimiser_does_not_take_is_not_dropped(self, name: str, argument: str) -> None:
        with pytest.raises(UserError, match=rf'optimizer\.arguments: {name} takes no "{argument}"'):
            build_optimizer(Optimizer(name=name, arguments={argument: 0.5}), small_network())

    def test_a_field_of_the_section_among_the_arguments(self) -> None:
        with pytest.raises(UserError, match=r"optimizer: adamw.*'lr'"):
            build_optimizer(Optimizer(arguments={"lr": 0.5}), small_network())

    def test_arguments_that_exclude_each_other(self) -> None:
        with pytest.raises(UserError, match="fused"):
            build_optimizer(Optimizer(arguments={"fused": True, "foreach": True}), small_network())

    def test_layer_decay_of_layers_in_no_known_order(self) -> None:
        with pytest.raises(UserError, match=r"optimizer\.layer_decay.*null"):
            build_optimizer(Optimizer(layer_decay=0.5), small_network())

    def test_a_head_multiple_without_a_head(self) -> None:
        with pytest.raises(UserError, match=r"optimizer\.head_multiple.*no head.*optimizer\.head_multiple=1"):
            build_optimizer(Optimizer(head_multiple=10), small_network())


class TestHeadMultiple:
    def test_the_head_alone_moves_that_much_further(self) -> None:
        """SGD without momentum: a step is the rate times the gradient."""
        section = Optimizer(name="sgd", learning_rate=1e-3, weight_decay=0.0, arguments={"momentum": 0.0, "nesterov": False})
        steps = []
        for multiple in (1.0, 10.0):
            model, start = small_network(), small_network().state_dict()
            optimizer = build_optimizer(section.model_copy(update={"head_multiple": multiple}), model, HEAD)
            LearningRate(Schedule(name="constant", warmup=0), 1e-3, optimizer, 1, 1).set(0)
            step(model, optimizer)
            steps.append({name: values.detach() - start[name] for name, values in model.named_parameters()})
        for name, moved in steps[0].items():
            assert torch.allclose(steps[1][name], moved * (10 if name in HEAD else 1), rtol=1e-3, atol=1e-8), name

    def test_it_multiplies_the_layers_share(self) -> None:
        model = build_model(Model(backbone="test_resnet", weights=None), 10, seed=0)
        head, scales = head_names(model), []
        assert head == {"fc.weight", "fc.bias"}
        for multiple in (1.0, 4.0):
            optimizer = build_optimizer(Optimizer(layer_decay=0.5, head_multiple=multiple), model, head)
            by_id = {id(parameter): group["lr_scale"] for group in optimizer.param_groups for parameter in group["params"]}
            scales.append({name: by_id[id(parameter)] for name, parameter in model.named_parameters()})
        assert len(set(scales[0].values())) > 3
        assert scales[1] == {name: scale * (4 if name in head else 1) for name, scale in scales[0].items()}

    @pytest.mark.parametrize("name", ["adamw", "lamb", "lookahead_radam"])
    def test_decay_and_arguments_stay_and_no_parameter_is_lost(self, name: str) -> None:
        section = Optimizer(name=name, weight_decay=0.07, arguments={"eps": 1e-5})
        found = []
        for multiple in (1.0, 10.0):
            model = small_network()
            optimizer = build_optimizer(section.model_copy(update={"head_multiple": multiple}), model, HEAD)
            names = {id(parameter): name for name, parameter in model.named_parameters()}
            groups = [{key: value for key, value in group.items() if key not in ("params", "lr_scale")} for group in optimizer.param_groups]
            found.append(
                sorted(
                    (names[id(parameter)], sorted(group.items(), key=str))
                    for group, whole in zip(groups, optimizer.param_groups, strict=True)
                    for parameter in whole["params"]
                )
            )
        assert found[0] == found[1]
        assert len(found[0]) == len(list(small_network().parameters()))

    def test_one_leaves_the_groups_as_they_are(self) -> None:
        optimizer = build_optimizer(Optimizer(head_multiple=1), small_network(), HEAD)
        assert len(optimizer.param_groups) == 2
        assert all("lr_scale" not in group for group in optimizer.param_groups)


class TestFused:
    """Fused steps are asked for on a GPU; the constructors take them on a CPU too, so that no GPU is needed to see it."""

    @pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "momentum"])
    def test_on_a_gpu_where_the_optimiser_has_them(self, name: str) -> None:
        assert build_optimizer(Optimizer(name=name), small_network(), device_type="cuda").defaults["fused"] is True
        assert not build_optimizer(Optimizer(name=name), small_network()).defaults["fused"]

    @pytest.mark.parametrize("name", ["lamb", "adagrad", "lion", "nadamw"])
    def test_elsewhere_nothing_is_asked_for(self, name: str) -> None:
        assert not build_optimizer(Optimizer(name=name), small_network(), device_type="cuda").defaults.get("fused")

    @pytest.mark.parametrize("arguments", [{"fused": False}, {"foreach": True}])
    def test_the_user_has_the_last_word(self, arguments: dict[str, bool]) -> None:
        assert not build_optimizer(Optimizer(arguments=arguments), small_network(), device_type="cuda").defaults["fused"]
