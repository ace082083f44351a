"""The keys or the values of one layer: the newest as they came, older ones in the hands of stores."""

from __future__ import annotations

from collections.abc import Callable

import torch

from streamprune.kv.store import Chain, Packed
from streamprune.ops.selection import entries_at

# (rows, heads, some, dim) and the number of the first of these entries -> the same shape
Turn = Callable[[torch.Tensor, int], torch.Tensor]


class Shelf:
    """Entries in the order in which their tokens came; nothing that is read back is kept.

    Attributes:
        exact: (rows, heads, newest, dim) as they came.
        packed: the older ones; None while there are none.
    """

    def __init__(self) -> None:
        self.exact: torch.Tensor | None = None
        self.packed: Packed | None = None

    @property
    def entries(self) -> int:
        """Entries of each head."""
        newest = 0 if self.exact is None or self.exact.ndim < 4 else int(self.exact.shape[2])
        return newest + (0 if self.packed is None else self.packed.entries)

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Everything that is held."""
        exact = [] if self.exact is None else [self.exact]
        return exact + ([] if self.packed is None else self.packed.tensors())

    def put(self, x: torch.Tensor | None) -> None:
        """Hold ``x`` in place of everything."""
        self.exact, self.packed = x, None

    def add(self, new: torch.Tensor) -> None:
        """Hold ``new`` (rows, heads, some, dim) after all others."""
        first = self.exact is None or not self.entries
        self.exact = torch.cat([new] if first or self.exact is None else [self.exact, new], 2)

    def load(self, turn: Turn | None = None) -> torch.Tensor:
        """All entries; ``turn`` is done to those that are read back."""
        assert self.exact is not None  # something has been put
        if self.packed is None:
            return self.exact
        old = self.packed.load()
        return torch.cat([old if turn is None else turn(old, 0), self.exact], 2)

    def take(self, chosen: torch.Tensor, loaded: torch.Tensor) -> None:
        """Keep the entries ``chosen`` (rows, heads, kept), ascending.

        Heads may keep different numbers of the older ones. As many as every head keeps stay in the hands of
        the stores; what some heads keep beyond that is held as it reads back, among the newest.

        Args:
            loaded: what :meth:`load` gives.
        """
        old = 0
        if self.packed is not None and chosen.numel():
            old = int((chosen < self.packed.entries).sum(-1).min())
        self.packed = self.packed.take(chosen[..., :old]) if self.packed is not None and old else None
        self.exact = entries_at(loaded, chosen[..., old:])

    def settle(self, chain: Chain, hidden: torch.Tensor | None, back: Turn | None = None) -> None:
        """Give what has grown old to the stores.

        Args:
            hidden: (rows, heads, entries) bool, padding, which must not stretch anybody's scale.
            back: is done to what is given away.
        """
        if not chain.stores or self.exact is None:
            return
        window, stored = chain.window, 0 if self.packed is None else self.packed.entries
        older = int(self.exact.shape[2]) - window.exact
        leaving = older // window.step * window.step
        if leaving <= 0 or (self.packed is None and older < window.first):
            return
        x = self.exact[:, :, :leaving]
        if hidden is not None:
            x = _without_padding(x, hidden[:, :, stored : stored + leaving])
        x = x if back is None else back(x, stored)
        self.packed = chain.pack(x) if self.packed is None else self.packed.add(x)
        self.exact = self.exact[:, :, leaving:].clone(memory_format=torch.contiguous_format)

    def rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """Do ``change`` to the rows of everything."""
        self.exact = None if self.exact is None else change(self.exact)
        self.packed = None if self.packed is None else self.packed.rows(change)


def _without_padding(x: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    """``x`` with the entry before it, or the first that is none, in place of every padding."""
    places = torch.arange(x.shape[2], device=x.device).expand(hidden.shape)
    first = hidden.to(torch.uint8).argmin(-1, keepdim=True)
    before = torch.where(hidden, -1, places).cummax(-1).values
    return entries_at(x, torch.maximum(before, first))
