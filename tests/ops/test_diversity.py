"""Greedy diversity against plain numpy loops in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.ops.diversity import greedy_max_min, greedy_max_sum, greedy_unalike, most_isolated

Floats = npt.NDArray[np.float64]


def distances_of(*shape: int, seed: int = 0) -> torch.Tensor:
    """(..., n, n) cosine distances of random tokens; shape = (..., n, channels)."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    unit = values / values.norm(dim=-1, keepdim=True)
    return 1 - unit @ unit.mT  # type: ignore[no-any-return]


def farthest_points(distances: Floats, count: int, first: int, *, pick_again: bool = False) -> list[int]:
    """The rule word for word: minimum over all picks, recomputed at every step."""
    picks = [first]
    while len(picks) < count:
        left = [j for j in range(len(distances)) if pick_again or j not in picks]
        picks.append(max(left, key=lambda j: (min(distances[i, j] for i in picks), -j)))
    return picks


def on_a_circle(*degrees: float) -> torch.Tensor:
    """Cosine distances of unit vectors at these angles."""
    angle = torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))
    return 1 - torch.cos(angle[:, None] - angle)


@pytest.mark.parametrize("seed", range(5))
def test_max_min_is_the_rule_word_for_word(seed: int) -> None:
    distances = distances_of(3, 20, 6, seed=seed)
    picks = greedy_max_min(distances, 12)
    for matrix, row in zip(distances.numpy(), picks.tolist(), strict=True):
        first = int(np.sort(matrix, axis=0)[1].argmax())
        assert row == farthest_points(matrix, 12, first)


@pytest.mark.parametrize("pick_again", [False, True])
def test_columns_may_be_scaled_even_below_zero(pick_again: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    scaled = distances_of(4, 15, 6) * torch.randn(4, 1, 15, generator=generator, dtype=torch.float64)
    first = torch.tensor([3, 0, 14, 7])
    picks = greedy_max_min(scaled, 15, first=first, pick_again=pick_again).tolist()
    for matrix, start, row in zip(scaled.numpy(), first.tolist(), picks, strict=True):
        assert row == farthest_points(matrix, 15, start, pick_again=pick_again)
        assert (len(set(row)) < 15) == pick_again


def test_angles_worked_out_by_hand() -> None:
    distances = on_a_circle(0, 10, 40, 100, 170)
    assert int(most_isolated(distances)) == 4
    assert greedy_max_min(distances, 4).tolist() == [4, 0, 3, 2]


def test_ties_go_to_the_lower_index_and_nothing_is_changed() -> None:
    distances = 1 - torch.eye(4)
    before = distances.clone()
    assert greedy_max_min(distances, 9).tolist() == [0, 1, 2, 3]
    assert greedy_max_min(torch.zeros(2, 3, 3), 2).tolist() == [[0, 1], [0, 1]]
    assert torch.equal(distances, before)


def test_one_token() -> None:
    assert greedy_max_min(torch.zeros(2, 1, 1), 1).tolist() == [[0], [0]]


@pytest.mark.parametrize("seed", range(3))
def test_max_sum_is_the_rule_word_for_word(seed: int) -> None:
    similarities = 1 - distances_of(3, 20, 6, seed=seed)
    first = torch.tensor([4, 0, 19])
    picks = greedy_max_sum(similarities, 12, first=first)
    for matrix, start, row in zip(similarities.numpy(), first.tolist(), picks.tolist(), strict=True):
        expected = [start]
        while len(expected) < 12:
            left = [j for j in range(20) if j not in expected]
            expected.append(min(left, key=lambda j: (matrix[expected, j].sum(), j)))
        assert row == expected


def test_max_sum_by_hand_and_ties() -> None:
    similarities = 1 - on_a_circle(0, 10, 40, 100, 170)[None]
    assert greedy_max_sum(similarities, 4, first=torch.tensor([0])).tolist() == [[0, 4, 1, 3]]
    assert greedy_max_sum(torch.ones(1, 4, 4), 9, first=torch.tensor([2])).tolist() == [[2, 0, 1, 3]]


def test_of_tokens_alike_the_better_one_goes_first_and_the_others_wait() -> None:
    alike = torch.eye(5)
    alike[0, 1] = alike[1, 0] = alike[2, 4] = alike[4, 2] = 0.95
    scores = torch.tensor([[0.8, 0.9, 0.1, 0.5, 0.1], [0.8, 0.8, 0.8, 0.8, 0.8]])
    picks = greedy_unalike(scores, alike.expand(2, 5, 5), 0.9, 9)
    assert picks.tolist() == [[1, 3, 2, 0, 4], [0, 2, 3, 1, 4]]
    assert greedy_unalike(scores, alike.expand(2, 5, 5), 0.95, 3).tolist() == [[1, 0, 3], [0, 1, 2]]
