"""Qwen2.5-VL: positions in time count seconds; most blocks of the tower attend within windows."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median_high
from typing import ClassVar

import torch

from streamprune.models.qwen_vl import QwenVL
from streamprune.models.token_order import MergedOrder
from streamprune.tokens import VideoGrid


class Qwen25VL(QwenVL):
    """A stock ``Qwen2_5_VLForConditionalGeneration``.

    The stock rule knows one distance in time for the whole video; here it is the usual (median) one between
    neighbouring slices, a second where there is one slice or no times. Within one of the tower's windows
    tokens stand next to each other; signals are put back into the order of the grid.
    """

    model_type: ClassVar[str] = "qwen2_5_vl"

    def whole_slice_blocks(self) -> Sequence[int] | None:
        """Those that the checkpoint names."""
        blocks: Sequence[int] = self.model.config.vision_config.fullatt_block_indexes
        return blocks

    def token_order(self, grid: VideoGrid, grid_thw: torch.Tensor) -> MergedOrder:
        """Window after window."""
        from transformers.vision_utils import get_vision_window_index

        index, _ = get_vision_window_index(
            grid_thw,
            spatial_merge_size=self._merge,
            window_size=int(self.model.config.vision_config.window_size),
            patch_size=self._patch,
        )
        return MergedOrder(grid, torch.argsort(index))

    def stock_positions(
        self, ids: torch.Tensor, grid: VideoGrid, pts_seconds: Sequence[float] | None
    ) -> torch.Tensor:
        """Whole steps of ``tokens_per_second``."""
        # float32, as the stock processor hands it on, hides the rounding of the times
        seconds = torch.tensor([self.seconds_per_slice(pts_seconds)], device=ids.device)
        return self._rope_index(ids, grid, second_per_grid_ts=seconds)

    @staticmethod
    def seconds_per_slice(pts_seconds: Sequence[float] | None) -> float:
        """The usual distance in time between neighbouring slices, 1 where there is none."""
        steps = [later - earlier for earlier, later in pairwise(pts_seconds or ())]
        return median_high(steps) if steps else 1.0


FAMILY = Qwen25VL
