"""Rows that wait half-way up a language model, and which entry of a cache is which token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from streamprune.models.prompt_rows import VisualRows


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of one conversation at the same layer.

    Attributes:
        numbers: (rows,) int64 which tokens of the conversation they are, padding counted, ascending.
        states: (rows, width).
        cos, sin: (rows, head width) of their positions.
    """

    numbers: torch.Tensor
    states: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor

    def part(self, which: torch.Tensor) -> Rows:
        """Those that ``which`` (rows,) bool says."""
        return Rows(self.numbers[which], self.states[which], self.cos[which], self.sin[which])

    def joined(self, other: Rows) -> Rows:
        """With those of ``other``, ascending again."""
        numbers = torch.cat([self.numbers, other.numbers])
        order = torch.argsort(numbers)
        parts = ((self.states, other.states), (self.cos, other.cos), (self.sin, other.sin))
        return Rows(numbers[order], *(torch.cat(pair)[order] for pair in parts))


@dataclass(frozen=True, eq=False)
class RowsBatch:
    """Rows of several conversations side by side, short ones filled up from the left.

    Attributes:
        numbers: (batch, rows) int64, -1 where filled up.
        states: (batch, rows, width).
        tables: cosines and sines, (batch, rows, head width) each.
    """

    numbers: torch.Tensor
    states: torch.Tensor
    tables: tuple[torch.Tensor, torch.Tensor]

    @classmethod
    def of(cls, parts: Sequence[Rows]) -> RowsBatch:
        """One entry a conversation."""
        longest = max(len(part.numbers) for part in parts)

        def filled(values: Sequence[torch.Tensor], fill: float) -> torch.Tensor:
            shape = (len(values), longest, *values[0].shape[1:])
            whole = values[0].new_full(shape, fill)
            for row, value in enumerate(values):
                whole[row, longest - len(value) :] = value
            return whole

        return cls(
            filled([part.numbers for part in parts], -1),
            filled([part.states for part in parts], 0),
            (filled([part.cos for part in parts], 1), filled([part.sin for part in parts], 0)),
        )

    def rows(self, row: int) -> Rows:
        """Those of one conversation."""
        there = self.numbers[row] >= 0
        cos, sin = (table[row][there] for table in self.tables)
        return Rows(self.numbers[row][there], self.states[row][there], cos, sin)


@dataclass(eq=False)
class Conversation:
    """What is known about a cache.

    Attributes:
        seen: tokens so far, padding counted.
        visual: for each row of the batch, (visual,) int64 numbers of the visual tokens, ascending.
        numbers: by stage (the layers from one cut to the next, counted from 1), (batch, entries) int64 which
            token each entry is, -1 = none.
        waiting: by stage, the rows of each conversation that wait to enter it.
        keys: those of the first stage's first layer, as they were left.
    """

    seen: int = 0
    visual: list[torch.Tensor] = field(default_factory=list)
    numbers: dict[int, torch.Tensor] = field(default_factory=dict)
    waiting: dict[int, list[Rows | None]] = field(default_factory=dict)
    keys: torch.Tensor | None = None

    def add(self, found: Sequence[VisualRows | None], batch: int, device: torch.device) -> None:
        """A call brings these visual tokens."""
        if not self.visual:
            self.visual = [torch.zeros(0, dtype=torch.int64, device=device)] * batch
        for row, rows in enumerate(found):
            if rows is not None:
                self.visual[row] = torch.cat([self.visual[row], rows.rows.to(device) + self.seen])

    def crop(self, seen: int) -> None:
        """No more than so many tokens are there."""
        self.seen = seen
        self.visual = [numbers[numbers < seen] for numbers in self.visual]
