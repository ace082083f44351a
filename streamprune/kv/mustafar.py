"""Mustafar: of every key and value only the large elements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import whole_tokens
from streamprune.checks import check_number
from streamprune.kv.store import Codec, EntryWise, Kind, Place, Rest, Store
from streamprune.ops.bits import pack_bits, unpack_bits
from streamprune.ops.selection import highest, marked


@dataclass(frozen=True, kw_only=True)
class Mustafar(Store):
    """Drop the elements of smallest magnitude from every key and every value, each token and head for itself.

    A bit for every channel says which elements are held, one after the other; the rest reads back as zero.

    Args:
        sparsity: share of the elements that is DROPPED, in [0, 1); 0 stores entries as they came.
        key_sparsity, value_sparsity: the same for keys or values alone; None = ``sparsity``.

    Source: arXiv 2505.22913, magnitude per token for keys and values, with the sparsity and the window of the
        released evaluation. As released, the element at the threshold stays: of d channels
        d - max(1, int(sparsity * d)) + 1 are held. Of equal elements at the threshold the first channels are,
        so that all tokens hold as many (the release holds them all). Bits lie along the channels of a token,
        not in tiles along tokens, so that a token can be evicted.
    """

    sparsity: float = 0.5
    key_sparsity: float | None = None
    value_sparsity: float | None = None
    exact_last: int = 32

    level: ClassVar[int] = 30

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sparsity", "key_sparsity", "value_sparsity"):
            value = getattr(self, name)
            if value is not None:
                check_number(name, value, 0, 1 - 1e-9)

    def _share(self, kind: Kind) -> float:
        own = self.key_sparsity if kind == "keys" else self.value_sparsity
        return self.sparsity if own is None else own

    def acts(self, kind: Kind) -> bool:
        """Whether any element is dropped."""
        return self._share(kind) > 0

    def pack(self, x: torch.Tensor, place: Place, rest: Rest) -> EntryWise:
        """The large elements, and where they were."""
        return EntryWise.of(LargeElements(x.shape[-1], self._share(place.kind)), x, rest)


@dataclass(frozen=True)
class LargeElements(Codec):
    """The elements of largest magnitude of every entry.

    Args:
        dim: channels.
        sparsity: share that is dropped.
    """

    dim: int
    sparsity: float

    @property
    def kept(self) -> int:
        """Elements held of each entry."""
        return self.dim - max(1, whole_tokens(self.sparsity * self.dim, rounding="truncate")) + 1

    def shrink(self, x: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """(b, h, n, bytes) uint8 "where", and (b, h, n, kept) elements in the order of their channels."""
        mask = marked(highest(x.abs(), self.kept), self.dim)
        return {"where": pack_bits(mask, 1)}, x[mask].reshape(*x.shape[:-1], self.kept)

    def grow(self, held: dict[str, torch.Tensor], rest: torch.Tensor | None) -> torch.Tensor:
        """(b, h, n, dim) with zeros where nothing is held."""
        assert rest is not None  # the elements
        mask = unpack_bits(held["where"], 1, self.dim).bool()
        return rest.new_zeros(mask.shape).masked_scatter_(mask, rest)
