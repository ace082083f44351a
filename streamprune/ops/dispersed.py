"""Max-sum picks among thousands of tokens, without one matrix-vector product per pick."""

from __future__ import annotations

import torch

from streamprune.ops.cosines import CosineRows
from streamprune.ops.selection import lowest

# tokens whose cosines with all are computed by one product
_BLOCK = 32


def dispersed_points(values: torch.Tensor, count: int, first: int) -> torch.Tensor:
    """Starting with ``first``, always pick the token whose cosines with all picks have the lowest sum.

    How: a pick adds its cosines with all tokens to their sums. When they are not known yet, they are computed
    together with those of the tokens that have the lowest sums now, as these tend to be picked soon.

    Args:
        values: (tokens, channels) float tensor; a zero token has cosine 0 with all.
        count: how many to pick, at least 1; more than there are means all.

    Returns:
        (count,) int64 in the order picked; of equal sums the lower index. No token is picked twice.
    """
    rows = CosineRows(values)
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.rows.device)
    known: dict[int, torch.Tensor] = {}
    wanted = torch.ones_like(total, dtype=torch.bool)
    picks = [first]
    while len(picks) < min(count, len(rows)):
        pick = picks[-1]
        if pick not in known:
            wanted[pick] = False
            likely = lowest(total.masked_fill(~wanted, float("inf")), min(_BLOCK - 1, int(wanted.sum())))
            block = torch.cat([likely.new_tensor([pick]), likely])
            wanted[block] = False
            known.update(zip(block.tolist(), rows.similarities(block), strict=True))
        total += known.pop(pick)
        total[pick] = float("inf")
        picks.append(int(total.argmin()))
    return torch.tensor(picks, device=total.device)
