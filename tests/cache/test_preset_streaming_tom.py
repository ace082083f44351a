"""StreamingTOM: frames in few bits, found by direction."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamprune.budget import Budget
from streamprune.cache.coded_block import CodedBlock, coded_bytes
from streamprune.cache.memory import Heard
from streamprune.cache.streaming_tom import StreamingTOMMemory
from streamprune.errors import InvalidValueError
from tests.cache.made_stream import (
    DIM,
    HEAD_TOKENS,
    KV_HEADS,
    LAYERS,
    begun,
    made_block,
    made_room,
    question,
    written,
)


def _whole(block: CodedBlock) -> tuple[torch.Tensor, torch.Tensor]:
    keys, values = zip(*(block.read(layer) for layer in range(LAYERS)), strict=True)
    return torch.stack(keys), torch.stack(values)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("tokens", [1, 7, 12])
def test_a_round_trip_is_within_half_a_step_of_each_channel(bits: int, tokens: int) -> None:
    block = made_block(3, tokens, grid_tokens=12)
    coded = CodedBlock.of(block, bits)
    for came, back in zip((block.keys, block.values), _whole(coded), strict=True):
        step = (came.amax(2, keepdim=True) - came.amin(2, keepdim=True)) / (2**bits - 1)
        assert bool(((came - back).abs() <= step / 2 + 1e-6).all())
    assert coded.nbytes == coded_bytes(made_room(1).shape, tokens, bits)


def test_bytes_are_codes_along_the_tokens_with_a_scale_and_an_offset_for_each_channel() -> None:
    coded = CodedBlock.of(made_block(0, 7, dtype=torch.bfloat16, grid_tokens=12))
    channels = LAYERS * KV_HEADS * DIM
    assert coded.codes.shape == (LAYERS, 2, KV_HEADS, DIM, 4)
    assert coded.nbytes == 2 * channels * (4 + 2 * 2) + 7 * 8


def test_channels_without_change_read_back_exactly_in_half_precision() -> None:
    block = made_block(0, 5, dtype=torch.float16, grid_tokens=12)
    same = replace(block, keys=block.keys[:, :, :1].expand(-1, -1, 5, -1).clone())
    assert torch.equal(_whole(CodedBlock.of(same))[0], same.keys)


def test_a_frame_whose_mean_key_points_where_the_question_does_comes_back_first() -> None:
    queries = question(tokens=4)
    asked = queries.mean(2).reshape(LAYERS, KV_HEADS, -1, DIM).mean(2)
    room = made_room(10**6)
    memory = begun(StreamingTOMMemory(retrieved_tokens=12), room)
    planted = 13
    for number in range(30):
        block = made_block(number)
        # a short key in the right direction beats long ones in others
        small = block.keys - block.keys.mean(2, keepdim=True) + 0.2 * asked[:, :, None]
        memory.write(replace(block, keys=small) if number == planted else block, Heard())
    seen = memory.recall(queries)
    assert seen.tokens == HEAD_TOKENS + 12  # type: ignore[union-attr]
    _, values = _whole(CodedBlock.of(made_block(planted)))
    assert torch.equal(written(seen)[1, :, :, HEAD_TOKENS:], values)


def test_frames_come_back_until_there_are_enough_tokens() -> None:
    for enough, frames in ((12, 1), (13, 2), (24, 2), (25, 3), (10**6, 5)):
        memory = begun(StreamingTOMMemory(retrieved_tokens=enough), made_room(10**6, context_tokens=60))
        for number in range(20):
            memory.write(made_block(number), Heard())
        assert memory.recall(question()).tokens == HEAD_TOKENS + 12 * frames  # type: ignore[union-attr]


def test_a_page_is_small_and_brings_its_reduction() -> None:
    room = made_room(10**6, dtype=torch.bfloat16, tokens_per_frame=50)
    memory = begun(StreamingTOMMemory(), room)
    memory.write(made_block(0, 50, dtype=torch.bfloat16), Heard())
    tiers = memory.tiers()
    assert tiers["archive"].bytes == coded_bytes(room.shape, 50)
    assert tiers["index"].bytes == LAYERS * KV_HEADS * DIM * 2
    ratio = StreamingTOMMemory.pre_llm_options["keep_ratio"]
    assert Budget(ratio).per_frame(1, 196) == 50
    with pytest.raises(InvalidValueError, match="bits must be 2, 4 or 8, got 3"):
        StreamingTOMMemory(bits=3)
