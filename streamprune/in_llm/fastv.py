"""FastV: after a few layers, only the visual tokens that the prompt's last token looks at go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView
from streamprune.ops.selection import highest

# R = 50 % in the paper's headline
_RELEASED = Budget(keep_ratio=0.5)


@dataclass(frozen=True, kw_only=True)
class FastV(InLLMMethod):
    """Keep the visual tokens with the most attention from the last row, averaged over heads.

    Args:
        layer: the layer before which tokens are dropped; the attention is that of the layer below. At least
            1: the paper's random choice before layer 0 is the pre-LLM method ``random``.

    Of ``keep_ratio`` (default 0.5) half a token is rounded to the even number, as the release does. Ties go
    to the token further ahead. The choice is made once a prompt, as in the release's version with a cache.

    Source: arXiv 2403.06764, whose text speaks of the attention received from all tokens; its code takes the
    last row, and so does this.
    """

    layer: int = 2

    needs: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("layer", self.layer)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (self.layer,)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        budget = self.budget if self.budget.is_given else _RELEASED
        count = budget.tokens(len(view.visual), rounding="half_even")
        scores = last_row_scores(view.before.attention(view.last), view.visual)
        return Decision(view.kept_with_text(highest(scores, count)))


def last_row_scores(attention: torch.Tensor, visual: torch.Tensor) -> torch.Tensor:
    """(visual,) what the visual rows get of the last query's (heads, 1, rows) attention, mean over heads."""
    return attention[:, -1, visual].mean(0)
