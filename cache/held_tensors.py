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
        """Hold a copy of ``values``, and nothing else. Raises MemoryBudgetError without room for more."""
        for name, value in values.items():
            there = self.buffers.get(name)
            if there is None or (there.shape, there.dtype) != (value.shape, value.dtype):
                self._drop(name)
                if self._ledger is not None:
                    self._ledger.take(self._tier, value.nbytes)
                there = self.buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=value.device)
            there.copy_(value)
        self.values = {name: self.buffers[name] for name in values}

    def forget(self) -> None:
        """Hold nothing, in the same buffers."""
        self.values = {}

    def release(self) -> None:
        """Give the buffers back."""
        self.forget()
        for name in [*self.buffers]:
            self._drop(name)

    def _drop(self, name: str) -> None:
        buffer = self.buffers.pop(name, None)
        if buffer is not None and self._ledger is not None:
            self._ledger.drop(self._tier, buffer)
