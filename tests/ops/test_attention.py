"""Recomputed attention rows against a loop in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.errors import InvalidValueError
from streamprune.ops.attention import frame_query_attention, mean_attention


@pytest.mark.parametrize("rows_per_token", [1, 2, 4])
def test_one_frame_and_head_at_a_time(rows_per_token: int) -> None:
    frames, heads, dim, rows = 3, 2, 8, 24
    q, k = (
        torch.randn(frames * rows, heads, dim, generator=torch.Generator().manual_seed(i)) for i in (1, 2)
    )
    attention = frame_query_attention(q, k, frames, rows_per_token=rows_per_token)
    for frame in range(frames):
        inside = slice(frame * rows, (frame + 1) * rows)
        expected = np.zeros(rows // rows_per_token)
        for head in range(heads):
            query = q[inside, head].double().numpy().mean(0)
            keys = k[inside, head].double().numpy().reshape(-1, rows_per_token, dim).mean(1)
            raised = np.exp(keys @ query / np.sqrt(dim))
            expected += raised / raised.sum() / heads
        np.testing.assert_allclose(attention[frame], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("q", "k", "frames", "rows_per_token"),
    [
        ((8, 2, 4), (8, 2, 3), 1, 4),
        ((8, 8), (8, 8), 1, 4),
        ((8, 2, 4), (8, 2, 4), 3, 4),
        ((8, 2, 4), (8, 2, 4), 2, 3),
        ((8, 2, 4), (8, 2, 4), 0, 4),
        ((0, 2, 4), (0, 2, 4), 1, 4),
    ],
)
def test_shapes_that_do_not_divide_are_refused(
    q: tuple[int, ...], k: tuple[int, ...], frames: int, rows_per_token: int
) -> None:
    with pytest.raises(ValueError, match=r"rows do not divide|must both be"):
        frame_query_attention(torch.zeros(q), torch.zeros(k), frames, rows_per_token=rows_per_token)


@pytest.mark.parametrize(("queries", "rows"), [(1, 128), (7, 3), (7, 7), (20, 128)])
def test_mean_attention_is_the_mean_of_the_whole_map(queries: int, rows: int) -> None:
    generator = torch.Generator().manual_seed(queries)
    q = torch.randn(4, 3, queries, 8, generator=generator)
    k = torch.randn(4, 3, 11, 8, generator=generator)
    received = mean_attention(q, k, 0.6, query_rows=rows)
    raised = np.exp(0.6 * q.double().numpy() @ k.double().numpy().transpose(0, 1, 3, 2))
    expected = (raised / raised.sum(-1, keepdims=True)).mean((1, 2))
    np.testing.assert_allclose(received, expected, atol=1e-6)
    np.testing.assert_allclose(received.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("queries", "keys", "rows", "message"),
    [
        ((2, 3, 4, 8), (2, 2, 5, 8), 128, "queries and keys must be"),
        ((2, 3, 4, 8), (2, 3, 5, 6), 128, "queries and keys must be"),
        ((3, 4, 8), (3, 4, 8), 128, "queries and keys must be"),
        ((2, 3, 0, 8), (2, 3, 5, 8), 128, "needs a query"),
        ((2, 3, 4, 8), (2, 3, 5, 8), 0, "query_rows of at least 1"),
    ],
)
def test_mean_attention_of_what_does_not_fit(
    queries: tuple[int, ...], keys: tuple[int, ...], rows: int, message: str
) -> None:
    with pytest.raises(InvalidValueError, match=message):
        mean_attention(torch.zeros(queries), torch.zeros(keys), 1.0, query_rows=rows)
