"""Which keys of a layer are not padding, from call to call."""

from __future__ import annotations

from typing import Any

import torch

from streamprune.errors import InvalidValueError
from streamprune.models.cache_memory import CacheMemory
from streamprune.models.layer_masks import joined_validity
from streamprune.models.prompt_rows import Batch


class Validity:
    """Of the keys and rows of one call.

    Args:
        padding: (batch, entries held and new) the mask the language model was called with, None = all seen.

    Attributes:
        length: rows of the call, with the padding.
    """

    def __init__(self, padding: Any) -> None:
        self._padding = padding
        self.length = 0
        self._before: dict[int, tuple[torch.Tensor | None, int]] = {}

    def of_keys(
        self, cut: int, held: int, states: torch.Tensor, memory: CacheMemory | None, batch: Batch | None
    ) -> torch.Tensor | None:
        """(batch, held and new) bool: which keys of the layers above ``cut`` are not padding; None = all."""
        if cut not in self._before:
            self._before[cut] = self.held(cut, held, memory), held
        before, known = self._before[cut]
        if before is not None and held != known:
            raise InvalidValueError(
                "a batch with padding needs a cache with as many entries in all layers between two cuts, got "
                f"{held} and {known}"
            )
        new = self.of_rows() if batch is None else batch.valid
        joined = joined_validity(before, held, new, states)
        if memory is not None:
            memory.shorter.add(cut)
            memory.valid[cut] = joined
        return joined

    def held(self, cut: int, held: int, memory: CacheMemory | None) -> torch.Tensor | None:
        """(batch, held) bool: which of the entries held before are not padding; None = all."""
        if held == 0 or memory is None:
            return None
        if cut not in memory.shorter:  # nothing was dropped from this cache so far
            mask = self._two_dimensional()
            if mask is None or mask.shape[1] - self.length != held:
                return None if mask is None or bool(mask.all()) else _unknown_padding()
            before = mask[:, :held].bool()
            return None if bool(before.all()) else before
        if cut not in memory.valid:  # dropped in another context
            mask = self._two_dimensional()
            return None if mask is None or bool(mask.all()) else _unknown_padding()
        valid = memory.valid[cut]
        if valid is None:
            return None
        if valid.shape[1] < held:
            return _unknown_padding()
        return valid[:, :held]  # the cache may have been cropped

    def of_rows(self) -> torch.Tensor | None:
        """(batch, rows) bool of the rows that come now; None when none is padding."""
        mask = self._two_dimensional()
        if mask is None:
            return None
        new = mask[:, -self.length :].bool()
        return None if bool(new.all()) else new

    def _two_dimensional(self) -> torch.Tensor | None:
        mask = self._padding
        if mask is None or (isinstance(mask, torch.Tensor) and mask.ndim == 2):
            return mask
        raise InvalidValueError(
            "tokens can only be dropped inside the language model with attention_mask None or (batch, "
            f"tokens), got {tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__}"
        )

    def pads_left(self) -> bool:
        """Whether prompts are filled up from the left."""
        new = self.of_rows()
        return new is None or bool(new[:, -1].all())


def _unknown_padding() -> torch.Tensor:
    raise InvalidValueError(
        "this cache was filled where nothing kept track of its padding; start a new cache, or ask without "
        "padding (one prompt at a time)"
    )
