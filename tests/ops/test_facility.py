"""Facility location picks are those of the plain greedy rule."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.ops import facility
from streamprune.ops.facility import greedy_facility

Floats = npt.NDArray[np.float64]


def made(batch: int, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(batch, tokens, 4, generator=generator)
    values[:, 3] = values[:, 8]
    unit = torch.nn.functional.normalize(values, dim=-1)
    similar = (100 * (unit @ unit.mT)).round() / 100
    return similar, (100 * torch.rand(batch, tokens, generator=generator)).round() / 100


def worth(similar: Floats, bonus: Floats, picks: list[int]) -> float:
    """What a set is worth, from the definition."""
    return float(similar[:, picks].max(1).sum() + bonus[picks].sum()) if picks else 0.0


def plain_picks(similar: Floats, bonus: Floats, count: int) -> list[int]:
    picks: list[int] = []
    while len(picks) < count:
        left = [j for j in range(len(bonus)) if j not in picks]
        picks.append(max(left, key=lambda j: (round(worth(similar, bonus, [*picks, j]), 9), -j)))
    return picks


@pytest.mark.parametrize("refreshed", [1, 3, 8])
@pytest.mark.parametrize("seed", range(3))
def test_picks_are_those_of_the_plain_rule(
    refreshed: int, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facility, "_REFRESHED", refreshed)
    similar, bonus = made(3, 15, seed)
    picks = greedy_facility(similar, bonus, 12)
    for matrix, alone, row in zip(
        similar.double().numpy(), bonus.double().numpy(), picks.tolist(), strict=True
    ):
        assert row == plain_picks(matrix, alone, 12)
        values = [worth(matrix, alone, row[:n]) for n in range(13)]
        gains = np.diff(values)
        assert (gains >= 0).all()
        assert (np.diff(gains) <= 1e-9).all(), "what a pick adds never grows"


def test_the_first_pick_is_the_medoid_and_ties_go_to_the_lower_index() -> None:
    similar, bonus = made(2, 15, 5)
    assert torch.equal(greedy_facility(similar, 0 * bonus, 1)[:, 0], similar.sum(-1).argmax(1))
    assert greedy_facility(torch.ones(1, 12, 12), torch.zeros(1, 12), 99).tolist() == [list(range(12))]
    assert greedy_facility(torch.eye(5)[None], torch.zeros(1, 5), 3).tolist() == [[0, 1, 2]]


def test_a_bonus_decides_between_tokens_that_cover_alike() -> None:
    bonus = torch.tensor([[0.1, 0.4, 0.2, 0.4]])
    assert greedy_facility(torch.eye(4)[None], bonus, 4).tolist() == [[1, 3, 2, 0]]
