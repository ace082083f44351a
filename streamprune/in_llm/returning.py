"""What a method is whose dropped tokens are set aside and can come back when a later token wants them."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.in_llm.base import Decision, InLLMMethod, PromptView
from streamprune.in_llm.fastv import last_row_scores


@dataclass(frozen=True, kw_only=True)
class ReturningMethod(InLLMMethod):
    """Chooses at every cut, of every call, among the visual tokens that the layers below attended to.

    A token that is not chosen is set aside with the state it has there. When a later call chooses it, it goes
    up from there, so that no layer ever computes a token twice.
    """

    can_compact: ClassVar[bool] = False

    @abstractmethod
    def choose(self, scores: torch.Tensor, cut: int, cuts: int, visual: int) -> torch.Tensor:
        """(chosen,) int64 which of the visual tokens at hand go on, ascending.

        Args:
            scores: (at hand,) float32 attention that the last row pays them in the layer below, mean over
                heads.
            cut: number of the cut, from 0, out of ``cuts``.
            visual: visual tokens of the whole conversation so far.
        """

    def decide(self, view: PromptView) -> Decision:
        """What a prompt alone comes to."""
        scores = last_row_scores(view.before.attention(view.last), view.visual)
        cuts = len(self.cuts(view.depth))
        return Decision(view.kept_with_text(self.choose(scores, view.cut, cuts, view.visual_at_first)))
