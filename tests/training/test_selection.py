"""Which epochs' weights predict, and when training stops early."""

import math
from pathlib import Path

import pytest
import torch

from pipeline.config import Train
from pipeline.errors import RunFailed
from pipeline.training.selection import Candidates, Weights, best_epoch, greedy_soup, out_of_patience


def weights(value: float) -> Weights:
    return {"weight": torch.full((2,), value)}


def run(folder: Path, section: Train, scores: list[float]) -> Candidates:
    """Epochs with these scores, whose weights are their numbers from 0."""
    candidates = Candidates.of(section, folder, scored=True)
    for epoch in range(len(scores)):
        candidates.note(scores[: epoch + 1], weights(float(epoch)))
        candidates.prune(scores[: epoch + 1])
    return candidates


def kept(folder: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("epoch_")) - 1 for path in folder.glob("epoch_*.pt"))


def refuse(_: Weights) -> tuple[Weights, float]:
    raise AssertionError("this way of choosing scores nothing")


def test_last_keeps_nothing_and_chooses_nothing(tmp_path: Path) -> None:
    candidates = run(tmp_path, Train(checkpoint="last"), [0.1, 0.9, 0.2])
    assert kept(tmp_path) == []
    assert candidates.choose([0.1, 0.9, 0.2], refuse) is None


def test_best_is_the_first_epoch_with_the_highest_score_and_the_only_one_kept(tmp_path: Path) -> None:
    scores = [0.1, 0.9, math.nan, 0.9]
    candidates = run(tmp_path, Train(checkpoint="best"), scores)
    assert kept(tmp_path) == [1]
    found = candidates.choose(scores, refuse)
    assert found is not None
    assert torch.equal(found[0]["weight"], torch.ones(2))
    assert found[1:] == ([1], 0.9)


def test_average_is_the_mean_of_the_last_epochs_whatever_they_score(tmp_path: Path) -> None:
    scores = [0.9, 0.1, 0.2, 0.3]
    candidates = run(tmp_path, Train(checkpoint="average", keep=3), scores)
    assert kept(tmp_path) == [1, 2, 3]
    found = candidates.choose(scores, lambda mixed: (mixed, 0.5))
    assert found is not None
    assert found[0]["weight"].tolist() == [2.0, 2.0]
    assert found[1:] == ([1, 2, 3], 0.5)


def test_soup_keeps_the_best_epochs(tmp_path: Path) -> None:
    run(tmp_path, Train(checkpoint="soup", keep=2), [0.3, 0.9, 0.1, 0.5])
    assert kept(tmp_path) == [1, 3]


def test_a_soup_takes_only_what_does_not_lower_its_score() -> None:
    def score(mixed: Weights) -> tuple[Weights, float]:
        return mixed, -abs(float(mixed["weight"][0]) - 2.0)

    soup, taken, best = greedy_soup({7: weights(1.0), 3: weights(9.0), 5: weights(3.0)}, score)
    assert (taken, best) == ([7, 5], 0.0)
    assert soup["weight"].tolist() == [2.0, 2.0]


def test_without_held_out_rows_nothing_is_chosen_by_a_score(tmp_path: Path) -> None:
    assert [Candidates.of(Train(checkpoint=how), tmp_path, scored=False).how for how in ("last", "average", "best", "soup")] == [
        "last",
        "average",
        "last",
        "average",
    ]


@pytest.mark.parametrize(("checkpoint", "taken"), [("best", [3]), ("soup", [2, 3])])
def test_where_no_epoch_has_a_score_the_last_ones_are_taken(tmp_path: Path, checkpoint: str, taken: list[int]) -> None:
    scores = [math.nan] * 4
    candidates = run(tmp_path, Train.model_validate({"checkpoint": checkpoint, "keep": 2}), scores)
    found = candidates.choose(scores, lambda mixed: (mixed, math.nan))
    assert found is not None
    assert (kept(tmp_path), found[1]) == (taken, taken)


def test_what_an_older_checkpoint_may_still_choose_is_kept_until_a_newer_one_is_written(tmp_path: Path) -> None:
    candidates = run(tmp_path, Train(checkpoint="best"), [0.5])
    candidates.note([0.5, 0.6], weights(1.0))
    assert kept(tmp_path) == [0, 1]
    candidates.prune([0.5, 0.6])
    assert kept(tmp_path) == [1]


def test_a_damaged_candidate_is_said_in_one_line(tmp_path: Path) -> None:
    candidates = run(tmp_path, Train(checkpoint="best"), [0.5])
    (tmp_path / "epoch_0001.pt").write_bytes(b"damaged")
    with pytest.raises(RunFailed, match=r"epoch_0001\.pt cannot be read .*--force train"):
        candidates.choose([0.5], refuse)


@pytest.mark.parametrize(
    ("scores", "patience", "stops"),
    [
        ([], 1, False),
        ([0.5], 1, False),
        ([0.5, 0.5], 1, True),
        ([0.5, 0.4, 0.6], 1, False),
        ([0.6, 0.4, 0.5], 2, True),
        ([0.6, 0.4, 0.5], None, False),
        ([math.nan, math.nan, math.nan], 1, False),
        ([math.nan, 0.1, 0.0], 1, True),
    ],
)
def test_patience_counts_epochs_since_the_best_one(scores: list[float], patience: int | None, stops: bool) -> None:
    assert out_of_patience(scores, patience) is stops


def test_an_epoch_without_a_score_is_never_the_best() -> None:
    assert best_epoch([math.nan, -5.0, math.nan]) == 1
