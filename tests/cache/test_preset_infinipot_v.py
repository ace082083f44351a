"""InfiniPot-V: a fixed number of tokens that every head chooses for itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamprune.cache.block import Block
from streamprune.cache.context import BlockContext, GapRule
from streamprune.cache.infinipot_v import InfiniPotVMemory
from streamprune.cache.kv_memory import KvMemory
from streamprune.cache.memory import Heard
from streamprune.cache.token_store import CELL, FRAME, TokenStore, store_bytes
from streamprune.kv.infinipot_v import InfiniPotV
from streamprune.kv.view import LayerView
from tests.cache.made_stream import (
    COLS,
    DIM,
    HEAD_TOKENS,
    KV_HEADS,
    LAYERS,
    begun,
    made_block,
    made_head,
    made_room,
    written,
)

FRAME_TOKENS = 12


def _store(memory: object) -> TokenStore:
    assert isinstance(memory, KvMemory)
    (store,) = memory._holdings.values()
    assert isinstance(store, TokenStore)
    return store


def _fed(method: InfiniPotVMemory, blocks: list[Block], axes: int = 1) -> tuple[KvMemory, TokenStore]:
    memory = begun(method, made_room(10**6, axes=axes, context_tokens=10**4))
    assert isinstance(memory, KvMemory)
    for block in blocks:
        memory.write(block, Heard())
    return memory, _store(memory)


@pytest.mark.parametrize("axes", [1, 3])
def test_before_the_first_compression_everything_stands_where_it_stood(axes: int) -> None:
    blocks = [made_block(number, axes=axes) for number in (0, 1, 4, 5)]
    memory, _ = _fed(InfiniPotVMemory(max_tokens=48), blocks, axes)
    whole = BlockContext([made_head(axes=axes), *blocks], GapRule("keep"), memory.room.rotation)
    assert memory.context().end == whole.end
    assert torch.equal(written(memory.recall(None)), written(whole))


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("pooling", [False, True])
def test_the_first_compression_is_that_of_the_policy(rotated: bool, pooling: bool) -> None:
    blocks = [made_block(number) for number in range(9)]
    method = InfiniPotVMemory(max_tokens=96, rotated=rotated, adaptive_pooling=pooling)
    memory, store = _fed(method, blocks)
    whole = BlockContext([made_head(), *blocks[:8]], GapRule("keep"), memory.room.rotation)
    keys, values = written(whole)[..., HEAD_TOKENS:, :]
    if not rotated:
        keys = torch.cat([block.keys for block in blocks[:8]], 2)
    tokens = torch.arange(96)
    for layer in range(LAYERS):
        view = LayerView(
            keys=keys[None, layer],
            values=values[None, layer],
            tokens=tokens.expand(1, KV_HEADS, -1),
            new=96,
            seen=96,
            prompt=96,
            layer=layer,
            depth=LAYERS,
            segments=(tokens // FRAME_TOKENS).expand(1, KV_HEADS, -1),
            cells=(tokens % FRAME_TOKENS).expand(1, KV_HEADS, -1),
            grid=(FRAME_TOKENS // COLS, COLS),
        )
        kept = InfiniPotV(keep_tokens=72, adaptive_pooling=pooling).choose(view, entry_bytes=1)
        assert kept is not None
        labels = store.held(layer)[2]
        ours = labels[FRAME].long() * FRAME_TOKENS + labels[CELL]
        assert torch.equal(ours[:, :72], kept[0])
        assert torch.equal(ours[:, 72:], (96 + tokens[:12]).expand(KV_HEADS, -1))
        assert not torch.equal(ours[0], ours[1])
        assert torch.equal(
            store.held(layer)[1][:, :72], values[layer].gather(1, kept[0][..., None].expand(-1, -1, DIM))
        )


def test_heads_hold_equally_many_tokens_in_order_and_never_more_than_there_is_room_for() -> None:
    memory, store = _fed(InfiniPotVMemory(max_tokens=50), [])
    for number in range(40):
        memory.write(made_block(number, 1 + number % 12, grid_tokens=12), Heard())
        assert store.count <= 50
        for layer in range(LAYERS):
            labels = store.held(layer)[2]
            order = labels[FRAME].long() * FRAME_TOKENS + labels[CELL]
            assert bool((order.diff(dim=-1) > 0).all())
    assert store.count >= 35


def test_the_newest_frames_stay_whole_and_a_large_value_for_ever() -> None:
    loud = made_block(0)
    values = loud.values.clone()
    values[1, 0, 5] *= 1000
    blocks = [replace(loud, values=values), *(made_block(number) for number in range(1, 200))]
    # 8 frames: 6 stay, 2 of them whole
    memory, store = _fed(InfiniPotVMemory(max_tokens=96), blocks)
    labels = store.held(1)[2]
    kept = (labels[FRAME, 0] == 0) & (labels[CELL, 0] == made_block(0).cells[5])
    assert int(kept.sum()) == 1
    for layer in range(LAYERS):
        for head in range(KV_HEADS):
            frames = store.held(layer)[2][FRAME, head]
            # after the last compression up to two more came
            for newest in (198, 199):
                assert int((frames == newest).sum()) == FRAME_TOKENS
    assert memory.remembers_from() == 0.0


def test_of_a_still_picture_the_oldest_tokens_stay_where_nothing_stands_out() -> None:
    block = made_block(0)
    ones = torch.ones_like(block.values)
    still = [
        replace(block, number=number, begin=made_block(number).begin, keys=ones, values=ones)
        for number in range(9)
    ]
    _, store = _fed(InfiniPotVMemory(max_tokens=96, rotated=False), still)
    frames = store.held(0)[2][FRAME, 0].tolist()
    # 72 stay: of equal ones those with the lower index, and the two newest of the eight
    assert frames == [n for n in (0, 1, 2, 3, 6, 7, 8) for _ in range(FRAME_TOKENS)]


@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("gaps", ["keep", "clipped", "compact"])
def test_every_head_is_rotated_to_its_own_positions(axes: int, gaps: str) -> None:
    blocks = [made_block(number, axes=axes) for number in range(11)]
    method = InfiniPotVMemory(max_tokens=48, gaps=gaps)  # type: ignore[arg-type]
    memory, store = _fed(method, blocks, axes)
    context = memory.context()
    seen = written(context)
    rotation = memory.room.rotation
    for layer in range(LAYERS):
        keys, values, labels = store.held(layer)
        assert torch.equal(seen[1, layer, :, HEAD_TOKENS:], values)
        for head in range(KV_HEADS):
            numbers, offsets = labels[FRAME, head], labels[2:, head].long()
            begins = torch.tensor([blocks[int(number)].begin for number in numbers]).T
            if gaps == "keep":
                places = begins + offsets
                assert context.end == tuple(map(sum, zip(blocks[-1].begin, blocks[-1].span, strict=True)))
            elif gaps == "compact" and axes == 1:
                places = HEAD_TOKENS + torch.arange(store.count)[None]
                assert context.end == (HEAD_TOKENS + store.count,)
            else:
                # frames lost on the way leave at most the gap that the rule allows
                there = store.frames.numbers.tolist()
                own = places_of(there, blocks, gaps)
                places = torch.stack([own[int(number)] for number in numbers], -1) + offsets
            turned = rotation.turned(keys[None, head : head + 1], places[:, None, None])[0, 0]
            torch.testing.assert_close(seen[0, layer, head, HEAD_TOKENS:], turned)


def places_of(there: list[int], blocks: list[Block], gaps: str) -> dict[int, torch.Tensor]:
    """Where frames stand that are left, worked out one after the other."""
    span = torch.tensor(blocks[0].span)
    found = {}
    at, before = torch.full_like(span, HEAD_TOKENS), None
    for number in there:
        missing = number if before is None else number - before - 1
        at = at + (span * min(missing, 1) if gaps == "clipped" else 0 * span)
        found[number] = at
        at, before = at + span, number
    return found


def test_bytes_are_taken_once_and_stay() -> None:
    room = made_room(20_000, dtype=torch.bfloat16, context_tokens=10**4)
    method = InfiniPotVMemory()
    memory = begun(method, room)
    capacity = method.context_tokens(room)
    each = 2 * LAYERS * KV_HEADS * DIM * 2 + 3 * LAYERS * KV_HEADS * 4
    assert store_bytes(room.shape, 1, per_head=True) == each
    assert capacity == 20_000 // each
    for number in range(100):
        memory.write(made_block(number, dtype=torch.bfloat16), Heard())
        assert room.ledger.held["mid"] == capacity * each


def test_text_around_frames_is_not_kept_for_ever() -> None:
    memory = begun(InfiniPotVMemory(max_tokens=60), made_room(10**6, header_tokens=3, context_tokens=10**4))
    for number in range(60):
        memory.write(made_block(number, 15, text=3), Heard())
    labels = _store(memory).held(0)[2]
    assert int((labels[CELL, 0] < 0).sum()) < 30
    assert int(labels[FRAME].min()) > 0
