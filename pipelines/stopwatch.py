"""How long the stages take, on devices that work behind the program's back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass
class Stopwatch:
    """Milliseconds per stage."""

    device: torch.device
    ms: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Add what the block takes to ``stage``."""
        started = time.perf_counter()
        yield
        wait_for(self.device)
        self.ms[stage] = self.ms.get(stage, 0.0) + 1000 * (time.perf_counter() - started)


def wait_for(device: torch.device) -> None:
    """Wait until ``device`` has done what it was given, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
