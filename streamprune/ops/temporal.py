"""How much a place of the grid changes from one frame to another."""

from __future__ import annotations

from collections.abc import Sequence

import torch

# values of one product: enough to pay for a call, few enough to stay in cache
_BLOCK_VALUES = 2**18


def place_cosine(frames: torch.Tensor, pairs: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Cosine between two frames at every place, for each pair of frames.

    Products and squared lengths are summed in float64 by the same routine: a token and its copy have a cosine
    of exactly 1, and places of which hardly any has changed are still put in order by their change. A zero
    token is like nothing: its cosine is 0.

    Args:
        frames: (frames, tokens per frame, channels).
        pairs: of frame numbers.

    Returns:
        (pairs, tokens per frame) float64.
    """
    squares: dict[int, torch.Tensor] = {}
    rows = []
    for pair in pairs:
        for frame in pair:
            if frame not in squares:
                squares[frame] = row_products(frames[frame], frames[frame], torch.float64)
        products = row_products(frames[pair[0]], frames[pair[1]], torch.float64)
        rows.append(_cosine(products, squares[pair[0]], squares[pair[1]]))
    return torch.stack(rows) if rows else frames.new_empty(0, frames.shape[1], dtype=torch.float64)


def previous_cosine(frames: torch.Tensor) -> torch.Tensor:
    """(frames - 1, tokens per frame) float64: cosine of each token with the same place one frame earlier."""
    return place_cosine(frames, [(frame - 1, frame) for frame in range(1, frames.shape[0])])


def row_cosine(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """(rows,) float64: cosine of each row of (rows, channels) with the same row of ``right``.

    A row and its copy have exactly 1, a zero row has 0.
    """
    pairs = ((left, right), (left, left), (right, right))
    return _cosine(*(row_products(a, b, torch.float64) for a, b in pairs))


def row_products(left: torch.Tensor, right: torch.Tensor, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """(rows,) inner product of each row of (rows, channels) with the same row of ``right``.

    Values are multiplied in float32 and summed in ``dtype``. A row's result does not depend on the rows
    around it.
    """
    rows = max(1, _BLOCK_VALUES // max(1, left.shape[1]))
    parts = [
        (a.float() * b.float()).sum(-1, dtype=dtype)
        for a, b in zip(torch.split(left, rows), torch.split(right, rows), strict=True)
    ]
    return torch.cat(parts)


def _cosine(products: torch.Tensor, left_squares: torch.Tensor, right_squares: torch.Tensor) -> torch.Tensor:
    # the root of a squared number is that number, whatever squaring has rounded off
    lengths = (left_squares * right_squares).sqrt()
    return torch.where(lengths > 0, products / lengths, 0.0)
