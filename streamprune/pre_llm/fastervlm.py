"""FasterVLM: keep the tokens of each frame that the tower's summary query attends to most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.ops.selection import highest
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class FasterVLM(PreLLMMethod):
    """Keep the same number of most salient tokens in every frame, unchanged.

    Needs ``saliency`` (frames, rows, cols), higher = kept first: the attention row of [CLS], averaged over
    heads, in the tower layer that feeds the projector. Where a tower has no [CLS] token, the probe of its
    pooling head stands in for it.

    Source: arXiv 2412.01818 v1 and its release. Differences: ties go to the lower token; the budget of a
    frame is a share rounded down, the release takes a count (144, 58 and 29 of 576).
    """

    needs: ClassVar[tuple[str, ...]] = ("saliency",)
    causal: ClassVar[bool] = True

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number of every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Rank each frame on its own."""
        grid = tokens.grid
        saliency = tokens.signal("saliency", (grid.frames, grid.rows, grid.cols)).float()
        per_frame = self.budget.per_frame(grid.frames, grid.tokens_per_frame)
        kept = highest(saliency.reshape(grid.frames, -1), per_frame)
        start = torch.arange(grid.frames, device=kept.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (kept + start).flatten().sort().values)
