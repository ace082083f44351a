"""What memories of keys and values share: the head of the prompt, counting, reporting and saving."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from streamprune.cache.block import Block, FeatureBlock, block_bytes
from streamprune.cache.context import BlockContext, GapRule, Gaps, Piece
from streamprune.cache.ledger import Tier
from streamprune.cache.memory import MemoryMethod, Room, StreamMemory, TierReport
from streamprune.cache.saved_blocks import parts_of, rebuilt
from streamprune.errors import InvalidTypeError, InvalidValueError


@dataclass(frozen=True, kw_only=True)
class KvMethod(MemoryMethod):
    """Options that every memory of keys and values has.

    Args:
        gaps: how far neighbouring frames stand apart in a context: as in the stream ("keep"), not at all
            ("compact"), or as in the stream up to ``max_gap_frames`` frames ("clipped"); None: as the design
            has them.
        max_gap_frames: see "clipped"; 0 or more.
    """

    gaps: Gaps | None = None
    max_gap_frames: float = 1.0

    # how the design has them
    own_gaps: ClassVar[Gaps] = "compact"

    def __post_init__(self) -> None:
        GapRule(self.gaps or self.own_gaps, self.max_gap_frames)

    def gap(self, room: Room) -> GapRule:
        """How far neighbouring frames stand apart."""
        return GapRule(self.gaps or self.own_gaps, self.max_gap_frames)


def frame_tokens(room: Room) -> int:
    """Of a frame with all its visual tokens and the text around it."""
    return room.tokens_per_frame + room.header_tokens


def frame_bytes(room: Room) -> int:
    """Of its block."""
    return block_bytes(room.shape, frame_tokens(room))


def tokens_within(room: Room, wanted: int | None = None) -> int:
    """Tokens of a context at most: ``wanted``, or what leaves room for one more frame; one frame at least."""
    frame = frame_tokens(room)
    most = max(frame, room.context_tokens - frame)
    return most if wanted is None else min(wanted, most)


class Holding(ABC):
    """One place where a memory holds entries. It asks the ledger before it takes anything.

    Attributes:
        nbytes: held now.
    """

    nbytes: int = 0

    @abstractmethod
    def reports(self) -> Mapping[Tier, TierReport]:
        """What is held in which tier."""

    @abstractmethod
    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held."""

    @abstractmethod
    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors, and what JSON can hold."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Take over what :meth:`state` gave."""

    @abstractmethod
    def clear(self) -> None:
        """Forget what came from the stream."""

    def close(self) -> None:
        """Hold nothing any more."""
        self.clear()


class KvMemory(StreamMemory):
    """The head of the prompt, and several places that hold what comes after it.

    Args:
        room: in which it works.
        gap: how far frames stand apart in contexts.
        holdings: by the name under which each is saved.
    """

    def __init__(self, room: Room, gap: GapRule, holdings: Mapping[str, Holding]) -> None:
        self.room, self.gap = room, gap
        self._holdings = dict(holdings)
        self._head: Block | None = None

    @property
    def head(self) -> Block:
        """The head of the prompt."""
        if self._head is None:
            raise InvalidValueError("head: there is none yet; call sinks(head) first")
        return self._head

    @property
    def nbytes(self) -> int:
        """Held beside the head."""
        return sum(holding.nbytes for holding in self._holdings.values())

    def sinks(self, head: Block) -> None:
        """As the base class says."""
        self.room.ledger.take("sinks", head.nbytes)
        self._head = head

    def block(self, block: Block | FeatureBlock) -> Block:
        """``block``; InvalidTypeError unless it holds keys and values."""
        if not isinstance(block, Block):
            raise InvalidTypeError(f"block must be a Block, got {type(block).__name__}")
        return block

    def fits(self, nbytes: int) -> bool:
        """Whether so many bytes more could be held."""
        return self.nbytes + nbytes <= self.room.memory_bytes and nbytes <= self.room.ledger.room

    def after_head(self, pieces: Sequence[Piece]) -> BlockContext:
        """The head of the prompt and ``pieces``, the same in all layers."""
        return BlockContext([self.head, *pieces], self.gap, self.room.rotation)

    def tiers(self) -> Mapping[str, TierReport]:
        """The head as "sinks", and what each holding reports."""
        head = self._head
        found: dict[str, TierReport] = {
            "sinks": TierReport(0, 0, 0) if head is None else TierReport(head.nbytes, head.tokens, 1)
        }
        for holding in self._holdings.values():
            for tier, report in holding.reports().items():
                found[tier] = _together(found[tier], report) if tier in found else report
        return found

    def tensors(self) -> Iterator[torch.Tensor]:
        """Those of the head and of all holdings."""
        if self._head is not None:
            yield from self._head.tensors
        for holding in self._holdings.values():
            yield from holding.tensors()

    def remembers_from(self) -> float | None:
        """Where the oldest frame begins of which anything is left."""
        reports = [report for holding in self._holdings.values() for report in holding.reports().values()]
        return min(
            (report.from_seconds for report in reports if report.from_seconds is not None), default=None
        )

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """As the base class says."""
        tensors: dict[str, torch.Tensor] = {}
        about: dict[str, Any] = {}
        if self._head is not None:
            parts, about["head"] = parts_of(self._head)
            tensors |= {f"head.{name}": part for name, part in parts.items()}
        for name, holding in self._holdings.items():
            held, about[name] = holding.state()
            tensors |= {f"{name}.{part}": tensor for part, tensor in held.items()}
        return tensors, about

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """As the base class says."""
        self._forget()
        if "head" in about:
            self.sinks(rebuilt(Block, _below("head", tensors), about["head"], self.room.shape.device))
        for name, holding in self._holdings.items():
            holding.restore(_below(name, tensors), about[name])

    def close(self) -> None:
        """As the base class says."""
        self._forget()
        for holding in self._holdings.values():
            holding.close()

    def _forget(self) -> None:
        for holding in self._holdings.values():
            holding.clear()
        if self._head is not None:
            self.room.ledger.give("sinks", self._head.nbytes)
            self._head = None


def _below(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Those whose names begin with ``name`` and a dot, without it."""
    return {
        full.removeprefix(f"{name}."): tensor
        for full, tensor in tensors.items()
        if full.startswith(f"{name}.")
    }


def _together(one: TierReport, other: TierReport) -> TierReport:
    starts = [at for at in (one.from_seconds, other.from_seconds) if at is not None]
    stops = [at for at in (one.to_seconds, other.to_seconds) if at is not None]
    return TierReport(
        one.bytes + other.bytes,
        one.tokens + other.tokens,
        one.blocks + other.blocks,
        min(starts, default=None),
        max(stops, default=None),
    )
