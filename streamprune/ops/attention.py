"""Attention rows recomputed from queries and keys, without a full attention map."""

from __future__ import annotations

import torch

from streamprune.errors import InvalidValueError

# rows of an attention map, and its scores over several frames (32 MB), that exist at a time
_QUERY_ROWS = 128
_BLOCK_SCORES = 2**23


def frame_query_attention(
    queries: torch.Tensor, keys: torch.Tensor, frames: int, *, rows_per_token: int = 4
) -> torch.Tensor:
    """Saliency of each merged token under the mean query of its frame, a stand-in for a missing [CLS] row.

    Args:
        queries: (rows, heads, dim) of one vision layer after rotation, frame after frame.
        keys: same shape.
        frames: temporal slices in ``rows``.
        rows_per_token: consecutive rows that the model merges into one token (4 = a 2 x 2 patch merger);
            their mean is the token's key.

    Returns:
        (frames, tokens per frame) float32 softmax over the frame's tokens, averaged over heads, in the order
        of the rows (window order where the encoder permutes; undo that permutation afterwards).

    Raises:
        InvalidValueError: shapes differ, or rows do not divide into frames of whole tokens.

    Source: arXiv 2503.11187, Qwen2.5-VL release.
    """
    if queries.ndim != 3 or queries.shape != keys.shape:
        raise InvalidValueError(
            "queries and keys must both be (rows, heads, dim), "
            f"got {tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    rows, heads, dim = queries.shape
    if frames < 1 or rows_per_token < 1 or rows == 0 or rows % (frames * rows_per_token):
        raise InvalidValueError(
            f"{rows} rows do not divide into {frames} frames of tokens of {rows_per_token} rows each"
        )
    query = queries.float().reshape(frames, -1, heads, dim).mean(1)
    token_keys = keys.float().reshape(frames, -1, rows_per_token, heads, dim).mean(2)
    logits = torch.einsum("fhd,fthd->fht", query, token_keys) / dim**0.5
    return torch.softmax(logits, -1).mean(1)


def mean_attention(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float, *, query_rows: int = _QUERY_ROWS
) -> torch.Tensor:
    """Attention that each key receives, averaged over heads and over all ``queries``.

    With every token's query this is a token's mean received attention; with one query it is that query's row.
    Only ``query_rows`` rows of the attention map exist at a time.

    Args:
        queries: (frames, heads, queries, dim), any floating dtype.
        keys: (frames, heads, tokens, dim).
        scaling: factor of the inner products, usually ``dim ** -0.5``.
        query_rows: rows of the map in one block, at least 1.

    Returns:
        (frames, tokens) float32, each row sums to 1.

    Raises:
        InvalidValueError: shapes do not fit together, or there is no query.
    """
    if not queries.ndim == keys.ndim == 4 or queries[:, :, :0].shape != keys[:, :, :0].shape:
        raise InvalidValueError(
            "queries and keys must be (frames, heads, queries, dim) and (frames, heads, tokens, dim), "
            f"got {tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    frames, heads, count, _ = queries.shape
    if count == 0 or query_rows < 1:
        raise InvalidValueError(f"needs a query and query_rows of at least 1, got {count} and {query_rows!r}")
    per_frame = heads * min(query_rows, count) * keys.shape[2]
    step = max(1, _BLOCK_SCORES // per_frame)
    received = torch.zeros(frames, keys.shape[2], device=keys.device)
    for first in range(0, frames, step):
        some = slice(first, first + step)
        columns = keys[some].float().transpose(-1, -2) * scaling
        for row in range(0, count, query_rows):
            scores = queries[some, :, row : row + query_rows].float() @ columns
            received[some] += torch.softmax(scores, -1).sum((1, 2))
    return received / (heads * count)
