"""The baseline every method has to beat: tokens drawn at random."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.errors import InvalidValueError
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VisualTokens


@dataclass(frozen=True, kw_only=True)
class RandomTokens(PreLLMMethod):
    """Keep tokens drawn uniformly without replacement from the whole video.

    Args:
        seed: 0 to 2**64 - 1; the same seed, grid and budget draw the same tokens on every machine and device.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**64:
            raise InvalidValueError(f"seed must be a non-negative integer below 2**64, got {self.seed!r}")

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Draw on the CPU, so that an accelerator's generator cannot change the choice."""
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randperm(len(tokens), generator=generator)[: self.budget.tokens(len(tokens))]
        return Reduction.select(tokens, drawn.sort().values.to(tokens.features.device))
