"""Memories that hold every frame as a page, and bring back for an answer those that its question is alike."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.cache.block import Block, FeatureBlock
from streamprune.cache.block_queue import BlockPart, BlockQueue, Page
from streamprune.cache.coded_block import CodedBlock
from streamprune.cache.context import BlockContext, Context, Piece
from streamprune.cache.kv_memory import KvMemory, KvMethod
from streamprune.cache.memory import Heard, Room, Wanted
from streamprune.errors import SignalError
from streamprune.ops.selection import highest


@dataclass(frozen=True)
class Limits:
    """Of what is brought back in one layer.

    Attributes:
        tokens: at most so many.
        pages: at most so many; None = no matter how many.
        enough: no further page once there are so many tokens; None = never.
        together: so many neighbouring pages have one score, their mean, and come back together.
    """

    tokens: int
    pages: int | None = None
    enough: int | None = None
    together: int = 1


@dataclass(frozen=True, kw_only=True)
class RetrievingMethod(KvMethod):
    """What such designs say: how a page is made, how alike it is a question, how much is brought back."""

    wants: ClassVar[frozenset[Wanted]] = frozenset({"question_queries"})
    # of the blocks that are held
    block_kind: ClassVar[type[Block | CodedBlock]] = Block

    def begin(self, room: Room) -> RetrievingMemory:
        """As the base class says."""
        self.check_room(room)
        return RetrievingMemory(self, room)

    def context_tokens(self, room: Room) -> int:
        """The larger of what the next frame attends to and what is brought back."""
        return max(self.window(room), self.limits(room).tokens)

    @abstractmethod
    def window(self, room: Room) -> int:
        """Tokens of the newest frames that the next frame attends to."""

    @abstractmethod
    def limits(self, room: Room) -> Limits:
        """How much is brought back."""

    @abstractmethod
    def page(self, block: Block) -> Page:
        """What is held of ``block``, in storage of its own."""

    @abstractmethod
    def likeness(self, index: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
        """(layers, pages) float32: how alike pages are a question.

        Args:
            index: (pages, layers, kv_heads, head_dim) float32, what pages are found by.
            queries: (layers, query_heads, tokens, head_dim) float32, before rotation.
        """


class RetrievingMemory(KvMemory):
    """Pages of the whole stream, the oldest dropped where bytes run out.

    An answer attends to the head of the prompt and to what is brought back, each layer to pages of its own;
    as many tokens in each, so that the last page of a layer may be cut.
    """

    def __init__(self, method: RetrievingMethod, room: Room) -> None:
        self._method = method
        self._queue = BlockQueue("archive", room.ledger, method.block_kind, room.shape.device)
        super().__init__(room, method.gap(room), {"archive": self._queue})

    def context(self) -> Context:
        """The head of the prompt and the newest frames."""
        return self.after_head(self._queue.newest(self._method.window(self.room)))

    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Make a page of it."""
        page = self._method.page(self.block(block))
        while len(self._queue) and not self.fits(page.nbytes):
            self._queue.pop()
        if self.fits(page.nbytes):
            self._queue.push(page)

    def recall(self, queries: torch.Tensor | None) -> Context:
        """The head of the prompt, and in every layer the pages most alike the question."""
        if queries is None:
            raise SignalError("queries: pages are found by the question; give its queries")
        if not len(self._queue):
            return self.after_head([])
        likeness = self._method.likeness(self._queue.index(), queries)
        pages = list(self._queue.pages)
        chosen = chosen_in_layers(likeness, [page.tokens for page in pages], self._method.limits(self.room))
        lists = [[self.head, *_pieces(pages, part)] for part in chosen]
        return BlockContext(lists, self.gap, self.room.rotation)


def queries_of_groups(queries: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """(layers, kv_heads, head_dim): mean over tokens, and over the query heads that share a key."""
    mean = queries.float().mean(2)
    return mean.reshape(len(mean), kv_heads, -1, mean.shape[-1]).mean(2)


def ranked_pages(scores: torch.Tensor, together: int) -> list[int]:
    """Every page of (pages,) ``scores``, best first; those that come together in their own order."""
    groups = [
        torch.arange(len(scores))[first : first + together] for first in range(0, len(scores), together)
    ]
    means = (
        torch.stack([scores[group.to(scores.device)].mean() for group in groups]) if together > 1 else scores
    )
    return [int(page) for group in highest(means, len(groups)).tolist() for page in groups[group]]


def chosen_pages(ranked: Sequence[int], sizes: Sequence[int], limits: Limits) -> list[int]:
    """The first of ``ranked`` that the limits allow, in that order; all where these are few enough."""
    groups = len(ranked)
    if limits.pages is not None and len(ranked) > limits.pages:
        groups = max(1, limits.pages // limits.together)
    chosen: list[int] = []
    tokens = 0
    for page in ranked:
        groups -= page % limits.together == 0
        full = limits.enough is not None and tokens >= limits.enough
        if groups < 0 or full or tokens + sizes[page] > limits.tokens:
            break
        chosen.append(page)
        tokens += sizes[page]
    return chosen


def chosen_in_layers(
    scores: torch.Tensor, sizes: Sequence[int], limits: Limits
) -> list[list[tuple[int, int]]]:
    """For every layer, page and tokens of it, pages ascending; as many tokens in each layer.

    Where a layer's choice has fewer tokens than another's, its next best pages follow, the last one cut.

    Args:
        scores: (layers, pages).
        sizes: tokens of each page.
    """
    ranked = [ranked_pages(layer, limits.together) for layer in scores]
    total = max(sum(sizes[page] for page in chosen_pages(layer, sizes, limits)) for layer in ranked)
    found = []
    for layer in ranked:
        left, chosen = total, []
        for page in layer:
            if not left:
                break
            chosen.append((page, min(left, sizes[page])))
            left -= chosen[-1][1]
        found.append(sorted(chosen))
    return found


def _pieces(pages: Sequence[Page], chosen: Sequence[tuple[int, int]]) -> list[Piece]:
    found: list[Piece] = []
    for place, tokens in chosen:
        block = pages[place].block
        if tokens < block.tokens:
            found.append(BlockPart(block, torch.arange(tokens, device=block.cells.device)))
        else:
            found.append(block)
    return found
