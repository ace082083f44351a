"""Ranking tokens inside parts of a frame: windows of its grid or runs of its raster order."""

from __future__ import annotations

import torch

from streamprune.ops.selection import highest


def window_of(rows: int, cols: int, side: int) -> torch.Tensor:
    """(rows * cols,) int64: the window each token of a grid lies in, numbered row by row.

    Windows are ``side`` x ``side``, laid from the upper left. Rows and columns too few for a window of their
    own belong to the last one, so those at the lower and right edge may be larger.
    """
    down, across = max(1, rows // side), max(1, cols // side)
    window_row = (torch.arange(rows) // side).clamp(max=down - 1)
    window_col = (torch.arange(cols) // side).clamp(max=across - 1)
    return (window_row[:, None] * across + window_col).flatten()


def rank_in_parts(scores: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """(frames, tokens) int64: how many tokens of its own part precede each token by falling score.

    Args:
        scores: (frames, tokens).
        part: (tokens,) int64, the part that each token of any frame belongs to. Ties go to the lower token.
    """
    tokens = len(part)
    by_score = highest(scores, tokens)
    by_part = torch.sort(part[by_score], dim=1, stable=True)
    first = torch.searchsorted(part.sort().values, by_part.values)
    rank = torch.arange(tokens, device=scores.device) - first
    return torch.empty_like(by_score).scatter_(1, by_score.gather(1, by_part.indices), rank)
