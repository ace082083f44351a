"""Thinning out ranked lists by repeatedly dropping what resembles something else on the list."""

from __future__ import annotations

import torch


def drop_duplicates(similarity: torch.Tensor, ranked: torch.Tensor, keep: int, *, step: int) -> torch.Tensor:
    """Drop the most redundant entries of each list, a few a round, until ``keep`` are left.

    In a round the entries at even places of a list are compared with those at odd places; the ``step`` that
    come closest to any of them go. What is left of the even places, most redundant first, followed by the odd
    places, is the next list, so that other entries meet. Ties: the earlier on the list goes first.

    Args:
        similarity: (lists, tokens, tokens) float32.
        ranked: (lists, entries) int64 tokens, distinct in each list.
        keep: entries left, 0 to ``entries``.
        step: entries dropped in a round, at least 1; no more than there are even places.

    Returns:
        (lists, keep) int64, in the order of the last round.

    Source: arXiv 2412.01818 v2, whose release drops 8 a round and needs an even number of entries.
    """
    if keep == 0:
        return ranked[:, :0]
    tokens = similarity.shape[-1]
    flat = similarity.flatten(1)
    while ranked.shape[1] > keep:
        even, odd = ranked[:, ::2], ranked[:, 1::2]
        drop = min(step, ranked.shape[1] - keep, even.shape[1])
        pairs = (even[:, :, None] * tokens + odd[:, None]).flatten(1)
        closest = flat.gather(1, pairs).reshape(*even.shape, -1).amax(2)
        redundant = torch.sort(closest, dim=1, descending=True, stable=True).indices
        ranked = torch.cat([even.gather(1, redundant[:, drop:]), odd], 1)
    return ranked
