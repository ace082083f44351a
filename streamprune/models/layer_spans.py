"""When the layers of a model begin and end: what is inside them, and what is around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import torch

from streamprune.models.base import VideoFamily

Mark = TypeVar("Mark")


class LayerSpans(Generic[Mark]):
    """Marks at the first layer's beginning and the last one's end, of every call.

    Args:
        layers: called one after the other.
        mark: tells the moment.
    """

    def __init__(self, layers: torch.nn.ModuleList, mark: Callable[[], Mark]) -> None:
        self._layers, self._mark = layers, mark
        self._begun: Mark | None = None
        self.spans: list[tuple[Mark, Mark]] = []

    @contextmanager
    def watch(self) -> Iterator[list[tuple[Mark, Mark]]]:
        """Yield the list to which every call inside the block adds its span."""
        self.spans = []
        first = self._layers[0].register_forward_pre_hook(self._begin)
        last = self._layers[len(self._layers) - 1].register_forward_hook(self._end)
        try:
            yield self.spans
        finally:
            first.remove()
            last.remove()

    def _begin(self, *_: Any) -> None:
        self._begun = self._mark()

    def _end(self, *_: Any) -> None:
        if self._begun is not None:
            self.spans.append((self._begun, self._mark()))
            self._begun = None


def decoder_layers(family: VideoFamily) -> torch.nn.ModuleList:
    """Of the language model."""
    layers: torch.nn.ModuleList = family.model.get_decoder().layers
    return layers


def tower_layers(family: VideoFamily) -> torch.nn.ModuleList:
    """Of the vision tower: its longest list of modules, whatever it is called."""
    tower = family.model.get_encoder("video")
    lists = [part for part in tower.modules() if isinstance(part, torch.nn.ModuleList)]
    return max(lists, key=len)
