"""A block in few bits: every channel of a head as small integers between its extremes in the frame."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.cache.block import Block, CacheShape
from streamprune.kv.kivi import codes_of, scale_and_zero, values_of
from streamprune.ops.bits import pack_bits, unpack_bits


@dataclass(frozen=True, eq=False)
class CodedBlock:
    """What a block becomes; attributes not named here are those of a :class:`Block`.

    Attributes:
        key_codes, value_codes: (layers, kv_heads, head_dim, bytes) uint8, codes of one channel side by side.
        key_scale, key_zero, value_scale, value_zero: (layers, kv_heads, head_dim) in the dtype of the model.
        bits: of each code: 2, 4 or 8.
    """

    number: int
    start_seconds: float
    stop_seconds: float
    key_codes: torch.Tensor
    key_scale: torch.Tensor
    key_zero: torch.Tensor
    value_codes: torch.Tensor
    value_scale: torch.Tensor
    value_zero: torch.Tensor
    offsets: torch.Tensor
    begin: tuple[int, ...]
    span: tuple[int, ...]
    cells: torch.Tensor
    novelty: float = 0.0
    bits: int = 4

    @classmethod
    def of(cls, block: Block, bits: int = 4) -> CodedBlock:
        """``block``, to the nearest code."""
        return cls(
            block.number,
            block.start_seconds,
            block.stop_seconds,
            *_coded(block.keys, bits),
            *_coded(block.values, bits),
            block.offsets,
            block.begin,
            block.span,
            block.cells,
            block.novelty,
            bits,
        )

    @property
    def tokens(self) -> int:
        """Of each layer and head."""
        return len(self.cells)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Everything it holds."""
        keys = self.key_codes, self.key_scale, self.key_zero
        values = self.value_codes, self.value_scale, self.value_zero
        return *keys, *values, self.offsets, self.cells

    @property
    def nbytes(self) -> int:
        """Storage behind it."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys before rotation, and values, of one layer: (kv_heads, tokens, head_dim) each."""
        keys = self._decoded(self.key_codes[layer], self.key_scale[layer], self.key_zero[layer])
        return keys, self._decoded(self.value_codes[layer], self.value_scale[layer], self.value_zero[layer])

    def _decoded(self, codes: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
        whole = unpack_bits(codes, self.bits, self.tokens)
        return values_of(whole, scale[..., None], zero[..., None]).transpose(-1, -2)


def coded_bytes(shape: CacheShape, tokens: int, bits: int = 4) -> int:
    """Bytes of a coded block of so many tokens."""
    channels = 2 * shape.layers * shape.kv_heads * shape.head_dim
    packed = -(-tokens * bits // 8)
    return channels * (packed + 2 * shape.dtype.itemsize) + tokens * (4 * shape.axes + 4)


def _coded(x: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales and zeros of ``x`` (layers, kv_heads, tokens, head_dim)."""
    channels = x.transpose(-1, -2)
    scale, zero = scale_and_zero(channels.amin(-1), channels.amax(-1), bits)
    return pack_bits(codes_of(channels, scale[..., None], zero[..., None], bits), bits), scale, zero
