"""Blocks in the order of the stream, of which the oldest goes first."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from streamprune.cache.block import Block
from streamprune.cache.coded_block import CodedBlock
from streamprune.cache.context import Piece
from streamprune.cache.kv_memory import Holding
from streamprune.cache.ledger import Ledger, Tier
from streamprune.cache.memory import TierReport
from streamprune.cache.saved_blocks import parts_of, rebuilt


@dataclass(frozen=True, eq=False)
class Page:
    """A block, and what it is found by.

    Attributes:
        index: (layers, kv_heads, head_dim) in storage of its own; None where nobody looks for it.
    """

    block: Block | CodedBlock
    index: torch.Tensor | None = None

    @property
    def tokens(self) -> int:
        """Of its block."""
        return self.block.tokens

    @property
    def index_bytes(self) -> int:
        """Storage behind the index."""
        return 0 if self.index is None else self.index.untyped_storage().nbytes()

    @property
    def nbytes(self) -> int:
        """Storage behind everything."""
        return self.block.nbytes + self.index_bytes


class BlockQueue(Holding):
    """Pages, oldest first.

    Args:
        tier: in which blocks are counted; what they are found by is counted as "index".
        ledger: that is asked.
        kind: of the blocks.
        device: for what is restored.
    """

    def __init__(
        self, tier: Tier, ledger: Ledger, kind: type[Block | CodedBlock], device: torch.device
    ) -> None:
        self.pages: deque[Page] = deque()
        self.tokens = 0
        self._tier, self._ledger, self._kind, self._device = tier, ledger, kind, device

    def __len__(self) -> int:
        return len(self.pages)

    def push(self, page: Page) -> None:
        """Put ``page`` behind the others."""
        self._ledger.take(self._tier, page.block.nbytes)
        self._ledger.take("index", page.index_bytes)
        self.pages.append(page)
        self.nbytes += page.nbytes
        self.tokens += page.tokens

    def pop(self) -> Page:
        """Give the oldest away."""
        page = self.pages.popleft()
        self._ledger.give(self._tier, page.block.nbytes)
        self._ledger.give("index", page.index_bytes)
        self.nbytes -= page.nbytes
        self.tokens -= page.tokens
        return page

    def newest(self, tokens: int) -> list[Block | CodedBlock]:
        """The last blocks that have at most so many tokens together; one at least, if there is one."""
        found: list[Block | CodedBlock] = []
        for page in reversed(self.pages):
            tokens -= page.tokens
            if tokens < 0 and found:
                break
            found.append(page.block)
        return found[::-1]

    def index(self) -> torch.Tensor:
        """(blocks, layers, kv_heads, head_dim) float32: what each is found by."""
        return torch.stack([page.index for page in self.pages if page.index is not None]).float()

    def reports(self) -> Mapping[Tier, TierReport]:
        """The blocks, and what they are found by if anything is."""
        index_bytes = sum(page.index_bytes for page in self.pages)
        time = (
            (self.pages[0].block.start_seconds, self.pages[-1].block.stop_seconds)
            if self.pages
            else (None, None)
        )
        found = {self._tier: TierReport(self.nbytes - index_bytes, self.tokens, len(self.pages), *time)}
        if index_bytes:
            found["index"] = TierReport(index_bytes, 0, len(self.pages), *time)
        return found

    def tensors(self) -> Iterator[torch.Tensor]:
        """Those of every page."""
        for page in self.pages:
            yield from page.block.tensors
            if page.index is not None:
                yield page.index

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """Every page."""
        tensors: dict[str, torch.Tensor] = {}
        told = []
        for place, page in enumerate(self.pages):
            parts, about = parts_of(page.block)
            told.append(about)
            tensors |= {f"{place}.{name}": part for name, part in parts.items()}
            if page.index is not None:
                tensors[f"{place}.index"] = page.index
        return tensors, {"blocks": told}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """As the base class says."""
        self.clear()
        parts: list[dict[str, torch.Tensor]] = [{} for _ in about["blocks"]]
        for full, tensor in tensors.items():
            place, _, name = full.partition(".")
            parts[int(place)][name] = tensor
        for own, told in zip(parts, about["blocks"], strict=True):
            index = own.pop("index", None)
            block = rebuilt(self._kind, own, told, self._device)
            self.push(Page(block, None if index is None else index.to(self._device, copy=True)))

    def clear(self) -> None:
        """Forget all pages."""
        while self.pages:
            self.pop()


@dataclass(frozen=True, eq=False)
class BlockPart:
    """Some tokens of a block, which are copied only where they are read.

    Attributes:
        index: (tokens,) int64, ascending.
        in_a_row: they stand one behind the other, not as far apart as in the block; for one axis.
    """

    block: Piece
    index: torch.Tensor
    in_a_row: bool = False

    @property
    def tokens(self) -> int:
        """Of the part."""
        return len(self.index)

    @property
    def offsets(self) -> torch.Tensor:
        """(axes, tokens)."""
        if self.in_a_row:
            return torch.arange(self.tokens, device=self.index.device)[None]
        return self.block.offsets[:, self.index]

    @property
    def begin(self) -> tuple[int, ...]:
        """Of the block."""
        return self.block.begin

    @property
    def span(self) -> tuple[int, ...]:
        """Of the block, or as many positions as there are tokens."""
        return (self.tokens,) if self.in_a_row else self.block.span

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As a block does."""
        keys, values = self.block.read(layer)
        return keys[:, self.index], values[:, self.index]


def mean_key(block: Block, visual_only: bool = True) -> torch.Tensor:
    """(layers, kv_heads, head_dim) mean key before rotation, in the dtype of the keys.

    Args:
        visual_only: leave the text around the frame out, if there is anything else.
    """
    visual = block.cells >= 0
    keys = block.keys.float()
    if visual_only and bool(visual.any()) and not bool(visual.all()):
        keys = keys[:, :, visual]
    return keys.mean(2).to(block.keys.dtype)
