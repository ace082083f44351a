"""FlashVID's inner stage: one late cut to what the prompt's last token looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.in_llm.fastv import last_row_scores
from streamprune.ops.selection import highest

_RELEASED = Budget(keep_ratio=0.3)


@dataclass(frozen=True, kw_only=True)
class FlashVIDInner(InLLMMethod):
    """Keep the visual tokens with the most attention from the last row, averaged over heads.

    The attention is that of the layer below. The stage before the language model lets more tokens through
    than asked for (a quarter more); this cut brings the mean over the layers back down.

    Args:
        layer: the layer before which tokens are dropped; None = 20 of 28, scaled to the depth. For the 36
            layers of Qwen3-VL-8B the release takes 28, and a keep_ratio of 0.1.

    ``keep_ratio`` (default 0.3) is rounded up. Ties go to the token further ahead.

    Source: arXiv 2602.08024 and its release, the part inside the language model. Kept tokens keep their
    places in the prompt, as there.
    """

    layer: int | None = None

    needs: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None:
            check_count("layer", self.layer)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (scaled_layer(20, 28, depth) if self.layer is None else self.layer,)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        return Decision(view.kept_with_text(highest(self.scores(view), self.count(len(view.visual)))))

    def count(self, visual: int) -> int:
        """How many of ``visual`` tokens go on."""
        budget = self.budget if self.budget.is_given else _RELEASED
        return budget.tokens(visual, rounding="ceil_product")

    def scores(self, view: PromptView) -> torch.Tensor:
        """(visual,) what each visual token gets of the last row's attention."""
        return last_row_scores(view.before.attention(view.last), view.visual)
