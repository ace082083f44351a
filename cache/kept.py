"""A key-value cache for stock transformers models that holds fewer entries than it has seen.

    cache = KeptCache.of(model, StreamingLLM(keep_tokens=1024))
    with cache.watch(model):
        model.generate(**inputs, past_key_values=cache)

Beside the policy, or in its place, there can be stores, which hold what stays in less room:

    cache = KeptCache.of(model, SnapKV(keep_ratio=0.2), Kivi(bits=4))

It reports the tokens SEEN as its length and the entries HELD through the sizes of masks, so that generation,
further turns, prompts in chunks and beams go on as with the stock cache, at the positions they would have
had.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from streamprune.cache.kept_layer import KeptLayer
from streamprune.cache.rotation import Rotation
from streamprune.cache.watch import watch
from streamprune.errors import UnsupportedModelError
from streamprune.kv.base import CachePositions, Policy, check_cache_positions
from streamprune.kv.method import CacheMethod
from streamprune.kv.store import Store
from streamprune.kv.view import TokenLabels


@dataclass(frozen=True)
class LayerReport:
    """What one layer holds.

    Attributes:
        layer: its number, from 0.
        seen: tokens so far.
        held: entries of each head.
        looked_at: entries that the tokens of the last answer have attended to, added up.
        bytes: storage of its keys, values and all that is kept about entries.
    """

    layer: int
    seen: int
    held: int
    looked_at: int
    bytes: int


class KeptCache(Cache):  # type: ignore[misc]
    """A stock cache whose full-attention layers are reduced; other layers stay as they are.

    Padded batches, layers of different lengths, policies that read queries, and stores of unrotated keys need
    ``with cache.watch(model):`` around every call of the model.

    Args:
        config: the model's configuration.
        method: which entries stay, and how they are held.
        labels: what is known about the tokens to come; later ones are not labelled.
        positions: in place of the policy's ``cache_positions``; where they are "compact" every call of the
            model has to be watched.

    Raises UnsupportedModelError when no layer of the model can be reduced.
    """

    def __init__(
        self,
        config: Any,
        method: CacheMethod,
        *,
        labels: TokenLabels | None = None,
        positions: CachePositions | None = None,
    ) -> None:
        policy = method.policy
        positions = policy.cache_positions if positions is None else positions
        check_cache_positions(positions, policy)
        self.policy, self.stores = policy, method.stores
        self.unrotated = any(store.unrotated and store.acts("keys") for store in method.stores)
        self.rotation: Rotation | None = None
        self.labels = labels
        self.compact = positions == "compact"
        layers: list[Any] = list(DynamicCache(config=config).layers)
        reduced = [place for place, layer in enumerate(layers) if type(layer) is DynamicLayer]
        if not reduced:
            raise UnsupportedModelError(
                "no layer of this model attends to all earlier tokens, so there is nothing to reduce"
            )
        self.depth = len(reduced)
        for number, place in enumerate(reduced):
            layers[place] = KeptLayer(self, number)
        super().__init__(layers=layers)

    @classmethod
    def of(
        cls,
        model: Any,
        *parts: Policy | Store | CacheMethod,
        labels: TokenLabels | None = None,
        positions: CachePositions | None = None,
    ) -> KeptCache:
        """A cache for ``model``.

        Args:
            parts: a policy, stores, or both; without a policy every entry stays.
        """
        return cls(model.config, CacheMethod.of(*parts), labels=labels, positions=positions)

    def watch(self, model: Any) -> AbstractContextManager[None]:
        """While the block lasts, tell this cache about every call of ``model`` that is given it."""
        return watch(model, self)

    def kept_layers(self) -> Iterator[tuple[int, KeptLayer]]:
        """(place, layer) of the layers that are reduced."""
        for place, layer in enumerate(self.layers):
            if isinstance(layer, KeptLayer):
                yield place, layer

    def report(self) -> list[LayerReport]:
        """What each of the reduced layers has seen, holds, and takes."""
        return [
            LayerReport(
                place, layer.seen, layer.held, layer.looked_at, sum(_storage_bytes(x) for x in layer.tensors)
            )
            for place, layer in self.kept_layers()
        ]


def _storage_bytes(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().nbytes()
