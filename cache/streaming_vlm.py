"""StreamingVLM: the head of the prompt and the last seconds, at positions that never grow."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from streamprune.cache.block import Block, FeatureBlock
from streamprune.cache.block_queue import BlockQueue, Page
from streamprune.cache.context import Context
from streamprune.cache.kv_memory import KvMemory, KvMethod, frame_bytes, tokens_within
from streamprune.cache.memory import Description, Heard, Room
from streamprune.checks import check_count, check_number

# times are compared as decimals would be
_SLACK_SECONDS = 1e-6
_LONGEST_SECONDS = 1e9


@dataclass(frozen=True, kw_only=True)
class StreamingVLM(KvMethod):
    """Forget whole frames when they are older than a window; keys are rotated anew every time.

    Args:
        vision_seconds: frames that begin so long before the newest, or earlier, are gone; above 0.
        text_seconds: how far back the text around a frame stays; longer than its tokens where this is more
            than ``vision_seconds``.
        text_tokens: of frames that are gone, at most.
        gaps, max_gap_frames: as of every memory of keys and values.

    Source: arXiv 2510.09608 and its released implementation: windows of 16 rounds of a second.
    """

    vision_seconds: float = 16.0
    text_seconds: float = 16.0
    text_tokens: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("vision_seconds", self.vision_seconds, _SLACK_SECONDS, _LONGEST_SECONDS)
        check_number("text_seconds", self.text_seconds, 0, _LONGEST_SECONDS)
        check_count("text_tokens", self.text_tokens, least=0)

    def minimum_bytes(self, room: Room) -> int:
        """One frame."""
        return frame_bytes(room)

    def context_tokens(self, room: Room) -> int:
        """Everything held."""
        return tokens_within(room)

    def begin(self, room: Room) -> _StreamingVLMState:
        """As the base class says."""
        self.check_room(room)
        return _StreamingVLMState(self, room)

    def describe(self) -> Description:
        """As the base class says."""
        return Description(
            "arXiv 2510.09608",
            (
                "keys before rotation; every context is rotated anew to positions without gaps, which never "
                "grow",
                "the head of the prompt stays, frames go as a whole, in all layers alike, when they are "
                "older than 16 seconds",
            ),
            (
                "the model is not trained for it, as the published one is",
                "questions and answers are no part of a stream here, so that its windows of past comments, "
                "512 tokens at the beginning and 512 at the end, have nothing to hold; what text there is "
                "around frames has a window of its own",
                "frames go earlier where the bytes, or the tokens that the model is to see, are used up",
            ),
        )


class _StreamingVLMState(KvMemory):
    """Whole frames, and before them text of frames that are gone."""

    def __init__(self, method: StreamingVLM, room: Room) -> None:
        self._method = method
        self._frames = BlockQueue("recent", room.ledger, Block, room.shape.device)
        self._texts = BlockQueue("dialogue", room.ledger, Block, room.shape.device)
        super().__init__(room, method.gap(room), {"recent": self._frames, "dialogue": self._texts})

    def context(self) -> Context:
        """Everything held."""
        return self.after_head([page.block for page in (*self._texts.pages, *self._frames.pages)])

    def recall(self, queries: torch.Tensor | None) -> Context:
        """Everything, whatever was asked."""
        return self.context()

    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Remember it, and forget what is older than the windows, or too much."""
        block = self.block(block)
        while len(self._frames) and _is_old(self._frames, block, self._method.vision_seconds):
            self._leave_text(block)
        while len(self._texts) and _is_old(self._texts, block, self._method.text_seconds):
            self._texts.pop()
        for queue in (self._texts, self._frames):
            while len(queue) and not self._is_room_for(block):
                queue.pop()
        if self._is_room_for(block):
            self._frames.push(Page(block))

    def _is_room_for(self, block: Block) -> bool:
        tokens = self._texts.tokens + self._frames.tokens + block.tokens
        return tokens <= tokens_within(self.room) and self.fits(block.nbytes)

    def _leave_text(self, newest: Block) -> None:
        """Drop the oldest frame but for its text, if the window of text reaches so far."""
        old = _is_old(self._frames, newest, self._method.text_seconds)
        oldest = self._frames.pop().block
        text = (oldest.cells < 0).nonzero()[:, 0]
        if old or not len(text) or not isinstance(oldest, Block):
            return
        left = oldest.take(text)
        # text takes one position a token on every axis
        row = torch.arange(left.tokens, dtype=torch.int32, device=left.offsets.device)
        axes = len(left.begin)
        left = replace(left, offsets=row.expand(axes, -1).contiguous(), span=(left.tokens,) * axes)
        if self.fits(left.nbytes):
            self._texts.push(Page(left))
        while self._texts.tokens > self._method.text_tokens:
            self._texts.pop()


def _is_old(queue: BlockQueue, newest: Block, seconds: float) -> bool:
    """Whether the oldest of ``queue`` began ``seconds`` before ``newest`` does, or earlier."""
    return queue.pages[0].block.start_seconds <= newest.start_seconds - seconds + _SLACK_SECONDS
