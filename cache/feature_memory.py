"""Memories of visual tokens: frames before the language model, which reads them anew for every answer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from streamprune.cache.block import Block, FeatureBlock
from streamprune.cache.context import BlockContext, Context, GapRule
from streamprune.cache.memory import Heard, MemoryMethod, Room, StreamMemory, TierReport
from streamprune.cache.saved_blocks import parts_of, rebuilt
from streamprune.errors import InvalidTypeError, InvalidValueError


@dataclass(frozen=True, kw_only=True)
class FeatureMethod(MemoryMethod):
    """A memory whose frames the language model reads one right behind the other, after the head."""

    kind: ClassVar = "features"

    def minimum_bytes(self, room: Room) -> int:
        """One frame."""
        return frame_bytes(room)

    @abstractmethod
    def begin(self, room: Room) -> FeatureMemory:
        """As the base class says."""


def frame_bytes(room: Room) -> int:
    """Of a frame with all its visual tokens, their cells and sizes."""
    return room.tokens_per_frame * (room.feature_bytes + 8)


class FeatureMemory(StreamMemory):
    """What memories of visual tokens share: the head of the prompt, and asking the ledger.

    Args:
        room: in which it works.
    """

    def __init__(self, room: Room) -> None:
        self.room = room
        self._head: Block | None = None
        self._nbytes = 0

    def sinks(self, head: Block) -> None:
        """As the base class says."""
        self.room.ledger.take("sinks", head.nbytes)
        self._head = head

    def context(self) -> Context:
        """The head of the prompt alone: frames are read behind it when there is a question."""
        if self._head is None:
            raise InvalidValueError("head: there is none yet; call sinks(head) first")
        return BlockContext([self._head], GapRule("compact"), self.room.rotation)

    @abstractmethod
    def blocks(self) -> Iterator[FeatureBlock]:
        """Everything that is held beside the head, in any order."""

    @abstractmethod
    def recall(self, queries: torch.Tensor | None) -> Sequence[FeatureBlock]:
        """As the base class says: frames in the order in which they are to be read."""

    def read(self, block: Block | FeatureBlock) -> FeatureBlock:
        """``block``; InvalidTypeError unless it holds visual tokens."""
        if not isinstance(block, FeatureBlock):
            raise InvalidTypeError(f"block must be a FeatureBlock, got {type(block).__name__}")
        return block

    def fits(self, nbytes: int) -> bool:
        """Whether so many bytes more could be held."""
        return self._nbytes + nbytes <= self.room.memory_bytes and nbytes <= self.room.ledger.room

    def take(self, nbytes: int) -> None:
        """Ask the ledger for them."""
        self.room.ledger.take("features", nbytes)
        self._nbytes += nbytes

    def give(self, nbytes: int) -> None:
        """Give them back."""
        self.room.ledger.give("features", nbytes)
        self._nbytes -= nbytes

    def tiers(self) -> Mapping[str, TierReport]:
        """The head, and everything else as "features"."""
        held = list(self.blocks())
        head = self._head
        return {
            "sinks": TierReport(0, 0, 0) if head is None else TierReport(head.nbytes, head.tokens, 1),
            "features": TierReport(
                self._nbytes,
                sum(block.tokens for block in held),
                len(held),
                min((block.start_seconds for block in held), default=None),
                max((block.stop_seconds for block in held), default=None),
            ),
        }

    def tensors(self) -> Iterator[torch.Tensor]:
        """Those of the head and of all blocks."""
        if self._head is not None:
            yield from self._head.tensors
        for block in self.blocks():
            yield from block.tensors

    def remembers_from(self) -> float | None:
        """Where the oldest block begins."""
        return min((block.start_seconds for block in self.blocks()), default=None)

    def close(self) -> None:
        """Forget everything."""
        self.forget()
        self.give(self._nbytes)
        if self._head is not None:
            self.room.ledger.give("sinks", self._head.nbytes)
            self._head = None

    @abstractmethod
    def forget(self) -> None:
        """Hold no blocks any more; their bytes are given back by the caller."""

    def head_state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """The head of the prompt for :meth:`state`."""
        if self._head is None:
            return {}, {}
        tensors, about = parts_of(self._head)
        return {f"head.{name}": tensor for name, tensor in tensors.items()}, {"head": about}

    def restore_head(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Take over what :meth:`head_state` gave, in place of everything held."""
        self.close()
        if "head" in about:
            own = {name.removeprefix("head."): part for name, part in tensors.items() if name[:5] == "head."}
            self.sinks(rebuilt(Block, own, about["head"], self.room.shape.device))


class FrameQueue(FeatureMemory):
    """The newest frames, as many as the bytes, ``max_tokens`` and ``max_seconds`` allow.

    Args:
        room: in which it works.
        max_tokens: of all frames together, with the text before each; None: only the bytes count.
        max_seconds: how far back.
    """

    def __init__(self, room: Room, max_tokens: int | None = None, max_seconds: float | None = None) -> None:
        super().__init__(room)
        self.max_tokens, self.max_seconds = max_tokens, max_seconds
        self.frames: list[FeatureBlock] = []

    def blocks(self) -> Iterator[FeatureBlock]:
        """The frames, oldest first."""
        yield from self.frames

    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Put the frame behind the others; one without tokens only lengthens the last."""
        frame = self.read(block)
        if not frame.tokens:
            if self.frames:
                self.frames[-1] = replace(self.frames[-1], stop_seconds=frame.stop_seconds)
            return
        while self.frames and not self.fits(frame.nbytes):
            self._drop_oldest()
        if self.fits(frame.nbytes):
            self.take(frame.nbytes)
            self.frames.append(frame)
        while len(self.frames) > 1 and self._too_many():
            self._drop_oldest()

    def _too_many(self) -> bool:
        if self.max_tokens is not None and self._tokens() > self.max_tokens:
            return True
        oldest, newest = self.frames[0], self.frames[-1]
        return self.max_seconds is not None and oldest.stop_seconds < newest.stop_seconds - self.max_seconds

    def _tokens(self) -> int:
        return sum(frame.tokens + self.room.header_tokens for frame in self.frames)

    def _drop_oldest(self) -> None:
        self.give(self.frames.pop(0).nbytes)

    def recall(self, queries: torch.Tensor | None) -> Sequence[FeatureBlock]:
        """Those that the model can read at once, the newest before others, oldest first."""
        return newest_within(self.frames, self.room)

    def forget(self) -> None:
        """Hold no frames any more."""
        self.frames = []

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Every frame."""
        tensors, about = self.head_state()
        more, told = frames_state(self.frames)
        return tensors | more, about | {"frames": told}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """As the base class says."""
        self.restore_head(tensors, about)
        for frame in restored_frames(tensors, about["frames"], self.room.shape.device):
            self.take(frame.nbytes)
            self.frames.append(frame)


def newest_within(frames: Sequence[FeatureBlock], room: Room) -> Sequence[FeatureBlock]:
    """The last of ``frames`` that fit into what the model is to see at once; one at least."""
    left, first = room.context_tokens, len(frames)
    while first and (left := left - frames[first - 1].tokens - room.header_tokens) >= 0:
        first -= 1
    return frames[min(first, max(0, len(frames) - 1)) :]


def frames_state(frames: Sequence[FeatureBlock]) -> tuple[dict[str, torch.Tensor], list[dict[str, Any]]]:
    """Tensors, named by their frames' places, and what else there is to say of each frame."""
    taken = [parts_of(frame) for frame in frames]
    tensors = {
        f"frame.{place}.{name}": tensor
        for place, (parts, _) in enumerate(taken)
        for name, tensor in parts.items()
    }
    return tensors, [about for _, about in taken]


def restored_frames(
    tensors: Mapping[str, torch.Tensor], told: Sequence[Mapping[str, Any]], device: torch.device
) -> list[FeatureBlock]:
    """The frames of :func:`frames_state`, in storage of their own."""
    parts: list[dict[str, torch.Tensor]] = [{} for _ in told]
    for name, tensor in tensors.items():
        if name.startswith("frame."):
            _, place, part = name.split(".")
            parts[int(place)][part] = tensor
    return [rebuilt(FeatureBlock, own, about, device) for own, about in zip(parts, told, strict=True)]
