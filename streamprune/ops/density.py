"""Density peaks: which tokens stand in the middle of a crowd and far from any denser one."""

from __future__ import annotations

from typing import Literal

import torch

from streamprune.ops.selection import highest
from streamprune.ops.similarity import gram, squared_distances

AwayFrom = Literal["denser", "sparser"]

# so few points are compared by their differences, which drown in the rounding of inner products when points
# lie close together far from the origin, as mean tokens of frames do
_FEW = 32
# entries of the matrices scored together: so many stay in cache
_BLOCK_ENTRIES = 2**18


def density_peaks(
    squared_distances: torch.Tensor, neighbors: int, *, away_from: AwayFrom = "denser"
) -> torch.Tensor:
    """Score of each of ``n`` points as a cluster centre, for one set of points or several.

    The density of a point is ``exp(-m)``, ``m`` being the mean of its ``neighbors`` smallest squared
    distances; the point itself (at distance 0) is one of them. Its separation is the distance to the nearest
    strictly denser point of its set, and the largest distance in the set when there is none.

    Args:
        squared_distances: (..., n, n) float32, symmetric, 0 on the diagonal, scaled as the method wants it.
        neighbors: at least 1; more than ``n`` means all.
        away_from: ``sparser`` measures the separation to the nearest strictly sparser point instead.

    Returns:
        (..., n) float32, density times separation.

    Source: density-peak clustering with k nearest neighbours (arXiv 1404.3664 family), in the form that
    arXiv 2503.11187 uses, without its random term.
    """
    shape = squared_distances.shape
    sets = squared_distances.reshape(-1, *shape[-2:])
    together = max(1, _BLOCK_ENTRIES // max(1, shape[-1] ** 2))
    blocks = [_peaks(block, neighbors, away_from) for block in torch.split(sets, together)]
    return torch.cat(blocks).reshape(shape[:-1])


def density_clusters(
    squared_distances: torch.Tensor, clusters: int, neighbors: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the best-scoring points of :func:`density_peaks` as centres; every point joins the nearest one.

    Args:
        squared_distances: (..., n, n) float32, as for :func:`density_peaks`.
        clusters: 1 to ``n``.
        neighbors: as for :func:`density_peaks`.

    Returns:
        The centres (..., clusters), best first, and for each point the number of its centre (..., n). A
        centre joins itself; of equally near centres the better one is joined.
    """
    centres = highest(density_peaks(squared_distances, neighbors), clusters)
    return centres, nearest_centre(squared_distances, centres)


def nearest_centre(squared_distances: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """(..., n) number of the centre nearest each of ``n`` points; a centre is its own, however near another.

    Args:
        squared_distances: (..., n, n) float32, symmetric.
        centres: (..., clusters) which points are centres; of equally near ones the first in here counts.
    """
    # symmetric, so the rows of the centres serve as their columns and are read in one piece
    rows = centres.unsqueeze(-1).expand(*centres.shape, squared_distances.shape[-1])
    joined = squared_distances.gather(-2, rows).min(-2).indices
    numbers = torch.arange(centres.shape[-1], device=centres.device).expand_as(centres)
    return joined.scatter(-1, centres, numbers)


def cluster_places(
    sets: torch.Tensor, place: torch.Tensor, clusters: int, neighbors: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`density_clusters` of the points at ``place`` (n,) in each of (sets, points, channels).

    Sets are taken a few at a time, so that their distances stay in cache and never fill the memory.

    Returns:
        The centres (sets, clusters), best first, and the number of each point's centre (sets, n), both in
        numbers of ``place``.
    """
    together = max(1, _BLOCK_ENTRIES // max(1, len(place) ** 2))
    whole = len(place) == sets.shape[1]
    blocks = [
        density_clusters(scaled_distances(block if whole else block[:, place]), clusters, neighbors)
        for block in torch.split(sets, together)
    ]
    centres, joined = zip(*blocks, strict=True)
    return torch.cat(centres), torch.cat(joined)


def scaled_distances(sets: torch.Tensor) -> torch.Tensor:
    """(sets, n, n) float32 squared distances over channels of the points of (sets, n, channels)."""
    channels = sets.shape[-1]
    if sets.shape[1] <= _FEW:
        return (
            torch.cdist(sets.float(), sets.float(), compute_mode="donot_use_mm_for_euclid_dist")
            .square()
            .div_(channels)
        )
    return torch.stack([squared_distances(gram(points)).div_(channels) for points in sets])


def _peaks(squared_distances: torch.Tensor, neighbors: int, away_from: AwayFrom) -> torch.Tensor:
    """(sets, n) scores of (sets, n, n)."""
    nearest = _mean_of_smallest(squared_distances, min(neighbors, squared_distances.shape[-1]))
    density = nearest.neg().exp()
    denser = density[:, :, None] > density[:, None, :]
    farthest = squared_distances.amax((1, 2), keepdim=True)
    # the square root is monotonic: taken once per point, not once per pair
    separation = torch.where(denser, squared_distances, farthest)
    return separation.amin(1 if away_from == "denser" else 2).sqrt() * density


def _mean_of_smallest(distances: torch.Tensor, count: int) -> torch.Tensor:
    """(sets, n) mean of the ``count`` smallest entries of each column, the zero on the diagonal included.

    One pass per neighbour: for the handful in use, less than half the time of ``topk``.
    """
    left = distances.clone()
    left.diagonal(dim1=1, dim2=2).fill_(float("inf"))
    total = distances.new_zeros(distances.shape[0], distances.shape[2])
    for _ in range(count - 1):
        smallest, place = left.min(1)
        total += smallest
        left.scatter_(1, place[:, None], float("inf"))
    return total / count
