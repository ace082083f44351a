"""GreedyPrune: keep the most salient tokens, but not several that look the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_number
from streamprune.ops.diversity import greedy_unalike
from streamprune.ops.similarity import cosines, frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class GreedyPrune(PreLLMMethod):
    """Pick each frame's most salient token, set those too similar to it aside, and so on.

    Needs ``saliency`` (frames, rows, cols), higher = kept first. When only tokens set aside are left, the
    most salient of them fill the budget. Every frame keeps the same number, at least one.

    Args:
        similarity_threshold: a token whose cosine with a pick is above it is set aside, in [-1, 1]; 1 = plain
            saliency. Calibrate it for the features: those of a language model are all rather alike.

    Source: arXiv 2506.13166, from its abstract and summaries; no code was found, and neither the threshold
    nor what happens when the constraint cannot be met was. 0.9 and filling by saliency are our choice; so is
    to treat each frame on its own. The share is rounded down, ties go to the lower index.
    """

    similarity_threshold: float = 0.9

    needs: ClassVar[tuple[str, ...]] = ("saliency",)
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number for every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Emits the tokens of a frame in the order picked, frame after frame."""
        grid = tokens.grid
        saliency = tokens.signal("saliency", (grid.frames, grid.rows, grid.cols)).float().flatten(1)
        # rounding must not push the cosine of copies above a threshold of 1
        cosine = cosines(frame_grams(tokens.frames)).clamp_(max=1)
        count = self.budget.per_frame(grid.frames, grid.tokens_per_frame)
        picks = greedy_unalike(saliency, cosine, self.similarity_threshold, count)
        offset = torch.arange(grid.frames, device=picks.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (picks + offset).flatten())
