"""How much of what a question is about is still there after a reduction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from streamprune.reduction import Reduction

if TYPE_CHECKING:
    Intervals = Sequence[tuple[float, float]]


def purity(reduction: Reduction) -> NDArray[np.float32]:
    """(tokens,) the largest share of one kept row that each token makes up: 1 when kept alone, 0 dropped."""
    import torch

    found: NDArray[np.float32]
    if reduction.entries is None:  # nothing was merged
        found = np.zeros(reduction.grid.tokens, np.float32)
        found[reduction.index[reduction.index >= 0].cpu().numpy()] = 1
        return found
    weights = reduction.weights
    row, token = weights.indices().cpu()
    share = weights.values().abs().float().cpu()
    total = torch.zeros(len(reduction)).index_add(0, row, share)
    best = torch.zeros(reduction.grid.tokens)
    best = best.scatter_reduce(0, token, share / total[row].clamp(min=1e-12), "amax")
    found = best.numpy()
    return found


def interval_recall(
    share: NDArray[np.float32], pts_seconds: Sequence[float], evidence: Intervals
) -> float | None:
    """How much is left of the moments that hold an answer, in [0, 1]; None without ``evidence``.

    Of every interval (start, end) in seconds the best surviving token of its frames counts; the recall is
    the mean over the intervals. An interval of which no frame was looked at is lost.

    Args:
        share: (tokens,) see :func:`purity`.
        pts_seconds: times of the frames of tokens.
    """
    if not evidence:
        return None
    best = share.reshape(len(pts_seconds), -1).max(1)
    times = np.asarray(pts_seconds)
    found = [best[(start <= times) & (times <= end)] for start, end in evidence]
    return float(np.mean([frames.max(initial=0.0) for frames in found]))
