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
