"""StreamMem: tokens that the template of an answer looks at, and a prototype of each frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch.nn.functional import cosine_similarity

from streamprune.cache.block import Block, FeatureBlock
from streamprune.cache.context import GapRule, Gaps
from streamprune.cache.kv_memory import KvMethod, frame_tokens, tokens_within
from streamprune.cache.memory import Description, Heard, Room, Wanted
from streamprune.cache.token_memory import TokenMemory
from streamprune.cache.token_store import CELL, FRAME, OFFSETS, TokenStore, store_bytes
from streamprune.checks import check_count, check_number
from streamprune.errors import SignalError
from streamprune.ops.selection import highest


@dataclass(frozen=True, kw_only=True)
class StreamMem(KvMethod):
    """After every clip of frames each layer keeps what the text that opens an answer attends to most.

    That text stands in for questions yet unknown. Of each frame of the clip a prototype joins what stays:
    the mean of its keys, before rotation, and of its values, weighted by the attention they received.
    A frame much like the one before it in its clip is averaged into it.

    Args:
        max_tokens: of each layer, prototypes among them.
        clip_frames: frames that are read before the next choice, where there is room for so many.
        merge_above: cosine between frames from which on they are averaged, in [-1, 1]; 1 = never.
        prototypes: whether they join what stays.
        gaps, max_gap_frames: as of every memory of keys and values. None: with three axes of positions they
            stay those of the stream; with one they have no gaps, so that they stay within what the model
            knows, where the paper stretches the rotations of such models for it.

    Source: arXiv 2508.15717, which has no released code. Attention is averaged over the rows of the text and
    over heads. Nothing is dropped and there are no prototypes before the memory is full.
    """

    max_tokens: int = 6144
    clip_frames: int = 8
    merge_above: float = 0.95
    prototypes: bool = True

    own_gaps: ClassVar[Gaps] = "keep"
    wants: ClassVar[frozenset[Wanted]] = frozenset({"proxy_queries"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("max_tokens", self.max_tokens)
        check_count("clip_frames", self.clip_frames)
        check_number("merge_above", self.merge_above, -1, 1)

    def gap(self, room: Room) -> GapRule:
        """As the base class says."""
        if self.gaps is None and room.shape.axes == 1:
            return GapRule("compact")
        return super().gap(room)

    def minimum_bytes(self, room: Room) -> int:
        """A frame that stays, and one with its prototype that comes."""
        return store_bytes(room.shape, 2 * frame_tokens(room) + 1)

    def sizes(self, room: Room) -> tuple[int, int]:
        """Tokens that stay, and frames of a clip, which take at most half of everything."""
        there = room.memory_bytes // store_bytes(room.shape, 1)
        most, frame = min(there, tokens_within(room)), frame_tokens(room)
        clip = max(1, min(self.clip_frames, most // 2 // (frame + 1)))
        return max(frame, min(self.max_tokens, most - clip * (frame + 1))), clip

    def context_tokens(self, room: Room) -> int:
        """What stays, and a clip with its prototypes."""
        stay, clip = self.sizes(room)
        return stay + clip * (frame_tokens(room) + 1)

    def begin(self, room: Room) -> _StreamMemState:
        """As the base class says."""
        self.check_room(room)
        return _StreamMemState(self, room)

    def describe(self) -> Description:
        """As the base class says."""
        return Description(
            "arXiv 2508.15717",
            (
                "each layer keeps the tokens that the text opening an answer attends to most, after clips of "
                "8 frames; the text leaves no trace",
                "one prototype for each new frame, weighted by attention; an answer sees everything held",
            ),
            (
                "like frames are averaged in keys and values, within a clip, where the paper averages them "
                "before the language model; their likeness is that of their first layer's values",
                "prototypes average keys before rotation, and count among the tokens that stay",
                "rotations are those of the model: for one with a single axis of positions, where the paper "
                "stretches them eightfold, tokens stand at positions without gaps instead",
                "text around a frame competes like its tokens",
                "fewer tokens than the published 6,000 to 24,000 where the bytes or the model allow no more",
            ),
        )


class _StreamMemState(TokenMemory):
    """A store whose last tokens are the clip that is being read."""

    def __init__(self, method: StreamMem, room: Room) -> None:
        self._method = method
        self._stay, self._clip_frames = method.sizes(room)
        store = TokenStore("mid", room.ledger, room.shape, method.context_tokens(room))
        super().__init__(room, method.gap(room), store)
        # numbers of the frames of the clip, and how many were averaged in the last one
        self._clip: list[int] = []
        self._averaged = 1

    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Average it into the frame before it or add it; choose anew at the end of a clip."""
        block, store = self.block(block), self._store
        if heard.proxy_queries is None:
            raise SignalError("proxy_queries: what stays is what they attend to; give them")
        if self._merged(block):
            return
        if store.count + block.tokens + len(self._clip) + 1 > store.capacity:
            self._choose(heard.proxy_queries, max(0, min(self._stay, store.capacity - block.tokens - 1)))
        if block.tokens > store.capacity:
            return
        store.add(block)
        self._clip.append(block.number)
        self._averaged = 1
        if len(self._clip) >= self._clip_frames:
            self._choose(heard.proxy_queries, self._stay)

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """With the frames of the clip."""
        tensors, about = super().state()
        return tensors, about | {"clip": list(self._clip), "averaged": self._averaged}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """As the base class says."""
        super().restore(tensors, about)
        self._clip, self._averaged = list(about["clip"]), int(about["averaged"])

    def _merged(self, block: Block) -> bool:
        """Average ``block`` into the last frame, if that is one of the clip and much like it."""
        store = self._store
        if not self._clip or self._method.merge_above >= 1:
            return False
        # the last one of the store
        some = slice(store.count - int(store.frames.tokens[-1]), store.count)
        # the same for all layers while a clip is read
        if not torch.equal(store.labels[CELL, 0, 0, some], block.cells):
            return False
        visual = block.cells >= 0
        ours, theirs = store.values[0, :, some][:, visual], block.values[0][:, visual]
        alike = cosine_similarity(ours.float().flatten(), theirs.float().flatten(), dim=0)
        if not float(alike) > self._method.merge_above:
            return False
        for held, new in ((store.keys, block.keys), (store.values, block.values)):
            mean = torch.lerp(held[:, :, some].float(), new.float(), 1 / (self._averaged + 1))
            held[:, :, some] = torch.where(visual[:, None], mean.to(held.dtype), held[:, :, some])
        self._averaged += 1
        store.frames.lengthen_last(block.stop_seconds)
        return True

    def _choose(self, queries: torch.Tensor, most: int) -> None:
        """Leave at most so many tokens of each layer, and begin a clip."""
        store, clip = self._store, self._clip
        self._clip = []
        if store.count <= most:
            return
        if not most:
            store.clear()
            return
        context, first = self.context(), self.head.tokens
        rows = torch.arange(queries.shape[2], device=queries.device)
        places = torch.tensor(context.end, device=queries.device)[:, None] + rows
        scores = torch.stack(
            [context.attention(layer, queries[layer], places, first=first) for layer in range(store.layers)]
        )
        if self._method.prototypes and len(clip) < most:
            scores = self._with_prototypes(scores, clip)
        chosen = highest(scores, most).sort(-1).values
        # a prototype stands behind the tokens of its frame
        order = torch.sort(store.labels[FRAME, :, 0].gather(-1, chosen), dim=-1, stable=True).indices
        store.keep(chosen.gather(-1, order)[:, None])

    def _with_prototypes(self, scores: torch.Tensor, clip: list[int]) -> torch.Tensor:
        """``scores`` (layers, tokens) with those of the prototypes, above all others, which are added."""
        store = self._store
        tokens = store.count
        for number in clip:
            own = store.labels[FRAME, 0, 0, :tokens] == number
            # equal where nothing was attended to
            weights = scores[:, own] + torch.finfo(scores.dtype).tiny
            weights /= weights.sum(-1, keepdim=True)
            labels = store.labels[:, :, 0, :tokens][..., own]
            heaviest = weights.argmax(-1, keepdim=True)
            offsets = (labels[OFFSETS:] * weights).sum(-1).round().int()
            store.append(
                (store.keys[:, :, :tokens][:, :, own].float() * weights[:, None, :, None]).sum(2),
                (store.values[:, :, :tokens][:, :, own].float() * weights[:, None, :, None]).sum(2),
                torch.cat([labels[FRAME, :, :1].T, labels[CELL].gather(-1, heaviest).T, offsets]),
            )
        return torch.cat([scores, scores.new_full((len(scores), len(clip)), torch.inf)], -1)
