"""Every pre-LLM method that the contract is held against: one row per method or variant.

A new method adds one row to a file of ``rows/``. Signals are made by name in ``signals.py``, so a method that
needs a new kind of signal adds one entry there as well.
"""

from __future__ import annotations

import torch

from tests.contract.rows import (
    attention,
    attention_more,
    baselines,
    diversity,
    matching,
    segments,
    temporal,
)

ROWS = (
    *baselines.ROWS,
    *attention.ROWS,
    *attention_more.ROWS,
    *diversity.ROWS,
    *matching.ROWS,
    *segments.ROWS,
    *temporal.ROWS,
)


def clip(
    frames: int = 8, rows: int = 6, cols: int = 5, channels: int = 16, *, scene: int = 3
) -> torch.Tensor:
    """(frames, rows, cols, channels) float32 video-like features: scenes of ``scene`` alike frames."""
    generator = torch.Generator().manual_seed(frames * 1000 + rows * 100 + cols)
    scenes = torch.randn(-(-frames // scene), rows, cols, channels, generator=generator)
    drift = 0.2 * torch.randn(frames, rows, cols, channels, generator=generator)
    return scenes.repeat_interleave(scene, 0)[:frames] + drift
