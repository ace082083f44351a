"""VScan's second stage: half-way up, the visual tokens that the prompt's last token looks at go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count, check_flag
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView
from streamprune.in_llm.fastv import last_row_scores
from streamprune.ops.attention_rows import attention_rows
from streamprune.ops.selection import highest

# 32 of the 96 tokens that the first stage leaves
_RELEASED = Budget(keep_ratio=1 / 3)


@dataclass(frozen=True, kw_only=True)
class VScanInner(InLLMMethod):
    """Keep the visual tokens with the most attention from the last row, averaged over heads.

    The attention is that of the layer the tokens are about to enter. ``keep_ratio`` (default a third) is
    rounded down, at least one token stays.

    Args:
        layer: the layer before which tokens are dropped; None = the middle of the model.
        rotated: score after the rotary embedding, as the release does for LLaVA; False: before it, as it
            does for Qwen2.5-VL.

    Ties go to the token further ahead.

    Source: arXiv 2505.22654, second of two stages. For LLaVA the release numbers the positions anew after
    the cut; here tokens keep their places in the prompt.
    """

    layer: int | None = None
    rotated: bool = True

    needs: ClassVar[tuple[str, ...]] = ("attention", "projections")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("rotated", self.rotated)
        if self.layer is not None:
            check_count("layer", self.layer)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (max(1, depth // 2) if self.layer is None else self.layer,)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        budget = self.budget if self.budget.is_given else _RELEASED
        scores = last_row_scores(self._attention(view), view.visual)
        return Decision(view.kept_with_text(highest(scores, budget.tokens(len(view.visual)))))

    def _attention(self, view: PromptView) -> torch.Tensor:
        """(heads, 1, rows) of the last row, which sees all others."""
        if self.rotated:
            return view.at.attention(view.last)
        queries, keys = view.at.queries(view.last, rotated=False), view.at.keys(rotated=False)
        return attention_rows(queries, keys, view.at.scaling)
