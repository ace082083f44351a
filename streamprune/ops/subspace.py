"""Channels that vary little over the tokens, and the space they span."""

from __future__ import annotations

import torch

# values of one block: enough to pay for a call, few enough to stay in cache
_BLOCK_VALUES = 2**18


def channel_moments(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and population variance of every channel of (rows, channels), in one pass, as float64."""
    first = values[0].float()
    # sums of differences from one row: no cancellation where the mean is large, exact zeros where all agree
    total = torch.zeros_like(first, dtype=torch.float64)
    squares = torch.zeros_like(total)
    for block in torch.split(values, max(1, _BLOCK_VALUES // values.shape[1])):
        difference = block.float() - first
        total += difference.sum(0)
        squares += difference.square_().sum(0)
    shift = total / values.shape[0]
    return first + shift, (squares / values.shape[0] - shift.square()).clamp(min=0)


def masked_lengths(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(rows,) float32 lengths of (rows, channels) in the channels where ``mask`` is 1 (elsewhere 0)."""
    squares = []
    for block in torch.split(values, max(1, _BLOCK_VALUES // values.shape[1])):
        wide = block.float()
        squares.append((wide * mask).mul_(wide).sum(-1))
    return torch.cat(squares).sqrt()
