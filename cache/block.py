"""What a stream remembers of one frame: its keys and values, or its visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch


@dataclass(frozen=True)
class CacheShape:
    """Keys and values of one model, equal in all its layers.

    Attributes:
        layers: of the language model.
        query_heads, kv_heads: of each layer.
        head_dim: channels of a head.
        axes: of positions, 1 or 3.
        dtype, device: in which the model computes.
    """

    layers: int
    query_heads: int
    kv_heads: int
    head_dim: int
    axes: int
    dtype: torch.dtype
    device: torch.device

    @property
    def token_bytes(self) -> int:
        """Key and value of one token in every layer."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class Block:
    """Keys and values of one frame of tokens, with the text that stands before it.

    Every tensor has storage of its own, so that dropping a block frees its bytes.

    Attributes:
        number: of the frame of tokens in the stream, from 0, ascending; -1 for the head of the prompt.
        start_seconds, stop_seconds: the time it stands for.
        keys: (layers, kv_heads, tokens, head_dim) before rotation.
        values: likewise.
        offsets: (axes, tokens) int32, position of each token, counted from :attr:`begin`.
        begin: (axes,) where it stood in the stream when it was written.
        span: (axes,) positions it takes, dropped tokens included.
        cells: (tokens,) int32, row * cols + col in the frame; -1 for text.
        novelty: how unlike the frames before it was, 0..1.
    """

    number: int
    start_seconds: float
    stop_seconds: float
    keys: torch.Tensor
    values: torch.Tensor
    offsets: torch.Tensor
    begin: tuple[int, ...]
    span: tuple[int, ...]
    cells: torch.Tensor
    novelty: float = 0.0

    @property
    def tokens(self) -> int:
        """Of each layer and head."""
        return int(self.keys.shape[2])

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Everything it holds."""
        return self.keys, self.values, self.offsets, self.cells

    @property
    def nbytes(self) -> int:
        """Storage behind it."""
        return sum(tensor.untyped_storage().nbytes() for tensor in self.tensors)

    def read(self, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys before rotation, and values, of one layer: (kv_heads, tokens, head_dim) each."""
        return self.keys[layer], self.values[layer]

    def take(self, index: torch.Tensor) -> Block:
        """The block with the tokens ``index`` (kept,) alone, in storage of their own."""
        return replace(
            self,
            keys=self.keys.index_select(2, index),
            values=self.values.index_select(2, index),
            offsets=self.offsets.index_select(1, index),
            cells=self.cells.index_select(0, index),
        )


def block_bytes(shape: CacheShape, tokens: int) -> int:
    """Bytes of a block of so many tokens."""
    return tokens * (shape.token_bytes + 4 * shape.axes + 4)


@dataclass(frozen=True, eq=False)
class FeatureBlock:
    """Visual tokens of one frame before the language model, for memories that it reads anew.

    Attributes:
        number, start_seconds, stop_seconds, novelty: as of a :class:`Block`.
        features: (tokens, channels).
        cells: (tokens,) int32, row * cols + col in the frame, ascending.
        carried: (tokens, channels') what else the language model gets for each token.
        sizes: (tokens,) float32, tokens that each stands for; None = one.
    """

    number: int
    start_seconds: float
    stop_seconds: float
    features: torch.Tensor
    cells: torch.Tensor
    carried: torch.Tensor | None = None
    sizes: torch.Tensor | None = None
    novelty: float = 0.0

    @property
    def tokens(self) -> int:
        """Visual tokens."""
        return len(self.features)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """Everything it holds."""
        there = (self.features, self.cells, self.carried, self.sizes)
        return tuple(tensor for tensor in there if tensor is not None)

    @property
    def nbytes(self) -> int:
        """Storage behind it."""
        return storage_bytes(self.tensors)


def storage_bytes(tensors: Sequence[torch.Tensor]) -> int:
    """Bytes behind ``tensors``, each storage once."""
    found = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(found.values())
