"""Which of a few chosen tokens of its own frame each token is most like, for all frames at once."""

from __future__ import annotations

import torch

from streamprune.ops.similarity import unit_rows


def nearest_targets(values: torch.Tensor, targets: torch.Tensor, *, block_groups: int = 8) -> torch.Tensor:
    """(groups, rows) int64: for each row, the target of its group with the highest cosine.

    The length of a row cannot change which target wins, so only the targets are normalised. Ties and zero
    rows go to the lowest target.

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
        best.append(products.max(1).indices)
    return torch.cat(best)
