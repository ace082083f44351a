"""LVLM_CSP: representatives pass the lower layers, all tokens the next, few the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget, share_of
from streamprune.checks import check_share
from streamprune.errors import InvalidValueError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.in_llm.fastv import last_row_scores
from streamprune.in_llm.layer_list import check_layers
from streamprune.ops.selection import highest

_OURS = Budget(keep_ratio=0.05)


@dataclass(frozen=True, kw_only=True)
class LVLMCSPInner(InLLMMethod):
    """Let every n-th visual token alone go up at first; then bring the others back; then drop most of all.

    The tokens that were left out come back as they entered the language model, at their places in the prompt.
    After the last cut go on those that the prompt's last row looks at most in the layer below, mean over
    heads: ``keep_ratio`` (default 0.05) of all, rounded down, or ``keep_tokens``. Ties go to the token
    further ahead.

    Args:
        layers: the layer before which all tokens come back, and the one before which most are dropped; None =
            16 and 24 of 32, scaled to the depth.
        coarse_share: share of the visual tokens that goes through the layers below the first of them, in (0,
            1], rounded down but at least one. Every n-th goes, n being their number over that, rounded down.

    Layers hold the cache entries of what went through them, so that the middle ones hold more than those
    below and above.

    Source: arXiv 2504.10854, from its abstract; no code was found. Its layers, shares and the state in which
    tokens come back are not given; those here are ours. It ranks tokens by the attention of the token that
    asks for a segmentation mask, and can choose representatives by saliency or by detected objects, which the
    pre-LLM method of this name offers in part.
    """

    layers: tuple[int, ...] | None = None
    coarse_share: float = 0.15

    needs: ClassVar[tuple[str, ...]] = ("attention",)
    first_cut: ClassVar[int] = 0
    can_compact: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers(self.layers))
        if self.layers is not None and len(self.layers) != 2:
            raise InvalidValueError(
                "layers must be two numbers, where all tokens come back and where most are dropped, got "
                f"{self.layers}"
            )
        check_share("coarse_share", self.coarse_share)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """Layer 0, where tokens come back, and where most are dropped."""
        if self.layers is not None:
            return (0, *self.layers)
        back = scaled_layer(16, 32, depth)
        return 0, back, max(back + 1, scaled_layer(24, 32, depth))

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        if view.cut == 0:
            count = max(1, share_of(len(view.visual), self.coarse_share))
            return Decision(view.kept_with_text(every_nth(len(view.visual), count)), aside=True)
        if view.cut == 1:
            return Decision(torch.arange(view.rows + view.waiting, device=view.visual.device), back=True)
        budget = self.budget if self.budget.is_given else _OURS
        scores = last_row_scores(view.before.attention(view.last), view.visual)
        return Decision(view.kept_with_text(highest(scores, budget.tokens(len(view.visual)))))


def every_nth(total: int, count: int) -> torch.Tensor:
    """(count,) int64 the first of ``total`` and every ``total // count``-th behind it."""
    return torch.arange(count) * (total // count)
