"""Shares with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

_Z = 1.959964  # 95 %, two-sided


@dataclass(frozen=True)
class Share:
    """``right`` of ``count`` with the Wilson 95 % interval ``[low, high]``."""

    right: int
    count: int

    @property
    def value(self) -> float:
        """The share itself; 0 when nothing was counted."""
        return self.right / self.count if self.count else 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """Wilson score interval at 95 %."""
        if not self.count:
            return 0.0, 1.0
        n, p = self.count, self.value
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z * math.sqrt(p * (1 - p) / n + _Z**2 / (4 * n * n)) / (1 + _Z**2 / n)
        return max(0.0, centre - half), min(1.0, centre + half)

    def entry(self) -> dict[str, float | int]:
        """For JSON: accuracy, low, high, count."""
        low, high = self.bounds
        return {
            "accuracy": round(self.value, 4),
            "low": round(low, 4),
            "high": round(high, 4),
            "count": self.count,
        }


def share(outcomes: Iterable[bool]) -> Share:
    """Count outcomes."""
    found = list(outcomes)
    return Share(sum(found), len(found))
