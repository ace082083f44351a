"""LiveVLM: buckets of the timeline, and pages found before rotation."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamprune.cache.block_queue import BlockQueue
from streamprune.cache.context import BlockContext, Context, GapRule
from streamprune.cache.kv_memory import KvMemory
from streamprune.cache.livevlm import LiveVLM, bucketed, page_attention
from streamprune.cache.memory import Heard
from streamprune.cache.token_store import CELL, FRAME, TokenStore
from streamprune.errors import InvalidValueError, SignalError
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
    question,
    written,
)

PLENTY = 10**6


def _parts(memory: object) -> tuple[KvMemory, TokenStore, BlockQueue]:
    assert isinstance(memory, KvMemory)
    store, queue = memory._holdings["mid"], memory._holdings["recent"]
    assert isinstance(store, TokenStore)
    assert isinstance(queue, BlockQueue)
    return memory, store, queue


def test_equal_scores_keep_one_token_of_every_slice() -> None:
    kept = bucketed(torch.ones(1, 40), 10, 1, 0)
    assert kept.tolist() == [list(range(0, 40, 4))]
    # the first token of a slice, as the lower index


def test_without_sinks_a_slice_with_all_the_high_scores_keeps_no_more_than_its_bucket() -> None:
    scores = torch.rand(2, 60, generator=torch.Generator().manual_seed(0))
    scores[:, 20:30] += 10
    for bucket in (1, 2, 3):
        kept = bucketed(scores, 12, bucket, 0)
        slices = kept // (60 // (12 // bucket))
        assert kept.shape == (2, 12)
        for layer in slices:
            assert torch.bincount(layer, minlength=12 // bucket).tolist() == [bucket] * (12 // bucket)
    with_sinks = bucketed(scores, 12, 1, 6)[0]
    assert int(((with_sinks >= 20) & (with_sinks < 30)).sum()) == 6
    assert with_sinks.tolist() == sorted(set(with_sinks.tolist()))


@pytest.mark.parametrize(("tokens", "keep", "bucket"), [(7, 10, 1), (10, 10, 1), (37, 10, 3), (41, 11, 4)])
def test_as_many_stay_as_there_is_room_for(tokens: int, keep: int, bucket: int) -> None:
    scores = torch.rand(3, tokens, generator=torch.Generator().manual_seed(1))
    kept = bucketed(scores, keep, bucket, 2)
    assert kept.shape == (3, min(keep, tokens))
    assert bool((kept.diff(dim=-1) > 0).all())


def test_a_page_that_the_question_points_at_is_attended_to_most() -> None:
    queries = torch.randn(QUERY_HEADS, 3, DIM, generator=torch.Generator().manual_seed(0))
    means = torch.randn(KV_HEADS, 9, DIM, generator=torch.Generator().manual_seed(1))
    means[:, 4] = 20 * queries.mean(1).reshape(KV_HEADS, -1, DIM).mean(1)
    likeness = page_attention(queries, means)
    assert int(likeness.argmax()) == 4
    assert float(likeness.sum()) == pytest.approx(1)


@pytest.mark.parametrize("axes", [1, 3])
def test_while_nothing_was_cut_the_next_frame_sees_everything_where_it_stood(axes: int) -> None:
    room = made_room(PLENTY, axes=axes, context_tokens=400)
    memory = begun(LiveVLM(recent_frames=2), room)
    blocks = [made_block(number, axes=axes) for number in (0, 1, 2, 5, 6)]
    for block in blocks:
        memory.write(block, heard(block))
    whole = BlockContext([made_head(axes=axes), *blocks], GapRule("keep"), room.rotation)
    assert memory.context().end == whole.end
    torch.testing.assert_close(written(memory.context()), written(whole))
    everything = begun(
        LiveVLM(recent_frames=2, retrieve_share=1.0), made_room(PLENTY, axes=axes, context_tokens=400)
    )
    for block in blocks:
        everything.write(block, heard(block))
    torch.testing.assert_close(written(everything.recall(question())), written(whole))


def test_importance_is_attention_received_from_the_newest_visual_tokens() -> None:
    room = made_room(PLENTY, context_tokens=400)
    method = LiveVLM(max_tokens=20, recent_frames=1, sink_share=1.0, observed_queries=5)
    memory, store, _ = _parts(begun(method, room))
    blocks = [made_block(number) for number in range(3)]
    memory.write(blocks[0], heard(blocks[0]))
    memory.write(blocks[1], heard(blocks[1]))
    assert store.count == 12
    memory.write(blocks[2], heard(blocks[2]))
    assert store.count == 20
    # as a model would attend, written down once more
    whole = written(BlockContext([made_head(), *blocks], GapRule("keep"), room.rotation))[0].double()
    queries = heard(blocks[2]).chunk_queries
    assert queries is not None
    places = torch.arange(HEAD_TOKENS + 24, HEAD_TOKENS + 36)
    for layer in range(LAYERS):
        turned = room.rotation.turned(queries[layer][None], places.expand(1, 1, QUERY_HEADS, -1))[0].double()
        received = torch.zeros(HEAD_TOKENS + 36, dtype=torch.float64)
        for head in range(QUERY_HEADS):
            for row in range(7, 12):
                seen = HEAD_TOKENS + 24 + row + 1
                keys = whole[layer, head // (QUERY_HEADS // KV_HEADS), :seen]
                received[:seen] += torch.softmax(keys @ turned[head, row] / DIM**0.5, 0)
        best = received[HEAD_TOKENS : HEAD_TOKENS + 24].topk(20).indices.sort().values
        labels = store.held(layer)[2][:, 0].long()
        assert (labels[FRAME] * 12 + labels[CELL]).tolist() == best.tolist()


def test_a_share_of_the_pages_comes_back_with_what_fills_no_page_and_the_recent_frames() -> None:
    room = made_room(PLENTY, context_tokens=10**4)
    method = LiveVLM(max_tokens=100, recent_frames=2, page=8, retrieve_share=0.4)
    memory, store, queue = _parts(begun(method, room))
    for number in range(30):
        block = made_block(number)
        memory.write(block, heard(block))
    assert (store.count, queue.tokens) == (100, 24)
    # 12 pages and 4 tokens: 5 pages
    recalled = memory.recall(question())
    assert isinstance(recalled, Context)
    assert recalled.tokens == HEAD_TOKENS + 40 + 4 + 24
    values = written(recalled)[1, :, :, HEAD_TOKENS:]
    for layer in range(LAYERS):
        own = store.held(layer)[1]
        places = [int((own[0] == value).all(-1).nonzero()[0]) for value in values[layer, 0, :44]]
        assert places == sorted(set(places))
        assert places[40:] == [96, 97, 98, 99]
        assert all(
            places[8 * n : 8 * n + 8] == list(range(places[8 * n], places[8 * n] + 8)) for n in range(5)
        )
        assert all(places[8 * n] % 8 == 0 for n in range(5))


def test_a_planted_page_is_found() -> None:
    queries = question(tokens=4)
    room = made_room(PLENTY, context_tokens=10**4)
    memory, _, _ = _parts(begun(LiveVLM(recent_frames=1, page=12, retrieve_share=0.01), room))
    asked = queries.mean(2).reshape(LAYERS, KV_HEADS, -1, DIM).mean(2)
    for number in range(20):
        block = made_block(number)
        if number == 11:
            block = replace(block, keys=block.keys + 30 * asked[:, :, None])
        memory.write(block, heard(block))
    recalled = memory.recall(queries)
    assert isinstance(recalled, Context)
    assert recalled.tokens == HEAD_TOKENS + 12 + 12
    values = written(recalled)[1, :, :, HEAD_TOKENS : HEAD_TOKENS + 12]
    assert torch.equal(values, made_block(11).values)
    # what comes back stands where it stood
    keys = made_block(11).keys + 30 * asked[:, :, None]
    places = HEAD_TOKENS + 11 * 12 + torch.arange(12)
    turned = room.rotation.turned(keys, places.expand(1, LAYERS, KV_HEADS, -1))
    torch.testing.assert_close(written(recalled)[0, :, :, HEAD_TOKENS : HEAD_TOKENS + 12], turned)


def test_queries_are_needed() -> None:
    memory = begun(LiveVLM(), made_room(PLENTY))
    with pytest.raises(SignalError, match="chunk_queries"):
        memory.write(made_block(0), Heard())
    with pytest.raises(SignalError, match="queries: pages"):
        memory.recall(None)
    with pytest.raises(InvalidValueError, match="retrieve_share must be in"):
        LiveVLM(retrieve_share=0.0)
