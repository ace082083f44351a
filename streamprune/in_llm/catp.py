"""CATP's second stage: what the last row looks at ever more, and what suits the query."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count, check_flag, check_number
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.in_llm.fastv import last_row_scores
from streamprune.ops.selection import highest
from streamprune.ops.similarity import unit_rows

# 77.8 % of all tokens go, half of them in the first stage: 2/9 of all are 4/11 of what it leaves
_PUBLISHED = Budget(keep_ratio=4 / 11)


@dataclass(frozen=True, kw_only=True)
class CATPInner(InLLMMethod):
    """Keep visual tokens whose attention rises into a layer and whose states are like those of the query.

    A token's score is what the last row gives it in the layer it is about to enter more than in the one below
    (mean over heads; 0 where it is less), plus ``query_weight`` times the cosine of its state with the mean
    state of the query, the rows behind the last visual token.

    ``keep_ratio`` (default 4/11) is rounded down, at least one token stays. Ties go to the token further
    ahead.

    Args:
        layer: the layer before which tokens are dropped; None = 6 of 32, scaled to the depth.
        query_weight: how much the query counts, in [0, 1000]; published 0.6.
        query_image: for prompts of several images, the last of which is asked about: it is left alone at
            first, its rows belong to the query too, and before the next layer it keeps its share of the
            tokens most like the mean state of what was kept of the others. An image is a run of visual tokens
            without text in between; a prompt of one run is treated as without this option.

    Source: arXiv 2508.07871, second of two stages, from its text; no code was found. Published for prompts of
    examples with images; here the video is what the examples' images are, unless ``query_image`` is set.
    """

    layer: int | None = None
    query_weight: float = 0.6
    query_image: bool = False

    needs: ClassVar[tuple[str, ...]] = ("attention", "states")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("query_weight", self.query_weight, 0, 1000)
        check_flag("query_image", self.query_image)
        if self.layer is not None:
            check_count("layer", self.layer)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer, and with ``query_image`` the next."""
        first = scaled_layer(6, 32, depth) if self.layer is None else self.layer
        return (first, first + 1) if self.query_image else (first,)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        if view.cut == 0:
            return self._prune_context(view)
        if view.carried is None:
            return Decision(torch.arange(view.rows, device=view.visual.device))
        return self._prune_query(view, *view.carried)

    def _prune_context(self, view: PromptView) -> Decision:
        visual = view.visual
        context = _ahead_of_last_run(visual) if self.query_image else len(visual)
        total = self._budget.tokens(len(visual))
        if context == 0:
            context = len(visual)
        elif context < len(visual):
            total = min(context, max(1, total * context // len(visual)))
        own = visual[:context]
        query = torch.arange(int(own[-1]) + 1, view.rows, device=visual.device)
        chosen = highest(self.scores(view, own, query if len(query) else view.last), total)
        if context == len(visual):
            return Decision(view.kept_with_text(chosen))
        rest = torch.arange(context, len(visual), device=visual.device)
        carried = (total, len(visual))
        return Decision(view.kept_with_text(torch.cat([chosen, rest])), carried=carried)

    def _prune_query(self, view: PromptView, context: int, visual_at_first: int) -> Decision:
        """The image that is asked about, by what was kept of ``context`` tokens of the others."""
        image = view.visual[context:]
        left = self._budget.tokens(visual_at_first) - context
        mean = view.states[view.visual[:context]].float().mean(0, keepdim=True)
        alike = (unit_rows(view.states[image]) @ unit_rows(mean).T)[:, 0]
        stays = highest(alike, max(1, left)) + context
        first = torch.arange(context, device=image.device)
        return Decision(view.kept_with_text(torch.cat([first, stays])))

    @property
    def _budget(self) -> Budget:
        return self.budget if self.budget.is_given else _PUBLISHED

    def scores(self, view: PromptView, own: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
        """(own,) float32 score of the visual rows ``own``, asked about in the rows ``query``."""
        before = last_row_scores(view.before.attention(view.last), own)
        rise = (last_row_scores(view.at.attention(view.last), own) - before).clamp(min=0)
        mean = view.states[query].float().mean(0, keepdim=True)
        return rise + self.query_weight * (unit_rows(view.states[own]) @ unit_rows(mean).T)[:, 0]


def _ahead_of_last_run(visual: torch.Tensor) -> int:
    """How many of the ascending rows ``visual`` stand ahead of the last run without a gap."""
    gaps = (visual[1:] - visual[:-1] > 1).nonzero()[:, 0]
    return 0 if len(gaps) == 0 else int(gaps[-1]) + 1
