from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from pipeline.config import Model
from pipeline.errors import UserError
from pipeline.training.models import build_model, check_backbone, head_names

Weights = dict[str, torch.Tensor]
Save = Callable[[Weights, Path], None]

SAVERS: dict[str, Save] = {".pth": torch.save, ".safetensors": safetensors.torch.save_file}


def resnet(**arguments: object) -> Model:
    return Model.model_validate({"backbone": "test_resnet", "weights": None, **arguments})


def state(backbone: str, num_classes: int) -> Weights:
    torch.manual_seed(123)
    weights: Weights = timm.create_model(backbone, num_classes=num_classes).state_dict()
    return {name: value + 0.25 if value.is_floating_point() else value for name, value in weights.items()}


class TestMistakesInTheConfig:
    @pytest.mark.parametrize(("written", "meant"), [("test_resnt", "test_resnet"), ("resnet5O", "resnet50"), ("mobilenetv2_10", "mobilenetv2_100")])
    def test_an_unknown_backbone_is_named_with_near_ones(self, written: str, meant: str) -> None:
        with pytest.raises(UserError, match=rf'model\.backbone.*"{written}".*{meant}'):
            check_backbone(resnet(backbone=written))

    def test_a_backbone_with_nothing_near_says_where_to_look(self) -> None:
        with pytest.raises(UserError, match="list_models"):
            check_backbone(resnet(backbone="qqqqzzzz"))

    def test_a_wrong_argument_is_named(self) -> None:
        with pytest.raises(UserError, match=r"model\.arguments.*drop_rat"):
            build_model(resnet(arguments={"drop_rat": 0.1}), 10, seed=0)

    def test_an_unknown_pretrained_tag_is_refused(self) -> None:
        with pytest.raises(UserError, match="no_such_tag"):
            build_model(resnet(backbone="test_resnet.no_such_tag"), 10, seed=0)

    def test_a_missing_weights_file_is_named_before_anything_is_built(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"model\.weights.*nowhere\.pth"):
            check_backbone(resnet(weights=str(tmp_path / "nowhere.pth")))


class TestRandomWeights:
    def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(self) -> None:
        first = build_model(resnet(), 10, seed=5).state_dict()
        torch.rand(3)
        second = build_model(resnet(), 10, seed=5).state_dict()
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_different_seeds_give_different_heads(self) -> None:
        first, second = (build_model(resnet(), 10, seed=seed).get_parameter("fc.weight") for seed in (5, 6))
        assert not torch.equal(first, second)

    def test_arguments_reach_the_network(self) -> None:
        assert build_model(resnet(arguments={"drop_rate": 0.3}), 10, seed=0).drop_rate == 0.3

    @pytest.mark.parametrize("num_classes", [2, 10, 1000])
    def test_there_is_one_output_per_class(self, num_classes: int) -> None:
        model = build_model(resnet(), num_classes, seed=0).eval()
        assert model(torch.zeros(2, 3, 32, 32)).shape == (2, num_classes)


class TestWeightsFile:
    @pytest.mark.parametrize("suffix", SAVERS)
    @pytest.mark.parametrize("in_file", [1000, 37, 10])
    def test_another_number_of_classes_loads_all_but_the_head(self, tmp_path: Path, suffix: str, in_file: int) -> None:
        path, saved = tmp_path / f"weights{suffix}", state("test_resnet", in_file)
        SAVERS[suffix](saved, path)
        built = build_model(resnet(weights=str(path)), 12, seed=0).state_dict()
        for name, value in built.items():
            if not name.startswith("fc."):
                assert torch.equal(value, saved[name]), name
        assert built["fc.weight"].shape[0] == 12

    @pytest.mark.parametrize("suffix", SAVERS)
    @pytest.mark.parametrize("num_classes", [10, 1000])
    def test_the_same_number_of_classes_loads_the_head_too(self, tmp_path: Path, suffix: str, num_classes: int) -> None:
        path, saved = tmp_path / f"weights{suffix}", state("test_resnet", num_classes)
        SAVERS[suffix](saved, path)
        built = build_model(resnet(weights=str(path)), num_classes, seed=0).state_dict()
        assert all(torch.equal(value, saved[name]) for name, value in built.items())

    @pytest.mark.parametrize("num_classes", [10, 1000])
    def test_weights_without_a_head_load(self, tmp_path: Path, num_classes: int) -> None:
        saved = {name: value for name, value in state("test_resnet", 1000).items() if not name.startswith("fc.")}
        torch.save(saved, tmp_path / "weights.pth")
        built = build_model(resnet(weights=str(tmp_path / "weights.pth")), num_classes, seed=0).state_dict()
        assert all(torch.equal(built[name], value) for name, value in saved.items())

    @pytest.mark.parametrize("suffix", [".pt", ".pth"])
    @pytest.mark.parametrize("key", ["state_dict", "model"])
    def test_a_wrapped_file_of_parallel_training_loads(self, tmp_path: Path, key: str, suffix: str) -> None:
        path, saved = tmp_path / f"weights{suffix}", state("test_resnet", 37)
        torch.save({key: {f"module.{name}": value for name, value in saved.items()}, "epoch": 3}, path)
        built = build_model(resnet(weights=str(path)), 10, seed=0).state_dict()
        assert all(torch.equal(value, saved[name]) for name, value in built.items() if not name.startswith("fc."))

    def test_real_weights_load_for_another_number_of_classes(self, tmp_path: Path, mobilenet_weights: Path) -> None:
        weights = torch.load(mobilenet_weights, weights_only=True)
        safetensors.torch.save_file(weights, tmp_path / "weights.safetensors")
        for path in (mobilenet_weights, tmp_path / "weights.safetensors"):
            built = build_model(resnet(backbone="mobilenetv2_100", weights=str(path)), 6, seed=0)
            assert all(torch.equal(value, weights[name]) for name, value in built.state_dict().items() if name not in head_names(built))

    def test_weights_of_a_deeper_relative_are_refused(self, tmp_path: Path) -> None:
        path, saved = tmp_path / "weights.pth", state("test_resnet", 1000)
        deeper = {name.replace("layer4.0.", "layer4.1."): value for name, value in saved.items() if name.startswith("layer4.0.")}
        torch.save({**saved, **deeper}, path)
        with pytest.raises(UserError, match=r"model\.weights.*does not fit test_resnet.*layer4\.1"):
            build_model(resnet(weights=str(path)), 10, seed=0)

    def test_the_same_seed_gives_the_same_new_head(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save(state("test_resnet", 1000), path)
        heads = [build_model(resnet(weights=str(path)), 10, seed=seed).get_parameter("fc.weight") for seed in (1, 1, 2)]
        assert torch.equal(heads[0], heads[1])
        assert not torch.equal(heads[0], heads[2])

    @pytest.mark.parametrize("suffix", SAVERS)
    def test_weights_of_another_architecture_are_refused_in_one_line(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"weights{suffix}"
        SAVERS[suffix](state("test_vit", 1000), path)
        with pytest.raises(UserError, match=r"model\.weights.*does not fit test_resnet") as raised:
            build_model(resnet(weights=str(path)), 10, seed=0)
        assert "\n" not in str(raised.value)

    def test_weights_of_a_near_architecture_are_refused(self, tmp_path: Path) -> None:
        path, saved = tmp_path / "weights.pth", state("test_resnet", 1000)
        torch.save({name: value for name, value in saved.items() if not name.startswith("layer4.")}, path)
        with pytest.raises(UserError, match=r"model\.weights"):
            build_model(resnet(weights=str(path)), 10, seed=0)

    def test_a_file_without_weights_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.pth"
        torch.save({"epoch": torch.tensor(3)}, path)
        with pytest.raises(UserError, match=r"model\.weights"):
            build_model(resnet(weights=str(path)), 10, seed=0)

    @pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
    @pytest.mark.parametrize("content", [b"", b"<html>not found</html>"], ids=["empty", "page"])
    def test_a_file_of_something_else_is_refused(self, tmp_path: Path, name: str, content: bytes) -> None:
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"model\.weights"):
            build_model(resnet(weights=str(path)), 10, seed=0)

    def test_a_file_that_would_run_code_is_refused_and_does_not_run_it(self, tmp_path: Path) -> None:
        class Opens:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (tmp_path / "it_ran",)

        path = tmp_path / "weights.pth"
        torch.save({"fc.weight": Opens()}, path)
        with pytest.raises(UserError, match=r"model\.weights"):
            build_model(resnet(weights=str(path)), 10, seed=0)
        assert not (tmp_path / "it_ran").exists()
