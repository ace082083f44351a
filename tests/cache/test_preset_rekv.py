"""ReKV: whole frames, ranked by each layer for itself."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamprune.cache.block import block_bytes
from streamprune.cache.context import BlockContext, GapRule
from streamprune.cache.memory import Heard
from streamprune.cache.rekv import ReKV
from streamprune.cache.retrieving import Limits, chosen_in_layers, chosen_pages, ranked_pages
from streamprune.errors import InvalidValueError, SignalError
from tests.cache.made_stream import (
    DIM,
    HEAD_TOKENS,
    KV_HEADS,
    LAYERS,
    begun,
    made_block,
    made_head,
    made_room,
    question,
    written,
)

PLENTY = 10**6


def test_with_few_frames_an_answer_sees_everything_side_by_side() -> None:
    room = made_room(PLENTY, context_tokens=200)
    memory = begun(ReKV(), room)
    # frames that stood apart in the stream stand side by side
    blocks = [made_block(number) for number in (0, 1, 5, 9)]
    for block in blocks:
        memory.write(block, Heard())
    whole = BlockContext([made_head(), *blocks], GapRule("compact"), room.rotation)
    seen = memory.recall(question())
    assert seen.end == (HEAD_TOKENS + 4 * 12,)  # type: ignore[union-attr]
    assert torch.equal(written(seen), written(whole))
    assert torch.equal(written(memory.context()), written(whole))


@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_planted_frame_comes_first_in_its_layer_alone(layer: int) -> None:
    queries = question(tokens=5)
    room = made_room(PLENTY)
    memory = begun(ReKV(topk=1), room)
    mean = queries.mean(2).reshape(LAYERS, KV_HEADS, -1, DIM).sum(2)
    for number in range(20):
        block = made_block(number)
        if number == 11:
            keys = block.keys.clone()
            keys[layer] = 50 * mean[layer][:, None]
            block = replace(block, keys=keys)
        memory.write(block, Heard())
    values = written(memory.recall(queries))[1, :, :, HEAD_TOKENS:]
    found = [bool(torch.equal(values[one], made_block(11).values[one])) for one in range(LAYERS)]
    assert found == [one == layer for one in range(LAYERS)]


def test_frames_come_back_once_each_in_their_order() -> None:
    room = made_room(PLENTY, context_tokens=100)
    memory = begun(ReKV(topk=5), room)
    blocks = [made_block(number) for number in range(30)]
    for block in blocks:
        memory.write(block, Heard())
    recalled = memory.recall(question())
    assert recalled.tokens == HEAD_TOKENS + 5 * 12  # type: ignore[union-attr]
    values = written(recalled)[1, :, :, HEAD_TOKENS:].reshape(LAYERS, KV_HEADS, 5, 12, DIM)
    chosen = []
    for layer in range(LAYERS):
        numbers = [
            number
            for place in range(5)
            for number, block in enumerate(blocks)
            if torch.equal(block.values[layer], values[layer, :, place])
        ]
        assert len(numbers) == 5
        assert numbers == sorted(set(numbers))
        chosen.append(numbers)
    assert chosen[0] != chosen[1]


def test_bytes_are_those_of_every_frame_and_of_its_mean_keys() -> None:
    room = made_room(PLENTY)
    memory = begun(ReKV(), room)
    for number in range(10):
        memory.write(made_block(number), Heard())
    tiers = memory.tiers()
    assert tiers["archive"].bytes == 10 * 12 * (LAYERS * 2 * KV_HEADS * DIM * 4 + 8)
    assert tiers["archive"].bytes == 10 * block_bytes(room.shape, 12)
    assert tiers["index"].bytes == 10 * LAYERS * KV_HEADS * DIM * 4
    assert (tiers["archive"].blocks, tiers["archive"].tokens) == (10, 120)
    assert (tiers["archive"].from_seconds, tiers["archive"].to_seconds) == (0.0, 10.0)


def test_the_next_frame_sees_the_newest_ones_and_an_answer_only_what_comes_back() -> None:
    memory = begun(ReKV(window_tokens=30, topk=1), made_room(PLENTY))
    for number in range(8):
        memory.write(made_block(number), Heard())
    window = written(memory.context())[1, :, :, HEAD_TOKENS:]
    assert torch.equal(window, torch.cat([made_block(6).values, made_block(7).values], 2))
    assert memory.recall(question()).tokens == HEAD_TOKENS + 12  # type: ignore[union-attr]


def test_the_text_around_a_frame_is_brought_back_but_not_looked_at() -> None:
    room = made_room(PLENTY, header_tokens=2)
    plain, loud = begun(ReKV(topk=1), room), begun(ReKV(topk=1), made_room(PLENTY, header_tokens=2))
    for number in range(6):
        block = made_block(number, 14, text=2)
        plain.write(block, Heard())
        keys = block.keys.clone()
        keys[:, :, :2] += 1000 * number
        loud.write(replace(block, keys=keys), Heard())
    ours, theirs = plain.recall(question()), loud.recall(question())
    assert ours.tokens == HEAD_TOKENS + 14  # type: ignore[union-attr]
    assert torch.equal(written(ours)[1], written(theirs)[1])


def test_every_layer_gets_as_many_tokens_however_large_its_frames_are() -> None:
    memory = begun(ReKV(topk=3), made_room(PLENTY))
    for number in range(20):
        memory.write(made_block(number, 3 + number % 7, grid_tokens=12), Heard())
    for seed in range(10):
        recalled = memory.recall(question(seed))
        assert HEAD_TOKENS + 9 <= recalled.tokens <= HEAD_TOKENS + 27  # type: ignore[union-attr]
        written(recalled)


def test_choosing_fills_up_and_cuts() -> None:
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0], [0.0, 1.0, 2.0, 3.0]])
    # four tokens and seven: the first layer goes on with its next best pages
    assert chosen_in_layers(scores, [3, 1, 2, 5], Limits(100, 2)) == [
        [(0, 3), (1, 1), (2, 2), (3, 1)],
        [(2, 2), (3, 5)],
    ]
    assert chosen_in_layers(scores, [3, 1, 2, 5], Limits(5, 4)) == [
        [(0, 3), (1, 1), (2, 1)],
        [(3, 5)],
    ]


def test_limits() -> None:
    ranked = ranked_pages(torch.tensor([0.0, 1.0, 5.0, 5.0, 2.0, 9.0, 3.0]), 2)
    # means 0.5, 5, 5.5 and, of the short group, 3
    assert ranked == [4, 5, 2, 3, 6, 0, 1]
    sizes = [10] * 7
    assert chosen_pages(ranked, sizes, Limits(1000, 4, together=2)) == [4, 5, 2, 3]
    assert chosen_pages(ranked, sizes, Limits(1000, 5, together=2)) == [4, 5, 2, 3]
    assert chosen_pages(ranked, sizes, Limits(1000, 6, together=2)) == [4, 5, 2, 3, 6]
    assert chosen_pages(ranked, sizes, Limits(1000, 7, together=2)) == ranked
    assert chosen_pages(ranked, sizes, Limits(1000, 1, together=2)) == [4, 5]
    assert chosen_pages(ranked, sizes, Limits(35, 7, together=2)) == [4, 5, 2]
    assert chosen_pages(ranked, sizes, Limits(1000, enough=25)) == [4, 5, 2]
    assert chosen_pages(ranked, sizes, Limits(1000, enough=30)) == [4, 5, 2]


def test_bad_options_and_no_question() -> None:
    with pytest.raises(InvalidValueError, match="topk must be at least 1, got 0"):
        ReKV(topk=0)
    with pytest.raises(ValueError, match="unknown rule 'near'"):
        ReKV(gaps="near")  # type: ignore[arg-type]
    with pytest.raises(SignalError, match="give its queries"):
        begun(ReKV(), made_room(PLENTY)).recall(None)
