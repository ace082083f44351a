"""Single rows of a decoder's attention map, from queries and keys."""

from __future__ import annotations

import torch

from streamprune.errors import InvalidValueError


def attention_rows(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float, rows: torch.Tensor | None = None
) -> torch.Tensor:
    """Softmax of the scores of some queries over the keys.

    Args:
        queries: (heads, queries, dim).
        keys: (key heads, tokens, dim); each serves ``heads / key heads`` consecutive query heads.
        scaling: factor of the inner products.
        rows: (queries,) int64, the token each query belongs to: it sees the keys up to its own. None: it
            sees all keys.

    Returns:
        (heads, queries, tokens) float32.

    Raises:
        InvalidValueError: shapes do not fit together.
    """
    fits = queries.ndim == keys.ndim == 3 and queries.shape[2] == keys.shape[2]
    if not fits or keys.shape[0] == 0 or queries.shape[0] % keys.shape[0]:
        raise InvalidValueError(
            "queries and keys must be (heads, queries, dim) and (key heads, tokens, dim) with heads a "
            f"multiple of key heads, got {tuple(queries.shape)} and {tuple(keys.shape)}"
        )
    grouped = queries.float().reshape(keys.shape[0], -1, *queries.shape[1:])
    scores = torch.einsum("kgqd,knd->kgqn", grouped, keys.float()).flatten(0, 1) * scaling
    if rows is not None:
        later = torch.arange(keys.shape[1], device=keys.device) > rows[:, None]
        scores = scores.masked_fill(later, -torch.inf)
    return torch.softmax(scores, -1)
