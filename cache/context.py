"""What a stream's next frame, or an answer, attends to: blocks side by side, rotated to their places.

Keys are stored before rotation, so that where a block stands is decided anew each time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, Protocol, get_args

import torch

from streamprune.cache.rotation import Rotation
from streamprune.errors import InvalidValueError, UnknownNameError

Gaps = Literal["keep", "compact", "clipped"]


@dataclass(frozen=True)
class GapRule:
    """How far neighbouring blocks stand from each other.

    Args:
        rule: "keep" as far as in the stream; "compact" not at all; "clipped" as in the stream, but at most
            so many positions as ``max_gap_frames`` blocks take.
        max_gap_frames: see "clipped"; 0 or more.
    """

    rule: Gaps = "clipped"
    max_gap_frames: float = 1.0

    def __post_init__(self) -> None:
        if self.rule not in get_args(Gaps):
            raise UnknownNameError.among("rule", self.rule, get_args(Gaps))
        if not 0 <= self.max_gap_frames < float("inf"):
            raise InvalidValueError(f"max_gap_frames must be 0 or more, got {self.max_gap_frames}")

    def gap(self, true_gap: int, span: int) -> int:
        """Positions left free before a block that takes ``span`` of them, along one axis."""
        if self.rule == "compact":
            return 0
        return true_gap if self.rule == "keep" else min(true_gap, int(self.max_gap_frames * span))


def places(
    begins: Sequence[tuple[int, ...]], spans: Sequence[tuple[int, ...]], gap: GapRule
) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """Where each block begins, and where what follows the last one does.

    Args:
        begins, spans: (blocks, axes) of the stream, in its order.
    """
    if not begins:
        raise InvalidValueError("begins must name one block at least, got none")
    found = [begins[0]]
    for (before, span), (begin, own) in pairwise(zip(begins, spans, strict=True)):
        last = found[-1]
        found.append(
            tuple(
                at + width + gap.gap(max(0, new - old - width), size)
                for at, width, old, new, size in zip(last, span, before, begin, own, strict=True)
            )
        )
    end = tuple(at + width for at, width in zip(found[-1], spans[-1], strict=True))
    return found, end


class Piece(Protocol):
    """Entries of one frame: a :class:`~streamprune.cache.block.Block`, a part of one, or one in less room.

    Attributes are those of a block.
    """

    @property
    def tokens(self) -> int: ...

    @property
    def offsets(self) -> torch.Tensor: ...

    @property
    def begin(self) -> tuple[int, ...]: ...

    @property
    def span(self) -> tuple[int, ...]: ...

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys before rotation, and values, of one layer: (kv_heads, tokens, head_dim) each."""


class Context(ABC):
    """Entries to attend to.

    Attributes:
        tokens: of each layer and head.
        end: (axes,) where what follows begins.
    """

    tokens: int
    end: tuple[int, ...]

    @abstractmethod
    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Put rotated keys and values of ``layer`` into buffers (kv_heads, tokens, head_dim) of that size."""


class BlockContext(Context):
    """Blocks one after the other.

    Args:
        blocks: in the order of the stream, the head of the prompt first; or such a list for every layer, of
            equally many tokens.
        gap: how far they stand apart. Lists that differ take the furthest end of them all.
        rotation: of the model.
    """

    def __init__(
        self,
        blocks: Sequence[Piece] | Sequence[Sequence[Piece]],
        gap: GapRule,
        rotation: Rotation,
    ) -> None:
        if not blocks:
            raise InvalidValueError("blocks must hold one block at least, got none")
        alike = [part for part in blocks if not isinstance(part, Sequence)]
        apart = [part for part in blocks if isinstance(part, Sequence)]
        self._lists: list[Sequence[Piece]] = [alike] if alike else list(apart)
        self._rotation = rotation
        self._tables: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        counts = {sum(block.tokens for block in part) for part in self._lists}
        if len(counts) > 1:
            raise InvalidValueError(f"every layer must get equally many tokens, got {sorted(counts)}")
        self.tokens = counts.pop()
        self._places: list[list[tuple[int, ...]]] = []
        ends = []
        for part in self._lists:
            found, end = places([block.begin for block in part], [block.span for block in part], gap)
            self._places.append(found)
            ends.append(end)
        self.end = tuple(max(axis) for axis in zip(*ends, strict=True))

    def positions(self, layer: int = 0) -> torch.Tensor:
        """(axes, tokens) int64, where the tokens of ``layer`` stand."""
        number = layer if len(self._lists) > 1 else 0
        blocks, found = self._lists[number], self._places[number]
        moved = [
            block.offsets.long() + block.offsets.new_tensor(place, dtype=torch.int64)[:, None]
            for block, place in zip(blocks, found, strict=True)
        ]
        return torch.cat(moved, 1)

    def write(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """As the class says."""
        number = layer if len(self._lists) > 1 else 0
        blocks = self._lists[number]
        first = 0
        for block in blocks:
            some = slice(first, first := first + block.tokens)
            keys[:, some], values[:, some] = block.read(layer)
        if number not in self._tables:
            self._tables[number] = self._rotation.tables(self.positions(layer)[:, None, None])
        keys.copy_(self._rotation.turned_by(keys[None], self._tables[number])[0])
