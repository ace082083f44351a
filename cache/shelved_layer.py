"""A cache layer whose keys and values stand on shelves, where stores may hold the older ones."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers.cache_utils import DynamicLayer

from streamprune.cache.shelf import Shelf, Turn
from streamprune.kv.store import Kind


class ShelvedLayer(DynamicLayer):  # type: ignore[misc]
    """Holds entries, and gives its rows up, repeats and reorders them.

    Attributes:
        keys, values: (rows, heads, held, dim), read back anew each time where stores hold them.
    """

    def __init__(self) -> None:
        self._shelves: dict[Kind, Shelf] = {"keys": Shelf(), "values": Shelf()}
        super().__init__()

    @property
    def keys(self) -> torch.Tensor:
        """All keys, rotated; not to be changed in place."""
        return self._shelves["keys"].load(self._turn())

    @keys.setter
    def keys(self, keys: torch.Tensor | None) -> None:
        self._shelves["keys"].put(keys)

    @property
    def values(self) -> torch.Tensor:
        """All values; not to be changed in place."""
        return self._shelves["values"].load()

    @values.setter
    def values(self, values: torch.Tensor | None) -> None:
        self._shelves["values"].put(values)

    @property
    def held(self) -> int:
        """Entries of each head."""
        return self._shelves["keys"].entries

    def _turn(self) -> Turn | None:
        """What is done to keys that stores give back."""
        return None

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Give every row the entries of row ``beam_idx``."""
        self._rows(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        self._rows(lambda tensor: tensor.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep some of the rows."""
        self._rows(lambda tensor: tensor[indices.to(tensor.device)])

    def _rows(self, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
        for shelf in self._shelves.values():
            shelf.rows(change)
