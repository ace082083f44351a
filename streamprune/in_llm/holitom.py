"""HoliTom's inner stage: tokens that the prompt's last token does not look at are folded into others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.in_llm.fastv import last_row_scores
from streamprune.ops.selection import highest
from streamprune.ops.similarity import unit_rows

_RELEASED = Budget(keep_ratio=0.5)


@dataclass(frozen=True, kw_only=True)
class HoliTomInner(InLLMMethod):
    """Keep what the last row attends to; fold each other visual token into the kept one most like it.

    Folding takes the mean of the two, one token after another in the order of the prompt, so that the last
    one weighs a half and the first one least. What is most alike (cosine of the states, ties: the token
    further ahead) is decided before any folding.

    Args:
        layer: the layer before which tokens are merged; None = 18 of 28, scaled to the depth.

    Of ``keep_ratio`` (default 0.5) half a token is rounded to the even number, as the release does.

    Source: arXiv 2505.21334. Where attention runs without a mask the release lets the layer below see the
    future; here it is causal. A row that ends the video (a newline) is text and always stays.
    """

    layer: int | None = None

    needs: ClassVar[tuple[str, ...]] = ("attention", "states")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None:
            check_count("layer", self.layer)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (scaled_layer(18, 28, depth) if self.layer is None else self.layer,)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        budget = self.budget if self.budget.is_given else _RELEASED
        count = budget.tokens(len(view.visual), rounding="half_even")
        scores = last_row_scores(view.before.attention(view.last), view.visual)
        chosen = highest(scores, count).sort().values
        kept = view.kept_with_text(chosen)
        leaves = torch.ones(len(view.visual), dtype=torch.bool, device=kept.device)
        leaves[chosen] = False
        folded = view.visual[leaves]
        if len(folded) == 0:
            return Decision(kept)
        unit = unit_rows(view.states)
        target = highest(unit[folded] @ unit[view.visual[chosen]].T, 1)[:, 0]
        # where each chosen token stands among the rows that go on
        slot = torch.searchsorted(kept, view.visual[chosen])
        return Decision(kept, _fold(kept, folded, slot[target]))


def _fold(
    kept: torch.Tensor, folded: torch.Tensor, slot: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Entries of folding ``folded``, ascending, into the ``slot`` of ``kept`` given for each, one by one."""
    by_slot = torch.argsort(slot, stable=True)
    members = torch.bincount(slot, minlength=len(kept))
    first = torch.cumsum(members, 0) - members
    rank = torch.arange(len(folded), device=kept.device) - first[slot[by_slot]]
    own = torch.ldexp(torch.ones(len(kept), device=kept.device), -members)
    weight = torch.ldexp(torch.ones(len(folded), device=kept.device), rank - members[slot[by_slot]])
    return (
        torch.cat([torch.arange(len(kept), device=kept.device), slot[by_slot]]),
        torch.cat([kept, folded[by_slot]]),
        torch.cat([own, weight]),
    )
