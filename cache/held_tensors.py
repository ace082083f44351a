"""Tensors that are replaced again and again, in memory that the ledger counts once."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from streamprune.cache.ledger import Ledger, Tier


class HeldTensors:
    """Named tensors in buffers of their own, which are filled anew as long as shapes stay what they are.

    Args:
        ledger: asked for the buffers; None = nobody counts.
        tier: to which they belong.

    Attributes:
        buffers: by name, whether something is in them or not.
        values: those with something in them.
    """

    def __init__(self, ledger: Ledger | None, tier: Tier) -> None:
        self._ledger, self._tier = ledger, tier
        self.buffers: dict[str, torch.Tensor] = {}
        self.values: dict[str, torch.Tensor] = {}

    def keep(self, values: Mapping[str, torch.Tensor]) -> None:
        """Hold a copy of ``values``, and nothing else. Raises MemoryBudgetError, and holds nothing then."""
        changed = [name for name, value in values.items() if not self._fits(name, value)]
        if changed:
            self.forget()
        for name in changed:
            self._drop(name)
            if self._ledger is not None:
                self._ledger.take(self._tier, values[name].nbytes)
            self.buffers[name] = torch.empty_like(values[name], memory_format=torch.contiguous_format)
        for name, value in values.items():
            self.buffers[name].copy_(value)
        self.values = {name: self.buffers[name] for name in values}

    def forget(self) -> None:
        """Hold nothing, in the same buffers."""
        self.values = {}

    def release(self) -> None:
        """Give the buffers back."""
        self.forget()
        for name in [*self.buffers]:
            self._drop(name)

    def _fits(self, name: str, value: torch.Tensor) -> bool:
        there = self.buffers.get(name)
        return there is not None and (there.shape, there.dtype) == (value.shape, value.dtype)

    def _drop(self, name: str) -> None:
        buffer = self.buffers.pop(name, None)
        if buffer is not None and self._ledger is not None:
            self._ledger.drop(self._tier, buffer)
