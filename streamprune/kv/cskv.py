"""CSKV: fewer channels, along the directions in which the keys or values of a layer vary most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import whole_tokens
from streamprune.checks import check_share
from streamprune.kv.store import Change, Kind, Packed, Place, Rest, Store, Window, computed, used_only
from streamprune.ops.selection import entries_at


@dataclass(frozen=True, kw_only=True)
class CSKV(Store):
    """Hold all heads of a layer together as fewer channels, and multiply them out when they are read.

    Args:
        density: share of the channels that STAYS, in (0, 1]; 1 stores entries as they came.
        key_density, value_density: the same for keys or values alone; None = ``density``.
        exact_last: entries are stored so many at a time, so fewer than so many newest stay as they came.

    Source: arXiv 2409.10593, without its training: int(density * dim) directions for each head, all heads in
        one factorisation, keys before rotation, whole windows at a time, as released. The release starts from
        the singular vectors of the weights and fits them to calibration data; here they are those of the
        entries themselves, around their mean, found once, when the first ones are stored, and held with them.
        So nothing is stored before there are as many entries as all heads have channels: until then the
        directions would take more room than they save. Heads share what is held of a token; it is dropped
        when no head keeps it any more.
    """

    density: float = 0.5
    key_density: float | None = None
    value_density: float | None = None
    exact_last: int = 32
    unrotated: bool = True

    level: ClassVar[int] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("density", "key_density", "value_density"):
            value = getattr(self, name)
            if value is not None:
                check_share(name, value)

    def _share(self, kind: Kind) -> float:
        own = self.key_density if kind == "keys" else self.value_density
        return self.density if own is None else own

    def acts(self, kind: Kind) -> bool:
        """Whether any channel is left out."""
        return self._share(kind) < 1

    def window(self, place: Place) -> Window:
        """Whole windows, once there are enough entries to find directions from."""
        return Window(0, max(1, self.exact_last), place.heads * place.dim)

    def pack(self, x: torch.Tensor, place: Place, rest: Rest) -> SharedChannels:
        """Directions, and how far every entry goes along each."""
        rank = place.heads * max(1, whole_tokens(self._share(place.kind) * place.dim, rounding="truncate"))
        joined = joined_heads(x)
        mean, directions = main_directions(joined, rank)
        small = rest(along(joined, mean, directions))
        return SharedChannels(mean, directions, small, None, place.heads)


def joined_heads(x: torch.Tensor) -> torch.Tensor:
    """(rows, entries, heads * dim) of (rows, heads, entries, dim)."""
    return x.transpose(1, 2).flatten(2)


def main_directions(joined: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(rows, 1, width) mean of (rows, entries, width), and (rows, width, rank) singular vectors around it."""
    wide = joined.double()
    mean = wide.mean(1, keepdim=True)
    spread = (wide - mean).transpose(1, 2) @ (wide - mean)
    vectors = torch.linalg.eigh(spread).eigenvectors
    return mean.to(joined.dtype), vectors[..., -rank:].to(joined.dtype)


def along(joined: torch.Tensor, mean: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """(rows, 1, entries, rank): (rows, entries, width) along the directions."""
    small = (computed(joined) - computed(mean)) @ computed(directions)
    return small.to(joined.dtype)[:, None]


@dataclass(frozen=True, eq=False)
class SharedChannels(Packed):
    """Entries along directions that all heads share.

    Attributes:
        mean: (b, 1, heads * dim).
        directions: (b, heads * dim, rank).
        small: (b, 1, tokens, rank).
        member: (b, heads, n) int32, the token of every entry; None while every head has all of them.
        heads: how many.
    """

    mean: torch.Tensor
    directions: torch.Tensor
    small: Packed
    member: torch.Tensor | None
    heads: int

    @property
    def entries(self) -> int:
        """Entries of each head."""
        return self.small.entries if self.member is None else int(self.member.shape[2])

    def _members(self) -> torch.Tensor:
        if self.member is not None:
            return self.member.long()
        return torch.arange(self.small.entries, device=self.mean.device).expand(
            len(self.mean), self.heads, -1
        )

    def load(self) -> torch.Tensor:
        """(b, heads, n, dim)."""
        small = computed(self.small.load()[:, 0])
        joined = small @ computed(self.directions).transpose(1, 2) + computed(self.mean)
        x = joined.to(self.mean.dtype).reshape(*small.shape[:2], self.heads, -1).transpose(1, 2)
        return x if self.member is None else entries_at(x, self._members())

    def add(self, x: torch.Tensor) -> SharedChannels:
        """Along the directions that were found first."""
        more = along(joined_heads(x), self.mean, self.directions)
        member = None
        if self.member is not None:
            fresh = torch.arange(x.shape[2], device=x.device) + self.small.entries
            member = torch.cat([self.member, fresh.int().expand(*x.shape[:2], -1)], 2)
        return SharedChannels(self.mean, self.directions, self.small.add(more), member, self.heads)

    def take(self, chosen: torch.Tensor) -> SharedChannels:
        """The tokens that any head keeps."""
        pointers = self._members().gather(2, chosen)
        tokens, among = used_only(pointers.flatten(1)[:, None], self.small.entries)
        member = among.reshape(chosen.shape)
        all_alike = tokens.shape[2] == chosen.shape[2]
        return SharedChannels(
            self.mean,
            self.directions,
            self.small.take(tokens),
            None if all_alike else member.int(),
            self.heads,
        )

    def rows(self, change: Change) -> SharedChannels:
        """Each tensor's rows."""
        member = None if self.member is None else change(self.member)
        mean, directions = change(self.mean), change(self.directions)
        return SharedChannels(mean, directions, self.small.rows(change), member, self.heads)

    def tensors(self) -> list[torch.Tensor]:
        """The directions and their mean, what lies along them, and whose it is where that has to be said."""
        own = [self.mean, self.directions, *self.small.tensors()]
        return own if self.member is None else [*own, self.member]
