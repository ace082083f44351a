"""What families share that merge patches of single frames, with text beside each and one axis of positions.

``video_llama_3`` and ``minicpmv4_6`` say what each does otherwise.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch

from streamprune.models.base import Prompt
from streamprune.models.chat_template import check_placeholders, video_prompt_text
from streamprune.models.merged_patches import MergedPatches
from streamprune.models.written_prompt import WrittenPrompt
from streamprune.positions import PositionRule, Positions
from streamprune.tokens import Reduction, VideoGrid


class FrameByFrame(MergedPatches):
    """A stock model whose prompt has text beside every frame, which stays when all its tokens are dropped."""

    @abstractmethod
    def frames_text(self, frames: int, token_mark: str, pts_seconds: Sequence[float] | None) -> str:
        """What stands in the stead of a video's mark, with one ``token_mark`` in every frame."""

    def fixed_tokens(self, question: str, frames: int = 1) -> int:
        """Template and question, and what stands beside the frames."""
        return len(self._written(question, VideoGrid(frames, 1, 1), None)) - frames

    def prompt(
        self,
        question: str,
        reduction: Reduction,
        *,
        pts_seconds: Sequence[float] | None = None,
        positions: PositionRule | Positions = "keep",
    ) -> Prompt:
        """The stock prompt without the placeholders of dropped tokens."""
        full = self._written(question, reduction.grid, pts_seconds)
        kept = full.keep(reduction, torch.arange(len(full), device=self.device), positions)
        return kept.with_visual("video", (reduction.features[kept.order.to(reduction.features.device)],))

    def _written(self, question: str, grid: VideoGrid, pts_seconds: Sequence[float] | None) -> WrittenPrompt:
        config = self.model.config
        video, image = self.tokenizer.convert_ids_to_tokens([config.video_token_id, config.image_token_id])
        text = video_prompt_text(self.tokenizer, question)
        check_placeholders(text, video, image)
        frames = self.frames_text(grid.frames, video, pts_seconds)
        return WrittenPrompt.of_text(
            self.tokenizer, text.replace(video, frames), config.video_token_id, grid.tokens_per_frame
        ).to(self.device)
