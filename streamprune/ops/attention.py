"""Attention rows recomputed from queries and keys, without a full attention map."""

from __future__ import annotations

import torch

from streamprune.errors import InvalidValueError


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
