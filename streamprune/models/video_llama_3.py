"""VideoLLaMA3: frame by frame, each after its time, in one row of positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from streamprune.errors import UnsupportedModelError
from streamprune.models.base import Checkpoint
from streamprune.models.frame_by_frame import FrameByFrame
from streamprune.models.patch_merger_tower import PatchMergerTower
from streamprune.models.pixel_budget import PixelsOf
from streamprune.models.preprocessing import FrameTransform


class VideoLlama3(FrameByFrame):
    """A stock ``VideoLlama3ForConditionalGeneration``.

    All frames together have at most the upper bound of pixels, each at least the lower one: the more frames,
    the smaller they are shown. Without times the frames count as a second apart, as the stock processor has
    it.

    The stock processor drops tokens whose pixels do not change from frame to frame
    (``use_token_compression``) and then counts positions without gaps. Here every token stays unless a method
    drops it, and keeps its place unless ``positions="renumber"``; methods that read ``pixel_change`` look for
    the same tokens.
    """

    model_type: ClassVar[str] = "video_llama_3"
    pixels_of: ClassVar[PixelsOf] = "shared"

    def __init__(self, checkpoint: Checkpoint) -> None:
        settings = checkpoint.video_settings
        slice_frames = int(settings.get("temporal_patch_size") or 1)
        if slice_frames != 1:
            raise UnsupportedModelError(
                f"the video processor's settings give temporal_patch_size={slice_frames}; the vision tower "
                "of video_llama_3 models sees one frame at a time, so 1 is supported"
            )
        patch = checkpoint.model.config.vision_config.patch_size
        # the settings alone say how many patches become a token
        super().__init__(
            checkpoint, patch=int(patch), merge=int(settings.get("merge_size") or 2), slice_frames=1
        )

    def read_transform(self, settings: Mapping[str, Any]) -> FrameTransform:
        """Where the settings are silent, colours run from -1 to 1."""
        return super().read_transform({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **settings})

    def read_tower(self) -> PatchMergerTower:
        """Its layers and the projector, which reads the mean of a token's patches."""
        layers = self.model.get_encoder("video").encoder.layers
        return PatchMergerTower(layers, self.model.model.projector)

    def video_outputs(self, rows: torch.Tensor, grid_thw: torch.Tensor) -> Any:
        """As the model does it."""
        sizes = torch.full_like(grid_thw[:, 0], self._merge)
        return self.model.get_video_features(rows, grid_thw, video_merge_sizes=sizes, return_dict=True)

    def frames_text(self, frames: int, token_mark: str, pts_seconds: Sequence[float] | None) -> str:
        """Each frame after its time, with commas between them."""
        times = pts_seconds or range(frames)
        return ",".join(f"Time {seconds:.1f}s:{token_mark}" for seconds in times)


FAMILY = VideoLlama3
