"""ReKV: every frame stays as it is, and each layer brings back those that the question points at."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.cache.block import Block
from streamprune.cache.block_queue import Page, mean_key
from streamprune.cache.kv_memory import frame_bytes, frame_tokens, tokens_within
from streamprune.cache.memory import Description, Room
from streamprune.cache.retrieving import Limits, RetrievingMethod, queries_of_groups
from streamprune.checks import check_count


@dataclass(frozen=True, kw_only=True)
class ReKV(RetrievingMethod):
    """Hold keys before rotation and values of all frames; answer from those whose mean key fits best.

    Frames attend to the head of the prompt and to a window of the newest frames. For an answer every layer
    ranks the frames by the inner product of their mean key with the mean query of the question, and the
    answer attends to the head of the prompt and the best ones, one after the other in their order; the
    window takes no part in it.

    Args:
        window_tokens: of the newest frames that the next one attends to.
        topk: frames brought back in each layer.
        chunk_size: neighbouring frames that are ranked by their mean score and come back together.
        gaps, max_gap_frames: as of every memory of keys and values.

    Source: arXiv 2503.00540 and its released implementation, with its options: 15,000 tokens, 64 frames.
    A model that is to see fewer tokens at once gets as many as it may.
    """

    window_tokens: int = 15_000
    topk: int = 64
    chunk_size: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("window_tokens", "topk", "chunk_size"):
            check_count(name, getattr(self, name))

    def minimum_bytes(self, room: Room) -> int:
        """One frame, and what it is found by."""
        return frame_bytes(room) + index_bytes(room)

    def window(self, room: Room) -> int:
        """As the base class says."""
        return tokens_within(room, self.window_tokens)

    def limits(self, room: Room) -> Limits:
        """So many frames, of as many tokens as the model may see."""
        tokens = min(self.topk * frame_tokens(room), max(frame_tokens(room), room.context_tokens))
        return Limits(tokens, self.topk, together=self.chunk_size)

    def page(self, block: Block) -> Page:
        """The block, found by the mean of its visual tokens' keys."""
        return Page(block, mean_key(block))

    def likeness(self, index: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """Inner products over all query heads, each with the key that it reads."""
        heads, kv_heads = queries.shape[1], index.shape[2]
        asked = queries_of_groups(queries, kv_heads) * (heads // kv_heads)
        return torch.einsum("plkd,lkd->lp", index, asked)

    def describe(self) -> Description:
        """As the base class says."""
        return Description(
            "arXiv 2503.00540",
            (
                "keys before rotation and values of every frame, in the precision of the model",
                "each layer ranks frames by the inner product of mean query and mean key, as released; the "
                "paper says cosine",
                "an answer attends to the head of the prompt and the frames brought back, at positions "
                "without gaps; questions and answers are forgotten",
            ),
            (
                "the oldest frames are dropped when the bytes are used up; the original grows",
                "what is brought back has no more tokens than the model is to see at once, and as many in "
                "each layer: a layer that chose fewer goes on with its next best frame",
                "the question's queries come from reading it after the window, where the release brings "
                "frames back layer by layer while it reads",
                "the text around a frame is brought back with it, and is left out of its mean key",
            ),
        )


def index_bytes(room: Room) -> int:
    """Bytes of what one frame is found by."""
    shape = room.shape
    return shape.layers * shape.kv_heads * shape.head_dim * shape.dtype.itemsize
