"""The baseline that spreads the budget evenly over the flattened video."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.pre_llm.within import WithinMethod
from streamprune.tokens import Reduction, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Stride(WithinMethod):
    """Keep tokens at equal steps of the flat index, each in the middle of its step.

    Args:
        within: the steps go through the whole ``clip``, or alike through every ``frame``, which needs no
            later frame; such an instance has ``causal`` set.
    """

    called: ClassVar[str] = "stride"

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Integer arithmetic only, so that the choice cannot depend on rounding."""
        kept = self.count_reduced(tokens.grid)
        parts = 1 if self.within == "clip" else tokens.grid.frames
        each, total = kept // parts, len(tokens) // parts
        steps = (2 * torch.arange(each, device=tokens.features.device) + 1) * total // (2 * each)
        first = torch.arange(parts, device=steps.device)[:, None] * total
        return Reduction.select(tokens, (steps + first).flatten())
