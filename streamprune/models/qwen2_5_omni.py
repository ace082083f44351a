"""Qwen2.5-Omni: the part that reads and sees, without its hearing and its voice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from streamprune.errors import InvalidValueError
from streamprune.models.base import Checkpoint
from streamprune.models.pixel_budget import SizeRule
from streamprune.models.qwen2_5_vl import Qwen25VL
from streamprune.models.stock_patches import SilentPatches
from streamprune.tokens import VideoGrid


class Qwen25Omni(Qwen25VL):
    """A stock ``Qwen2_5OmniThinkerForConditionalGeneration``, also out of a whole Qwen2.5-Omni folder.

    Only the thinker is loaded: answers are text, and of the voices, which lie in a pickle, nothing is read.
    Text behind a video starts behind the furthest of its positions. The pixels of a frame are bounded as the
    stock processor bounds them, whatever the folder says: those settings are for pictures.

    Not supported: methods inside the vision tower, sound.
    """

    model_type: ClassVar[str] = "qwen2_5_omni"
    # pixels of a frame; the stock processor hands them to its video processor
    video_bounds: ClassVar[Mapping[str, int]] = {
        "shortest_edge": 128 * 28 * 28,
        "longest_edge": 768 * 28 * 28,
    }

    @classmethod
    def auto_class(cls) -> Any:
        """The thinker's own: no automatic class makes it of a whole folder."""
        from transformers import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration

    def read_budget(self, checkpoint: Checkpoint) -> SizeRule:
        """See the class."""
        ignored = ("min_pixels", "max_pixels")
        settings = {name: value for name, value in checkpoint.video_settings.items() if name not in ignored}
        return self.budget_from({**settings, "size": dict(self.video_bounds)})

    def _prompt_ids(self, question: str) -> list[int]:
        ids, config = super()._prompt_ids(question), self.model.config
        sound = {config.audio_token_id, config.audio_start_token_id}
        if not sound.isdisjoint(ids):
            names = self.tokenizer.convert_ids_to_tokens(sorted(sound))
            raise InvalidValueError(
                f"question must not contain the placeholders {' or '.join(map(repr, names))}; take them out"
            )
        return ids

    def stock_inputs(self) -> SilentPatches:
        """Patches of all videos together, without sound."""
        return SilentPatches(self, patch=self._patch, merge=self._merge, slice_frames=self._slice_frames)

    def stock_positions(
        self, ids: torch.Tensor, grid: VideoGrid, pts_seconds: Sequence[float] | None
    ) -> torch.Tensor:
        """Whole steps of ``position_id_per_seconds``."""
        sides = [grid.frames, grid.rows * self._merge, grid.cols * self._merge]
        found, _ = self.model.model.get_rope_index(
            ids[None],
            video_grid_thw=torch.tensor([sides], device=ids.device),
            second_per_grids=torch.tensor([self.seconds_per_slice(pts_seconds)], device=ids.device),
        )
        positions: torch.Tensor = found[:, 0]
        return positions


FAMILY = Qwen25Omni
