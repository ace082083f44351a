"""Every frame as it came, found by the rule of our own memory: what bounded memories are measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from streamprune.cache.block import Block
from streamprune.cache.kv_memory import frame_bytes
from streamprune.cache.memory import Description, MemoryMethod, Room
from streamprune.cache.moment import Moment
from streamprune.cache.page_index import row_bytes
from streamprune.cache.tiered import Tiered
from streamprune.cache.tiered_memory import TieredMemory
from streamprune.cache.tiered_plan import Plan
from streamprune.checks import check_count


@dataclass(frozen=True, kw_only=True)
class KeepAll(MemoryMethod):
    """Hold all frames whole while there are bytes; answer from the newest and those that the question finds.

    Frames are found as :class:`~streamprune.cache.tiered.Tiered` finds them, with its own numbers; those that
    are brought back are whole, so that fewer of them fit into a context.

    Args:
        newest_frames: read by every answer; fewer where the context has less room.
        local_frames: newest frames that a new frame attends to.
    """

    newest_frames: int = 4
    local_frames: int = 7

    wants: ClassVar = frozenset({"question_queries"})

    def __post_init__(self) -> None:
        check_count("newest_frames", self.newest_frames)
        check_count("local_frames", self.local_frames, least=0)

    @property
    def _finder(self) -> Tiered:
        return Tiered(newest_frames=self.newest_frames, local_frames=self.local_frames)

    def minimum_bytes(self, room: Room) -> int:
        """A frame with its row of the index, and the keys that new frames are compared with."""
        plan = Plan.of(self._finder, room)
        return _news_bytes(room, plan) + self._row_bytes(room, plan) + _whole_bytes(room, plan)

    def _row_bytes(self, room: Room, plan: Plan) -> int:
        return row_bytes(room.shape, len(plan.index_layers), self._finder.representatives)

    def context_tokens(self, room: Room) -> int:
        """What the model is to see."""
        return self._finder.context_tokens(room)

    def begin(self, room: Room) -> KeepAllMemory:
        """As the base class says."""
        self.check_room(room)
        plan = Plan.of(self._finder, room)
        row, rest = self._row_bytes(room, plan), room.memory_bytes - _news_bytes(room, plan)
        rows = rest // (row + _whole_bytes(room, plan))
        whole = replace(plan, rows=rows, recent_bytes=rest - rows * row, mid_bytes=0, archive_bytes=0)
        return KeepAllMemory(self._finder, room, whole)

    def describe(self) -> Description:
        """A baseline."""
        return Description(
            "baseline",
            (
                "Keys and values of every frame, in the precision of the model.",
                "Frames are found as by the memory tiered, and brought back whole.",
            ),
            ("The oldest frames are dropped when the bytes are used up.",),
        )


def _whole_bytes(room: Room, plan: Plan) -> int:
    """Of a frame, and which few of its tokens say something new."""
    return frame_bytes(room) + 4 * (plan.moment_tokens + room.header_tokens)


def _news_bytes(room: Room, plan: Plan) -> int:
    """Of the keys that new frames are compared with."""
    shape = room.shape
    keys = len(plan.index_layers) * shape.kv_heads * room.tokens_per_frame
    return keys * shape.head_dim * shape.dtype.itemsize


class KeepAllMemory(TieredMemory):
    """One tier: frames that leave it are forgotten."""

    def _reduce(self, moment: Moment) -> None:
        self._forget([moment.row])

    def _brought(self, rows: list[int], held: Mapping[int, Moment], left: int) -> list[Block]:
        """The frames of ``rows``, whole, the best first, as far as ``left`` tokens go."""
        found = []
        for row in rows:
            block = held[row].block
            if block.tokens > left:
                break
            left -= block.tokens
            found.append(block)
        return found
