"""MiniCPM-V 4.6: patches merged halfway up the tower and again behind it, frames between tags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NoReturn

import torch

from streamprune.errors import UnsupportedModelError
from streamprune.models.base import Checkpoint
from streamprune.models.frame_by_frame import FrameByFrame
from streamprune.models.patch_merger_tower import PatchMergerTower
from streamprune.models.pixel_budget import PixelArea, SizeRule
from streamprune.models.preprocessing import FrameTransform
from streamprune.models.token_order import PictureOrder
from streamprune.tokens import VideoGrid


class MiniCPMV46(FrameByFrame):
    """A stock ``MiniCPMV4_6ForConditionalGeneration``; frames carry no times in this family.

    Every frame is one picture of about ``scale_resolution`` squared pixels, as the stock processor shows it
    with ``slice_mode=False``: a large one is not cut into slices, and frames of a second are not joined to
    one picture. In the mode "16x" a token stands for 4 x 4 patches, in "4x" for 2 x 2. Signals of the blocks
    below the merging halfway are averaged over more patches than those above.

    Three of four layers of the language model are recurrent, as in :class:`Qwen35`.

    Not supported: methods inside the vision tower, methods inside the language model below a recurrent layer.
    """

    model_type: ClassVar[str] = "minicpmv4_6"
    several_videos: ClassVar[bool] = False  # they are numbered
    runs_in_parts: ClassVar[bool] = False  # patches are merged on the way up

    def __init__(self, checkpoint: Checkpoint) -> None:
        config, settings = checkpoint.model.config, checkpoint.video_settings
        kernel = tuple(config.merge_kernel_size)
        if (config.merger_times, kernel) != (1, (2, 2)):
            raise UnsupportedModelError(
                f"{checkpoint.name}: merger_times={config.merger_times} and merge_kernel_size={kernel} are "
                "not supported; 1 and (2, 2) are, as in the released model"
            )
        self._mode = str(settings.get("downsample_mode") or config.downsample_mode)
        patch = int(config.vision_config.patch_size)
        super().__init__(checkpoint, patch=patch, merge=2 if self._mode == "4x" else 4, slice_frames=1)

    def read_budget(self, checkpoint: Checkpoint) -> SizeRule:
        """One area for all shapes."""
        side = int(checkpoint.video_settings.get("scale_resolution") or 448)
        return PixelArea(side, self._patch * self._merge)

    def read_transform(self, settings: Mapping[str, Any]) -> FrameTransform:
        """Where the settings are silent, colours run from -1 to 1."""
        return super().read_transform({"image_mean": [0.5] * 3, "image_std": [0.5] * 3, **settings})

    def read_tower(self) -> PatchMergerTower:
        """Its layers, and the projector that takes the four last patches of a token side by side."""
        tower = self.model.get_encoder("video")
        return PatchMergerTower(
            tower.encoder.layers, self.model.model.merger.mlp[0], read=tower.post_layernorm
        )

    def token_order(self, grid: VideoGrid, grid_thw: torch.Tensor) -> PictureOrder:
        """Row by row, before and after the merging halfway."""
        return PictureOrder(grid)

    def tower_rows(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 3, patch, all patches * patch): one patch beside the other."""
        frames, colours, rows, cols = pixels.shape
        side = self._patch
        cut = pixels.reshape(frames, colours, rows // side, side, cols // side, side)
        return cut.permute(1, 3, 0, 2, 4, 5).reshape(1, colours, side, -1)

    def video_outputs(self, rows: torch.Tensor, grid_thw: torch.Tensor) -> Any:
        """As the model does it; its features come frame by frame."""
        frames, high, wide = grid_thw[0].tolist()
        sizes = torch.tensor([[high, wide]] * frames, dtype=torch.int32, device=rows.device)
        outputs = self.model.get_video_features(rows, sizes, downsample_mode=self._mode)
        outputs.pooler_output = (torch.cat(list(outputs.pooler_output)),)
        return outputs

    def stock_inputs(self) -> NoReturn:
        """Raises UnsupportedModelError: the stock processor cuts frames into slices."""
        raise UnsupportedModelError(
            "what the processor of minicpmv4_6 models gives cannot be shortened, as frames may be cut into "
            "slices; use vlm.ask, or a recipe with a kv stage alone"
        )

    def frames_text(self, frames: int, token_mark: str, pts_seconds: Sequence[float] | None) -> str:
        """The number of the video, the first, where settings ask for it; each frame between tags."""
        start, end = self._tag("image_start_token", "<image>"), self._tag("image_end_token", "</image>")
        text = f"{start}{token_mark}{end}" * frames
        if self.checkpoint.video_settings.get("use_image_id", True):
            opening = self._tag("image_id_start_token", "<image_id>")
            closing = self._tag("image_id_end_token", "</image_id>")
            text = f"{opening}0{closing}{text}"
        return text

    def _tag(self, name: str, usual: str) -> str:
        return getattr(self.tokenizer, name, None) or usual


FAMILY = MiniCPMV46
