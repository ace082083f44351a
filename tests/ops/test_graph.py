"""Similarity graphs and flows on them, by hand and against matrix powers."""

from __future__ import annotations

import numpy as np
import torch

from streamprune.ops.graph import propagate, similarity_graph
from streamprune.ops.similarity import cosines, frame_grams


def cosine_of(values: torch.Tensor) -> torch.Tensor:
    return cosines(frame_grams(values))


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def test_rows_are_distributions_over_those_alike() -> None:
    cosine = cosine_of(draw(3, 20, 4))
    graph = similarity_graph(cosine, 0.4, 0.2)
    torch.testing.assert_close(graph.sum(-1), torch.ones(3, 20))
    assert torch.equal(graph > 0, cosine >= 0.4)
    three = torch.tensor([[1.0, 0.5, 0.2], [0.5, 1.0, 0.0], [0.2, 0.0, 1.0]])
    e = np.exp([1 / 0.2, 0.5 / 0.2])
    expected = [[*(e / e.sum()), 0], [*(e[::-1] / e.sum()), 0], [0, 0, 1]]
    np.testing.assert_allclose(similarity_graph(three, 0.5, 0.2), expected, rtol=1e-5)


def test_weak_edges_underflow_to_none_and_cosine_zero_is_no_edge() -> None:
    weak = torch.tensor([[1.0, 0.6, 0.0], [0.6, 1.0, 0.0], [0.0, 0.0, 1.0]])
    assert torch.equal(similarity_graph(weak, 0.5, 0.003), torch.eye(3))
    assert torch.equal(similarity_graph(weak, -1.0, 1.0) > 0, weak > 0)


def test_copies_share_alike_and_a_token_without_edges_passes_to_all() -> None:
    copies = similarity_graph(cosine_of(draw(1, 7).expand(1, 7, 7) * torch.arange(1, 8)[:, None]), 0.5, 0.03)
    assert torch.equal(copies, torch.full((1, 7, 7), 1 / 7))
    with_zero = draw(1, 5, 3)
    with_zero[0, 2] = 0
    graph = similarity_graph(cosine_of(with_zero), 0.5, 0.03)
    torch.testing.assert_close(graph[0, 2], torch.full((5,), 0.2))


def test_steps_one_by_one_are_the_power_of_the_matrix() -> None:
    graph, mass = similarity_graph(cosine_of(draw(2, 15, 4)), 0.3, 0.3), draw(2, 15).abs()
    for steps in (1, 5):
        powers = np.linalg.matrix_power(graph.double().numpy(), steps)
        expected = (mass.double().numpy()[:, None] @ powers)[:, 0]
        np.testing.assert_allclose(propagate(mass, graph, steps), expected, rtol=1e-6)
        np.testing.assert_allclose(powers.sum(-1), 1, rtol=1e-5)
    torch.testing.assert_close(propagate(mass, graph, 5).sum(-1), mass.sum(-1))
