"""What a store is: a way to hold the older keys and values of a layer in less room.

A store and a policy do not know each other. The policy decides from keys and values as they read back; what
stays of them is what the store goes on holding. Stores form a chain: what one leaves dense, fewer channels or
fewer elements, the next one makes smaller still, whole channels first and bits last, in whatever order they
are named.

What some heads or rows of a batch drop and others keep is dealt with together, so that all hold as many
entries: the oldest of those that only some keep may be held as they read back, until they are stored again.
In a padded batch groups of tokens begin elsewhere than in a row alone. A budget in bytes counts entries as
they came, of which stores make less.

To add one: a file in this folder with a frozen keyword-only dataclass, and a line with ``stacks=True`` in
``streamprune/catalog/kv.py``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch

from streamprune.checks import check_count, check_flag
from streamprune.errors import InvalidValueError
from streamprune.ops.selection import entries_at

Kind = Literal["keys", "values"]
Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Place:
    """Whose entries are stored.

    Attributes:
        kind: "keys" or "values".
        layer, depth: number of the layer, from 0, among the ``depth`` layers that are reduced.
        heads, dim: key-value heads, and channels of each.
    """

    kind: Kind
    layer: int
    depth: int
    heads: int
    dim: int


@dataclass(frozen=True)
class Window:
    """Which entries stay as they came.

    Attributes:
        exact: so many of the newest, at least.
        step: older ones are stored so many at a time.
        first: nothing is stored before so many older ones are there.
    """

    exact: int = 0
    step: int = 1
    first: int = 1


class Packed(ABC):
    """Entries of one kind in less room: (rows, heads, entries, dim) when they are read back.

    Nothing changes in place; every change returns another one.
    """

    @property
    @abstractmethod
    def entries(self) -> int:
        """Entries of each head."""

    @abstractmethod
    def load(self) -> torch.Tensor:
        """(rows, heads, entries, dim) in the dtype that was stored."""

    @abstractmethod
    def add(self, x: torch.Tensor) -> Packed:
        """These entries and after them (rows, heads, more, dim) ``x``."""

    @abstractmethod
    def take(self, chosen: torch.Tensor) -> Packed:
        """The entries ``chosen`` (rows, heads, kept) int64, ascending; they read back as before.

        A store whose entries share something may make it anew for those that stay, at its usual loss, when it
        would take more room than it saves.
        """

    @abstractmethod
    def rows(self, change: Change) -> Packed:
        """What ``change`` makes of the first axis of every tensor."""

    @abstractmethod
    def tensors(self) -> list[torch.Tensor]:
        """Everything that is held."""


Rest = Callable[[torch.Tensor], Packed]


@dataclass(frozen=True, eq=False)
class Plain(Packed):
    """Entries as they are."""

    x: torch.Tensor

    @property
    def entries(self) -> int:
        """Entries of each head."""
        return int(self.x.shape[2])

    def load(self) -> torch.Tensor:
        """The tensor itself."""
        return self.x

    def add(self, x: torch.Tensor) -> Plain:
        """One after the other."""
        return Plain(torch.cat([self.x, x], 2))

    def take(self, chosen: torch.Tensor) -> Plain:
        """A copy of the chosen ones."""
        return Plain(entries_at(self.x, chosen))

    def rows(self, change: Change) -> Plain:
        """The changed tensor."""
        return Plain(change(self.x))

    def tensors(self) -> list[torch.Tensor]:
        """The one tensor."""
        return [self.x]


class Codec(ABC):
    """Makes entries smaller one by one, so that each can be dropped without touching the others."""

    @abstractmethod
    def shrink(self, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """What is held of ``x`` (rows, heads, entries, ...), and what is left for the next store.

        The third axis of every tensor counts entries.
        """

    @abstractmethod
    def grow(self, held: dict[str, torch.Tensor], rest: torch.Tensor | None) -> torch.Tensor:
        """(rows, heads, entries, dim) from what :meth:`shrink` made."""


@dataclass(frozen=True, eq=False)
class EntryWise(Packed):
    """Entries in the hands of a codec, and what it leaves in the hands of the next store."""

    codec: Codec
    held: dict[str, torch.Tensor]
    rest: Packed | None

    @classmethod
    def of(cls, codec: Codec, x: torch.Tensor, rest: Rest) -> EntryWise:
        """``x`` (rows, heads, entries, dim) as ``codec`` shrinks it."""
        held, left = codec.shrink(x)
        return cls(codec, held, None if left is None else rest(left))

    @property
    def entries(self) -> int:
        """Entries of each head."""
        return int(next(iter(self.held.values())).shape[2])

    def load(self) -> torch.Tensor:
        """All entries as the codec reads them back."""
        return self.codec.grow(self.held, None if self.rest is None else self.rest.load())

    def add(self, x: torch.Tensor) -> EntryWise:
        """Each tensor grows at its end."""
        held, left = self.codec.shrink(x)
        both = {name: torch.cat([value, held[name]], 2) for name, value in self.held.items()}
        rest = self.rest if self.rest is None or left is None else self.rest.add(left)
        return EntryWise(self.codec, both, rest)

    def take(self, chosen: torch.Tensor) -> EntryWise:
        """Each tensor's chosen entries."""
        held = {name: entries_at(value, chosen) for name, value in self.held.items()}
        return EntryWise(self.codec, held, None if self.rest is None else self.rest.take(chosen))

    def rows(self, change: Change) -> EntryWise:
        """Each tensor's rows."""
        held = {name: change(value) for name, value in self.held.items()}
        return EntryWise(self.codec, held, None if self.rest is None else self.rest.rows(change))

    def tensors(self) -> list[torch.Tensor]:
        """The codec's own, and those of what it left."""
        return [*self.held.values(), *([] if self.rest is None else self.rest.tensors())]


@dataclass(frozen=True, kw_only=True)
class Store(ABC):
    """Holds older entries of a cache in less room, at some loss; the newest ones stay as they came.

    Args:
        exact_last: so many of the newest entries stay as they came, at least.
        unrotated: keys are stored as they were before rotary positions turned them, and turned again when
            they are read; needs to be told the positions (``cache.watch``).

    Class attributes:
        level: its place in a chain; stores of whole channels come before those of elements and of bits.
        stacks: it stands beside a policy, or other stores, in one stage of a recipe.
    """

    exact_last: int = 0
    unrotated: bool = False

    level: ClassVar[int] = 0
    stacks: ClassVar[bool] = True
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("exact_last", self.exact_last, least=0)
        check_flag("unrotated", self.unrotated)

    @abstractmethod
    def acts(self, kind: Kind) -> bool:
        """Whether its options leave it anything to do with keys, or with values."""

    def window(self, place: Place) -> Window:
        """Which entries stay as they came."""
        return Window(self.exact_last)

    @abstractmethod
    def pack(self, x: torch.Tensor, place: Place, rest: Rest) -> Packed:
        """``x`` (rows, heads, entries, dim) in less room.

        Args:
            rest: gives what is left dense to the next store of the chain.
        """


@dataclass(frozen=True)
class Chain:
    """Stores one after the other, for the keys or the values of one layer.

    Attributes:
        place: whose they are.
        stores: those that do anything there, in the order in which they act.
        window: what stays as it came: all that any of them leaves.
    """

    place: Place
    given: Sequence[Store]
    stores: tuple[Store, ...] = field(init=False)
    window: Window = field(init=False)

    def __post_init__(self) -> None:
        acting = sorted((one for one in self.given if one.acts(self.place.kind)), key=lambda one: one.level)
        windows = [one.window(self.place) for one in acting]
        exact = max((one.exact for one in windows), default=0)
        step, first = math.lcm(*(one.step for one in windows)), max((one.first for one in windows), default=1)
        object.__setattr__(self, "stores", tuple(acting))
        object.__setattr__(self, "window", Window(exact, step, first))

    def pack(self, x: torch.Tensor) -> Packed:
        """``x`` in the hands of all of them."""
        return self._from(0, x)

    def _from(self, number: int, x: torch.Tensor) -> Packed:
        if number == len(self.stores):
            return Plain(x)
        return self.stores[number].pack(x, self.place, lambda left: self._from(number + 1, left))


def check_chain(stores: Sequence[Store]) -> None:
    """Refuse two stores of one kind."""
    names = [type(one).__name__ for one in stores]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InvalidValueError(f"a cache takes each store once, got {' and '.join(twice)} more than once")


def used_only(pointers: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Which of ``count`` things are pointed at, and the pointers among those alone.

    Args:
        pointers: (..., n) int64 in [0, count).

    Returns (..., used) int64 ascending numbers of things, in places with fewer than the most followed by some
    that nobody points at, and (..., n) int64.
    """
    used = torch.zeros(*pointers.shape[:-1], count, dtype=torch.bool, device=pointers.device)
    used.scatter_(-1, pointers, True)
    most = int(used.sum(-1).max())
    things = torch.sort((~used).to(torch.uint8), dim=-1, stable=True).indices[..., :most]
    return things, (used.cumsum(-1) - 1).gather(-1, pointers)


def computed(x: torch.Tensor) -> torch.Tensor:
    """``x`` in the dtype in which stores compute: float32, or float64 as it is."""
    return x if x.dtype == torch.float64 else x.float()
