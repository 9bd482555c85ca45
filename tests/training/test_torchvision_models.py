import re
from pathlib import Path
from urllib.parse import urlparse

import pytest
import safetensors.torch
import torch
import torchvision.models

from pipeline.config import Model, Optimizer
from pipeline.errors import UserError
from pipeline.training.models import build_model, check_backbone, check_output, head_names
from pipeline.training.optim import build_optimizer
from pipeline.training.torchvision_models import network_names

CLASSES = 7
SMALL = {"shufflenet_v2_x0_5": 32, "squeezenet1_1": 32, "mnasnet0_5": 32}
NAMED_BY_THE_ISSUE = {
    "alexnet": 63,
    "vgg16": 32,
    "squeezenet1_0": 32,
    "densenet161": 32,
    "inception_v3": 75,
    "googlenet": 32,
    "shufflenet_v2_x1_0": 32,
    "mobilenet_v2": 32,
    "resnext50_32x4d": 32,
    "wide_resnet50_2": 32,
    "mnasnet1_0": 32,
    "resnet18": 32,
}
NEEDS_SIZE = {"maxvit_t": 224, "vit_b_16": 224, "vit_b_32": 224, "vit_l_16": 224, "vit_l_32": 224, "vit_h_14": 224}
TOO_LARGE = {"regnet_y_128gf", "regnet_y_32gf", "regnet_x_32gf", "regnet_y_16gf", "regnet_x_16gf"}


def network(name: str, **settings: object) -> Model:
    return Model.model_validate({"backbone": f"torchvision/{name}", "weights": None, **settings})


def saved(name: str, num_classes: int, **arguments: object) -> dict[str, torch.Tensor]:
    torch.manual_seed(123)
    state = torchvision.models.get_model(name, weights=None, num_classes=num_classes, **arguments).state_dict()
    return {key: values + 0.25 if values.is_floating_point() else values for key, values in state.items()}


def put_in_the_hubs_folder(folder: Path, name: str, state: dict[str, torch.Tensor]) -> None:
    """Where torchvision finds what it once downloaded, if TORCH_HOME is `folder`."""
    url = torchvision.models.get_model_weights(name).DEFAULT.url
    (folder / "hub" / "checkpoints").mkdir(parents=True)
    torch.save(state, folder / "hub" / "checkpoints" / Path(urlparse(url).path).name)


def assert_backbone_is(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    head = head_names(model)
    for name, values in model.state_dict().items():
        if name not in head and not name.endswith("num_batches_tracked"):
            assert torch.equal(values, state[name]), name


class TestMistakesInTheConfig:
    @pytest.mark.parametrize(
        ("written", "meant"),
        [("resnet5O", "resnet50"), ("mnasnet", "mnasnet1_0"), ("shufflenet", "shufflenet_v2_x1_0"), ("squeezenet", "squeezenet1_0"), ("ResNet18", "resnet18")],
    )
    def test_an_unknown_network_is_named_with_the_one_meant(self, written: str, meant: str) -> None:
        with pytest.raises(UserError, match=rf'model\.backbone.*"{written}"; did you mean "{meant}"'):
            check_backbone(network(written))

    def test_a_network_with_nothing_near_says_where_to_look(self) -> None:
        with pytest.raises(UserError, match="list_models"):
            check_backbone(network("qqqqzzzz"))

    def test_a_network_that_only_torchvision_has_is_told_how_to_write(self) -> None:
        with pytest.raises(UserError, match='write "torchvision/alexnet"'):
            check_backbone(network("resnet18", backbone="alexnet"))

    def test_a_wrong_argument_is_named(self) -> None:
        with pytest.raises(UserError, match=r"model\.arguments.*drop_rat"):
            build_model(network("squeezenet1_1", arguments={"drop_rat": 0.1}), CLASSES, seed=0)

    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    def test_auxiliary_heads_are_refused(self, name: str) -> None:
        with pytest.raises(UserError, match="aux_logits"):
            build_model(network(name, arguments={"aux_logits": True}), CLASSES, seed=0)

    def test_a_picture_that_is_too_small_is_said_before_training(self) -> None:
        with pytest.raises(UserError, match=r"takes no RGB pictures of 8x8.*images\.size"):
            check_output(build_model(network("squeezenet1_1"), CLASSES, seed=0), (8, 8), CLASSES)


def test_the_seed_decides_the_weights() -> None:
    first, again, other = (build_model(network("squeezenet1_1"), CLASSES, seed=seed).state_dict()["classifier.1.weight"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_arguments_reach_the_network() -> None:
    assert build_model(network("squeezenet1_1", arguments={"dropout": 0.3}), CLASSES, seed=0).get_submodule("classifier.0").p == 0.3


@pytest.mark.parametrize(("name", "size"), [*SMALL.items(), *(pytest.param(*item, marks=pytest.mark.slow) for item in NAMED_BY_THE_ISSUE.items())])
def test_a_network_trains_a_step_and_predicts(name: str, size: int) -> None:
    model = build_model(network(name), CLASSES, seed=0)
    check_output(model, (size, size), CLASSES)
    optimizer = build_optimizer(Optimizer(name="sgd", learning_rate=0.01, layer_decay=0.75), model)
    before = {key: values.detach().clone() for key, values in model.named_parameters()}
    torch.manual_seed(0)
    loss = torch.nn.functional.cross_entropy(model.train()(torch.rand(4, 3, size, size)), torch.tensor([0, 1, 2, 6]))
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
    optimizer.step()
    assert loss.isfinite()
    assert all(not torch.equal(values, before[key]) for key, values in model.named_parameters() if key in head_names(model))
    with torch.inference_mode():
        assert model.eval()(torch.rand(2, 3, size, size)).isfinite().all()


@pytest.mark.parametrize("name", ["mnasnet0_5", "shufflenet_v2_x0_5"])
def test_after_some_dozens_of_steps_batch_norm_knows_the_statistics(name: str) -> None:
    model, pictures = build_model(network(name), CLASSES, seed=0).train(), torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    means: dict[torch.nn.Module, torch.Tensor] = {}
    for norm in norms:
        norm.register_forward_pre_hook(lambda module, inputs: means.update({module: inputs[0].mean((0, 2, 3))}))
    with torch.no_grad():
        for _ in range(60):
            model(pictures)
    for norm in norms:
        torch.testing.assert_close(norm.running_mean, means[norm], rtol=0.01, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", network_names())
def test_every_network_of_torchvision_answers_with_one_number_per_class(name: str) -> None:
    if name in TOO_LARGE:
        pytest.skip("gigabytes of weights, built as its smaller relatives are")
    size = NEEDS_SIZE.get(name, 96)
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = build_model(network(name), CLASSES, seed=0)
        assert model.eval()(torch.zeros(2, 3, size, size)).shape == (2, CLASSES)
    parameters = dict(model.named_parameters())
    assert head_names(model)
    assert all(len(parameters[key]) == CLASSES for key in head_names(model))


class TestGroupsOfTheOptimizer:
    @pytest.mark.parametrize("name", SMALL)
    def test_the_head_learns_at_the_full_rate_and_the_stem_slowest(self, name: str) -> None:
        model = build_model(network(name), CLASSES, seed=0)
        groups = build_optimizer(Optimizer(layer_decay=0.75), model).param_groups
        scales = {id(parameter): group["lr_scale"] for group in groups for parameter in group["params"]}
        parameters = dict(model.named_parameters())
        head = {scales[id(parameters[key])] for key in head_names(model)}
        assert head == {1.0}
        assert max(scales[id(values)] for key, values in parameters.items() if key not in head_names(model)) == 0.75
        assert scales[id(next(iter(parameters.values())))] == min(scales.values())

    def test_norms_and_biases_do_not_decay(self) -> None:
        model = build_model(network("shufflenet_v2_x0_5"), CLASSES, seed=0)
        groups = build_optimizer(Optimizer(weight_decay=0.05), model).param_groups
        decays = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
        assert all(decays[id(parameter)] == (0.05 if parameter.ndim > 1 else 0.0) for parameter in model.parameters())


class TestWeights:
    @pytest.mark.parametrize("suffix", [".pt", ".pth", ".safetensors"])
    @pytest.mark.parametrize("in_file", [1000, 12])
    def test_a_file_with_another_number_of_classes_loads_all_but_the_head(self, tmp_path: Path, suffix: str, in_file: int) -> None:
        path, state = tmp_path / f"weights{suffix}", saved("squeezenet1_1", in_file)
        safetensors.torch.save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
        model, fresh = (build_model(network("squeezenet1_1", weights=weights), CLASSES, seed=3) for weights in (str(path), None))
        assert_backbone_is(model, state)
        assert torch.equal(model.get_parameter("classifier.1.weight"), fresh.get_parameter("classifier.1.weight"))

    def test_a_file_with_the_same_number_of_classes_loads_the_head_too(self, tmp_path: Path) -> None:
        state = saved("squeezenet1_1", CLASSES)
        torch.save(state, tmp_path / "weights.pth")
        model = build_model(network("squeezenet1_1", weights=str(tmp_path / "weights.pth")), CLASSES, seed=3)
        assert torch.equal(model.get_parameter("classifier.1.weight"), state["classifier.1.weight"])

    @pytest.mark.parametrize("key", ["state_dict", "model"])
    def test_a_wrapped_file_of_parallel_training_loads(self, tmp_path: Path, key: str) -> None:
        state = saved("squeezenet1_1", 10)
        torch.save({key: {f"module.{name}": values for name, values in state.items()}, "epoch": 3}, tmp_path / "weights.pth")
        assert_backbone_is(build_model(network("squeezenet1_1", weights=str(tmp_path / "weights.pth")), CLASSES, seed=3), state)

    @pytest.mark.parametrize(
        ("in_file", "wanted"),
        [("squeezenet1_0", "squeezenet1_1"), ("shufflenet_v2_x1_0", "shufflenet_v2_x0_5"), pytest.param("resnet34", "resnet18", marks=pytest.mark.slow)],
    )
    def test_weights_of_a_relative_are_refused_in_one_line(self, tmp_path: Path, in_file: str, wanted: str) -> None:
        torch.save(saved(in_file, 10), tmp_path / "weights.pth")
        with pytest.raises(UserError, match=rf"model\.weights.*does not fit torchvision/{wanted}") as raised:
            build_model(network(wanted, weights=str(tmp_path / "weights.pth")), CLASSES, seed=0)
        assert "\n" not in str(raised.value)

    def test_weights_of_a_deeper_relative_are_refused(self, tmp_path: Path) -> None:
        state = saved("squeezenet1_1", 10)
        torch.save({**state, "features.13.squeeze.weight": state["features.12.squeeze.weight"]}, tmp_path / "weights.pth")
        with pytest.raises(UserError, match=r"model\.weights.*features\.13"):
            build_model(network("squeezenet1_1", weights=str(tmp_path / "weights.pth")), CLASSES, seed=0)

    def test_a_file_of_something_else_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "weights.pth").write_bytes(b"<html>not found</html>")
        with pytest.raises(UserError, match=r"model\.weights"):
            build_model(network("squeezenet1_1", weights=str(tmp_path / "weights.pth")), CLASSES, seed=0)

    @pytest.mark.parametrize("name", ["squeezenet1_1", "mnasnet1_0", pytest.param("resnet18", marks=pytest.mark.slow)])
    def test_the_hubs_weights_are_those_of_the_backbone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        state = torchvision.models.get_model(name, weights=None).state_dict()
        for values in state.values():
            if values.is_floating_point():
                values += 0.25
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        put_in_the_hubs_folder(tmp_path, name, state)
        assert_backbone_is(build_model(network(name, weights="hub"), CLASSES, seed=0), state)

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    @pytest.mark.parametrize("hub", [True, False])
    def test_auxiliary_heads_of_pretrained_weights_are_left_out(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hub: bool) -> None:
        state = saved(name, 1000, aux_logits=True, init_weights=False)
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        put_in_the_hubs_folder(tmp_path, name, state)
        path = next((tmp_path / "hub" / "checkpoints").iterdir())
        model = build_model(network(name, weights="hub" if hub else str(path)), CLASSES, seed=0)
        assert_backbone_is(model, state)
        assert not any("aux" in key.lower() for key in model.state_dict())
        assert model.train()(torch.zeros(2, 3, 75, 75)).shape == (2, CLASSES)

    @pytest.mark.slow
    @pytest.mark.parametrize("hub", [True, False])
    def test_densenets_names_of_old_are_understood(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: bool) -> None:
        state = saved("densenet121", 1000)
        renamed = {re.sub(r"(denselayer\d+\.(norm|conv))([12])", r"\1.\3", key): values for key, values in state.items()}
        old = {key: values for key, values in renamed.items() if not key.endswith("num_batches_tracked")}
        assert len(old.keys() - state.keys()) > 100
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        put_in_the_hubs_folder(tmp_path, "densenet121", old)
        path = next((tmp_path / "hub" / "checkpoints").iterdir())
        assert_backbone_is(build_model(network("densenet121", weights="hub" if hub else str(path)), CLASSES, seed=0), state)

    def test_no_network_is_said_in_one_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
        with pytest.raises(UserError, match=r"model\.weights: no pretrained weights of torchvision/squeezenet1_1 from the hub.*write a file's path, or null"):
            build_model(network("squeezenet1_1", weights="hub"), CLASSES, seed=0)


@pytest.mark.parametrize("name", SMALL)
def test_trained_weights_load_again_from_a_plain_mapping(name: str) -> None:
    first, second = (build_model(network(name), CLASSES, seed=seed) for seed in (0, 1))
    second.load_state_dict(dict(first.state_dict()))
    assert all(torch.equal(values, second.state_dict()[key]) for key, values in first.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_built_for_prediction_answers_as_the_one_with_the_hubs_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    put_in_the_hubs_folder(tmp_path, name, torchvision.models.get_model(name, weights=None, aux_logits=True, init_weights=False).state_dict())
    trained, built = (build_model(network(name, weights=weights), CLASSES, seed=0).eval() for weights in ("hub", None))
    built.load_state_dict(trained.state_dict())
    pictures = torch.rand(2, 3, 75, 75)
    with torch.inference_mode():
        assert torch.equal(trained(pictures), built(pictures))
        official = torchvision.models.get_model(name, weights="DEFAULT").eval()
        assert torch.equal(official._transform_input(pictures), trained._transform_input(pictures))
