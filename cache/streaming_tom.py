"""StreamingTOM: few tokens of each frame in four bits, brought back by the direction of their mean key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch.nn.functional import cosine_similarity

from streamprune.cache.block import Block
from streamprune.cache.block_queue import Page, mean_key
from streamprune.cache.coded_block import CodedBlock, coded_bytes
from streamprune.cache.kv_memory import frame_tokens, tokens_within
from streamprune.cache.memory import Description, Room
from streamprune.cache.rekv import index_bytes
from streamprune.cache.retrieving import Limits, RetrievingMethod, queries_of_groups
from streamprune.checks import check_count
from streamprune.errors import InvalidValueError

# of a frame's tokens so many stay before the language model
_KEPT, _OF = 50, 196


@dataclass(frozen=True, kw_only=True)
class StreamingTOMMemory(RetrievingMethod):
    """Hold frames in few bits, a scale for every channel of a head and frame; bring back whole frames.

    Brings its reduction before the language model, 50 of 196 tokens of every frame, where a recipe names
    none.

    Args:
        window_tokens: of the newest frames that the next one attends to.
        retrieved_tokens: frames are brought back until there are so many tokens.
        bits: of every element: 2, 4 or 8.
        gaps, max_gap_frames: as of every memory of keys and values.

    Source: arXiv 2510.18269 and its released implementation, with its options. A channel whose elements are
    all equal reads back exactly.
    """

    window_tokens: int = 4800
    retrieved_tokens: int = 12_544
    bits: int = 4

    block_kind: ClassVar[type[Block | CodedBlock]] = CodedBlock
    pre_llm_default: ClassVar[str | None] = "streaming_tom"
    pre_llm_options: ClassVar[Mapping[str, Any]] = MappingProxyType({"keep_ratio": _KEPT / _OF})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("window_tokens", self.window_tokens)
        check_count("retrieved_tokens", self.retrieved_tokens)
        if isinstance(self.bits, bool) or self.bits not in (2, 4, 8):
            raise InvalidValueError(f"bits must be 2, 4 or 8, got {self.bits!r}")

    def minimum_bytes(self, room: Room) -> int:
        """One frame, and what it is found by."""
        return coded_bytes(room.shape, frame_tokens(room), self.bits) + index_bytes(room)

    def window(self, room: Room) -> int:
        """As the base class says."""
        return tokens_within(room, self.window_tokens)

    def limits(self, room: Room) -> Limits:
        """Frames until there are enough tokens, of as many as the model may see."""
        frame = frame_tokens(room)
        tokens = min(self.retrieved_tokens + frame, max(frame, room.context_tokens))
        return Limits(tokens, enough=self.retrieved_tokens)

    def page(self, block: Block) -> Page:
        """The block in few bits, found by the mean of its keys as they were."""
        return Page(CodedBlock.of(block, self.bits), mean_key(block))

    def likeness(self, index: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Cosines over all heads together; query heads that read one key are averaged."""
        asked = queries_of_groups(queries, index.shape[2])
        return cosine_similarity(index.movedim(0, 1).flatten(2), asked.flatten(1)[:, None], dim=-1)

    def describe(self) -> Description:
        """As the base class says."""
        return Description(
            "arXiv 2510.18269",
            (
                "its causal reduction before the language model, 50 of 196 tokens of every frame",
                "four bits for every element, scale and offset of each channel of a head over one frame, two "
                "codes in a byte",
                "frames are found by the cosine of the mean query to their mean key before rotation; frames "
                "come back until there are enough tokens, the newest are not forced in",
            ),
            (
                "keys are coded before rotation and rotated to positions without gaps when they are read; "
                "the release codes rotated keys, whose positions collide once its window is full",
                "the oldest frames are dropped when the bytes are used up; the original grows",
                "frames are read one at a time, not 32 together",
                "what is brought back has no more tokens than the model is to see at once, and as many in "
                "each layer",
            ),
        )
