"""Choosing by score, with ties going to the lower index on every device."""

from __future__ import annotations

import torch


def highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """(..., count) int64 positions of the highest scores along the last axis, best first."""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices[..., :count]


def lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """(..., count) int64 positions of the lowest scores along the last axis, lowest first."""
    return torch.sort(scores, dim=-1, stable=True).indices[..., :count]
