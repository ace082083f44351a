"""Finding frames by the attention a question would give them."""

from __future__ import annotations

import torch

from streamprune.cache.block import CacheShape
from streamprune.cache.page_index import PageIndex
from tests.cache.made_stream import made_room

FRAMES, TOKENS = 12, 4


def made_shape() -> CacheShape:
    return made_room(1000).shape


def _filled(seed: int, weak: float = 0.1) -> PageIndex:
    generator = torch.Generator().manual_seed(seed)
    shape = made_shape()
    index = PageIndex(shape, (0, 1), 2, FRAMES)
    for number in range(FRAMES):
        size = (shape.layers, shape.kv_heads, 2, shape.head_dim)
        index.add(weak * torch.randn(size, generator=generator), number, float(number))
    return index


def _queries(seed: int, strength: float = 1.0) -> torch.Tensor:
    shape = made_shape()
    size = (shape.layers, shape.query_heads, TOKENS, shape.head_dim)
    return strength * torch.randn(size, generator=torch.Generator().manual_seed(seed))


def test_the_frame_that_the_last_token_looks_at_is_first() -> None:
    index, queries = _filled(0), _queries(1)
    shape = made_shape()
    groups = shape.query_heads // shape.kv_heads
    asked = queries[:, :, -1].reshape(shape.layers, shape.kv_heads, groups, -1).mean(2)
    index.keys[:, :, 7, 0] = 20 * asked[:2]
    found = index.search(queries, "attention", detrend=False)
    assert int(found.numbers[found.scores.argmax()]) == 7


def test_scores_are_those_of_plain_attention() -> None:
    index, queries, shape = _filled(2, weak=1.0), _queries(3), made_shape()
    expected = torch.zeros(FRAMES)
    for place, layer in enumerate(index.layers):
        shares = torch.zeros(shape.query_heads, TOKENS, FRAMES)
        for head in range(shape.query_heads):
            keys = index.keys[place, head // (shape.query_heads // shape.kv_heads)].float()
            logits = queries[layer, head] @ keys.flatten(0, 1).T / shape.head_dim**0.5
            shares[head] = logits.softmax(-1).reshape(TOKENS, FRAMES, 2).sum(-1)
        mean = shares.mean(0)
        torch.testing.assert_close(mean.sum(-1), torch.ones(TOKENS))
        expected += mean[-1] + mean.amax(0)
    found = index.search(queries, "attention", detrend=False)
    scores = (expected - expected.mean()) / expected.std(correction=0)
    torch.testing.assert_close(found.scores, scores, rtol=1e-4, atol=1e-5)


def test_a_frame_that_was_dropped_gets_no_attention() -> None:
    index, queries = _filled(4), _queries(5)
    index.drop(3)
    found = index.search(queries, "attention", detrend=False)
    assert 3 not in found.numbers.tolist()
    assert len(found.scores) == FRAMES - 1
