"""Tokens linked over time, against the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.trees import Trees, best_parents, cluster_trees, link_strongest, roots_of


def expected_parents(
    frames: torch.Tensor, free: torch.Tensor, threshold: float
) -> tuple[
    np.ndarray[tuple[int, ...], np.dtype[np.float64]], np.ndarray[tuple[int, ...], np.dtype[np.int64]]
]:
    """Cosine, -1 where none counts, and parent of every token, from all cosines."""
    unit = frames.double().numpy()
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    best, parent = np.full(free.shape, -1.0), np.zeros(free.shape, dtype=np.int64)
    for t in range(1, len(frames)):
        cosine = np.where(free[t - 1].numpy(), unit[t] @ unit[t - 1].T, -2.0)
        counts = free[t].numpy() & (cosine.max(1) > threshold)
        best[t][counts] = cosine.max(1)[counts]
        parent[t] = cosine.argmax(1)
    return best, parent


@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.6, 0.8])
@pytest.mark.parametrize("drift", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("common", [0.0, 2.0])
@pytest.mark.parametrize("roll", [0, 3])
def test_best_parents_are_free_and_most_similar(
    threshold: float, drift: float, common: float, roll: int
) -> None:
    """Still, drifting and unrelated places, with and without a common part, moving across the grid or not."""
    generator = torch.Generator().manual_seed(0)
    look = torch.randn(30, 16, generator=generator) + common
    strength = drift * torch.linspace(0, 1, 30)[:, None]
    frames = torch.stack([look.roll(roll * t, 0) for t in range(4)])
    frames = frames + strength * torch.randn(4, 30, 16, generator=generator)
    free = torch.rand(4, 30, generator=generator) < 0.7
    similarity, parent = best_parents(frames, frames @ frames.mT, free, threshold)
    best, expected = expected_parents(frames, free, threshold)
    np.testing.assert_allclose(similarity, best, atol=1e-5)
    linked = best > -1
    np.testing.assert_array_equal(parent.numpy()[linked], expected[linked])


def test_of_equal_tokens_the_lowest_is_the_parent() -> None:
    look = torch.randn(1, 40, generator=torch.Generator().manual_seed(0)).expand(2, 9, -1)
    free = torch.ones(2, 9, dtype=torch.bool)
    free[0, :2] = False
    similarity, parent = best_parents(look, look @ look.mT, free, 0.5)
    torch.testing.assert_close(similarity[1], torch.ones(9))
    assert (parent[1] == 2).all()


def test_no_parent_is_free() -> None:
    free = torch.tensor([[False, False], [True, True]])
    similarity, _ = best_parents(torch.ones(2, 2, 3), torch.full((2, 2, 2), 3.0), free, 0.0)
    assert torch.equal(similarity, torch.full((2, 2), -1.0))
    assert not link_strongest(similarity, -1.0, 0).any()


@pytest.mark.parametrize(
    ("threshold", "least_roots", "linked"),
    [
        (0.5, 0, [0, 0, 1, 1, 1]),
        (0.7, 0, [0, 0, 0, 1, 1]),
        (0.8, 2, [0, 0, 0, 0, 1]),
        (0.0, 3, [0, 0, 0, 0, 1]),
        (0.0, 4, [0, 0, 0, 0, 0]),
        (0.0, 5, [0, 0, 0, 0, 0]),
    ],
)
def test_links_above_the_threshold_but_not_too_many(
    threshold: float, least_roots: int, linked: list[int]
) -> None:
    similarity = torch.tensor([[-1.0, 0.2, 0.6, 0.8, 0.9]])
    if threshold < 0.2:
        similarity[0, 1] = 0.1
    assert link_strongest(similarity, threshold, least_roots).long().tolist() == [linked]


def test_roots() -> None:
    parent = torch.tensor([[0, 0, 0], [0, 2, 1], [1, 1, 2]])
    linked = torch.tensor([[0, 0, 0], [1, 1, 0], [1, 0, 1]]).bool()
    assert roots_of(parent, linked).tolist() == [[0, 1, 2], [0, 2, 5], [2, 7, 5]]


def test_clusters_of_trees_by_hand() -> None:
    """Two frames of three tokens on a line; the first token of frame 1 belongs to the first of frame 0."""
    line = torch.tensor([0.0, 1, 9, 2, 5, 6])[:, None]
    linked = torch.tensor([[0, 0, 0], [1, 0, 0]]).bool()
    root = roots_of(torch.zeros(2, 3, dtype=torch.int64), linked)
    size = torch.tensor([2, 1, 1, 0, 1, 1])
    trees = Trees(torch.ones(2, 3, dtype=torch.bool), linked, root, size, size)
    products = line.reshape(2, 3, 1) @ line.reshape(2, 1, 3)
    # one cluster: all densities tie, so the first tree is the centre
    centres, (row, token, weight) = cluster_trees(line, products, trees, [1, 2], 2)
    values = torch.zeros(3).index_add(0, row, weight * line[token, 0])
    assert centres.tolist() == [0, 4, 5]
    torch.testing.assert_close(values, torch.tensor([11 / 3, 5, 6]))
