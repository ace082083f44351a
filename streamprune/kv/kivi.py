"""KIVI: few bits for every element, keys on the scale of their channel and values on that of their token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import pad

from streamprune.checks import check_count
from streamprune.errors import InvalidValueError
from streamprune.kv.store import (
    Change,
    Codec,
    EntryWise,
    Kind,
    Packed,
    Place,
    Rest,
    Store,
    Window,
    computed,
    used_only,
)
from streamprune.ops.bits import pack_bits, unpack_bits
from streamprune.ops.selection import entries_at

_BITS = (2, 4, 8, 16)


@dataclass(frozen=True, kw_only=True)
class Kivi(Store):
    """Hold keys and values as small integers between the least and the largest element of a group.

    Keys have channels that are large in every token: a group is a run of tokens of one channel. Values have
    none: a group is a run of channels of one token.

    Args:
        bits: of every element: 2, 4 or 8; 16 stores entries as they came.
        key_bits, value_bits: the same for keys or values alone; None = ``bits``.
        group: elements that share one scale and one zero, at least 1.
        exact_last: newest entries that stay as they came, 0 or a multiple of ``group``: of the values so
            many, of the keys fewer than so many, since they are stored so many at a time.

    Source: arXiv 2402.02750, with bits, group and residual length of the released LongBench runs; the authors
        advise 4 bits for grouped-query models. Scales and zeros have the dtype of the model; a group whose
        elements are all equal reads back exactly (0 / 0 in the release). Codes lie along the channels of a
        token, in bytes, so that a token can be evicted; its group keeps its scale while any of its tokens is
        left. When groups are less than half full on average, keys are grouped anew.
    """

    bits: int = 2
    key_bits: int | None = None
    value_bits: int | None = None
    group: int = 32
    exact_last: int = 128

    level: ClassVar[int] = 40

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("group", self.group)
        for name in ("bits", "key_bits", "value_bits"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or value not in _BITS):
                raise InvalidValueError(f"{name} must be 2, 4, 8 or 16, got {value!r}")
        if self.exact_last % self.group:
            raise InvalidValueError(
                f"exact_last must be a multiple of group={self.group}, or 0, got {self.exact_last}"
            )

    def _bits(self, kind: Kind) -> int:
        own = self.key_bits if kind == "keys" else self.value_bits
        return self.bits if own is None else own

    def acts(self, kind: Kind) -> bool:
        """Whether there are fewer than 16 bits."""
        return self._bits(kind) < 16

    def window(self, place: Place) -> Window:
        """Values slide through one by one; keys are stored as soon as there is a whole window of them."""
        if place.kind == "values":
            return Window(self.exact_last)
        step = self.exact_last or self.group
        return Window(0, step, step)

    def pack(self, x: torch.Tensor, place: Place, rest: Rest) -> Packed:
        """Codes, scales and zeros."""
        if place.kind == "values":
            return EntryWise.of(TokenCodes(self._bits(place.kind), x.shape[-1], self.group, x.dtype), x, rest)
        return ChannelCodes.of(x, self._bits(place.kind), self.group)


def scale_and_zero(
    least: torch.Tensor, largest: torch.Tensor, bits: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of groups with these extremes; both in their dtype, the scale 1 where all elements are equal."""
    scale = ((computed(largest) - computed(least)) / (2**bits - 1)).to(least.dtype)
    return torch.where(scale > 0, scale, 1), least


def codes_of(x: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 codes of ``x``, to the nearest."""
    steps = (computed(x) - computed(zero)) / computed(scale)
    return steps.round().clamp(0, 2**bits - 1).to(torch.uint8)


def values_of(codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """What codes stand for, in the dtype of the scale."""
    return (codes * computed(scale) + computed(zero)).to(scale.dtype)


@dataclass(frozen=True)
class TokenCodes(Codec):
    """Codes on a scale of their own for every ``group`` channels of a token."""

    bits: int
    dim: int
    group: int
    dtype: torch.dtype

    @property
    def _size(self) -> int:
        return min(self.group, self.dim)

    def shrink(self, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], None]:
        """(b, h, n, bytes) uint8 codes, (b, h, n, groups) scales and zeros."""
        missing = -self.dim % self._size
        # what is missing to a whole group repeats the last channel, which changes no extreme
        whole = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], missing)], -1)
        groups = whole.reshape(*x.shape[:-1], -1, self._size)
        scale, zero = scale_and_zero(groups.amin(-1), groups.amax(-1), self.bits)
        codes = codes_of(groups, scale[..., None], zero[..., None], self.bits).flatten(-2)
        return {"codes": pack_bits(codes[..., : self.dim], self.bits), "scale": scale, "zero": zero}, None

    def grow(self, held: dict[str, torch.Tensor], rest: torch.Tensor | None) -> torch.Tensor:
        """(b, h, n, dim)."""
        codes = unpack_bits(held["codes"], self.bits, self.dim)
        groups = pad(codes, (0, -self.dim % self._size)).reshape(*codes.shape[:-1], -1, self._size)
        grown = values_of(groups, held["scale"][..., None], held["zero"][..., None])
        return grown.flatten(-2)[..., : self.dim]


@dataclass(frozen=True, eq=False)
class ChannelCodes(Packed):
    """Codes on a scale of their own for every channel of a run of ``group`` tokens.

    Attributes:
        codes: (b, h, n, bytes) uint8.
        scale, zero: (b, h, groups, dim).
        member: (b, h, n) int32, the group of every entry; None while entry i is in group i // ``group``.
        bits, dim, group: as given.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    member: torch.Tensor | None
    bits: int
    dim: int
    group: int

    @classmethod
    def of(cls, x: torch.Tensor, bits: int, group: int) -> ChannelCodes:
        """``x`` (b, h, n, dim) in runs of ``group`` tokens, the last run may be shorter."""
        entries, dim = x.shape[2:]
        missing = -entries % group
        whole = torch.cat([x, x[:, :, -1:].expand(-1, -1, missing, -1)], 2)
        whole = whole.reshape(*x.shape[:2], -1, group, dim)
        scale, zero = scale_and_zero(whole.amin(3), whole.amax(3), bits)
        codes = codes_of(whole, scale[:, :, :, None], zero[:, :, :, None], bits).flatten(2, 3)[:, :, :entries]
        return cls(pack_bits(codes, bits), scale, zero, None, bits, dim, group)

    @property
    def entries(self) -> int:
        """Entries of each head."""
        return int(self.codes.shape[2])

    def _members(self) -> torch.Tensor:
        if self.member is not None:
            return self.member.long()
        places = torch.arange(self.entries, device=self.codes.device) // self.group
        return places.expand(self.codes.shape[:3])

    def load(self) -> torch.Tensor:
        """(b, h, n, dim)."""
        codes, members = unpack_bits(self.codes, self.bits, self.dim), self._members()
        return values_of(codes, entries_at(self.scale, members), entries_at(self.zero, members))

    def add(self, x: torch.Tensor) -> ChannelCodes:
        """New runs after the old ones."""
        more, groups = ChannelCodes.of(x, self.bits, self.group), self.scale.shape[2]
        regular = self.member is None and self.entries == groups * self.group
        member = None if regular else torch.cat([self._members(), more._members() + groups], 2).int()
        return ChannelCodes(
            torch.cat([self.codes, more.codes], 2),
            torch.cat([self.scale, more.scale], 2),
            torch.cat([self.zero, more.zero], 2),
            member,
            self.bits,
            self.dim,
            self.group,
        )

    def take(self, chosen: torch.Tensor) -> ChannelCodes:
        """The chosen codes, and the scales of their groups."""
        groups, member = used_only(self._members().gather(2, chosen), self.scale.shape[2])
        codes, scale, zero = (
            entries_at(self.codes, chosen),
            entries_at(self.scale, groups),
            entries_at(self.zero, groups),
        )
        some = ChannelCodes(codes, scale, zero, member.int(), self.bits, self.dim, self.group)
        if groups.shape[2] * self.group > 2 * chosen.shape[2] + self.group:
            return ChannelCodes.of(some.load(), self.bits, self.group)
        return some

    def rows(self, change: Change) -> ChannelCodes:
        """Each tensor's rows."""
        codes, scale, zero = change(self.codes), change(self.scale), change(self.zero)
        member = None if self.member is None else change(self.member)
        return ChannelCodes(codes, scale, zero, member, self.bits, self.dim, self.group)

    def tensors(self) -> list[torch.Tensor]:
        """Codes, scales, zeros, and the groups of entries where they have to be said."""
        return [self.codes, self.scale, self.zero, *([] if self.member is None else [self.member])]
