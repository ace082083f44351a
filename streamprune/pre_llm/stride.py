"""The baseline that spreads the budget evenly over the flattened video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from streamprune.errors import UnknownNameError
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Within = Literal["clip", "frame"]


@dataclass(frozen=True, kw_only=True)
class Stride(PreLLMMethod):
    """Keep tokens at equal steps of the flat index, each in the middle of its step.

    Args:
        within: the steps go through the whole ``clip``, or alike through every ``frame``, which needs no
            later frame; such an instance has ``causal`` set.
    """

    within: Within = "clip"

    def __post_init__(self) -> None:
        if self.within not in get_args(Within):
            raise UnknownNameError.among("within of stride", self.within, get_args(Within))
        if self.within == "frame":
            object.__setattr__(self, "causal", True)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The budget, of the clip or of every frame."""
        if self.within == "clip":
            return self.budget.tokens(grid.tokens)
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Integer arithmetic only, so that the choice cannot depend on rounding."""
        kept = self.count_reduced(tokens.grid)
        parts = 1 if self.within == "clip" else tokens.grid.frames
        each, total = kept // parts, len(tokens) // parts
        steps = (2 * torch.arange(each, device=tokens.features.device) + 1) * total // (2 * each)
        first = torch.arange(parts, device=steps.device)[:, None] * total
        return Reduction.select(tokens, (steps + first).flatten())
