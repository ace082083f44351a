"""InfiniteHiP: everything is kept, and a question reads what a search in ever smaller chunks finds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from streamprune.cache.block import Block, FeatureBlock
from streamprune.cache.block_queue import BlockPart, BlockQueue, Page
from streamprune.cache.context import BlockContext, Context, Piece
from streamprune.cache.kv_memory import KvMemory, KvMethod, frame_bytes, frame_tokens, tokens_within
from streamprune.cache.memory import Description, Heard, Room, Wanted
from streamprune.checks import check_count
from streamprune.errors import InvalidValueError, SignalError
from streamprune.ops.selection import highest


@dataclass(frozen=True, kw_only=True)
class InfiniteHiP(KvMethod):
    """Sinks, a window, and between them the chunks whose representative answers the question best.

    In stages each layer divides what is left of the past into chunks and keeps the best of them. What speaks
    for a chunk is found by halving it: the first key of either half is compared with the question, and the
    better half is halved again. Keys are compared before rotation, over all heads and tokens of the question.

    Args:
        sinks: tokens at the beginning, the head of the prompt among them; whole frames of them stay.
        window: tokens of the newest frames that every context has.
        chunks: tokens of a chunk in each stage, powers of two.
        kept: tokens that each stage leaves.
        gaps, max_gap_frames: as of every memory of keys and values; chosen tokens of models with one axis of
            positions stand one behind the other.

    Source: arXiv 2502.08910 and version 1.2 of its released implementation. Where the model is to see fewer
    tokens than sinks, window and the last stage have together, all three shrink alike.
    """

    sinks: int = 256
    window: int = 1024
    chunks: Sequence[int] = (256, 32, 8)
    kept: Sequence[int] = (32_768, 8192, 2048)

    wants: ClassVar[frozenset[Wanted]] = frozenset({"question_queries"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("sinks", self.sinks, least=0)
        check_count("window", self.window)
        if len(self.chunks) != len(self.kept) or not self.chunks:
            raise InvalidValueError(
                f"chunks and kept must name as many stages, at least one, got {self.chunks} and {self.kept}"
            )
        for chunk, kept in zip(self.chunks, self.kept, strict=True):
            check_count("kept", kept)
            check_count("chunks", chunk)
            if chunk & (chunk - 1):
                raise InvalidValueError(f"chunks must be powers of two, got {chunk}")

    def minimum_bytes(self, room: Room) -> int:
        """One frame."""
        return frame_bytes(room)

    def sizes(self, room: Room) -> tuple[int, int, int]:
        """Tokens of the sinks, of the window and of what a question chooses."""
        most, chosen = tokens_within(room), self.kept[-1]
        share = min(1.0, most / (self.sinks + self.window + chosen))
        window = max(frame_tokens(room), int(self.window * share))
        sinks = min(int(self.sinks * share), most - window)
        return sinks, window, min(int(chosen * share), most - window - sinks)

    def context_tokens(self, room: Room) -> int:
        """All three."""
        return sum(self.sizes(room))

    def begin(self, room: Room) -> _InfiniteHiPState:
        """As the base class says."""
        self.check_room(room)
        return _InfiniteHiPState(self, room)

    def describe(self) -> Description:
        """As the base class says."""
        return Description(
            "arXiv 2502.08910",
            (
                "sinks, window, and three stages of chunks of 256, 32 and 8 tokens, each represented by what "
                "halving it finds; every layer chooses for itself",
                "keys before rotation; what is chosen stands at positions without gaps",
            ),
            (
                "tokens are chosen once for a question, not anew every few tokens of its answer, nor while "
                "frames are read: those attend to sinks and window",
                "no layer attends to everything, where the release leaves the first four and the last one "
                "dense",
                "all layers compare contents alone; in the first ones the release gives chunks positions",
                "the oldest frames after the sinks are dropped when bytes run out; the original grows",
                "what fills no chunk, next to the window, passes a stage as it is",
            ),
        )


class _InfiniteHiPState(KvMemory):
    """The first frames, and all others that the bytes allow."""

    def __init__(self, method: InfiniteHiP, room: Room) -> None:
        self._method = method
        self._sink_tokens, self._window, self._chosen = method.sizes(room)
        self._first = BlockQueue("sinks", room.ledger, Block, room.shape.device)
        self._queue = BlockQueue("archive", room.ledger, Block, room.shape.device)
        self._dropped = False
        super().__init__(room, method.gap(room), {"first": self._first, "archive": self._queue})

    def context(self) -> Context:
        """The sinks and the window."""
        return self.after_head([*self._sinks(), *self._queue.newest(self._window)])

    def write(self, block: Block | FeatureBlock, heard: Heard) -> None:
        """Let the first ones be sinks; drop the oldest of the others where bytes run out."""
        block = self.block(block)
        if self._is_sink(block):
            self._first.push(Page(block))
            return
        while len(self._queue) and not self.fits(block.nbytes):
            self._queue.pop()
            self._dropped = True
        if self.fits(block.nbytes):
            self._queue.push(Page(block))

    def recall(self, queries: torch.Tensor | None) -> Context:
        """The sinks, what the question chooses, and the window."""
        if queries is None:
            raise SignalError("queries: chunks are found by the question; give its queries")
        window = self._queue.newest(self._window)
        past = [page.block for page in self._queue.pages][: len(self._queue) - len(window)]
        if not past or not self._chosen:
            return self.after_head([*self._sinks(), *window])
        scores = torch.cat([_likeness(block, queries) for block in past], -1)
        kept = [*self._method.kept[:-1], self._chosen]
        chosen = hierarchical_choice(scores, self._method.chunks, kept)
        lists: list[list[Piece]] = [
            [self.head, *self._sinks(), *self._parts(past, own), *window] for own in chosen
        ]
        return BlockContext(lists, self.gap, self.room.rotation)

    def remembers_from(self) -> float | None:
        """From where on nothing was dropped: sinks alone say little."""
        if self._dropped and self._queue.pages:
            return self._queue.pages[0].block.start_seconds
        return super().remembers_from()

    def state(self) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
        """With whether anything was dropped."""
        tensors, about = super().state()
        return tensors, about | {"dropped": self._dropped}

    def restore(self, tensors: Mapping[str, torch.Tensor], about: Mapping[str, Any]) -> None:
        """As the base class says."""
        super().restore(tensors, about)
        self._dropped = bool(about["dropped"])

    def _sinks(self) -> list[Piece]:
        return [page.block for page in self._first.pages]

    def _is_sink(self, block: Block) -> bool:
        """Whether it is among the first tokens, and leaves room for two frames."""
        if len(self._queue) or self._dropped:
            return False
        tokens = self.head.tokens + self._first.tokens + block.tokens
        return tokens <= self._sink_tokens and self.fits(block.nbytes + 2 * frame_bytes(self.room))

    def _parts(self, blocks: Sequence[Piece], index: torch.Tensor) -> list[Piece]:
        """Pieces with the tokens ``index``, ascending, of all tokens of ``blocks``."""
        ends = torch.tensor([block.tokens for block in blocks], device=index.device).cumsum(0)
        owner = torch.searchsorted(ends, index, right=True)
        numbers, counts = torch.unique_consecutive(owner, return_counts=True)
        in_a_row = self.gap.rule == "compact" and self.room.shape.axes == 1
        found: list[Piece] = []
        for number, own in zip(numbers.tolist(), torch.split(index, counts.tolist()), strict=True):
            block = blocks[number]
            found.append(BlockPart(block, own - (ends[number] - block.tokens), in_a_row))
        return found


def _likeness(block: Piece, queries: torch.Tensor) -> torch.Tensor:
    """(layers, tokens) float32: largest inner product of each key with any query that reads it."""
    found = []
    for layer, asked in enumerate(queries.float()):
        keys = block.read(layer)[0].float()
        grouped = asked.reshape(len(keys), -1, keys.shape[-1])
        found.append((grouped @ keys.transpose(-1, -2)).amax((0, 1)))
    return torch.stack(found)


def representatives(scores: torch.Tensor) -> torch.Tensor:
    """(...) index of what halving finds in each row of (..., chunk) ``scores``, a power of two wide.

    The first entries of both halves are compared; of equal ones the first wins.
    """
    first = torch.zeros(scores.shape[:-1], dtype=torch.int64, device=scores.device)
    width = scores.shape[-1]
    while width > 1:
        width //= 2
        both = torch.stack([first, first + width], -1)
        left, right = scores.gather(-1, both).unbind(-1)
        first = torch.where(right > left, first + width, first)
    return first


def hierarchical_choice(scores: torch.Tensor, chunks: Sequence[int], kept: Sequence[int]) -> torch.Tensor:
    """(layers, chosen) int64 ascending: what the stages leave of the (layers, tokens) ``scores``.

    A stage of which more would be left than there is does nothing. What fills no chunk, at the end, passes.

    Args:
        chunks, kept: of each stage, tokens of a chunk and tokens that are left.
    """
    layers, tokens = scores.shape
    chosen = torch.arange(tokens, device=scores.device).expand(layers, -1)
    for chunk, most in zip(chunks, kept, strict=True):
        there = chosen.shape[-1]
        if there <= most:
            continue
        whole = there // chunk
        rest = min(there - whole * chunk, most)
        own = chosen[:, : whole * chunk].reshape(layers, whole, chunk)
        seen = scores.gather(-1, own.flatten(1)).reshape(own.shape)
        likeness = seen.gather(-1, representatives(seen)[..., None])[..., 0]
        best = highest(likeness, (most - rest) // chunk).sort(-1).values
        picked = own.gather(1, best[..., None].expand(-1, -1, chunk)).flatten(1)
        chosen = torch.cat([picked, chosen[:, there - rest :]], -1)
    return chosen
