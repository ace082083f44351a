"""Qwen3-VL: the time of every slice written out in the prompt, and rows for deeper layers (deepstack)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from streamprune.models.pixel_budget import PixelsOf
from streamprune.models.preprocessing import FrameTransform
from streamprune.models.qwen_vl import QwenVL
from streamprune.tokens import VideoGrid

# what the stock processor takes for a video that does not say how fast it is
_UNKNOWN_FPS = 24


class Qwen3VL(QwenVL):
    """A stock ``Qwen3VLForConditionalGeneration``.

    The budget of pixels is that of the whole clip: the more frames, the smaller they are shown. Each slice
    stands in the prompt between its own start and end, after its time; they stay when all its tokens are
    dropped. The rows that the tower hands to the first layers of the language model follow their tokens.
    """

    model_type: ClassVar[str] = "qwen3_vl"
    pixel_defaults: ClassVar[tuple[int, int, int]] = (128, 768, 768)
    pixels_of: ClassVar[PixelsOf] = "clip"

    def read_transform(self, settings: Mapping[str, Any]) -> FrameTransform:
        """Where the settings are silent, colours run from -1 to 1."""
        return super().read_transform({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **settings})

    def video_ids(self, grid: VideoGrid, pts_seconds: Sequence[float] | None) -> list[int]:
        """Time, start, tokens and end of every slice."""
        config, step = self.model.config, self._slice_frames / _UNKNOWN_FPS
        half = (self._slice_frames - 1) / 2 / _UNKNOWN_FPS
        times = pts_seconds or [half + number * step for number in range(grid.frames)]
        ids: list[int] = []
        for seconds in times:
            label = self.tokenizer(f"<{seconds:.1f} seconds>", add_special_tokens=False)["input_ids"]
            tokens = [config.video_token_id] * grid.tokens_per_frame
            ids += [*label, config.vision_start_token_id, *tokens, config.vision_end_token_id]
        return ids

    def reach(self, fixed: int, grid: VideoGrid) -> int:
        """Each slice takes as many positions as its longer side."""
        return fixed + grid.frames * max(grid.rows, grid.cols)

    def stock_positions(
        self, ids: torch.Tensor, grid: VideoGrid, pts_seconds: Sequence[float] | None
    ) -> torch.Tensor:
        """Every slice starts where the text before it ends."""
        return self._rope_index(ids, grid)


FAMILY = Qwen3VL
