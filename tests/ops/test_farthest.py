"""Farthest-point picks in blocks are those of the plain rule, pick by pick."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from streamprune.ops import farthest
from streamprune.ops.farthest import farthest_points


def plain_picks(values: torch.Tensor, count: int, chosen: Sequence[int] = ()) -> list[int]:
    """The rule on the whole matrix, with distances rounded once to float32; ``chosen`` come first."""
    exact = values.double().numpy()
    length = np.linalg.norm(exact, axis=1, keepdims=True)
    unit = exact / np.where(length > 0, length, 1)
    distances = (1 - unit @ unit.T).astype(np.float32)
    distances[distances < 2e-6] = 0
    np.fill_diagonal(distances, np.inf)
    isolation = distances.min(0)
    picks = list(chosen) or [int(isolation.argmax()) if len(values) > 1 else 0]
    nearest = distances[picks].min(0)
    while len(picks) < min(count, len(values)):
        nearest[picks] = -1
        picks.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, distances[picks[-1]])
    return picks


def made(kind: str, tokens: int = 120, channels: int = 10, seed: int = 0) -> torch.Tensor:
    """(tokens, channels) of one kind of video; 12 tokens a frame."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(tokens, channels, generator=generator)
    look = torch.randn(12, channels, generator=generator).repeat(tokens // 12, 1)
    return {
        "random": noise,
        "drifting": look + 0.1 * noise,
        "offset": 5 + noise,
        "lengths": noise * torch.logspace(-2, 2, tokens)[:, None],
        "still": look,
        "half still": torch.where(torch.arange(tokens)[:, None] % 12 < 7, look, noise),
        "whole numbers": torch.randint(-1, 2, (tokens, channels), generator=generator).float(),
        "one hot": torch.eye(channels)[torch.randint(channels, (tokens,), generator=generator)],
        "some zero": noise * (torch.arange(tokens) % 5 > 0)[:, None],
        "identical": torch.ones(tokens, channels),
        "zero": torch.zeros(tokens, channels),
    }[kind]


KINDS = (
    *("random", "drifting", "offset", "lengths", "still", "half still"),
    *("whole numbers", "one hot", "some zero", "identical", "zero"),
)


@pytest.fixture(params=["as it is", "small blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, so that few tokens go through what thousands do."""
    if request.param == "small blocks":
        monkeypatch.setattr(farthest, "_POOL", 9)
        monkeypatch.setattr(farthest, "_WITNESSES", 11)
        monkeypatch.setattr(farthest, "_SETTLED", 2)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("kind", KINDS)
def test_picks_are_those_of_the_plain_rule(kind: str) -> None:
    for seed, look_alike in enumerate((0, 12)):
        values = made(kind, tokens=96, seed=seed)
        assert farthest_points(values, 40, look_alike=look_alike).tolist() == plain_picks(values, 40)


@pytest.mark.usefixtures("blocks")
@pytest.mark.parametrize("kind", KINDS)
def test_picks_go_on_from_others(kind: str) -> None:
    values, chosen = made(kind, tokens=96, seed=3), [50, 3, 77, 4]
    further = farthest_points(values, 30, chosen=torch.tensor(chosen))
    assert further.tolist() == plain_picks(values, 34, chosen)[4:]
    assert len(farthest_points(values, 200, chosen=torch.tensor(chosen))) == 92
    none = farthest_points(values, 5, chosen=torch.tensor([], dtype=torch.int64))
    assert none.tolist() == farthest_points(values, 5).tolist()


@pytest.mark.parametrize("kind", ["random", "drifting", "half still"])
def test_picks_of_a_longer_clip(kind: str) -> None:
    values = made(kind, tokens=1200, channels=24)
    assert farthest_points(values, 120, look_alike=12).tolist() == plain_picks(values, 120)


@pytest.mark.usefixtures("blocks")
def test_fewer_picks_are_the_first_ones_and_all_are_everything() -> None:
    values = made("drifting")
    everything = farthest_points(values, 120).tolist()
    assert sorted(everything) == list(range(120))
    for count in (1, 2, 17, 119):
        assert farthest_points(values, count).tolist() == everything[:count]
    assert farthest_points(values, 500).tolist() == everything


@pytest.mark.usefixtures("blocks")
def test_neither_lengths_nor_a_rotation_of_the_space_matter() -> None:
    values = made("drifting", seed=5)
    rotation = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(1)))[0]
    expected = farthest_points(values, 40).tolist()
    assert farthest_points(values * torch.linspace(0.1, 9, 120)[:, None], 40).tolist() == expected
    assert farthest_points(values @ rotation, 40).tolist() == expected


def test_more_equal_distances_than_are_told_apart() -> None:
    corners = torch.eye(64)
    assert farthest_points(corners, 64).tolist() == list(range(64))


def test_one_token() -> None:
    assert farthest_points(torch.randn(1, 5), 1).tolist() == [0]


def test_distances_closer_than_a_float32_cosine_are_told_apart() -> None:
    values = torch.tensor([[1000.0, 0, 0, 0], [0, 0, 1000, 0], [1000, 47, 0, 0], [0, 0, 1000, 47.0004]])
    # rows 0 and 2 are 0.0011 apart, rows 1 and 3 by 2e-8 more, a third of the step of float32 there
    assert farthest_points(values, 4).tolist() == [1, 0, 3, 2]
