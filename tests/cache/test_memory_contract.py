"""What every memory of a stream promises, whatever it remembers: one table, every row of the registry."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from streamprune.cache.block import Block, FeatureBlock, storage_bytes
from streamprune.cache.context import Context
from streamprune.cache.memory import Heard, MemoryMethod, Room, StreamMemory
from streamprune.errors import InvalidValueError
from streamprune.registry import build_method, list_methods
from tests.cache.made_stream import (
    HEAD_TOKENS,
    begun,
    heard,
    made_block,
    made_features,
    made_room,
    question,
    written,
)

NAMES = [row.name for row in list_methods("memory")]
FRAME = 12
each_memory = pytest.mark.parametrize("name", NAMES)


def _method(name: str) -> MemoryMethod:
    method: MemoryMethod = build_method("memory", name, {})
    return method


def _frame(method: MemoryMethod, room: Room, number: int, tokens: int = FRAME) -> Block | FeatureBlock:
    if method.kind == "features":
        return made_features(number, tokens, FRAME)
    text = room.header_tokens
    shape = room.shape
    return made_block(number, text + tokens, axes=shape.axes, dtype=shape.dtype, text=text, grid_tokens=FRAME)


def _write(method: MemoryMethod, memory: StreamMemory, room: Room, numbers: Sequence[int]) -> None:
    for number in numbers:
        frame = _frame(method, room, number)
        memory.write(frame, heard(frame) if isinstance(frame, Block) else Heard())


def _recalled(method: MemoryMethod, memory: StreamMemory, seed: int = 0) -> list[torch.Tensor]:
    """Everything that an answer would see, as numbers."""
    found = memory.recall(question(seed) if "question_queries" in method.wants else None)
    if isinstance(found, Context):
        return [written(found), torch.tensor(found.end)]
    return [tensor for block in found for tensor in block.tensors]


def _same(ours: Sequence[torch.Tensor], theirs: Sequence[torch.Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def _saved(memory: StreamMemory) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Its state as it comes back from a file."""
    tensors, about = memory.state()
    return {name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(about))


def _check_counts(memory: StreamMemory, room: Room) -> None:
    tensors = [tensor for tensor in memory.tensors() if tensor.numel()]
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors}) == len(tensors), "shared storage"
    assert storage_bytes(tensors) == room.ledger.total
    assert room.ledger.total - room.ledger.held["sinks"] <= room.memory_bytes
    reports, held = memory.tiers(), room.ledger.held
    assert {tier: report.bytes for tier, report in reports.items() if report.bytes} == {
        tier: nbytes for tier, nbytes in held.items() if nbytes
    }


@each_memory
@pytest.mark.parametrize("seed", range(6))
def test_never_a_byte_above_the_budget_and_every_byte_counted(name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def some(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    options: dict[str, Any] = {
        "axes": (1, 3)[seed % 2],
        "dtype": (torch.float32, torch.bfloat16, torch.float16)[seed % 3],
        "header_tokens": (0, 2)[seed // 2 % 2],
        "context_tokens": some(30, 200),
    }
    method = _method(name)
    least = method.minimum_bytes(made_room(1, **options))
    room = made_room(least + some(0, 30_000), **options)
    memory = begun(method, room)
    for number in range(some(20, 50)):
        frame = _frame(method, room, number, some(1, FRAME + 1))
        memory.write(frame, heard(frame) if isinstance(frame, Block) else Heard())
        _check_counts(memory, room)
        since = memory.remembers_from()
        assert since is not None
        assert 0 <= since <= number
        context = memory.context()
        assert context.tokens <= HEAD_TOKENS + method.context_tokens(room)
    _recalled(method, memory)
    memory.close()
    assert room.ledger.total == 0
    assert not list(memory.tensors())


@each_memory
def test_the_least_it_asks_for_is_enough_for_ever_and_one_byte_less_is_refused(name: str) -> None:
    method = _method(name)
    least = method.minimum_bytes(made_room(1, header_tokens=2))
    with pytest.raises(InvalidValueError, match=rf"memory_bytes.* needs? {least}\b"):
        method.begin(made_room(least - 1, header_tokens=2))
    room = made_room(least, header_tokens=2)
    memory = begun(method, room)
    _write(method, memory, room, range(30))
    since = memory.remembers_from()
    assert since is not None
    assert since <= 29
    assert _recalled(method, memory)
    memory.close()


@pytest.mark.parametrize("name", [name for name in NAMES if _method(name).kind == "kv"])
@pytest.mark.parametrize("extra", [0, 8000])
def test_text_that_gets_longer_with_the_time_is_no_error(name: str, extra: int) -> None:
    method = _method(name)
    room = made_room(method.minimum_bytes(made_room(1, header_tokens=2)) + extra, header_tokens=2)
    memory = begun(method, room)
    for number in range(30):
        text = 2 + number // 6
        block = made_block(number, FRAME + text, text=text, grid_tokens=FRAME)
        memory.write(block, heard(block))
        _check_counts(memory, room)
        # as much longer as planned for
        assert memory.context().tokens <= HEAD_TOKENS + method.context_tokens(room) + 16
    _recalled(method, memory)
    memory.close()


@each_memory
def test_a_much_longer_stream_takes_no_more(name: str) -> None:
    method = _method(name)
    memory_bytes = max(10_000, method.minimum_bytes(made_room(1)))
    peaks = []
    for frames in (40, 160):
        room = made_room(memory_bytes)
        memory = begun(method, room)
        _write(method, memory, room, range(frames))
        peaks.append(room.ledger.peak)
        memory.close()
    assert peaks[1] <= memory_bytes + made_room(1).ledger.memory_bytes
    # full after the shorter stream already, but for what depends on which frames came
    assert peaks[1] <= peaks[0] * 1.1


@each_memory
@pytest.mark.parametrize("axes", [1, 3])
def test_an_answer_leaves_no_trace_and_the_order_of_questions_does_not_matter(name: str, axes: int) -> None:
    method, room = _method(name), made_room(20_000, axes=axes)
    memory, quiet = begun(method, room), begun(method, made_room(20_000, axes=axes))
    for number in range(25):
        _write(method, memory, room, [number])
        _write(method, quiet, room, [number])
        if number % 6:
            continue
        first, second = _recalled(method, memory, 1), _recalled(method, memory, 2)
        assert _same(_recalled(method, memory, 2), second)
        assert _same(_recalled(method, memory, 1), first)
    ours, theirs = _saved(memory), _saved(quiet)
    assert ours[1] == theirs[1]
    assert ours[0].keys() == theirs[0].keys()
    assert all(torch.equal(tensor, theirs[0][part]) for part, tensor in ours[0].items())


@each_memory
@pytest.mark.parametrize("axes", [1, 3])
@pytest.mark.parametrize("frames", [0, 1, 30])
def test_a_saved_memory_goes_on_as_if_nothing_had_happened(name: str, axes: int, frames: int) -> None:
    method = _method(name)
    options: dict[str, Any] = {"axes": axes, "dtype": torch.bfloat16, "header_tokens": 2}
    room, other = made_room(16_000, **options), made_room(16_000, **options)
    memory, restored = begun(method, room), begun(method, other)
    _write(method, restored, other, range(7))
    _write(method, memory, room, range(frames))
    restored.restore(*_saved(memory))
    for more in (frames, frames + 1, frames + 20):
        _check_counts(restored, other)
        assert other.ledger.held == room.ledger.held
        assert restored.remembers_from() == memory.remembers_from()
        assert restored.tiers() == memory.tiers()
        assert _same(_recalled(method, memory), _recalled(method, restored))
        ours, theirs = memory.context(), restored.context()
        assert ours.end == theirs.end
        assert torch.equal(written(ours), written(theirs))
        _write(method, memory, room, range(frames, more + 1))
        _write(method, restored, other, range(frames, more + 1))
        frames = more + 1


@each_memory
def test_it_says_what_it_reproduces_and_forgets_the_oldest_first(name: str) -> None:
    method, room = _method(name), made_room(14_000)
    (row,) = [row for row in list_methods("memory") if row.name == name]
    said = method.describe()
    assert said.source == row.source or row.source in ("streamprune", "baseline")
    assert said.reproduces
    assert all(line.strip() for line in said.reproduces + said.differs)
    assert set(row.needs) == method.wants
    memory = begun(method, room)
    assert memory.remembers_from() is None
    before = 0.0
    for number in range(60):
        _write(method, memory, room, [number])
        since = memory.remembers_from()
        assert since is not None
        assert since >= before
        before = since


@each_memory
def test_a_block_of_the_wrong_kind_is_refused(name: str) -> None:
    method, room = _method(name), made_room(20_000)
    wrong = made_block(0) if method.kind == "features" else made_features(0)
    with pytest.raises(TypeError, match="block must be a"):
        begun(method, room).write(wrong, Heard())


@each_memory
def test_without_the_head_of_the_prompt_there_is_no_context(name: str) -> None:
    memory = _method(name).begin(made_room(20_000))
    with pytest.raises(InvalidValueError, match="head: there is none yet"):
        memory.context()
