"""StreamMem: what the text that opens an answer attends to, prototypes, averaged frames."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamprune.cache.block import Block
from streamprune.cache.context import BlockContext, GapRule, Gaps
from streamprune.cache.memory import Heard
from streamprune.cache.streammem import StreamMem, _StreamMemState
from streamprune.cache.token_store import CELL, FRAME, OFFSETS
from streamprune.errors import SignalError
from tests.cache.made_stream import (
    DIM,
    HEAD_TOKENS,
    KV_HEADS,
    LAYERS,
    QUERY_HEADS,
    begun,
    heard,
    made_block,
    made_head,
    made_room,
    written,
)

TOKENS = 12


def _fed(method: StreamMem, blocks: list[Block], axes: int = 1) -> _StreamMemState:
    memory = begun(method, made_room(10**6, axes=axes, context_tokens=10**4))
    assert isinstance(memory, _StreamMemState)
    for block in blocks:
        memory.write(block, heard(block))
    return memory


@pytest.mark.parametrize("axes", [1, 3])
def test_before_the_memory_is_full_everything_stands_where_it_stood(axes: int) -> None:
    blocks = [made_block(number, axes=axes) for number in (0, 1, 3, 7)]
    memory = _fed(StreamMem(clip_frames=2, gaps="keep"), blocks, axes)
    whole = BlockContext([made_head(axes=axes), *blocks], GapRule("keep"), memory.room.rotation)
    assert memory.recall(None).end == whole.end
    torch.testing.assert_close(written(memory.recall(None)), written(whole))


@pytest.mark.parametrize(("axes", "rule"), [(1, "compact"), (3, "keep")])
def test_where_positions_would_have_to_be_stretched_they_have_no_gaps(axes: int, rule: Gaps) -> None:
    blocks = [made_block(number, axes=axes) for number in (0, 1, 3, 7)]
    memory = _fed(StreamMem(clip_frames=2), blocks, axes)
    whole = BlockContext([made_head(axes=axes), *blocks], GapRule(rule), memory.room.rotation)
    assert memory.recall(None).end == whole.end
    torch.testing.assert_close(written(memory.recall(None)), written(whole))


def test_what_the_opening_text_attends_to_most_stays() -> None:
    blocks = [made_block(number) for number in range(4)]
    memory = _fed(StreamMem(max_tokens=30, clip_frames=4, prototypes=False), blocks)
    store, rotation = memory._store, memory.room.rotation
    assert store.count == 30
    whole = written(BlockContext([made_head(), *blocks], GapRule("keep"), rotation))[0].double()
    proxy = heard(blocks[-1]).proxy_queries
    assert proxy is not None
    places = HEAD_TOKENS + 4 * TOKENS + torch.arange(proxy.shape[2])
    for layer in range(LAYERS):
        turned = rotation.turned(proxy[layer][None], places.expand(1, 1, QUERY_HEADS, -1))[0].double()
        received = torch.zeros(4 * TOKENS, dtype=torch.float64)
        for head in range(QUERY_HEADS):
            keys = whole[layer, head // (QUERY_HEADS // KV_HEADS), HEAD_TOKENS:]
            received += torch.softmax(turned[head] @ keys.T / DIM**0.5, -1).sum(0)
        labels = store.held(layer)[2][:, 0].long()
        ours = (labels[FRAME] * TOKENS + labels[CELL]).tolist()
        assert ours == received.topk(30).indices.sort().values.tolist()


def test_a_layer_holds_no_more_than_it_may_and_a_prototype_of_every_frame_of_the_last_clip() -> None:
    memory = _fed(StreamMem(max_tokens=40, clip_frames=3, merge_above=1), [])
    store = memory._store
    for number in range(60):
        block = made_block(number)
        memory.write(block, heard(block))
        pending = (number + 1) % 3
        assert store.count <= 40 + pending * TOKENS
        if not pending and number > 2:
            assert store.count == 40
            for layer in range(LAYERS):
                keys, _, labels = store.held(layer)
                frames = labels[FRAME, 0].tolist()
                assert frames == sorted(frames)
                for newest in (number - 2, number - 1, number):
                    own = keys[:, labels[FRAME, 0] == newest]
                    came = made_block(newest).keys[layer]
                    # the last of a frame is its prototype, which is none of its tokens
                    assert not bool((came == own[:, -1:]).all(-1).any())
                    assert bool((came[:, :, None] == own[:, None, :-1]).all(-1).any(1).all())


@pytest.mark.parametrize("axes", [1, 3])
def test_prototypes_are_weighted_means_before_rotation(axes: int) -> None:
    blocks = [made_block(number, axes=axes) for number in range(2)]
    memory = _fed(StreamMem(clip_frames=3), blocks, axes)
    store = memory._store
    scores = torch.full((LAYERS, 2 * TOKENS), 0.5)
    scores[:, :TOKENS] = 0
    scores[0, 5] = scores[1, 7] = 0.1
    with_prototypes = memory._with_prototypes(scores, [0, 1])
    assert store.count == 2 * TOKENS + 2
    assert bool(with_prototypes[:, -2:].isinf().all())
    # all weight on one token: that token
    for layer, token in ((0, 5), (1, 7)):
        assert torch.equal(store.keys[layer, :, 24], blocks[0].keys[layer, :, token])
        assert torch.equal(store.values[layer, :, 24], blocks[0].values[layer, :, token])
        assert torch.equal(store.labels[OFFSETS:, layer, 0, 24], blocks[0].offsets[:, token])
        assert int(store.labels[CELL, layer, 0, 24]) == int(blocks[0].cells[token])
    # equal weights: the plain mean
    torch.testing.assert_close(store.keys[:, :, 25], blocks[1].keys.mean(2))
    torch.testing.assert_close(store.values[:, :, 25], blocks[1].values.mean(2))
    expected = blocks[1].offsets.float().mean(1).round().int()
    assert store.labels[OFFSETS:, 0, 0, 25].tolist() == expected.tolist()


def test_the_same_frame_again_and_again_is_one_frame_a_clip() -> None:
    still = [
        replace(made_block(0), number=number, begin=made_block(number).begin, stop_seconds=number + 1.0)
        for number in range(9)
    ]
    memory = _fed(StreamMem(clip_frames=4), still)
    assert memory._store.count == TOKENS
    assert memory._store.frames.seconds.tolist() == [[0.0, 9.0]]
    torch.testing.assert_close(memory._store.keys[:, :, :TOKENS], made_block(0).keys)
    other = _fed(StreamMem(clip_frames=4), [*still[:4], made_block(4), *still[5:]])
    assert other._store.frames.numbers.tolist() == [0, 4, 5]
    assert _fed(StreamMem(clip_frames=4, merge_above=1), still)._store.count == 9 * TOKENS


def test_like_frames_become_their_mean_and_text_stays_that_of_the_first() -> None:
    first = made_block(0, 14, text=2)
    near = [
        replace(
            first,
            number=number,
            values=first.values + 0.01 * number,
            keys=first.keys + number,
            begin=made_block(number, 14, text=2).begin,
        )
        for number in (1, 2)
    ]
    memory = _fed(StreamMem(), [first, *near])
    store = memory._store
    assert store.count == 14
    torch.testing.assert_close(store.keys[:, :, 2:14], first.keys[:, :, 2:] + 1)
    torch.testing.assert_close(store.values[:, :, 2:14], first.values[:, :, 2:] + 0.01)
    assert torch.equal(store.keys[:, :, :2], first.keys[:, :, :2])


def test_a_frame_of_which_other_tokens_are_left_is_no_copy() -> None:
    first = made_block(0, 8, grid_tokens=12)
    other = replace(made_block(0, 8, grid_tokens=12), number=1, cells=first.cells + 1)
    assert _fed(StreamMem(), [first, other])._store.count == 16


def test_queries_are_needed() -> None:
    memory = begun(StreamMem(), made_room(10**6))
    with pytest.raises(SignalError, match="proxy_queries"):
        memory.write(made_block(0), Heard())
    with pytest.raises(ValueError, match="merge_above must be in"):
        StreamMem(merge_above=2)
