from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.training.checkpoint import LAST, PREVIOUS, digest_weights, load_checkpoint, save_checkpoint


def state(number: int) -> dict[str, Any]:
    return {"epoch": number, "settings": "{}", "model": {"weight": torch.full((3, 2), float(number))}, "ema": None, "history": [{"epoch": 1.0}]}


class TestCheckpoint:
    def test_what_was_saved_last_is_loaded(self, tmp_path: Path) -> None:
        save_checkpoint(tmp_path / "fold", state(1))
        loaded = load_checkpoint(tmp_path / "fold")
        assert loaded is not None
        assert torch.equal(loaded["model"]["weight"], state(1)["model"]["weight"])
        assert {key: value for key, value in loaded.items() if key != "model"} == {key: value for key, value in state(1).items() if key != "model"}

    def test_an_empty_folder_has_none(self, tmp_path: Path) -> None:
        assert load_checkpoint(tmp_path) is None
        assert load_checkpoint(tmp_path / "nowhere") is None

    def test_the_last_and_the_one_before_rotate(self, tmp_path: Path) -> None:
        for number in (1, 2, 3):
            save_checkpoint(tmp_path, state(number))
        assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
        assert torch.load(tmp_path / LAST, weights_only=True)["epoch"] == 3
        assert torch.load(tmp_path / PREVIOUS, weights_only=True)["epoch"] == 2

    @pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.99])
    def test_a_damaged_last_falls_back_to_the_one_before(self, tmp_path: Path, kept: float) -> None:
        for number in (1, 2):
            save_checkpoint(tmp_path, state(number))
        data = (tmp_path / LAST).read_bytes()
        (tmp_path / LAST).write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
        loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        assert loaded["epoch"] == 1

    def test_a_missing_last_falls_back_to_the_one_before(self, tmp_path: Path) -> None:
        for number in (1, 2):
            save_checkpoint(tmp_path, state(number))
        (tmp_path / LAST).unlink()
        loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        assert loaded["epoch"] == 1

    def test_after_a_fall_back_the_damaged_one_is_not_the_only_spare(self, tmp_path: Path) -> None:
        for number in (1, 2):
            save_checkpoint(tmp_path, state(number))
        (tmp_path / LAST).write_bytes(b"half")
        save_checkpoint(tmp_path, state(3))
        loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        assert loaded["epoch"] == 3

    def test_two_damaged_ones_are_none(self, tmp_path: Path) -> None:
        for number in (1, 2):
            save_checkpoint(tmp_path, state(number))
        for name in (LAST, PREVIOUS):
            (tmp_path / name).write_bytes(b"half")
        assert load_checkpoint(tmp_path) is None

    def test_a_write_that_fails_costs_nothing(self, tmp_path: Path) -> None:
        for number in (1, 2):
            save_checkpoint(tmp_path, state(number))
        with pytest.raises(Exception, match=r"pickle|local"):
            save_checkpoint(tmp_path, {"model": lambda: None})
        assert sorted(path.name for path in tmp_path.iterdir()) == [LAST, PREVIOUS]
        loaded = load_checkpoint(tmp_path)
        assert loaded is not None
        assert loaded["epoch"] == 2

    def test_a_checkpoint_that_would_run_code_is_passed_over(self, tmp_path: Path) -> None:
        class Opens:
            def __reduce__(self) -> tuple[object, ...]:
                return Path.touch, (tmp_path / "it_ran",)

        save_checkpoint(tmp_path, {"model": Opens()})
        assert load_checkpoint(tmp_path) is None
        assert not (tmp_path / "it_ran").exists()


class TestDigest:
    def weights(self) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)
        return {
            "conv.weight": torch.randn(4, 3, 2, 2, generator=generator),
            "norm.num_batches_tracked": torch.tensor(5),
            "half": torch.randn(3, generator=generator).bfloat16(),
            "mask": torch.tensor([True, False]),
            "empty": torch.zeros(0, 2),
        }

    @pytest.mark.parametrize("name", ["conv.weight", "norm.num_batches_tracked", "half", "mask"])
    def test_it_changes_with_one_value(self, name: str) -> None:
        weights = self.weights()
        before = digest_weights(weights)
        flat = weights[name].view(-1)
        flat[-1] = ~flat[-1] if flat.dtype == torch.bool else flat[-1] + 1
        assert digest_weights(weights) != before

    def test_it_changes_with_the_sign_of_a_zero(self) -> None:
        assert digest_weights({"a": torch.tensor([0.0])}) != digest_weights({"a": torch.tensor([-0.0])})

    def test_it_changes_with_names_shapes_and_types(self) -> None:
        weights = [
            {"a": torch.zeros(4)},
            {"b": torch.zeros(4)},
            {"a": torch.zeros(2, 2)},
            {"a": torch.zeros(4, dtype=torch.int32)},
            {"a": torch.zeros(2), "b": torch.zeros(2)},
            {},
        ]
        assert len({digest_weights(entry) for entry in weights}) == len(weights)

    def test_it_does_not_change_with_saving_again(self, tmp_path: Path) -> None:
        weights = self.weights()
        for name in ("one.pt", "two.pt"):
            torch.save({"weights": weights}, tmp_path / name)
            weights = torch.load(tmp_path / name, weights_only=True)["weights"]
            assert digest_weights(weights) == digest_weights(self.weights())

    def test_neither_order_nor_memory_layout_matters(self) -> None:
        weights = self.weights()
        other = {name: weights[name] for name in reversed(weights)}
        other["conv.weight"] = other["conv.weight"].contiguous(memory_format=torch.channels_last)
        assert digest_weights(other) == digest_weights(weights)
