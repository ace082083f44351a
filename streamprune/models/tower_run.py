"""One frame on its way through the layers of a tower that remembers the frames before."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from streamprune.cache.tower_cache import TowerCache, TowerRows
from streamprune.encoder.stc import STCCacher, key_similarity
from streamprune.models.tower_rows import Around, Caught, TowerLayer

# what is remembered of each layer
_NAMES = {"keys": ("keys", "values", "attended", "fed"), "pixels": ("keys", "values", "states")}


def remembered(
    method: STCCacher, layers: int, tokens: int, width: int, picture: tuple[int, int]
) -> TowerRows:
    """What ``method`` needs to remember of a tower with so many layers, and of the picture."""
    return TowerRows(_NAMES[method.choose], layers, tokens, width, picture)


class TowerRun:
    """Stands in for the layers while one frame goes through the stock tower.

    Args:
        layers: of the tower.
        method: decides what is recomputed.
        cache: what is remembered; written to.
        picture: (patches, values) of the picture to be remembered, (0, 0) = none.
        changed: (tokens,) int64 ascending, the tokens to recompute in every layer; None = a reference, or
            whatever the method chooses by keys.
        reference: whether the frame is to be computed in full and remembered.

    Attributes:
        updated: for each layer the tokens it recomputed, ascending; None = all.
    """

    def __init__(
        self,
        layers: Sequence[TowerLayer],
        method: STCCacher,
        cache: TowerCache,
        picture: tuple[int, int],
        changed: torch.Tensor | None,
        reference: bool,
    ) -> None:
        self._layers, self._method, self._cache = layers, method, cache
        self._picture, self._changed = picture, changed
        self.reference = reference
        self.updated: list[torch.Tensor | None] = []

    @contextmanager
    def standing_in(self) -> Iterator[None]:
        """Let the layers of the tower run as decided; leaves the tower as it was."""
        before = [layer.module.__dict__.get("forward") for layer in self._layers]
        for number, layer in enumerate(self._layers):
            layer.module.forward = partial(self._through, number, layer.module.forward)
        try:
            yield
        finally:
            for layer, forward in zip(self._layers, before, strict=True):
                if forward is None:
                    del layer.module.forward
                else:
                    layer.module.forward = forward

    def _through(self, number: int, whole: Any, *given: Any, **named: Any) -> torch.Tensor:
        states: torch.Tensor = given[0] if given else named["hidden_states"]
        rows = states.flatten(0, -2)
        around, layer = Around.read(named, len(rows)), self._layers[number]
        if not self.reference:
            if self._changed is not None:
                left = self._recompute(layer, number, rows, around, self._changed)
                return left.view(states.shape)
            left_over = self._by_keys(layer, number, rows, around)
            if left_over is not None:
                return left_over.view(states.shape)
            self.reference = True
        if number == 0:
            sizes = (len(self._layers), len(rows), rows.shape[1], self._picture)
            self._cache.allocate(remembered(self._method, *sizes), rows)
        with layer.caught(halves=self._method.choose == "keys") as caught:
            out: torch.Tensor = whole(*given, **named)
        self._remember(number, caught, out, around)
        self.updated.append(None)
        return out

    def _remember(self, number: int, caught: Caught, out: torch.Tensor, around: Around) -> None:
        keys, values, *more = self._cache.layer(number)
        keys.copy_(caught.keys(around))
        values.copy_(caught.values())
        if self._method.choose == "pixels":
            more[0].copy_(out.flatten(0, -2))
        else:
            more[0].copy_(caught.attended())
            more[1].copy_(caught.fed())

    def _recompute(
        self, layer: TowerLayer, number: int, rows: torch.Tensor, around: Around, index: torch.Tensor
    ) -> torch.Tensor:
        """All rows of the layer's output, of which those at ``index`` are new; remembers them in place."""
        keys, values, states = self._cache.layer(number)
        self.updated.append(index)
        if not len(index):
            return states
        some = rows[index]
        normed = layer.normed(some)
        keys.index_copy_(0, index, layer.keys(normed, around, index))
        values.index_copy_(0, index, layer.values(normed))
        some += layer.attended(layer.queries(normed, around, index), keys, values, around, index)
        some += layer.fed(some)
        return states.index_copy_(0, index, some)

    def _by_keys(
        self, layer: TowerLayer, number: int, rows: torch.Tensor, around: Around
    ) -> torch.Tensor | None:
        """The same with the tokens whose keys changed most; None = the frame is to be a reference."""
        old_keys, old_values, old_attended, old_fed = self._cache.layer(number)
        normed = layer.normed(rows)
        keys = layer.keys(normed, around)
        similarity = key_similarity(keys, old_keys)
        if number == 0 and self._method.unlike(similarity):
            return None
        index = self._method.least_alike(similarity)
        self.updated.append(index)
        normed = normed[index]
        kept = old_values[index]
        try:
            # the reference stays what it was: its values are lent for this attention only
            old_values.index_copy_(0, index, layer.values(normed))
            queries = layer.queries(normed, around, index)
            attended = layer.attended(queries, keys, old_values, around, index)
        finally:
            old_values.index_copy_(0, index, kept)
        some = rows[index] + attended
        left = rows + old_attended
        left += old_fed
        return left.index_copy_(0, index, some + layer.fed(some))
