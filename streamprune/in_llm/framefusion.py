"""FrameFusion: alike neighbours in time are merged layer by layer, then the last token's attention prunes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_instead_of_budget, check_number, check_share
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView
from streamprune.in_llm.fastv import last_row_scores
from streamprune.ops.merging import Entries
from streamprune.ops.selection import highest, marked
from streamprune.ops.similarity import adjacent_cosine

# of the work of a model without any reduction
_RELEASED_COST = 0.3


@dataclass(frozen=True)
class _Progress:
    """What the earlier decisions of one prompt came to.

    Attributes:
        merged: share of its visual tokens that each merging step removed.
        merging: whether more is to be merged.
    """

    merged: tuple[float, ...] = ()
    merging: bool = True


@dataclass(frozen=True, kw_only=True)
class FrameFusion(InLLMMethod):
    """Merge each token into the one at its place in the frame before while enough of them are alike.

    From layer 0 on, before every layer: a token joins the previous one left at its place of the grid when
    the cosine of their states is at least ``similarity``; a run of them becomes the mean of its members, at
    the place of the first. Merging ends when it could remove as much as has to go, and then removes exactly
    that, of the most alike; or when less than ``least_merged`` of the tokens are alike. In the second case,
    one layer on, tokens are dropped to what may stay, by the attention of the prompt's last row in the layer
    below, mean over heads. Where visual tokens are not those of one video nothing is alike.

    Args:
        cost: what the layers may take together, as a share of what they take without any reduction, in
            (0, 1]; None = 0.3. The work of the layers so far is counted, so that the longer merging goes on,
            the less may stay. Instead of a budget.
        similarity: least cosine of tokens that are merged, in [-1, 1]. The release takes 0.6 for LLaVA-Video
            and MiniCPM-V, 0.5 for Qwen2-VL and InternVL.
        least_merged: share of the visual tokens at which merging is still worth while, in [0, 1].

    With ``keep_ratio`` or ``keep_tokens`` so many tokens are left at the end, whatever merging took; they
    are dropped before the last layer at the latest. Ties go to the token further ahead.

    Source: arXiv 2501.01986 and its release. There all but the first merge happens inside a layer, after its
    attention, here before the layer that follows; ``cost`` counts 28 layers in models of any depth, here
    those of the model; and it is an error that ``cost`` is used up, here one token stays.
    """

    cost: float | None = None
    similarity: float = 0.6
    least_merged: float = 0.1

    needs: ClassVar[tuple[str, ...]] = ("states", "attention", "grid")
    first_cut: ClassVar[int] = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cost is not None:
            check_share("cost", self.cost)
        check_number("similarity", self.similarity, -1, 1)
        check_number("least_merged", self.least_merged, 0, 1)
        check_instead_of_budget("framefusion", {"cost": self.cost}, budget_given=self.budget.is_given)

    def keeps_everything(self, visual: int) -> bool:
        """Also where the cost says so."""
        return self.cost == 1 or super().keeps_everything(visual)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """Every layer; most are let alone once all is decided."""
        return tuple(range(depth))

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        progress = _Progress() if view.carried is None else view.carried
        to_go = self.to_go(view, progress.merged)
        too_late = self.budget.is_given and view.layer == view.depth - 1 and view.layer > 0
        if progress.merging and not too_late:
            return self._merge(view, to_go, progress)
        scores = last_row_scores(view.before.attention(view.last), view.visual)
        chosen = highest(scores, max(1, round(len(view.visual) - to_go)))
        return Decision(view.kept_with_text(chosen), done=True)

    def to_go(self, view: PromptView, merged: tuple[float, ...]) -> float:
        """How many of the visual tokens at hand are too many; whole when a budget is given.

        Args:
            merged: share that each merging step so far removed.
        """
        count = len(view.visual)
        if self.budget.is_given:
            return count - self.budget.tokens(view.visual_at_first)
        left, spent = 1.0, 0.0
        for share in merged:
            left *= 1 - share
            spent += left
        allowed = view.depth * (_RELEASED_COST if self.cost is None else self.cost) - spent
        most = 1 - allowed / ((view.depth - len(merged)) * left)
        return min(1.0, max(0.0, most)) * count

    def _merge(self, view: PromptView, to_go: float, progress: _Progress) -> Decision:
        count = len(view.visual)
        chain, cosines = alike_before(view)
        joins = cosines >= self.similarity
        share = int(joins.sum()) / count
        enough = share * count >= to_go
        if enough:
            joins = marked(highest(cosines, int(to_go)), count)
        carried = _Progress((*progress.merged, share), share >= self.least_merged)
        if not bool(joins.any()):
            rows = torch.arange(view.rows, device=view.visual.device)
            return Decision(rows, carried=carried, done=enough)
        kept, entries = runs_merged(view, chain, joins)
        return Decision(kept, entries, carried, done=enough)


def alike_before(view: PromptView) -> tuple[torch.Tensor, torch.Tensor]:
    """How alike each visual token is to the one before it at its place of the grid.

    Returns:
        (visual,) int64 numbers of the visual tokens, place by place, frames ascending; and (visual,) float32
        the cosine of each with the one before it in that order, below -1 for the first of a place.
    """
    count, device = len(view.visual), view.visual.device
    nothing = torch.full((count,), -2.0, device=device)
    if view.grid is None or view.places is None:
        return torch.arange(count, device=device), nothing
    frame = view.grid.places(view.places)[0]
    place = view.places % view.grid.tokens_per_frame
    chain = torch.argsort(place * view.grid.frames + frame, stable=True)
    same = place[chain[1:]] == place[chain[:-1]]
    cosines = adjacent_cosine(view.states[view.visual[chain]])
    nothing[chain[1:]] = torch.where(same, cosines, nothing[1:])
    return chain, nothing


def runs_merged(view: PromptView, chain: torch.Tensor, joins: torch.Tensor) -> tuple[torch.Tensor, Entries]:
    """The rows that go on, and what each is the mean of, when every run of joining tokens becomes one.

    Args:
        chain: (visual,) int64 order of the visual tokens; one that joins, joins the one before it.
        joins: (visual,) bool.
    """
    kept = view.kept_with_text((~joins).nonzero()[:, 0])
    heads = ~joins[chain]
    head_of = chain[heads][heads.long().cumsum(0) - 1]
    leader = torch.arange(view.rows, device=kept.device)
    leader[view.visual[chain]] = view.visual[head_of]
    members = torch.bincount(leader, minlength=view.rows)
    rows = torch.arange(view.rows, device=kept.device)
    return kept, (torch.searchsorted(kept, leader), rows, 1 / members[leader].float())
