"""Qwen2-VL: slices counted one by one in time, attention over a whole slice in every block of the tower."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch

from streamprune.models.qwen_vl import QwenVL
from streamprune.tokens import VideoGrid


class Qwen2VL(QwenVL):
    """A stock ``Qwen2VLForConditionalGeneration``; frames carry no times in this family."""

    model_type: ClassVar[str] = "qwen2_vl"

    def stock_positions(
        self, ids: torch.Tensor, grid: VideoGrid, pts_seconds: Sequence[float] | None
    ) -> torch.Tensor:
        """One step of time from slice to slice."""
        return self._rope_index(ids, grid)


FAMILY = Qwen2VL
