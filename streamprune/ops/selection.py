"""Choosing by score, with ties going to the lower index on every device."""

from __future__ import annotations

import torch


def highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """(..., count) int64 positions of the highest scores along the last axis, best first."""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :count]


def lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """(..., count) int64 positions of the lowest scores along the last axis, lowest first."""
    return torch.sort(scores, dim=-1, stable=True).indices[..., :count]


def marked(places: torch.Tensor, length: int) -> torch.Tensor:
    """(..., length) bool: True at the ``places`` (..., count) of each row."""
    mask = torch.zeros(*places.shape[:-1], length, dtype=torch.bool, device=places.device)
    return mask.scatter_(-1, places, True)


def marked_places(mask: torch.Tensor) -> torch.Tensor:
    """(rows, count) int64: where each row of the (rows, length) bool ``mask`` is True, ascending.

    Every row must have the same number of them.
    """
    return mask.nonzero()[:, 1].reshape(mask.shape[0], -1)


def ranks_within(scores: torch.Tensor, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (..., length) int64: the rank of each score among those of its group, best 0, and the group's size.

    Args:
        scores: (..., length).
        groups: (..., length) int, any numbers.
    """
    best_first = torch.sort(scores, dim=-1, descending=True, stable=True).indices
    by_group = torch.sort(groups.gather(-1, best_first), dim=-1, stable=True)
    order = best_first.gather(-1, by_group.indices)
    numbers = by_group.values.contiguous()
    first = torch.searchsorted(numbers, numbers)
    last = torch.searchsorted(numbers, numbers, right=True)
    places = torch.arange(scores.shape[-1], device=scores.device)
    empty = torch.empty_like(order)
    return empty.scatter(-1, order, places - first), empty.scatter(-1, order, last - first)


def entries_at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(..., count, dim) or (..., count): what stands at the ``places`` of each row, in memory of its own.

    Whole entries are copied, which is many times faster than ``gather`` with an index for every number.

    Args:
        values: (..., length, dim), or (..., length) of the same leading shape as ``places``.
        places: (..., count) int64.
    """
    length = values.shape[places.ndim - 1]
    rows = places.shape[:-1].numel()
    starts = torch.arange(rows, device=places.device) * length
    flat = (places.reshape(rows, -1) + starts[:, None]).reshape(-1)
    wide = values.shape[places.ndim :]
    return values.reshape(rows * length, *wide).index_select(0, flat).reshape(*places.shape, *wide)
