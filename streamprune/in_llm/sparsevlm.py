"""SparseVLM: the words that the video concerns rate its tokens, and the best of what is dropped is pooled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_flag
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.in_llm.layer_list import check_layers
from streamprune.ops.density import density_clusters, scaled_distances
from streamprune.ops.merging import Entries
from streamprune.ops.selection import highest

# the release's list for an average of 192 of 576 tokens
_RELEASED = (300 / 576, 200 / 576, 110 / 576)


@dataclass(frozen=True, kw_only=True)
class SparseVLM(InLLMMethod):
    """Keep the visual tokens that the raters look at most, several times, and pool what comes next.

    Raters are the text rows behind the video whose share in the softmax over text of the products with the
    visual tokens, as both enter the language model, is above the mean; all of them when none is. Of the
    tokens dropped at a cut the best 30 % and one are clustered by density and every cluster goes on as its
    mean, at the place of its centre; a tenth of them and one are centres. Later cuts treat such a token like
    any other.

    Args:
        layers: the layers before which tokens are dropped, by the attention of the layer below; None = 3, 7
            and 16 of 32, scaled to the depth.
        counts: how many tokens the rating keeps at each cut, clusters not counted. None = 300, 200 and 110 of
            576, as shares of the tokens at hand. With ``keep_ratio`` or ``keep_tokens`` clusters are counted,
            and the numbers fall by the same factor at every cut to what is left after the last.
        recycle: whether dropped tokens are pooled; the release's second version does not.

    At every cut at least one token is dropped. Ties go to the token further ahead.

    Source: arXiv 2410.04417, whose text sums a cluster and takes the rank of the attention for the budget;
    its code takes means and fixed lists, puts clusters behind the other visual tokens and renumbers
    positions. Its second version also divides attention by a bias of the rotation; this one does not.
    """

    layers: tuple[int, ...] | None = None
    counts: tuple[int, ...] | None = None
    recycle: bool = True

    needs: ClassVar[tuple[str, ...]] = ("attention", "states")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers(self.layers))
        check_flag("recycle", self.recycle)
        if self.counts is None:
            return
        if isinstance(self.counts, str) or not isinstance(self.counts, Sequence):
            raise InvalidTypeError(f"counts must be a list of numbers of tokens, got {self.counts!r}")
        for count in self.counts:
            check_count("counts", count)
        if self.budget.is_given:
            raise InvalidValueError(
                "counts say how much stays, and so does keep_ratio or keep_tokens; give one"
            )
        object.__setattr__(self, "counts", tuple(self.counts))

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The layers as given, or those of the release."""
        cuts = self.layers or tuple(sorted({scaled_layer(number, 32, depth) for number in (3, 7, 16)}))
        if self.counts is not None and len(self.counts) != len(cuts):
            raise InvalidValueError(f"counts must hold one number for each of the layers {cuts}")
        return cuts

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        raters = self.raters(view) if view.carried is None else view.carried
        scores = view.before.attention(view.rows - raters)[..., view.visual].mean((0, 1))
        visual = len(view.visual)
        count = self.count(view.cut, len(self.cuts(view.depth)), visual, view.visual_at_first)
        ranked = highest(scores, visual)
        chosen, dropped = ranked[:count], ranked[count:]
        if not self.recycle or len(dropped) == 0:
            return Decision(view.kept_with_text(chosen), None, raters)
        pooled, clusters = _recycled(len(dropped))
        rows = view.visual[dropped[:pooled]]
        centres, joined = recycle(view.states[rows], clusters)
        kept = view.kept_with_text(torch.cat([chosen, dropped[:pooled][centres]]))
        return Decision(kept, _entries(kept, rows, centres, joined), raters)

    def raters(self, view: PromptView) -> torch.Tensor:
        """(raters,) how far in front of the prompt's end each of them stands; the last row is 1."""
        text, visual = view.embeds[view.after].float(), view.embeds[view.visual].float()
        weight = torch.softmax(visual @ text.T, -1).mean(0)
        chosen = (weight > weight.mean()).nonzero()[:, 0]
        rows = view.after if len(chosen) == 0 else view.after[chosen]
        return view.rows - rows

    def count(self, cut: int, cuts: int, visual: int, visual_at_first: int) -> int:
        """How many of ``visual`` tokens the rating keeps at decision ``cut`` of ``cuts``."""
        if self.counts is not None:
            return max(1, min(self.counts[cut], visual - 1))
        if not self.budget.is_given:
            share = _RELEASED[cut] if cuts == len(_RELEASED) else _RELEASED[-1] ** ((cut + 1) / cuts)
            return max(1, min(share_of(visual_at_first, share, rounding="truncate"), visual - 1))
        total = self.budget.tokens(visual_at_first)
        if cut < cuts - 1:
            share = self.budget.share(visual_at_first) ** ((cut + 1) / cuts)
            total = max(total, share_of(visual_at_first, share, rounding="truncate"))
        total = min(total, visual)
        if not self.recycle or total == visual:
            return total
        # one token fewer makes at most one cluster more, so every total can be met
        fits = (kept for kept in range(total, 0, -1) if kept + _recycled(visual - kept)[1] <= total)
        return next(fits, 0)


def _recycled(dropped: int) -> tuple[int, int]:
    """How many of the ``dropped`` tokens are pooled, and into how many."""
    if dropped == 0:
        return 0, 0
    pooled = min(dropped, share_of(dropped, 0.3, rounding="truncate") + 1)
    return pooled, pooled // 10 + 1


def recycle(states: torch.Tensor, clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres among the rows of (rows, width), best first, and the number of each row's centre."""
    centres, joined = density_clusters(scaled_distances(states.float()[None]), clusters, clusters)
    return centres[0], joined[0]


def _entries(kept: torch.Tensor, rows: torch.Tensor, centres: torch.Tensor, joined: torch.Tensor) -> Entries:
    """What every one of ``kept`` is made of: itself, or the mean of the ``rows`` that joined a centre."""
    size = torch.bincount(joined, minlength=len(centres))
    slot = torch.searchsorted(kept, rows[centres])
    alone = torch.ones(len(kept), dtype=torch.bool, device=kept.device)
    alone[slot] = False
    own = alone.nonzero()[:, 0]
    return (
        torch.cat([own, slot[joined]]),
        torch.cat([kept[own], rows]),
        torch.cat([torch.ones(len(own), device=kept.device), 1 / size[joined]]),
    )
