"""StreamingVLM: a window in seconds at positions that never grow."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamprune.cache.context import BlockContext, Context, GapRule
from streamprune.cache.memory import Heard, StreamMemory
from streamprune.cache.streaming_vlm import StreamingVLM
from tests.cache.made_stream import HEAD_TOKENS, begun, made_block, made_head, made_room, written

PLENTY = 10**6


def _context(memory: StreamMemory) -> Context:
    found = memory.recall(None)
    assert isinstance(found, Context)
    return found


def test_before_anything_is_forgotten_positions_are_those_of_the_stream() -> None:
    room = made_room(PLENTY, context_tokens=400)
    memory = begun(StreamingVLM(), room)
    blocks = [made_block(number) for number in range(16)]
    for block in blocks:
        memory.write(block, Heard())
    whole = BlockContext([made_head(), *blocks], GapRule("keep"), room.rotation)
    assert torch.equal(written(_context(memory)), written(whole))
    assert _context(memory).end == whole.end


@pytest.mark.parametrize(("seconds", "frames"), [(1.0, 16), (0.5, 32), (0.1, 160), (3.0, 6), (20.0, 1)])
def test_the_window_is_in_seconds(seconds: float, frames: int) -> None:
    memory = begun(StreamingVLM(), made_room(PLENTY, context_tokens=4000))
    for number in range(300):
        memory.write(made_block(number, seconds=seconds), Heard())
    # a frame longer than the window is the newest all the same
    assert memory.tiers()["recent"].blocks == frames
    assert memory.remembers_from() == pytest.approx((300 - frames) * seconds)


@pytest.mark.parametrize("axes", [1, 3])
def test_positions_are_contiguous_and_bounded_for_ever(axes: int) -> None:
    room = made_room(PLENTY, axes=axes, context_tokens=400)
    memory = begun(StreamingVLM(vision_seconds=4), room)
    ends = []
    for number in range(200):
        memory.write(made_block(number, axes=axes), Heard())
        ends.append(_context(memory).end)
    assert set(ends[4:]) == {ends[4]}
    # what is left, rotated from the beginning
    moved = [
        replace(made_block(196 + place, axes=axes), begin=made_block(place, axes=axes).begin)
        for place in range(4)
    ]
    whole = BlockContext([made_head(axes=axes), *moved], GapRule("keep"), room.rotation)
    assert torch.equal(written(_context(memory)), written(whole))


def test_text_may_stay_longer_than_its_frame() -> None:
    room = made_room(PLENTY, header_tokens=3, context_tokens=400)
    memory = begun(StreamingVLM(vision_seconds=4, text_seconds=10, text_tokens=12), room)
    for number in range(30):
        memory.write(made_block(number, 15, text=3), Heard())
    tiers = memory.tiers()
    assert (tiers["recent"].blocks, tiers["recent"].from_seconds) == (4, 26.0)
    # six frames' text would be young enough, and four of them fit
    assert (tiers["dialogue"].tokens, tiers["dialogue"].from_seconds) == (12, 22.0)
    seen = written(_context(memory))[1, :, :, HEAD_TOKENS:]
    texts = [made_block(number, 15, text=3).values[:, :, :3] for number in range(22, 26)]
    frames = [made_block(number, 15, text=3).values for number in range(26, 30)]
    assert torch.equal(seen, torch.cat([*texts, *frames], 2))
    # text steps by one
    assert _context(memory).end == (HEAD_TOKENS + 12 + 4 * 15,)


def test_text_goes_with_its_frame_as_released() -> None:
    memory = begun(StreamingVLM(vision_seconds=16), made_room(PLENTY, header_tokens=3, context_tokens=400))
    for number in range(40):
        memory.write(made_block(number, 15, text=3), Heard())
    assert memory.tiers()["dialogue"].blocks == 0
    assert memory.tiers()["recent"].blocks == 16


def test_fewer_frames_where_the_model_is_to_see_fewer_tokens() -> None:
    memory = begun(StreamingVLM(), made_room(PLENTY, context_tokens=60))
    for number in range(40):
        memory.write(made_block(number), Heard())
        # room for the next frame stays free
        assert _context(memory).tokens <= HEAD_TOKENS + 48
    assert memory.tiers()["recent"].blocks == 4


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="vision_seconds must be in"):
        StreamingVLM(vision_seconds=0)
    with pytest.raises(ValueError, match="text_tokens must be at least 0"):
        StreamingVLM(text_tokens=-1)
