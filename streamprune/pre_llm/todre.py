"""ToDRE, first stage: keep the tokens that have least in common with each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.errors import UnknownNameError
from streamprune.ops.dispersed import dispersed_points
from streamprune.ops.diversity import greedy_max_sum
from streamprune.ops.similarity import cosines, frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

TokenSet = Literal["clip", "frame"]


@dataclass(frozen=True, kw_only=True)
class ToDRE(PreLLMMethod):
    """Start with the most salient token, then pick the one whose cosines with all picks have the lowest sum.

    Needs ``saliency`` (frames, rows, cols), higher = more salient; only its highest place is used.

    Unlike farthest-point picks (``divprune``), sums let a token in that is close to one pick and far from all
    the others.

    Args:
        token_set: what is picked from: all tokens of the ``clip``, starting with the most salient of all
            (published), or each ``frame`` on its own with an equal share of the budget, much faster.

    Source: arXiv 2505.18757, text of version 2, first of two stages (the second drops all visual tokens
    inside the language model). No code was released. The share is rounded down. Sums are kept in float64 and
    ties go to the lower index.
    """

    token_set: TokenSet = "clip"

    needs: ClassVar[tuple[str, ...]] = ("saliency",)

    def __post_init__(self) -> None:
        if self.token_set not in get_args(TokenSet):
            raise UnknownNameError.among("token_set of todre", self.token_set, get_args(TokenSet))

    def count_reduced(self, grid: VideoGrid) -> int:
        """A share of the clip, or of each frame."""
        if self.token_set == "clip":
            return self.budget.tokens(grid.tokens)
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Emits the tokens in the order picked (frame after frame where each frame is a set)."""
        grid = tokens.grid
        saliency = tokens.signal("saliency", (grid.frames, grid.rows, grid.cols)).float().flatten(1)
        if self.token_set == "clip":
            pivot = int(saliency.flatten().argmax())
            return Reduction.select(
                tokens, dispersed_points(tokens.features, self.count_reduced(grid), pivot)
            )
        each = greedy_max_sum(
            cosines(frame_grams(tokens.frames)),
            self.budget.per_frame(grid.frames, grid.tokens_per_frame),
            first=saliency.argmax(1),
        )
        offset = torch.arange(grid.frames, device=each.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (each + offset).flatten())
