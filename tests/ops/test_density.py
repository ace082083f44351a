"""Density peaks against a written-out float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.density import density_peaks
from streamprune.ops.selection import highest


def reference(distances: np.ndarray[tuple[int, int], np.dtype[np.float64]], neighbors: int) -> list[float]:
    """One point at a time, straight from the definition."""
    n = len(distances)
    density = [float(np.exp(-np.sort(distances[i])[: min(neighbors, n)].mean())) for i in range(n)]
    scores = []
    for i in range(n):
        denser = [distances[i, j] for j in range(n) if density[j] > density[i]]
        scores.append(float(np.sqrt(min(denser) if denser else distances.max())) * density[i])
    return scores


@pytest.mark.parametrize("neighbors", [1, 2, 4, 7, 100])
@pytest.mark.parametrize("points", [1, 2, 5, 30])
def test_scores_follow_the_definition(points: int, neighbors: int) -> None:
    values = np.random.default_rng(points).normal(size=(points, 6))
    distances = ((values[:, None] - values[None]) ** 2).sum(-1)
    scores = density_peaks(torch.from_numpy(distances).float(), neighbors)
    np.testing.assert_allclose(scores, reference(distances, neighbors), rtol=2e-4, atol=1e-6)


def test_the_centres_of_two_crowds() -> None:
    line = torch.tensor([0.0, 1, 3, 10, 11, 12])
    distances = (line[:, None] - line[None]).square()
    centres = highest(density_peaks(distances, 3), 2)
    assert line[centres].tolist() == [11, 1]


def test_identical_points_score_alike() -> None:
    assert torch.equal(density_peaks(torch.zeros(5, 5), 4), torch.zeros(5))


def test_the_distances_are_left_alone() -> None:
    distances = torch.tensor([[0.0, 2.0], [2.0, 0.0]])
    density_peaks(distances, 2)
    assert torch.equal(distances, torch.tensor([[0.0, 2.0], [2.0, 0.0]]))
