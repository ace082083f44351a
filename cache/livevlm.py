"""LiveVLM: tokens that newer frames look at, spread over the timeline, and of them what a question needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import whole_tokens
from streamprune.cache.block import Block, FeatureBlock
from streamprune.cache.block_queue import BlockQueue, Page
from streamprune.cache.context import Context, Gaps
from streamprune.cache.kv_memory import KvMemory, KvMethod, frame_bytes, frame_tokens, tokens_within
from streamprune.cache.memory import Description, Heard, Room, Wanted
from streamprune.cache.token_store import TokenContext, TokenStore, store_bytes
from streamprune.checks import check_count, check_number, check_share
from streamprune.errors import SignalError
from streamprune.ops.selection import highest, ranks_within


@dataclass(frozen=True, kw_only=True)
class LiveVLM(KvMethod):
    """A short-term part of whole frames, and a long-term part of tokens that each layer chooses for itself.

    A frame that leaves the short-term part joins the long-term part, which is then cut to size: the timeline
    is divided into buckets, and after the tokens attended to most of all each bucket keeps its best. For an
    answer the long-term part is divided into pages, and each layer brings back those whose mean key before
    rotation the question attends to most.

    Args:
        max_tokens: of the long-term part.
        bucket: tokens that a bucket keeps; there are ``max_tokens / bucket`` of them.
        sink_share: share of ``max_tokens`` that goes to the tokens attended to most, wherever they are; they
            count in their buckets, and may be more than ``bucket``.
        observed_queries: so many of the last visual tokens say what is attended to.
        recent_frames: of the short-term part.
        page: tokens of a page; what is left over at the end of the long-term part always comes back.
        retrieve_share: share of the pages that come back, rounded up.
        gaps, max_gap_frames: as of every memory of keys and values; None: positions stay those of the
            stream, and grow with it.

    Source: arXiv 2505.15269, version 2. The sizes of ``sink_share``, ``observed_queries`` and
    ``recent_frames`` are not published.
    """

    max_tokens: int = 12_000
    bucket: int = 1
    sink_share: float = 0.1
    observed_queries: int = 32
    recent_frames: int = 8
    page: int = 16
    retrieve_share: float = 0.4

    own_gaps: ClassVar[Gaps] = "keep"
    wants: ClassVar[frozenset[Wanted]] = frozenset({"chunk_queries", "question_queries"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_tokens", "bucket", "observed_queries", "recent_frames", "page"):
            check_count(name, getattr(self, name))
        check_number("sink_share", self.sink_share, 0, 1)
        check_share("retrieve_share", self.retrieve_share)

    def minimum_bytes(self, room: Room) -> int:
        """One whole frame, and the tokens of two."""
        return frame_bytes(room) + store_bytes(room.shape, 2 * frame_tokens(room))

    def sizes(self, room: Room) -> tuple[int, int]:
        """Frames of the short-term part, at most half of everything, and tokens of the long-term part."""
        frame, most = frame_tokens(room), tokens_within(room)
        recent = min(self.recent_frames, room.memory_bytes // 2 // frame_bytes(room), most // 2 // frame)
        recent = max(1, recent)
        left = (room.memory_bytes - recent * frame_bytes(room)) // store_bytes(room.shape, 1)
        # a frame joins before the part is cut
        return recent, max(1, min(self.max_tokens, left - frame, most - recent * frame))

    def context_tokens(self, room: Room) -> int:
        """Both parts."""
        recent, tokens = self.sizes(room)
        return recent * frame_tokens(room) + tokens

    def begin(self, room: Room) -> _LiveVLMState:
        """As the base class says."""
        self.check_room(room)
        return _LiveVLMState(self, room)

    def describe(self) -> Description:
        """As the base class says."""
        return Description(
            "arXiv 2505.15269",
            (
                "importance is attention received from the last visual queries; one token for each bucket of "
                "the timeline, behind the tokens attended to most",
                "pages of 16 tokens are found by mean keys before rotation, 40 % of them come back, at the "
                "positions of the stream; the short-term part always does",
            ),
            (
                "version 2 of the paper, which has no released code: how many queries observe, how many "
                "tokens are kept wherever they are and how long the short-term part is were chosen here",
                "what fills no page, at the end of the long-term part, always comes back",
                "text around a frame competes like its tokens",
                "fewer tokens than the published 12,000 where the bytes or the model allow no more",
            ),
        )


class _LiveVLMState(KvMemory):
    """A queue of whole frames and a store of tokens."""

    def __init__(self, method: LiveVLM, room: Room) -> None:
        self._method = method
        self._recent_frames, self._max_tokens = method.sizes(room)
        capacity = self._max_tokens + frame_tokens(room)
        self._store = TokenStore("mid", room.ledger, room.shape, capacity)
        self._recent = BlockQueue("recent", room.ledger, Block, room.shape.device)
        super().__init__(room, method.gap(room), {"mid": self._store, "recent": self._recent})

    def context(self) -> TokenContext:
        """The head of the prompt and both parts."""
        return self._together(self._whole())

    def recall(self, queries: torch.Tensor | None) -> Context:
        """The head of the prompt, what is brought back of the long-term part, and the short-term part."""
        if queries is None:
            raise SignalError("queries: pages are found by the question; give its queries")
        return self._together(self._whole(), self._pages(queries))

    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Let frames that are no longer recent join the long-term part."""
        block = self.block(block)
        if heard.chunk_queries is None:
            raise SignalError("chunk_queries: importance is what new frames attend to; give their queries")
        while len(self._recent) and not self._is_room_for(block):
            oldest = self._whole()[0]
            self._recent.pop()
            self._cut(block, heard.chunk_queries, self._store.capacity - oldest.tokens)
            if oldest.tokens <= self._store.capacity:
                self._store.add(oldest)
            self._cut(block, heard.chunk_queries, self._max_tokens)
        if self.fits(block.nbytes):
            self._recent.push(Page(block))

    def _is_room_for(self, block: Block) -> bool:
        most = self._recent_frames * frame_tokens(self.room)
        few = len(self._recent) < self._recent_frames and self._recent.tokens + block.tokens <= most
        return few and self.fits(block.nbytes)

    def _whole(self) -> list[Block]:
        return [page.block for page in self._recent.pages if isinstance(page.block, Block)]

    def _together(self, blocks: list[Block], chosen: torch.Tensor | None = None) -> TokenContext:
        return TokenContext(self.head, self._store, self.gap, self.room.rotation, blocks, chosen)

    def _cut(self, block: Block, queries: torch.Tensor, most: int) -> None:
        """Leave at most so many tokens in the long-term part."""
        method, store = self._method, self._store
        if store.count <= most:
            return
        if most < 1:
            store.clear()
            return
        context = self._together([*self._whole(), block])
        observing = (block.cells >= 0).nonzero()[:, 0]
        if not len(observing):
            observing = torch.arange(block.tokens, device=block.cells.device)
        observing = observing[-method.observed_queries :]
        tokens = torch.arange(context.tokens, device=observing.device)
        unseen = tokens > (context.tokens - block.tokens + observing)[:, None]
        held = slice(self.head.tokens, self.head.tokens + store.count)
        scores = [
            context.attention(
                layer,
                queries[layer][:, observing],
                context.positions(layer)[:, 0, context.tokens - block.tokens + observing],
                unseen=unseen,
            )[held]
            for layer in range(store.layers)
        ]
        sinks = whole_tokens(method.sink_share * most)
        store.keep(bucketed(torch.stack(scores), most, method.bucket, sinks)[:, None])

    def _pages(self, queries: torch.Tensor) -> torch.Tensor | None:
        """(layers, tokens) int64 tokens of the store that come back; None = all."""
        method, count = self._method, self._store.count
        pages = count // method.page
        if not pages:
            return None
        kept = whole_tokens(method.retrieve_share * pages, rounding="ceil")
        found = []
        rest = torch.arange(pages * method.page, count, device=queries.device)
        places = torch.arange(method.page, device=queries.device)
        for layer in range(self._store.layers):
            keys = self._store.held(layer)[0][:, : pages * method.page].float()
            means = keys.reshape(len(keys), pages, method.page, -1).mean(2)
            likeness = page_attention(queries[layer], means)
            best = highest(likeness, kept).sort().values
            found.append(torch.cat([(best[:, None] * method.page + places).flatten(), rest]))
        return torch.stack(found)


def page_attention(queries: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """(pages,) attention of ``queries`` (query_heads, tokens, dim) to ``means`` (kv_heads, pages, dim).

    A softmax over the pages for every head and token, averaged over both.
    """
    grouped = queries.float().reshape(len(means), -1, means.shape[-1])
    logits = grouped @ means.transpose(-1, -2) * means.shape[-1] ** -0.5
    return torch.softmax(logits, -1).mean((0, 1))


def bucketed(scores: torch.Tensor, keep: int, bucket: int, sinks: int) -> torch.Tensor:
    """(layers, kept) int64 tokens that stay, ascending: min(``keep``, tokens) of them.

    Tokens, in the order of the timeline, belong to ``keep / bucket`` equal buckets. The ``sinks`` highest of
    all stay; then, the highest first, those whose bucket has room left; then, if buckets are uneven, others.

    Args:
        scores: (layers, tokens) float32.
        bucket: room of each.
    """
    layers, tokens = scores.shape
    buckets = max(1, keep // bucket)
    places = torch.arange(tokens, device=scores.device)
    rank_in_bucket, _ = ranks_within(scores, (places * buckets // tokens).expand(layers, -1))
    best_first = highest(scores, tokens)
    is_sink = torch.zeros_like(scores, dtype=torch.bool).scatter_(-1, best_first[:, :sinks], True)
    order = torch.where(is_sink, 2, (rank_in_bucket < bucket).long())
    # by kind, and within a kind by score
    chosen = highest(order.gather(-1, best_first), keep)
    return best_first.gather(-1, chosen).sort(-1).values
