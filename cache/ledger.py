"""Bytes that a stream holds, asked for before they are allocated and never above a budget.

Storage is counted as it really is, `untyped_storage().nbytes()`: a slice counts for all it keeps alive.
"""

from __future__ import annotations

import threading
from typing import Literal, TypeAlias, get_args

import torch

from streamprune.checks import check_count
from streamprune.errors import InvalidValueError, MemoryBudgetError, UnknownNameError

Tier: TypeAlias = Literal[
    "sinks", "recent", "mid", "archive", "index", "features", "dialogue", "working", "tower", "frames"
]
TIERS: tuple[Tier, ...] = get_args(Tier)


class Ledger:
    """Who holds how many bytes; every method may be called from any thread.

    Args:
        memory_bytes: of all tiers together, at least 1.
    """

    def __init__(self, memory_bytes: int) -> None:
        check_count("memory_bytes", memory_bytes)
        self.memory_bytes = int(memory_bytes)
        self._lock = threading.Lock()
        self._held: dict[Tier, int] = dict.fromkeys(TIERS, 0)
        self._total = self._peak = 0

    def __repr__(self) -> str:
        return f"Ledger({self.total} of {self.memory_bytes} bytes)"

    @property
    def held(self) -> dict[Tier, int]:
        """Bytes of each tier now."""
        with self._lock:
            return dict(self._held)

    @property
    def total(self) -> int:
        """Bytes of all tiers now."""
        with self._lock:
            return self._total

    @property
    def peak(self) -> int:
        """Most bytes at any time so far."""
        with self._lock:
            return self._peak

    @property
    def room(self) -> int:
        """Bytes that could be taken now."""
        with self._lock:
            return self.memory_bytes - self._total

    def take(self, tier: Tier, nbytes: int) -> None:
        """Count ``nbytes`` more for ``tier``; MemoryBudgetError, and nothing counted, if they do not fit."""
        check_count("nbytes", nbytes, least=0)
        with self._lock:
            self._check_tier(tier)
            if self._total + nbytes > self.memory_bytes:
                raise MemoryBudgetError(
                    f"{nbytes} bytes more for {tier!r} do not fit: {self._total} of memory_bytes="
                    f"{self.memory_bytes} are held; give more, or hold less"
                )
            self._held[tier] += nbytes
            self._total += nbytes
            self._peak = max(self._peak, self._total)

    def give(self, tier: Tier, nbytes: int) -> None:
        """Count ``nbytes`` less for ``tier``, which must hold as many."""
        check_count("nbytes", nbytes, least=0)
        with self._lock:
            self._check_tier(tier)
            if nbytes > self._held[tier]:
                raise InvalidValueError(f"nbytes={nbytes} are more than {tier!r} holds: {self._held[tier]}")
            self._held[tier] -= nbytes
            self._total -= nbytes

    def hold(self, tier: Tier, tensor: torch.Tensor) -> torch.Tensor:
        """Count the storage of ``tensor``, which nobody else counts, for ``tier``."""
        self.take(tier, tensor.untyped_storage().nbytes())
        return tensor

    def drop(self, tier: Tier, tensor: torch.Tensor) -> None:
        """Count it no more."""
        self.give(tier, tensor.untyped_storage().nbytes())

    def _check_tier(self, tier: Tier) -> None:
        if tier not in self._held:
            raise UnknownNameError.among("tier", tier, TIERS)
