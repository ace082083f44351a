"""What has to be known about a key-value cache beside what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from streamprune.errors import InvalidTypeError


@dataclass(eq=False)
class CacheMemory:
    """What has to be known about a cache between two calls.

    Attributes:
        shorter: numbers of the cuts above which layers hold other entries than what was seen; -1 = the layers
            below the first cut.
        valid: of those, (batch, entries) bool: which are not padding; None = all.
        heads: by cut, (batch, key heads) bool: which count above it; none where all do.
    """

    shorter: set[int] = field(default_factory=set)
    valid: dict[int, torch.Tensor | None] = field(default_factory=dict)
    heads: dict[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, cache: Any, cuts: tuple[int, ...], number: int, rows: int) -> CacheMemory:
        """A ``cache`` not met before, which layer ``number`` is about to use for ``rows`` new rows."""
        check_cache(cache)
        # layers below have taken the new rows in already
        seen = cache.get_seq_length() - (rows if number else 0)
        if number == 0 and 0 < entries_held(cache, 0, rows) < seen:
            return cls(set(range(-1, len(cuts))))
        shorter = [cut for cut, first in enumerate(cuts) if 0 < entries_held(cache, first, rows) < seen]
        # above those, layers may hold more again
        return cls(set(range(shorter[0], len(cuts))) if shorter else set())


def entries_held(cache: Any, number: int, rows: int) -> int:
    """Entries that layer ``number`` of ``cache`` holds before ``rows`` new ones come."""
    if number >= len(cache.layers):
        return 0
    return int(cache.get_mask_sizes(rows, number)[0]) - rows


def check_cache(cache: Any) -> None:
    """Raise InvalidTypeError unless every layer of ``cache`` can grow by itself."""
    from transformers.cache_utils import DynamicLayer

    layers = getattr(cache, "layers", None)
    if layers is None or not all(isinstance(layer, DynamicLayer) for layer in layers):
        raise InvalidTypeError(
            "where tokens are dropped inside the model its cache must grow layer by layer, as DynamicCache "
            f"does, got {type(cache).__name__}; leave out cache_implementation and past_key_values"
        )
