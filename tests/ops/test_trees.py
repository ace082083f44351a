"""Tokens linked over time, against the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.trees import Trees, best_parents, cluster_trees, link_strongest, roots_of


def test_best_parents_are_free_and_most_similar() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(4, 20, 8, generator=generator)
    free = torch.rand(4, 20, generator=generator) < 0.7
    similarity, parent = best_parents(frames, 1 / frames.norm(dim=-1), free)
    unit = frames.double().numpy()
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    assert (similarity[0] == -1).all()
    assert (similarity[~free] == -1).all()
    for t in range(1, 4):
        cosine = np.where(free[t - 1].numpy(), unit[t] @ unit[t - 1].T, -2.0)
        rows = free[t].numpy()
        np.testing.assert_array_equal(parent[t].numpy()[rows], cosine.argmax(1)[rows])
        np.testing.assert_allclose(similarity[t].numpy()[rows], cosine.max(1)[rows], atol=1e-6)


def test_no_parent_is_free() -> None:
    free = torch.tensor([[False, False], [True, True]])
    similarity, _ = best_parents(torch.ones(2, 2, 3), torch.full((2, 2), 3**-0.5), free)
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
