"""The baseline that keeps everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class KeepAll(PreLLMMethod):
    """Every token stays, bit for bit, whatever the budget: the line every table starts with."""

    causal: ClassVar[bool] = True

    def count(self, grid: VideoGrid) -> int:
        """All of ``grid``."""
        return grid.tokens

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Return the identity."""
        return Reduction.identity(tokens)
