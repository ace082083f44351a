"""The positions of a shortened prompt, on one axis or on three."""

from __future__ import annotations

import torch

from streamprune.positions import Positions


def kept_positions(
    full: torch.Tensor, visual: torch.Tensor, columns: torch.Tensor, chosen: Positions
) -> torch.Tensor:
    """Positions of the tokens that stay.

    Args:
        full: (..., length) int64, of the full prompt.
        visual: (length,) bool, which tokens of it are visual.
        columns: (left,) int64, which of them stay, in the order of the prompt.
        chosen: the rule.

    Returns:
        (..., left) int64.
    """
    if chosen.rule == "renumber":
        return torch.arange(len(columns), device=full.device).expand(*full.shape[:-1], -1)
    if chosen.text_after == "max":
        full = text_behind_everything(full, visual)
    kept = full[..., columns]
    return clipped(kept, chosen.gap) if chosen.rule == "clipped" else kept


def text_behind_everything(full: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    """``full`` (..., length) with every text behind ``visual`` tokens moved one behind their furthest.

    What follows that text moves with it.
    """
    moved = full.clone()
    starts = (visual[:-1] & ~visual[1:]).nonzero()[:, 0] + 1
    for start in starts.tolist():
        furthest = moved[..., :start].max()
        moved[..., start:] += furthest + 1 - moved[..., start].max()
    return moved


def clipped(positions: torch.Tensor, max_gap: int) -> torch.Tensor:
    """Take out positions that nobody has, on no axis, but for ``max_gap`` of them in a row.

    All axes are moved alike, so that text stays at one position on all of them.
    """
    used = torch.unique(positions)
    steps = torch.diff(used).clamp(max=max_gap + 1)
    moved = torch.cat([used[:1], used[:1] + steps.cumsum(0)])
    return moved[torch.searchsorted(used, positions.contiguous())]
