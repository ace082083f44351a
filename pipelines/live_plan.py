"""How the bytes of a stream are shared out, so that nothing has to be asked for twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from streamprune.cache.block import block_bytes
from streamprune.cache.memory import MemoryMethod, Room
from streamprune.cache.working import working_bytes
from streamprune.errors import InvalidValueError

# text around a frame that is longer later on, as times get longer
_SLACK_TOKENS = 16


@dataclass(frozen=True, kw_only=True)
class Shares:
    """What a stream needs besides its memory.

    Attributes:
        head_tokens: of the prompt before the first frame.
        chunk_tokens: of a frame with the text around it, and of what is read after it.
        answer_tokens: of a question and its answer.
        answers: given at once.
        fixed: bytes by what they are for.
        queues: bytes for the queues of feeds, of so many bytes in all.
    """

    head_tokens: int
    chunk_tokens: int
    answer_tokens: int
    answers: int
    fixed: Mapping[str, int]
    queues: Callable[[int], int]


@dataclass(frozen=True)
class Plan:
    """The shares of one stream.

    Attributes:
        room: for the memory.
        write_tokens: of the working copy in which frames are read; 0 for memories that do not read them.
        answer_tokens: of the one in which answers are given.
        parts: bytes by what they are for.
        head_tokens: of the prompt before the first frame.
    """

    room: Room
    write_tokens: int
    answer_tokens: int
    parts: Mapping[str, int]
    head_tokens: int


def plan(method: MemoryMethod, room: Room, shares: Shares, name: str, *, context_given: bool) -> Plan:
    """Give the memory all that is left of the ledger's bytes.

    Args:
        room: its ``memory_bytes`` do not matter; its ``context_tokens`` are an upper bound.
        name: of the model and recipe, for the error.
        context_given: take the bound as it is. Otherwise contexts are so short that their working copies
            take half of the bytes at most.

    Raises InvalidValueError, naming the least that would do.
    """
    total = room.ledger.memory_bytes

    def needed(room: Room, memory_bytes: int) -> int:
        return memory_bytes + _besides(method, replace(room, memory_bytes=memory_bytes), shares)

    def fits(room: Room) -> bool:
        return needed(room, method.minimum_bytes(room)) <= total

    shortest = min(room.context_tokens, room.tokens_per_frame + room.header_tokens)
    low, high = (room.context_tokens,) * 2 if context_given else (shortest, room.context_tokens)
    if not fits(replace(room, context_tokens=low)):
        raise _too_small(method, replace(room, context_tokens=low), shares, name)
    half = (total - _fixed(room, shares)) // 2
    while low < high:
        middle = (low + high + 1) // 2
        longer = replace(room, context_tokens=middle)
        small = _working(method, longer, shares) <= half
        low, high = (middle, high) if small and fits(longer) else (low, middle - 1)
    room = replace(room, context_tokens=low)
    low, high = method.minimum_bytes(room), total
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if needed(room, middle) <= total else (low, middle - 1)
    room = replace(room, memory_bytes=low)
    return Plan(room, *_capacities(method, room, shares), _parts(method, room, shares), shares.head_tokens)


def _parts(method: MemoryMethod, room: Room, shares: Shares) -> dict[str, int]:
    """Bytes by what they are for."""
    queues = shares.queues(room.ledger.memory_bytes)
    working = _working(method, room, shares)
    return {"memory": room.memory_bytes, **shares.fixed, "queues": queues, "working copies": working}


def _too_small(method: MemoryMethod, room: Room, shares: Shares, name: str) -> InvalidValueError:
    parts = _parts(method, replace(room, memory_bytes=method.minimum_bytes(room)), shares)
    others = sum(parts.values()) - parts["queues"]
    enough = others
    # queues may take a share of everything, themselves included
    while enough < (needed := others + shares.queues(enough)):
        enough = needed
    parts["queues"] = shares.queues(enough)
    said = ", ".join(f"{what} {nbytes:,}" for what, nbytes in parts.items() if nbytes)
    return InvalidValueError(
        f"memory_bytes={room.ledger.memory_bytes:,} is too small for {name}: at least {enough:,} bytes "
        f"({said}); give more, or fewer answer_tokens, context_tokens or frame_bytes"
    )


def _capacities(method: MemoryMethod, room: Room, shares: Shares) -> tuple[int, int]:
    """Tokens of the working copies for frames and for an answer."""
    context = shares.head_tokens + method.context_tokens(room)
    answer = context + shares.answer_tokens
    if method.kind == "features":
        return 0, answer
    return context + shares.chunk_tokens + _SLACK_TOKENS, answer


def _besides(method: MemoryMethod, room: Room, shares: Shares) -> int:
    return _working(method, room, shares) + _fixed(room, shares)


def _fixed(room: Room, shares: Shares) -> int:
    return sum(shares.fixed.values()) + shares.queues(room.ledger.memory_bytes)


def _working(method: MemoryMethod, room: Room, shares: Shares) -> int:
    """Bytes of the working copies, of a frame that is on its way, and of frames that are being read anew."""
    write, answer = _capacities(method, room, shares)
    copies = working_bytes(room.shape, write + shares.answers * answer)
    if method.kind == "features":
        anew = shares.answers * method.context_tokens(room) + room.tokens_per_frame
        return copies + anew * (room.feature_bytes + 8)
    return copies + block_bytes(room.shape, shares.chunk_tokens + _SLACK_TOKENS)
