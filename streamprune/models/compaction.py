"""Lets all layers of a cache forget what did not go all the way up."""

from __future__ import annotations

from typing import Any

import torch

from streamprune.models.cache_memory import CacheMemory, entries_held
from streamprune.models.layer_hooks import LayerCall
from streamprune.models.layer_masks import joined_validity
from streamprune.models.prompt_rows import Batch, PromptRows


def compact(cache: Any, cuts: tuple[int, ...], call: LayerCall, memory: CacheMemory) -> None:
    """After ``call``, keep of its rows in every layer what the last layer took.

    Raises:
        InvalidValueError: the cache is kept small in another way too.
    """
    last = call.batches[max(call.batches)]
    if last is None:
        return
    from streamprune.models.seen_layer import check_stock_layers, note_missing

    check_stock_layers(cache, "compact_below")
    length = last.index.shape[1]
    for number, layer in enumerate(cache.layers):
        there = call.batches[number]
        rows = call.validity.length if there is None else there.index.shape[1]
        if number == 0:
            note_missing(cache, rows - length)
            layer = cache.layers[0]
        cut = sum(number >= first for first in cuts) - 1
        if number == 0 or number in cuts:
            held = entries_held(cache, number, 0) - rows
            before = call.validity.held(cut, held, memory)
            memory.valid[cut] = joined_validity(before, held, last.valid, last.index)
            memory.shorter.add(cut)
        if there is not last:
            _keep(layer, rows, _places(there, last))


def _keep(layer: Any, rows: int, places: torch.Tensor) -> None:
    """Of the last ``rows`` entries keep those at ``places`` (batch, kept), in storage of their own."""
    index = places.to(layer.keys.device)[:, None, :, None]

    def kept(entries: torch.Tensor) -> torch.Tensor:
        first = entries.shape[2] - rows
        chosen = entries[:, :, first:].gather(2, index.expand(-1, entries.shape[1], -1, entries.shape[3]))
        return torch.cat([entries[:, :, :first], chosen], 2)

    layer.keys, layer.values = kept(layer.keys), kept(layer.values)


def _places(there: Batch | None, last: Batch) -> torch.Tensor:
    """(batch, rows of the last layer) where each stands in a layer that took the rows ``there``."""
    if there is None:
        return last.index
    places = torch.zeros_like(last.index)
    for number, prompt in enumerate(last.prompts):
        places[number, prompt.at] = _place(there.prompts[number], prompt)
    return places


def _place(there: PromptRows, prompt: PromptRows) -> torch.Tensor:
    return there.at[torch.searchsorted(there.rows, prompt.rows)]
