"""Every frame whole, found by the rule of the memory tiered."""

from __future__ import annotations

from dataclasses import replace

import torch

from streamprune.cache.block import Block
from streamprune.cache.keep_all import KeepAll
from streamprune.cache.memory import Heard, StreamMemory
from tests.cache.made_stream import HEAD_TOKENS, KV_HEADS, begun, made_block, made_room, question, written

FRAMES, TOKENS, ASKED = 30, 12, 5


def frame(number: int) -> Block:
    """Frame ASKED looks like the question; its neighbours do not."""
    block = made_block(number, TOKENS)
    if number != ASKED:
        return block
    groups = torch.stack(question().chunk(KV_HEADS, 1), 1).mean((2, 3))
    return replace(block, keys=3 * groups[:, :, None].expand(-1, -1, TOKENS, -1).clone())


def watched(method: KeepAll, memory_bytes: int, context_tokens: int = 6 * TOKENS) -> StreamMemory:
    memory = begun(method, made_room(memory_bytes, context_tokens=context_tokens))
    for number in range(FRAMES):
        memory.write(frame(number), Heard())
    return memory


def read_of(memory: StreamMemory) -> dict[int, int]:
    """Frames that an answer reads, with the tokens of each that it sees."""
    found = written(memory.recall(question()))[1, 0, 0, HEAD_TOKENS:]
    counts: dict[int, int] = {}
    for number in range(FRAMES):
        values = frame(number).values[0, 0]
        seen = int((found[:, None] == values[None]).all(-1).any(1).sum())
        counts |= {number: seen} if seen else {}
    assert sum(counts.values()) == len(found)
    return counts


def test_what_is_asked_for_comes_back_whole() -> None:
    found = read_of(watched(KeepAll(newest_frames=2), 10**6))
    assert set(found.values()) == {TOKENS}
    assert len(found) == 6
    assert {ASKED, FRAMES - 2, FRAMES - 1} <= found.keys()


def test_everything_is_read_while_it_fits() -> None:
    memory = watched(KeepAll(), 10**6, context_tokens=FRAMES * TOKENS)
    assert read_of(memory) == dict.fromkeys(range(FRAMES), TOKENS)


def test_the_oldest_frames_go_when_bytes_run_out() -> None:
    whole = frame(0).nbytes
    memory = watched(KeepAll(), 12 * whole)
    since = memory.remembers_from()
    assert since is not None
    assert FRAMES - 12 <= since < FRAMES - 8
    assert memory.tiers()["recent"].blocks == FRAMES - since
    assert ASKED not in read_of(memory)
    least = KeepAll().minimum_bytes(made_room(1))
    assert whole < least < 2 * whole
    assert torch.isfinite(written(watched(KeepAll(), least).recall(question()))).all()
