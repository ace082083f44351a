"""A cache layer that says how many tokens it has seen, though it holds fewer."""

from __future__ import annotations

from typing import Any

from transformers.cache_utils import DynamicLayer

from streamprune.errors import InvalidValueError


class SeenLayer(DynamicLayer):  # type: ignore[misc]
    """Stands where a whole cache is asked for its length: in the place of its first layer.

    Attributes:
        missing: tokens seen that have no entry.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missing = 0

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return int(super().get_seq_length()) + self.missing

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Entries held and new ones; the offset puts a new entry under its own query."""
        return super().get_seq_length() + query_length, self.missing

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.missing = 0


def check_stock_layers(cache: Any, what: str) -> None:
    """Raise InvalidValueError, naming ``what`` asks, where layers of ``cache`` choose what they hold."""
    for layer in cache.layers:
        if type(layer) is not DynamicLayer and not isinstance(layer, SeenLayer):
            raise InvalidValueError(
                f"{what} has to know every entry of the cache, and layers of the kind "
                f"{type(layer).__name__} drop some; leave out {what} or the kv stage"
            )


def note_missing(cache: Any, tokens: int) -> None:
    """Of the tokens that the first layer of ``cache`` has seen or is about to, so many more have no entry.

    A layer that counts by itself what it has seen counts what comes to it.
    """
    if not cache.layers:
        cache.layers.append(SeenLayer())
    layer = cache.layers[0]
    if type(layer) is DynamicLayer:
        cache.layers[0] = SeenLayer()
        if layer.is_initialized:
            cache.layers[0].lazy_initialization(layer.keys, layer.values)
            cache.layers[0].keys, cache.layers[0].values = layer.keys, layer.values
    if isinstance(cache.layers[0], SeenLayer):
        cache.layers[0].missing += tokens
