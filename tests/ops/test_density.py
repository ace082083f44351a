"""Density peaks against a written-out float64 reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.ops.density import density_clusters, density_peaks, nearest_centre, scaled_distances
from streamprune.ops.selection import highest


def reference(
    distances: np.ndarray[tuple[int, int], np.dtype[np.float64]], neighbors: int, sign: int = 1
) -> list[float]:
    """One point at a time, straight from the definition; ``sign`` -1 looks for sparser points."""
    n = len(distances)
    density = [float(np.exp(-np.sort(distances[i])[: min(neighbors, n)].mean())) for i in range(n)]
    scores = []
    for i in range(n):
        denser = [distances[i, j] for j in range(n) if sign * density[j] > sign * density[i]]
        scores.append(float(np.sqrt(min(denser) if denser else distances.max())) * density[i])
    return scores


@pytest.mark.parametrize("neighbors", [1, 2, 4, 7, 100])
@pytest.mark.parametrize("points", [1, 2, 5, 30])
def test_scores_follow_the_definition(points: int, neighbors: int) -> None:
    values = np.random.default_rng(points).normal(size=(points, 6))
    distances = ((values[:, None] - values[None]) ** 2).sum(-1)
    scores = density_peaks(torch.from_numpy(distances).float(), neighbors)
    np.testing.assert_allclose(scores, reference(distances, neighbors), rtol=2e-4, atol=1e-6)
    scores = density_peaks(torch.from_numpy(distances).float(), neighbors, away_from="sparser")
    np.testing.assert_allclose(scores, reference(distances, neighbors, -1), rtol=2e-4, atol=1e-6)


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


def test_several_sets_score_as_each_alone() -> None:
    values = torch.randn(2, 3, 40, 6, generator=torch.Generator().manual_seed(0))
    distances = torch.cdist(values, values).square()
    distances = (distances + distances.transpose(-1, -2)) / 2
    distances.diagonal(dim1=-2, dim2=-1).zero_()
    together = density_peaks(distances, 5)
    assert together.shape == (2, 3, 40)
    for i, j in np.ndindex(2, 3):
        assert torch.equal(together[i, j], density_peaks(distances[i, j], 5))


def test_more_entries_than_one_block_holds() -> None:
    values = torch.randn(5, 300, 4, generator=torch.Generator().manual_seed(0))
    distances = scaled_distances(values)
    scores = density_peaks(distances, 4)
    for values_of_set, score in zip(values.double().numpy(), scores, strict=True):
        exact = ((values_of_set[:, None] - values_of_set[None]) ** 2).sum(-1) / 4
        np.testing.assert_allclose(score, reference(exact, 4), rtol=2e-3, atol=1e-5)


def test_every_point_joins_its_nearest_centre() -> None:
    values = torch.randn(3, 25, 8, generator=torch.Generator().manual_seed(1))
    distances = scaled_distances(values)
    centres, joined = density_clusters(distances, 6, 4)
    assert torch.equal(centres, highest(density_peaks(distances, 4), 6))
    for points, chosen, numbers in zip(values.double().numpy(), centres, joined, strict=True):
        exact = ((points[:, None] - points[chosen][None]) ** 2).sum(-1)
        np.testing.assert_array_equal(numbers, exact.argmin(1))


def test_a_centre_joins_itself_even_beside_its_copy() -> None:
    distances = scaled_distances(torch.zeros(1, 4, 3))
    joined = nearest_centre(distances, torch.tensor([[2, 0]]))
    assert joined.tolist() == [[1, 0, 0, 0]]


def test_scaled_distances_are_squared_distances_over_channels() -> None:
    values = torch.randn(2, 7, 5, generator=torch.Generator().manual_seed(2))
    exact = ((values[:, :, None] - values[:, None]) ** 2).mean(-1)
    torch.testing.assert_close(scaled_distances(values), exact, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scaled_distances(values.half()), scaled_distances(values.half().float()))


def test_few_points_close_together_far_away_keep_their_distances() -> None:
    points = torch.tensor([[1000.0, 0.0], [1000.0, 0.01], [1000.0, 0.03]])
    expected = torch.tensor([[0, 1, 9], [1, 0, 4], [9, 4, 0]]) * 1e-4 / 2
    torch.testing.assert_close(scaled_distances(points[None])[0], expected)
