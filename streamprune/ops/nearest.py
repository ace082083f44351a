"""Which of a few chosen tokens of its own frame each token is most like, for all frames at once."""

from __future__ import annotations

import torch

from streamprune.ops.similarity import unit_rows

# float32 products of rows this much alike, of the highest, may come out in either order
_UNSURE = 1e-6
# float64 products as much alike are equal
_EQUAL = 1e-13


def nearest_targets(values: torch.Tensor, targets: torch.Tensor, *, block_groups: int = 8) -> torch.Tensor:
    """(groups, rows) int64: for each row, the target of its group with the highest cosine.

    The length of a row cannot change which target wins, so only the targets are normalised. What float32
    cannot decide is decided in float64; ties and zero rows go to the lowest target.

    Args:
        values: (groups, rows, channels), any floating dtype.
        targets: (groups, targets, channels), at least one target.
        block_groups: at most so many groups of ``values`` are held in float32 at a time.
    """
    best = []
    for block, centres in zip(
        torch.split(values, block_groups), torch.split(targets, block_groups), strict=True
    ):
        products = torch.bmm(unit_rows(centres), block.float().transpose(1, 2))  # (groups, targets, rows)
        top, nearest = products.max(1)
        contested = (products >= (top - _UNSURE * top.abs())[:, None]).sum(1) > 1
        for group in contested.any(1).nonzero()[:, 0].tolist():
            rows = contested[group]
            nearest[group, rows] = _nearest_exactly(block[group, rows], centres[group])
        best.append(nearest)
    return torch.cat(best)


def _nearest_exactly(values: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(rows,) int64: :func:`nearest_targets` of one group in float64."""
    wide = targets.double()
    length = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
    products = values.double() @ torch.where(length > 0, wide / length, 0.0).T
    top = products.amax(1, keepdim=True)
    # of several highest values argmax may name any
    return torch.sort((products < top - _EQUAL * top.abs()).byte(), dim=1, stable=True).indices[:, 0]
