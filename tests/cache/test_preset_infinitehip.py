"""InfiniteHiP: sinks, a window, and a search in ever smaller chunks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamprune.cache.context import BlockContext, Context, GapRule
from streamprune.cache.infinitehip import InfiniteHiP, hierarchical_choice, representatives
from streamprune.cache.memory import Heard
from streamprune.errors import SignalError
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


def test_halving_goes_where_the_first_key_of_a_half_is_better() -> None:
    scores = torch.tensor(
        [[1.0, 9.0, 0.0, 0.0, 2.0, 3.0, 8.0, 1.0], [5.0, 0.0, 5.0, 0.0, 5.0, 0.0, 5.0, 9.0]]
    )
    # 1 against 2, then 2 against 8, then 8 against 1; the nine is never looked at
    assert representatives(scores).tolist() == [6, 0]
    assert representatives(torch.ones(4, 3, 1)).tolist() == [[0, 0, 0]] * 4


def test_what_all_stages_have_room_for_is_everything() -> None:
    scores = torch.rand(2, 50, generator=torch.Generator().manual_seed(0))
    chosen = hierarchical_choice(scores, (16, 4), (64, 50))
    assert torch.equal(chosen, torch.arange(50).expand(2, -1))


@pytest.mark.parametrize("tokens", [100, 127, 128, 200])
def test_a_stage_keeps_the_best_chunks_in_order(tokens: int) -> None:
    scores = torch.rand(3, tokens, generator=torch.Generator().manual_seed(tokens))
    chosen = hierarchical_choice(scores, (16, 4, 1), (64, 24, 10))
    assert chosen.shape == (3, 10)
    assert bool((chosen.diff(dim=-1) > 0).all())
    for layer in range(3):
        left = list(range(tokens))
        for chunk, most in ((16, 64), (4, 24), (1, 10)):
            whole = len(left) // chunk
            rest = left[whole * chunk :]
            best = []
            for number in range(whole):
                own = left[number * chunk : (number + 1) * chunk]
                low, width = 0, chunk
                while width > 1:
                    width //= 2
                    if scores[layer, own[low + width]] > scores[layer, own[low]]:
                        low += width
                best.append((-float(scores[layer, own[low]]), number))
            numbers = sorted(number for _, number in sorted(best)[: (most - len(rest)) // chunk])
            left = [token for n in numbers for token in left[n * chunk : (n + 1) * chunk]] + rest
        assert chosen[layer].tolist() == left


@pytest.mark.parametrize("axes", [1, 3])
def test_a_short_stream_is_seen_whole(axes: int) -> None:
    room = made_room(PLENTY, axes=axes, context_tokens=10**4)
    memory = begun(InfiniteHiP(sinks=30, window=24), room)
    blocks = [made_block(number, axes=axes) for number in range(20)]
    for block in blocks:
        memory.write(block, Heard())
    whole = BlockContext([made_head(axes=axes), *blocks], GapRule("compact"), room.rotation)
    recalled = memory.recall(question())
    assert isinstance(recalled, Context)
    assert recalled.end == whole.end
    torch.testing.assert_close(written(recalled), written(whole))


def test_sinks_and_window_are_always_there_and_positions_step_by_one() -> None:
    room = made_room(PLENTY, context_tokens=10**4)
    method = InfiniteHiP(sinks=30, window=24, chunks=(8, 4), kept=(40, 16))
    memory = begun(method, room)
    for number in range(60):
        memory.write(made_block(number), Heard())
    tiers = memory.tiers()
    # the head and two frames
    assert tiers["sinks"].tokens == HEAD_TOKENS + 24
    recalled = memory.recall(question())
    assert isinstance(recalled, Context)
    assert recalled.tokens == HEAD_TOKENS + 24 + 16 + 24
    assert recalled.end == (recalled.tokens,)
    values = written(recalled)[1, :, :, HEAD_TOKENS:]
    fixed = [made_block(number).values for number in (0, 1, 58, 59)]
    assert torch.equal(values[:, :, :24], torch.cat(fixed[:2], 2))
    assert torch.equal(values[:, :, -24:], torch.cat(fixed[2:], 2))
    # keys of what was chosen, rotated to consecutive positions
    pool_keys = torch.cat([made_block(number).keys for number in range(2, 58)], 2)
    pool_values = torch.cat([made_block(number).values for number in range(2, 58)], 2)
    for layer in range(LAYERS):
        chosen = [
            int((pool_values[layer, 0] == value).all(-1).nonzero()[0]) for value in values[layer, 0, 24:40]
        ]
        assert chosen == sorted(set(chosen))
        places = HEAD_TOKENS + 24 + torch.arange(16)
        turned = room.rotation.turned(pool_keys[layer][None, :, chosen], places.expand(1, 1, KV_HEADS, -1))
        keys = written(recalled)[0, layer, :, HEAD_TOKENS + 24 : HEAD_TOKENS + 40]
        torch.testing.assert_close(keys, turned[0])


def test_a_planted_frame_is_found() -> None:
    queries = question(tokens=4)
    room = made_room(PLENTY, context_tokens=10**4)
    method = InfiniteHiP(sinks=0, window=12, chunks=(4, 1), kept=(24, 12))
    memory = begun(method, room)
    asked = queries.mean(2).reshape(LAYERS, KV_HEADS, -1, DIM).sum(2)
    for number in range(40):
        block = made_block(number)
        if number == 17:
            block = replace(block, keys=block.keys + 50 * asked[:, :, None])
        memory.write(block, Heard())
    seen = written(memory.recall(queries))[1, :, :, HEAD_TOKENS : HEAD_TOKENS + 12]
    assert torch.equal(seen, made_block(17).values)


def test_everything_shrinks_alike_where_the_model_is_to_see_less() -> None:
    method = InfiniteHiP()
    sinks, window, chosen = method.sizes(made_room(PLENTY, context_tokens=332 + 12))
    # a tenth of 256, 1024 and 2048, within rounding
    assert (sinks, window, chosen) == (25, 102, 204)
    assert method.sizes(made_room(PLENTY, context_tokens=10**5)) == (256, 1024, 2048)
    assert method.sizes(made_room(PLENTY, context_tokens=1)) == (0, 12, 0)


def test_the_first_frames_outlive_the_bytes_and_it_says_from_when_on_nothing_is_missing() -> None:
    frame = made_block(0).nbytes
    room = made_room(6 * frame, context_tokens=10**4)
    memory = begun(InfiniteHiP(sinks=15), room)
    for number in range(4):
        memory.write(made_block(number), Heard())
    assert memory.remembers_from() == 0.0
    for number in range(4, 30):
        memory.write(made_block(number), Heard())
    assert memory.remembers_from() == 25.0
    first = written(memory.context())[1, :, :, HEAD_TOKENS : HEAD_TOKENS + 12]
    assert torch.equal(first, made_block(0).values)


def test_bad_options_and_no_question() -> None:
    with pytest.raises(ValueError, match="chunks must be powers of two, got 6"):
        InfiniteHiP(chunks=(6,), kept=(10,))
    with pytest.raises(ValueError, match="as many stages"):
        InfiniteHiP(chunks=(8,))
    with pytest.raises(SignalError, match="give its queries"):
        begun(InfiniteHiP(), made_room(PLENTY)).recall(None)
