"""Greedy determinant picks against determinants computed outright."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch

from streamprune.ops.determinant import greedy_determinant


def kernels_of(batch: int, tokens: int, channels: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(batch, tokens, channels, generator=generator)
    values = values * (0.2 + torch.rand(batch, tokens, 1, generator=generator))
    return values @ values.mT


def largest_determinants(kernel: npt.NDArray[np.float64], count: int) -> list[int]:
    """Each pick compared by the determinant of what would be picked."""
    picks: list[int] = []
    for _ in range(count):
        left = [token for token in range(len(kernel)) if token not in picks]
        picks.append(max(left, key=lambda t: (np.linalg.det(kernel[np.ix_([*picks, t], [*picks, t])]), -t)))
    return picks


@pytest.mark.parametrize("seed", range(4))
def test_picks_have_the_largest_determinant(seed: int) -> None:
    kernels = kernels_of(3, 14, 20, seed)
    picks = greedy_determinant(kernels, 9)
    for kernel, row in zip(kernels.double().numpy(), picks.tolist(), strict=True):
        assert row == largest_determinants(kernel, 9)


def test_unrelated_tokens_go_by_their_diagonal() -> None:
    diagonal = torch.tensor([0.3, 0.9, 0.5, 0.7])
    assert greedy_determinant(torch.diag(diagonal.square())[None], 3).tolist() == [[1, 3, 2]]
    assert greedy_determinant(torch.eye(4)[None], 4).tolist() == [[0, 1, 2, 3]]


def test_what_the_picks_explain_comes_last_by_its_diagonal() -> None:
    values = torch.tensor([[1.0, 0], [3, 0], [0, 2], [2, 0], [0, 0], [0, 2]])
    other = torch.eye(6, 2)
    kernels = torch.stack([values @ values.T, other @ other.T])
    assert greedy_determinant(kernels, 6).tolist() == [[1, 2, 3, 5, 0, 4], [0, 1, 2, 3, 4, 5]]


def test_more_picks_than_dimensions_are_each_made_once() -> None:
    picks = greedy_determinant(kernels_of(2, 30, 5), 99)
    assert picks.sort(1).values.tolist() == [list(range(30))] * 2


def test_scale_does_not_matter_and_fewer_picks_are_the_first() -> None:
    kernels = kernels_of(2, 20, 24)
    picks = greedy_determinant(kernels, 20)
    for count in (1, 7, 19):
        assert torch.equal(greedy_determinant(9 * kernels, count), picks[:, :count])
