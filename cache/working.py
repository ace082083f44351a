"""A key-value cache of fixed size: filled with a context, grown in place by what the model reads next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.cache_utils import Cache, CacheLayerMixin

from streamprune.cache.block import CacheShape
from streamprune.cache.context import Context
from streamprune.cache.ledger import Ledger
from streamprune.errors import InvalidValueError


class _WorkingLayer(CacheLayerMixin):  # type: ignore[misc]
    """Keys and values of one layer, at the beginning of buffers that stay."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values
        self.dtype, self.device = keys.dtype, keys.device
        self.length = 0
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing: the buffers are there."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new entries behind the others; all of them, as views."""
        end = self.length + int(key_states.shape[-2])
        if end > self.keys.shape[-2]:
            raise InvalidValueError(f"capacity_tokens={self.keys.shape[-2]} are too few for {end} tokens")
        self.keys[:, :, self.length : end] = key_states
        self.values[:, :, self.length : end] = value_states
        self.length = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Entries after a call of so many tokens."""
        return self.length + query_length, 0

    def get_seq_length(self) -> int:
        """Entries."""
        return self.length

    def get_max_length(self) -> int:
        """Room for entries."""
        return int(self.keys.shape[-2])


class WorkingCache(Cache):  # type: ignore[misc]
    """One sequence of at most ``capacity_tokens``; close it, or use it in a ``with`` block.

    Raises MemoryBudgetError when the ledger has no room for it.
    """

    def __init__(self, shape: CacheShape, capacity_tokens: int, ledger: Ledger) -> None:
        self._ledger = ledger
        self._nbytes = working_bytes(shape, capacity_tokens)
        ledger.take("working", self._nbytes)
        size = (1, shape.kv_heads, capacity_tokens, shape.head_dim)
        super().__init__(
            layers=[
                _WorkingLayer(
                    torch.empty(size, dtype=shape.dtype, device=shape.device),
                    torch.empty(size, dtype=shape.dtype, device=shape.device),
                )
                for _ in range(shape.layers)
            ]
        )
        self.capacity_tokens = capacity_tokens

    def __enter__(self) -> WorkingCache:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def length(self) -> int:
        """Entries so far."""
        return self.layers[0].length if self.layers else 0

    def fill(self, context: Context) -> None:
        """Hold ``context`` in place of everything; ``capacity_tokens`` must be enough."""
        if context.tokens > self.capacity_tokens:
            raise InvalidValueError(
                f"capacity_tokens={self.capacity_tokens} are too few for a context of {context.tokens}"
            )
        for number, layer in enumerate(self.layers):
            layer.length = context.tokens
            some = slice(0, context.tokens)
            context.write(number, layer.keys[0, :, some], layer.values[0, :, some])

    def cut(self, length: int) -> None:
        """Forget all entries from ``length`` on."""
        for layer in self.layers:
            layer.length = min(layer.length, length)

    def entries(self, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Copies of rotated keys and values (layers, kv_heads, tokens, head_dim) from entry ``first`` on."""
        end = self.length
        keys = torch.stack([layer.keys[0, :, first:end] for layer in self.layers])
        values = torch.stack([layer.values[0, :, first:end] for layer in self.layers])
        return keys, values

    def tensors(self) -> Iterator[torch.Tensor]:
        """The buffers."""
        for layer in self.layers:
            yield layer.keys
            yield layer.values

    def close(self) -> None:
        """Free the buffers; may be called twice."""
        self.layers: list[Any] = []
        nbytes, self._nbytes = self._nbytes, 0
        self._ledger.give("working", nbytes)


def working_bytes(shape: CacheShape, capacity_tokens: int) -> int:
    """Bytes that a cache of so many tokens takes."""
    return capacity_tokens * shape.token_bytes
