"""What a stream's memory is: a method, which is a set of options, and the state of one stream.

To add one: a file in this folder with a frozen keyword-only dataclass, and a line in
``streamprune/catalog/memory.py``. Everything a memory holds is asked from the ledger first, and a memory
that is full forgets on its own account: writing never fails.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

import torch

from streamprune.cache.block import Block, CacheShape, FeatureBlock
from streamprune.cache.context import Context
from streamprune.cache.ledger import Ledger
from streamprune.cache.rotation import Rotation
from streamprune.errors import InvalidValueError

Wanted = Literal["chunk_queries", "proxy_queries", "question_queries"]


@dataclass(frozen=True)
class Room:
    """What a memory works with.

    Attributes:
        shape: keys and values of the model.
        rotation: of its keys; None for memories of features.
        ledger: asked before anything is held.
        memory_bytes: most bytes that the memory may hold, the head of the prompt not counted.
        tokens_per_frame: visual tokens of a frame before any reduction.
        cols: of the grid that they stand on; 0: a square one.
        header_tokens: text tokens that stand before each frame.
        feature_bytes: of one visual token, with what is carried beside it.
        fps: frames of tokens a second, as far as known.
        context_tokens: most tokens that the model is to see at once, question and answer not counted.
        spill_folder: where bytes may go to disk; None: nowhere.
        spill_bytes: at most so many of them.
    """

    shape: CacheShape
    rotation: Rotation
    ledger: Ledger
    memory_bytes: int
    tokens_per_frame: int
    cols: int = 0
    header_tokens: int = 0
    feature_bytes: int = 0
    fps: float = 1.0
    context_tokens: int = 4096
    spill_folder: Path | None = None
    spill_bytes: int = 0


@dataclass(frozen=True)
class Description:
    """What a memory is next to what was published.

    Attributes:
        source: arXiv id, or "this project".
        reproduces: what is as published, a sentence each.
        differs: what is not, a sentence each.
    """

    source: str
    reproduces: tuple[str, ...]
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heard:
    """Queries before rotation, float32, of what was just read; None where nobody wants them.

    Attributes:
        chunk_queries: (layers, query_heads, tokens, head_dim) of the frame's own tokens.
        proxy_queries: likewise of the text that opens an answer, read after the frame and forgotten.
    """

    chunk_queries: torch.Tensor | None = None
    proxy_queries: torch.Tensor | None = None


@dataclass(frozen=True)
class TierReport:
    """What one tier holds.

    Attributes:
        bytes: storage behind it.
        tokens: of each layer and head.
        blocks: frames, or pages.
        from_seconds, to_seconds: the time it covers; None when empty.
    """

    bytes: int
    tokens: int
    blocks: int
    from_seconds: float | None = None
    to_seconds: float | None = None


class MemoryMethod(ABC):
    """Options of a memory.

    Class attributes:
        kind: whether it holds keys and values or visual tokens.
        wants: queries that it reads.
        encoder_default, pre_llm_default: methods of these stages that the design brings, where a recipe names
            none.
        pre_llm_options: options of that method, where no budget is given.
    """

    kind: ClassVar[Literal["kv", "features"]] = "kv"
    wants: ClassVar[frozenset[Wanted]] = frozenset()
    encoder_default: ClassVar[str | None] = None
    pre_llm_default: ClassVar[str | None] = None
    pre_llm_options: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    @abstractmethod
    def minimum_bytes(self, room: Room) -> int:
        """Smallest ``memory_bytes`` with which it can begin."""

    @abstractmethod
    def context_tokens(self, room: Room) -> int:
        """Most tokens of any context that it will give, the head of the prompt not counted."""

    def check_room(self, room: Room) -> None:
        """InvalidValueError, naming the minimum, unless ``room`` is enough to begin."""
        least = self.minimum_bytes(room)
        if room.memory_bytes < least:
            raise InvalidValueError(
                f"memory_bytes leaves {room.memory_bytes} bytes for what is remembered, and "
                f"{type(self).__name__} needs {least}; give {least - room.memory_bytes} more"
            )

    @abstractmethod
    def begin(self, room: Room) -> StreamMemory:
        """The memory of a new stream; InvalidValueError, naming the minimum, in too little room."""

    @abstractmethod
    def describe(self) -> Description:
        """What it reproduces and what not."""


class StreamMemory(ABC):
    """What one stream remembers. Called by one thread at a time.

    A memory of features has no contexts: :meth:`recall` gives the blocks that are read anew.
    """

    @abstractmethod
    def sinks(self, head: Block) -> None:
        """Hold the head of the prompt for good; called once, before anything else."""

    @abstractmethod
    def context(self) -> Context:
        """What the next frame attends to, the head of the prompt first."""

    def question_context(self) -> Context:
        """What the question is read after, to get its queries."""
        return self.context()

    @abstractmethod
    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Remember ``block``, which nobody else holds; forget what there is no room for."""

    @abstractmethod
    def recall(self, queries: torch.Tensor | None) -> Context | Sequence[FeatureBlock]:
        """What an answer attends to; changes nothing.

        Args:
            queries: (layers, query_heads, question tokens, head_dim) float32 before rotation, for memories
                that want "question_queries".
        """

    @abstractmethod
    def tiers(self) -> Mapping[str, TierReport]:
        """What is held where, by names of the ledger's tiers."""

    @abstractmethod
    def tensors(self) -> Iterator[torch.Tensor]:
        """Everything that is held."""

    @abstractmethod
    def remembers_from(self) -> float | None:
        """Seconds of the oldest moment that is still represented; None before the first."""

    @abstractmethod
    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Tensors, and what JSON can hold, from which :meth:`restore` makes the same memory."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """Take over a saved state, in place of what is held."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything, on disk too."""
