"""Greedy picks that differ from each other, one set or a batch of sets at a time."""

from __future__ import annotations

import torch


def most_isolated(distances: torch.Tensor) -> torch.Tensor:
    """(...,) int64: the column of each (..., n, n) matrix that is farthest from its nearest other token.

    The smallest entry of a column is taken for the token's distance to itself, so the second smallest counts.
    """
    two = min(2, distances.shape[-2])
    nearest_other = distances.topk(two, dim=-2, largest=False, sorted=True).values[..., -1, :]
    return nearest_other.argmax(-1)


def greedy_max_min(
    distances: torch.Tensor, count: int, *, first: torch.Tensor | None = None, pick_again: bool = False
) -> torch.Tensor:
    """Pick again and again the token whose nearest pick is farthest away (farthest-point sampling).

    A running minimum per token is kept, so a pick costs one row of ``distances``.

    Args:
        distances: (batch, n, n) or (n, n); ``distances[..., i, j]`` is how far candidate ``j`` is from pick
            ``i``. Need not be symmetric: scale the columns to prefer some candidates over others.
        count: how many to pick; more than ``n`` means all.
        first: (batch,) or () int64 first picks; None = :func:`most_isolated`.
        pick_again: leave picked tokens among the candidates, as code does that relies on their distance of
            about 0 (with negative distances a token is then picked twice).

    Returns:
        (batch, count) or (count,) int64 in the order picked; of equally far tokens the lower index.
    """
    stacked = distances.reshape(-1, *distances.shape[-2:])
    batch = torch.arange(stacked.shape[0], device=stacked.device)
    pick = most_isolated(stacked) if first is None else first.reshape(-1)
    picks = [pick]
    nearest = stacked[batch, pick]
    for _ in range(min(count, stacked.shape[-1]) - 1):
        if not pick_again:
            nearest[batch, pick] = -float("inf")
        pick = nearest.argmax(-1)
        picks.append(pick)
        nearest = torch.minimum(nearest, stacked[batch, pick])
    chosen = torch.stack(picks, -1)[:, :count]
    return chosen.reshape(*distances.shape[:-2], chosen.shape[1])


def greedy_max_sum(similarities: torch.Tensor, count: int, *, first: torch.Tensor) -> torch.Tensor:
    """Pick again and again the token whose similarities with all picks have the lowest sum.

    Args:
        similarities: (batch, n, n); entry ``i, j`` is how alike pick ``i`` and candidate ``j`` are.
        count: how many to pick; more than ``n`` means all.
        first: (batch,) int64 first picks.

    Returns:
        (batch, count) int64 in the order picked; of equal sums the lower index. No token is picked twice.
    """
    batch = torch.arange(similarities.shape[0], device=similarities.device)
    total = torch.zeros(similarities.shape[:2], dtype=torch.float64, device=similarities.device)
    picks = [first]
    for _ in range(min(count, similarities.shape[-1]) - 1):
        total += similarities[batch, picks[-1]]
        total[batch, picks[-1]] = float("inf")
        picks.append(total.argmin(-1))
    return torch.stack(picks, -1)


def greedy_unalike(
    scores: torch.Tensor, similarities: torch.Tensor, threshold: float, count: int
) -> torch.Tensor:
    """Pick the best token that is not too similar to any pick; when there is none, the best of the others.

    Args:
        scores: (batch, n), higher = picked first.
        similarities: (batch, n, n); entry ``i, j`` is how alike pick ``i`` and candidate ``j`` are.
        threshold: a candidate more similar than this to a pick waits until no other is left.
        count: how many to pick; more than ``n`` means all.

    Returns:
        (batch, count) int64 in the order picked; of equal scores the lower index. No token is picked twice.
    """
    batch = torch.arange(scores.shape[0], device=scores.device)
    left = torch.ones_like(scores, dtype=torch.bool)
    waiting = torch.zeros_like(left)
    picks = []
    for _ in range(min(count, scores.shape[1])):
        free = left & ~waiting
        candidates = torch.where(free.any(1, keepdim=True), free, left)
        pick = scores.masked_fill(~candidates, -float("inf")).argmax(1)
        left[batch, pick] = False
        waiting |= similarities[batch, pick] > threshold
        picks.append(pick)
    return torch.stack(picks, -1)
