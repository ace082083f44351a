"""The baseline that keeps everything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from streamprune.errors import InvalidValueError
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class KeepAll(PreLLMMethod):
    """Every token stays, bit for bit.

    A budget below everything is refused rather than ignored: a run labelled ``none`` at 0.1 would lie.
    """

    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.budget.keeps_all:
            raise InvalidValueError(
                "method 'none' keeps every token; leave keep_ratio and keep_tokens out or choose another method "
                f"(got keep_ratio={self.budget.keep_ratio}, keep_tokens={self.budget.keep_tokens})"
            )

    def count(self, grid: VideoGrid) -> int:
        """All of ``grid``."""
        return grid.tokens

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Return the identity."""
        return Reduction.identity(tokens)
