"""STAR's second stage: the visual tokens whose states are most like those of the question go on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView
from streamprune.ops.selection import highest

# no number is known to us
_DEFAULT = Budget(keep_ratio=0.5)


@dataclass(frozen=True, kw_only=True)
class STARInner(InLLMMethod):
    """Let every row behind the video attend to the visual tokens alone, by states instead of projections.

    A row of the question attends by the softmax of the inner products of its state with those of the visual
    tokens, over the square root of their width; the mean over these rows is a token's score. The states are
    those that enter ``layer``. With states much longer than the fourth root of their width every row attends
    to hardly more than one token; the order of the others is that of the little they get.

    Args:
        layer: the layer before which tokens are dropped; None = the middle of the model.

    ``keep_ratio`` (default 0.5) is rounded down, at least one token stays. Ties go to the token further
    ahead.

    Source: arXiv 2505.12359, second of two stages. No code was found, nor the published layer and share. As
    printed each visual token attends to the text and the mean of what it gives is its score, which is the
    same for all; what it receives is meant and used here. The text also names the rows of the answer, which
    do not exist yet when the prompt is read.
    """

    layer: int | None = None

    needs: ClassVar[tuple[str, ...]] = ("states",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None:
            check_count("layer", self.layer)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (max(1, depth // 2) if self.layer is None else self.layer,)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        budget = self.budget if self.budget.is_given else _DEFAULT
        scores = relevance(view.states[view.visual], view.states[view.after])
        return Decision(view.kept_with_text(highest(scores, budget.tokens(len(scores)))))


def relevance(visual: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """(visual,) float32 logarithm of the attention that each visual row gets, summed over the ``text`` rows.

    The logarithm tells tokens apart that get so little that it would be 0 in numbers.

    Args:
        visual, text: (visual or text rows, width) states.
    """
    logits = text.float() @ visual.float().T / visual.shape[1] ** 0.5
    return torch.logsumexp(torch.log_softmax(logits, -1), 0)
