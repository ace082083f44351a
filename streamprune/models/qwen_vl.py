"""What the Qwen-VL families share: slices of two frames, three axes of positions.

``qwen2_vl``, ``qwen2_5_vl`` and ``qwen3_vl`` say what each does otherwise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch

from streamprune.models.base import Checkpoint, Prompt
from streamprune.models.chat_template import place_of_video, video_prompt_ids
from streamprune.models.merged_patches import MergedPatches
from streamprune.models.patch_merger_tower import PatchMergerTower
from streamprune.models.stock_patches import ThreeAxisPatches
from streamprune.models.written_prompt import WrittenPrompt
from streamprune.positions import PositionRule, Positions
from streamprune.tokens import Reduction, VideoGrid


class QwenVL(MergedPatches):
    """A stock Qwen model that sees videos.

    Prompts have the stock model's positions on three axes. "renumber" counts 0, 1, 2, ... on all three at
    once, so that rows and columns are not told apart any more.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        vision = checkpoint.model.config.vision_config
        super().__init__(
            checkpoint,
            patch=int(vision.patch_size),
            merge=int(vision.spatial_merge_size),
            slice_frames=int(vision.temporal_patch_size),
        )

    def read_tower(self) -> PatchMergerTower:
        """Its blocks and the merger at its end."""
        tower = self.model.get_encoder("video")
        return PatchMergerTower(tower.blocks, tower.merger, self.whole_slice_blocks())

    def whole_slice_blocks(self) -> Sequence[int] | None:
        """Blocks of the tower that attend over a whole slice, None for all."""
        return None

    def video_outputs(self, rows: torch.Tensor, grid_thw: torch.Tensor) -> Any:
        """As the model does it."""
        return self.model.get_video_features(rows, video_grid_thw=grid_thw, return_dict=True)

    def stock_inputs(self) -> ThreeAxisPatches:
        """Patches of all videos together."""
        return ThreeAxisPatches(self, patch=self._patch, merge=self._merge, slice_frames=self._slice_frames)

    def video_ids(self, grid: VideoGrid, pts_seconds: Sequence[float] | None) -> list[int]:
        """What stands in the placeholder's stead, one placeholder for every token of ``grid``."""
        return [self.model.config.video_token_id] * grid.tokens

    @abstractmethod
    def stock_positions(
        self, ids: torch.Tensor, grid: VideoGrid, pts_seconds: Sequence[float] | None
    ) -> torch.Tensor:
        """(3, length) positions that the stock model gives a full prompt."""

    def reach(self, fixed: int, grid: VideoGrid) -> int:
        """The tokens of a video share positions: it takes as many as its longer side."""
        return fixed + max(grid.rows, grid.cols)

    def fixed_tokens(self, question: str, frames: int = 1) -> int:
        """Template and question, and what is written beside the slices."""
        grid = VideoGrid(frames, 1, 1)
        # one placeholder is in the template already
        return len(self._prompt_ids(question)) - 1 + len(self.video_ids(grid, None)) - grid.tokens

    def prompt(
        self,
        question: str,
        reduction: Reduction,
        *,
        pts_seconds: Sequence[float] | None = None,
        positions: PositionRule | Positions = "keep",
    ) -> Prompt:
        """The stock prompt without the placeholders of dropped tokens; ``pts_seconds`` are of the slices."""
        ids, config, grid = self._prompt_ids(question), self.model.config, reduction.grid
        place = place_of_video(ids, self.tokenizer, config.video_token_id, config.image_token_id)
        ids = [*ids[:place], *self.video_ids(grid, pts_seconds), *ids[place + 1 :]]
        written = torch.tensor(ids, device=self.device)
        full = WrittenPrompt(written, written == config.video_token_id)
        kept = full.keep(reduction, self.stock_positions(written, grid, pts_seconds), positions)
        rows = kept.order.to(reduction.features.device)
        carried = reduction.carried
        layers = () if carried is None else torch.split(carried[rows], reduction.features.shape[-1], -1)
        return kept.with_visual("video", (reduction.features[rows],), tuple(layers))

    def _prompt_ids(self, question: str) -> list[int]:
        return video_prompt_ids(self.tokenizer, question)

    def _rope_index(self, ids: torch.Tensor, grid: VideoGrid, **times: Any) -> torch.Tensor:
        """Ask the model for the positions of a full prompt: what it says differs between releases."""
        sides = [grid.frames, grid.rows * self._merge, grid.cols * self._merge]
        is_video = (ids == self.model.config.video_token_id)[None]
        found, _ = self.model.model.get_rope_index(
            ids[None],
            mm_token_type_ids=2 * is_video.int(),
            video_grid_thw=torch.tensor([sides], device=ids.device),
            **times,
        )
        positions: torch.Tensor = found[-3:, 0]
        return positions
