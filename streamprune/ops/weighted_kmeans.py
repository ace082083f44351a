"""Groups of weighted points, found the same way every time."""

from __future__ import annotations

import torch


def weighted_kmeans(
    points: torch.Tensor,
    weights: torch.Tensor,
    count: int,
    *,
    iterations: int = 10,
    tolerance: float = 1e-4,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Means of ``count`` groups of points, and who is in which.

    The start is no matter of chance: groups are joined, two at a time, where that adds least to the sum of
    squared distances, until ``count`` are left. For one point too many no start is better. Then points go to
    the nearest mean, of equally near ones the first, and means follow their points.

    Args:
        points: (points, channels); computed in float32.
        weights: (points,) positive.
        count: of groups, at least 1; with no more points than that, every point is its own group.
        iterations: at most so many times.
        tolerance: stop when no mean moves further.

    Returns:
        (groups, channels) float32, and (points,) int64, the group of each point. The first point of each
        group comes before that of the next. A group that lost all points is not among them.
    """
    points, weights = points.float(), weights.float()
    group = _joined(points, weights, count)
    means = group_means(points, weights, group)
    for _ in range(iterations if len(points) > count else 0):
        group = _in_order(torch.cdist(points, means).argmin(1))
        moved = group_means(points, weights, group)
        still = moved.shape == means.shape and bool((moved - means).norm(dim=1).max() <= tolerance)
        means = moved
        if still:
            break
    return means, group


def _joined(points: torch.Tensor, weights: torch.Tensor, count: int) -> torch.Tensor:
    """(points,) groups after joining the pairs that cost least."""
    group = torch.arange(len(points), device=points.device)
    for _ in range(len(points) - count):
        means, mass = group_means(points, weights, group), _mass(weights, group)
        cost = torch.cdist(means, means).square()
        cost = cost * (mass[:, None] * mass / (mass[:, None] + mass))
        cost.masked_fill_(torch.ones_like(cost, dtype=torch.bool).tril(), float("inf"))
        first, second = divmod(int(cost.argmin()), len(means))
        group = _in_order(torch.where(group == second, first, group))
    return group


def _mass(weights: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    return weights.new_zeros(int(group.max()) + 1).index_add(0, group, weights)


def group_means(points: torch.Tensor, weights: torch.Tensor, group: torch.Tensor) -> torch.Tensor:
    """(groups, channels) weighted means of (points, channels), whose groups are numbered without gaps."""
    mass = _mass(weights, group)
    total = points.new_zeros(len(mass), points.shape[1]).index_add(0, group, points * weights[:, None])
    return total / mass[:, None]


def _in_order(group: torch.Tensor) -> torch.Tensor:
    """The same groups, numbered by their first points."""
    numbers, inverse = torch.unique(group, return_inverse=True)
    places = torch.arange(len(group), device=group.device)
    first = places.new_full((len(numbers),), len(group)).scatter_reduce(0, inverse, places, "amin")
    rank = torch.empty_like(numbers)
    rank[first.argsort()] = torch.arange(len(numbers), device=group.device, dtype=rank.dtype)
    return rank[inverse]
