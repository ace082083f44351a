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
        codes: (layers, 2, kv_heads, head_dim, bytes) uint8 of keys and values, channel by channel.
        scale, zero: (layers, 2, kv_heads, head_dim) in the dtype of the model.
        bits: of each code: 2, 4 or 8.
    """

    number: int
    start_seconds: float
    stop_seconds: float
    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    offsets: torch.Tensor
    begin: tuple[int, ...]
    span: tuple[int, ...]
    cells: torch.Tensor
    novelty: float = 0.0
    bits: int = 4

    @classmethod
    def of(cls, block: Block, bits: int = 4) -> CodedBlock:
        """``block``, to the nearest code."""
        # (layers, 2, kv_heads, head_dim, tokens)
        channels = torch.stack([block.keys, block.values], 1).transpose(-1, -2)
        scale, zero = scale_and_zero(channels.amin(-1), channels.amax(-1), bits)
        return cls(
            block.number,
            block.start_seconds,
            block.stop_seconds,
            pack_bits(codes_of(channels, scale[..., None], zero[..., None], bits), bits),
            scale,
            zero,
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
        return self.codes, self.scale, self.zero, self.offsets, self.cells

    @property
    def nbytes(self) -> int:
        """Storage behind it."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys before rotation, and values, of one layer: (kv_heads, tokens, head_dim) each."""
        codes = unpack_bits(self.codes[layer], self.bits, self.tokens)
        whole = values_of(codes, self.scale[layer][..., None], self.zero[layer][..., None])
        keys, values = whole.transpose(-1, -2)
        return keys, values


def coded_bytes(shape: CacheShape, tokens: int, bits: int = 4) -> int:
    """Bytes of a coded block of so many tokens."""
    channels = 2 * shape.layers * shape.kv_heads * shape.head_dim
    packed = -(-tokens * bits // 8)
    return channels * (packed + 2 * shape.dtype.itemsize) + tokens * (4 * shape.axes + 4)
