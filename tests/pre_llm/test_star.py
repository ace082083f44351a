"""STAR's first stage against float64 numpy, and why it is the received attention that counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from streamprune.pre_llm.star import net_attention
from streamprune.reduce import reduce_tokens


def order_of(features: torch.Tensor, **budget: float) -> list[int]:
    reduction = reduce_tokens(features, "star", **budget)  # type: ignore[arg-type]
    return reduction.index[reduction.order].tolist()


@pytest.mark.parametrize("length", [0.3, 1.0])
@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_the_steps_written_out(length: float, seed: int) -> None:
    features = length * torch.randn(4, 6, 7, 12, generator=torch.Generator().manual_seed(seed))
    expected = []
    for t, x in enumerate(features.double().flatten(1, 2).numpy()):
        attention = np.exp(x @ x.T / np.sqrt(12))
        attention /= attention.sum(1, keepdims=True)
        order = np.argsort(-attention.mean(0), kind="stable")[:12]
        expected += (order + 42 * t).tolist()
    assert order_of(features, keep_ratio=0.3) == expected


def test_what_a_token_gives_cannot_rank_and_what_it_receives_can() -> None:
    logits = torch.randn(2, 9, 9, generator=torch.Generator().manual_seed(0))
    attention = torch.softmax(logits.double(), -1)
    torch.testing.assert_close(attention.mean(-1), torch.full((2, 9), 1 / 9, dtype=torch.float64))
    torch.testing.assert_close(net_attention(logits), 9 * attention.mean(-2) - 1)
    assert (net_attention(logits).std(-1) > 0.1).all()


def test_unrelated_tokens_of_equal_length_tie_and_a_pair_of_copies_leads() -> None:
    corners = torch.eye(6)
    assert order_of(corners.reshape(1, 2, 3, 6), keep_tokens=4) == [0, 1, 2, 3]
    corners[5] = corners[2]
    assert order_of(corners.reshape(1, 2, 3, 6), keep_tokens=3) == [2, 5, 0]


def test_long_features_are_ranked_by_the_little_that_is_left() -> None:
    values = torch.randn(1, 3, 4, 400, generator=torch.Generator().manual_seed(1))
    logits = (values.flatten(1, 2) @ values.flatten(1, 2).mT / 20).double()
    leak = torch.exp(logits - logits.diagonal(dim1=1, dim2=2)[..., None]) - torch.eye(12)
    assert leak.max() < 1e-5, "each token attends to itself alone, as far as float32 can tell"
    expected = (leak.sum(1) - leak.sum(2))[0].argsort(descending=True)
    assert order_of(values, keep_tokens=11) == expected[:11].tolist()
