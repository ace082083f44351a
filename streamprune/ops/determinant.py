"""Greedy picks whose kernel has a large determinant: good tokens that are unlike each other."""

from __future__ import annotations

import torch

# what is left of a diagonal entry below this share of it is the rounding of float32
_NOTHING_LEFT = 1e-6


def greedy_determinant(kernels: torch.Tensor, count: int) -> torch.Tensor:
    """Pick again and again the token that multiplies the determinant of the picked kernel by most.

    That factor is the part of a token's diagonal entry which the picks do not explain; it is kept up to date
    by one row of an incomplete Cholesky factorisation per pick. When the picks explain all tokens left (more
    picks than the kernel has rank, copies), these follow by their diagonal entries.

    Args:
        kernels: (batch, n, n) symmetric and positive semidefinite.
        count: how many to pick in each; more than ``n`` means all.

    Returns:
        (batch, count) int64 in the order picked; ties go to the lower index.

    Source: greedy inference for determinantal point processes in the form of arXiv 1709.05135.
    """
    kernels = kernels.float()
    size, tokens = kernels.shape[:2]
    count = min(count, tokens)
    batch = torch.arange(size, device=kernels.device)
    diagonal = kernels.diagonal(dim1=1, dim2=2)
    least = _NOTHING_LEFT * diagonal
    unexplained = diagonal.clone()
    free = torch.ones_like(diagonal, dtype=torch.bool)
    factor = kernels.new_zeros(size, count, tokens)
    picks = torch.empty(size, count, dtype=torch.int64, device=kernels.device)
    for step in range(count):
        adds = free & (unexplained > least)
        exhausted = ~adds.any(1, keepdim=True)
        score = torch.where(exhausted, diagonal, unexplained)
        pick = score.masked_fill(~(adds | exhausted & free), -float("inf")).argmax(1)
        picks[:, step] = pick
        free[batch, pick] = False
        if step + 1 == count:
            break
        known = factor[batch, :step, pick][:, None] @ factor[:, :step]
        row = (kernels[batch, pick] - known[:, 0]) * unexplained[batch, pick].clamp(min=1e-38).rsqrt()[
            :, None
        ]
        row = row.masked_fill(exhausted, 0.0)
        factor[:, step] = row
        unexplained -= row.square()
    return picks
