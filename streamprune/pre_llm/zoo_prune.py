"""ZOO-Prune: keep tokens that the projector is sensitive to and that differ from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.ops.diversity import greedy_max_min
from streamprune.ops.similarity import cosines, frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

# sensitivities that differ by less than this share are the same: estimated differences carry such errors
_SAME = 1e-3


@dataclass(frozen=True, kw_only=True)
class ZOOPrune(PreLLMMethod):
    """Pick from each frame, again and again, the token with the largest sensitivity times novelty.

    Needs ``projector_sensitivity`` (frames, rows, cols): how much the projector's output changes per change
    of its input at each token (:func:`streamprune.ops.sensitivity.sensitivity` estimates it). It is scaled to
    [0, 1] over each frame; where it is the same everywhere (within 0.1 %), as with a linear projector, each
    token counts 1.
    The novelty of a token is 1 minus its highest cosine with a pick; the first pick is the most sensitive
    token. Every frame keeps the same number, at least one.

    Source: arXiv 2509.24837. No code was found; the paper speaks of images, here each frame is one. The share
    is rounded down, ties go to the lower index.
    """

    needs: ClassVar[tuple[str, ...]] = ("projector_sensitivity",)
    causal: ClassVar[bool] = True

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number for every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Emits the tokens of a frame in the order picked, frame after frame."""
        grid = tokens.grid
        sensitivity = tokens.signal("projector_sensitivity", (grid.frames, grid.rows, grid.cols))
        picks = most_sensitive_and_new(
            cosines(frame_grams(tokens.frames)),
            sensitivity.float().flatten(1),
            self.budget.per_frame(grid.frames, grid.tokens_per_frame),
        )
        offset = torch.arange(grid.frames, device=picks.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (picks + offset).flatten())


def most_sensitive_and_new(cosine: torch.Tensor, sensitivity: torch.Tensor, count: int) -> torch.Tensor:
    """(frames, count) picks in order, given (frames, n, n) cosines and the (frames, n) sensitivity."""
    low, high = sensitivity.amin(1, keepdim=True), sensitivity.amax(1, keepdim=True)
    scaled = torch.where(high - low > _SAME * high.abs(), (sensitivity - low) / (high - low), 1.0)
    # a factor at least 0 that belongs to the candidate can be multiplied before the minimum is taken
    novelty = (1 - cosine).clamp(min=0)
    return greedy_max_min(novelty * scaled[:, None, :], count, first=scaled.argmax(1))
