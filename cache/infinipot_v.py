"""InfiniPot-V: a fixed number of tokens, which every head chooses anew whenever they are used up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import whole_tokens
from streamprune.cache.block import Block, FeatureBlock
from streamprune.cache.context import Gaps
from streamprune.cache.kv_memory import KvMethod, frame_tokens, tokens_within
from streamprune.cache.memory import Description, Heard, Room
from streamprune.cache.token_memory import TokenMemory
from streamprune.cache.token_store import CELL, FRAME, TokenContext, TokenStore, store_bytes
from streamprune.checks import check_count, check_flag, check_share
from streamprune.kv.infinipot_v import InfiniPotV
from streamprune.kv.view import LayerView

# no frame, and no text that is protected either
_TEXT = -3


@dataclass(frozen=True, kw_only=True)
class InfiniPotVMemory(KvMethod):
    """Compress to a share of the tokens whenever there is no room for another frame.

    What stays is decided as :class:`streamprune.kv.infinipot_v.InfiniPotV` does: one part of what stays are
    the newest frames and older tokens whose keys are least like theirs at the same place of the picture, the
    other part are tokens with large values. Every layer and head chooses for itself.

    Args:
        max_tokens: of each layer and head.
        target_share: of them are left after a compression.
        redundancy_share, recent_share, adaptive_pooling: as of the policy.
        rotated: compare keys as they stand in their context, not before rotation.
        gaps, max_gap_frames: as of every memory of keys and values; None: positions stay those of the
            stream, and grow with it.

    Source: arXiv 2506.15745 and its released implementation: 32 frames are compressed to 24.
    """

    max_tokens: int = 6144
    target_share: float = 0.75
    redundancy_share: float = 0.5
    recent_share: float = 0.25
    adaptive_pooling: bool = False
    rotated: bool = True

    own_gaps: ClassVar[Gaps] = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("max_tokens", self.max_tokens)
        check_share("target_share", self.target_share)
        check_flag("rotated", self.rotated)
        _ = self.policy

    @property
    def policy(self) -> InfiniPotV:
        """That chooses."""
        return InfiniPotV(
            redundancy_share=self.redundancy_share,
            recent_share=self.recent_share,
            adaptive_pooling=self.adaptive_pooling,
        )

    def minimum_bytes(self, room: Room) -> int:
        """Two frames."""
        return store_bytes(room.shape, 2 * frame_tokens(room), per_head=True)

    def context_tokens(self, room: Room) -> int:
        """All tokens there are."""
        there = room.memory_bytes // store_bytes(room.shape, 1, per_head=True)
        return max(frame_tokens(room), min(there, tokens_within(room, self.max_tokens)))

    def begin(self, room: Room) -> _InfiniPotVState:
        """As the base class says."""
        self.check_room(room)
        return _InfiniPotVState(self, room)

    def describe(self) -> Description:
        """As the base class says."""
        return Description(
            "arXiv 2506.15745",
            (
                "tokens that stay by temporal redundancy of rotated keys and by value norm, each layer and "
                "head for itself; compression from 32 frames' worth of tokens to 24",
                "positions are those of the stream",
            ),
            (
                "a token is compared at its own place of the picture also after earlier compressions, where "
                "the release takes what is left for whole frames",
                "every frame but those that still wait for the next compression is compressed; the release "
                "knows when a video ends",
                "text around a frame competes by the norm of its values; the head of the prompt stays",
                "fewer tokens than the published 3,000 to 6,000 where the bytes or the model allow no more",
            ),
        )


class _InfiniPotVState(TokenMemory):
    """A store of tokens."""

    def __init__(self, method: InfiniPotVMemory, room: Room) -> None:
        self._method = method
        capacity = method.context_tokens(room)
        store = TokenStore("mid", room.ledger, room.shape, capacity, per_head=True)
        super().__init__(room, method.gap(room), store)

    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Add its tokens, after a compression where there is no room for them."""
        block, store = self.block(block), self._store
        if store.count + block.tokens > store.capacity:
            target = whole_tokens(self._method.target_share * store.capacity, rounding="half_even")
            self._compress(max(0, min(store.count, target, store.capacity - block.tokens)))
        if block.tokens <= store.capacity:
            store.add(block)

    def _compress(self, target: int) -> None:
        store, policy = self._store, self._method.policy
        if not target:
            store.clear()
            return
        context = self.context() if self._method.rotated else None
        chosen = [policy.keep(self._view(layer, context), target)[0] for layer in range(store.layers)]
        store.keep(torch.stack(chosen))

    def _view(self, layer: int, context: TokenContext | None) -> LayerView:
        keys, values, labels = self._store.held(layer)
        if context is not None:
            places = context.positions(layer)[..., self.head.tokens :]
            keys = self.room.rotation.turned(keys[None], places[:, None])[0]
        room = self.room
        cols = room.cols or max(1, round(room.tokens_per_frame**0.5))
        return LayerView(
            keys=keys[None],
            values=values[None],
            tokens=torch.arange(self._store.count, device=keys.device).expand(1, *keys.shape[:2]),
            new=1,
            seen=self._store.count,
            prompt=self._store.count,
            layer=layer,
            depth=self._store.layers,
            segments=self._segments(labels)[None],
            cells=labels[CELL][None],
            grid=(-(-room.tokens_per_frame // cols), cols),
        )

    def _segments(self, labels: torch.Tensor) -> torch.Tensor:
        """(kv_heads, tokens): frames counted as if all were whole, so that the newest stay a fixed share."""
        frames = self._store.frames
        whole = max(1, round(self._store.capacity / float(frames.tokens.mean())))
        from_newest = len(frames) - 1 - frames.rows_of(labels[FRAME])
        counted = whole - 1 - from_newest.clamp(max=whole - 1)
        return torch.where(labels[CELL] >= 0, counted, _TEXT)
