"""The baseline that spreads the budget evenly over the flattened video."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Stride(PreLLMMethod):
    """Keep tokens at equal steps of the flat index, each in the middle of its step."""

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Integer arithmetic only, so that the choice cannot depend on rounding."""
        total, kept = len(tokens), self.budget.tokens(len(tokens))
        index = (2 * torch.arange(kept, device=tokens.features.device) + 1) * total // (2 * kept)
        return Reduction.select(tokens, index)
