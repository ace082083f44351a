"""STAR, first stage: keep the tokens that the other tokens of a frame attend to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.ops.selection import highest
from streamprune.ops.similarity import frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class STAR(PreLLMMethod):
    """Keep, in each frame, the tokens that receive most when tokens attend to each other.

    A token attends to the tokens of its frame by the softmax of inner products over the square root of their
    width, without learned projections. No signal is needed. With features much longer than the fourth root of
    their width, each token attends almost only to itself and the rest is decided by what little is left.

    Every frame keeps the same number, at least one; kept tokens stay unchanged.

    Source: arXiv 2505.12359, first of two stages (the second prunes inside the language model). No code was
    found. As printed, the score of a token is the mean of what it gives, which is the same for all; what it
    receives is meant and used here. The text has one image, here each frame is one; the share is rounded
    down, ties go to the lower index.
    """

    causal: ClassVar[bool] = True

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number for every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Emits the tokens of a frame in the order of their scores, frame after frame."""
        grid = tokens.grid
        products = frame_grams(tokens.frames)
        score = net_attention(products / tokens.features.shape[1] ** 0.5)
        picks = highest(score, self.budget.per_frame(grid.frames, grid.tokens_per_frame))
        offset = torch.arange(grid.frames, device=picks.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (picks + offset).flatten())


def net_attention(logits: torch.Tensor) -> torch.Tensor:
    """(..., n) float64: attention that each token receives from all, minus the 1 that it gives.

    Args:
        logits: (..., n, n); row ``i`` is what token ``i`` attends by.

    The order is that of the mean attention received. Computed from what different tokens give each other, it
    is not lost in the rounding of the 1 where a token attends almost only to itself. Values are rounded to
    1e-12 of the largest amount given, so that tokens in equal positions tie.

    Args:
        logits: (..., n, n); row ``i`` is what token ``i`` attends by.

    The order is that of the mean attention received. Taken as the difference of what a pair gives each other,
    it is not lost in the rounding of the 1 where a token attends almost only to itself.
    """
    attention = torch.softmax(logits.double(), -1)
    attention.diagonal(dim1=-2, dim2=-1).zero_()
    step = 1e-12 * attention.sum(-1).amax(-1, keepdim=True)
    net = attention.sum(-2) - attention.sum(-1)
    return torch.where(step > 0, (net / step).round() * step, 0.0)
