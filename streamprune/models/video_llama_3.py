"""VideoLLaMA3: frame by frame, each after its time, in one row of positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from streamprune.errors import UnsupportedModelError
from streamprune.models.base import Checkpoint, Prompt
from streamprune.models.chat_template import check_placeholders, video_prompt_text
from streamprune.models.merged_patches import MergedPatches
from streamprune.models.patch_merger_tower import PatchMergerTower
from streamprune.models.pixel_budget import PixelsOf
from streamprune.models.preprocessing import FrameTransform
from streamprune.models.written_prompt import WrittenPrompt
from streamprune.positions import PositionRule, Positions
from streamprune.tokens import Reduction, VideoGrid


class VideoLlama3(MergedPatches):
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
        return PatchMergerTower(layers, self.model.model.projector, merged_before=True)

    def video_outputs(self, rows: torch.Tensor, grid_thw: torch.Tensor) -> Any:
        """As the model does it."""
        sizes = torch.full_like(grid_thw[:, 0], self._merge)
        return self.model.get_video_features(rows, grid_thw, video_merge_sizes=sizes, return_dict=True)

    def fixed_tokens(self, question: str, frames: int = 1) -> int:
        """Template and question, and the times."""
        return len(self._written(question, VideoGrid(frames, 1, 1), None)) - frames

    def prompt(
        self,
        question: str,
        reduction: Reduction,
        *,
        pts_seconds: Sequence[float] | None = None,
        positions: PositionRule | Positions = "keep",
    ) -> Prompt:
        """The stock prompt without the placeholders of dropped tokens; all times stay."""
        full = self._written(question, reduction.grid, pts_seconds)
        kept = full.keep(reduction, torch.arange(len(full), device=self.device), positions)
        return Prompt(
            input_ids=kept.input_ids,
            position_ids=kept.position_ids,
            modality="video",
            visual=(reduction.features[kept.order.to(reduction.features.device)],),
            kept_columns=kept.kept_columns,
            full_tokens=len(full),
        )

    def _written(self, question: str, grid: VideoGrid, pts_seconds: Sequence[float] | None) -> WrittenPrompt:
        config = self.model.config
        video, image = self.tokenizer.convert_ids_to_tokens([config.video_token_id, config.image_token_id])
        text = video_prompt_text(self.tokenizer, question)
        check_placeholders(text, video, image)
        frames = ",".join(f"Time {seconds:.1f}s:{video}" for seconds in pts_seconds or range(grid.frames))
        return WrittenPrompt.of_text(
            self.tokenizer, text.replace(video, frames), config.video_token_id, grid.tokens_per_frame
        ).to(self.device)


FAMILY = VideoLlama3
