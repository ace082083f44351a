"""Which model a command loads, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamprune.pipelines.offline import VideoLLM


@dataclass(frozen=True)
class ModelChoice:
    """Which model, and where."""

    name: str
    device: str | None
    dtype: str | None

    def load(self, report: Callable[[str, int, int], None]) -> VideoLLM:
        """Load it, telling ``report`` about it."""
        report("load", 0, 1)
        from streamprune.pipelines.offline import load

        vlm = load(self.name, device=self.device, dtype=self.dtype)
        report("load", 1, 1)
        return vlm
