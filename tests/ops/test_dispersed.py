"""Max-sum picks in blocks are those of the plain rule, pick by pick."""

from __future__ import annotations

import pytest
import torch

from streamprune.ops import dispersed
from streamprune.ops.dispersed import dispersed_points
from streamprune.ops.similarity import unit_rows


def plain_picks(values: torch.Tensor, count: int, first: int) -> list[int]:
    """The rule on the whole matrix in float64, sums recomputed at every step."""
    unit = unit_rows(values.double()).double()
    picks = [first]
    while len(picks) < count:
        total = unit @ unit[picks].sum(0)
        total[picks] = float("inf")
        picks.append(int((total * 2**20).round().argmin()))
    return picks


@pytest.mark.parametrize("block", [1, 5, 32])
@pytest.mark.parametrize("seed", range(3))
def test_picks_are_those_of_the_plain_rule(block: int, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispersed, "_BLOCK", block)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(150, 8, generator=generator) + seed
    values[40] = 0
    assert dispersed_points(values, 60, 7).tolist() == plain_picks(values, 60, 7)
    assert dispersed_points(values, 60, 40).tolist() == plain_picks(values, 60, 40)


def test_fewer_picks_are_the_first_and_all_are_everything() -> None:
    values = torch.randn(50, 6, generator=torch.Generator().manual_seed(9))
    everything = dispersed_points(values, 99, 3).tolist()
    assert sorted(everything) == list(range(50))
    for count in (1, 2, 33):
        assert dispersed_points(values, count, 3).tolist() == everything[:count]


def test_ties_go_to_the_lower_index() -> None:
    assert dispersed_points(torch.ones(9, 4), 4, 5).tolist() == [5, 0, 1, 2]
    assert dispersed_points(torch.eye(5), 5, 2).tolist() == [2, 0, 1, 3, 4]
