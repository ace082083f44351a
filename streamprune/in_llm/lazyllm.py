"""LazyLLM: visual tokens that do not matter now wait half-way up, until a later token asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget, share_of
from streamprune.in_llm.layer_list import check_layers
from streamprune.in_llm.returning import ReturningMethod
from streamprune.ops.selection import highest

# 30 % go at each of the paper's three cuts
_PUBLISHED = Budget(keep_ratio=0.1)
_PUBLISHED_CUTS = (0.3, 0.6, 0.9)


@dataclass(frozen=True, kw_only=True)
class LazyLLM(ReturningMethod):
    """At every cut of every call keep the visual tokens that the last row looks at most.

    Looked at is the attention of the layer below, mean over heads, among what is attended to there. The
    number falls by the same count at every cut, to ``keep_ratio`` (default 0.1, as in the paper's figure) of
    all visual tokens after the last one, rounded down.

    A token that was dropped waits with the state it had; every new token chooses again, from the first cut
    on, and what it wants and a layer does not hold yet goes up with it. Layers then hold what was ever
    wanted, a step attends to what is wanted now, and no layer computes a token twice; a step that brings many
    back takes as long as a short prompt. What waits takes one state a token, more than its keys and values in
    models with few key heads.

    Args:
        layers: the layers before which tokens are dropped; None = at 30, 60 and 90 % of the depth.

    Ties go to the token further ahead. Only visual tokens are dropped; the paper drops any of the prompt.
    Beams, and caches that were cropped or edited in between, are refused, as is flash attention.

    Source: arXiv 2407.14057, from its text; no code was released, and the numbers of its tables are not
    given.
    """

    layers: tuple[int, ...] | None = None

    needs: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers(self.layers))

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The given layers, or those of the paper, as far as they are different ones."""
        if self.layers is not None:
            return self.layers
        return tuple(sorted({max(1, share_of(depth, share)) for share in _PUBLISHED_CUTS}))

    def choose(self, scores: torch.Tensor, cut: int, cuts: int, visual: int) -> torch.Tensor:
        """See the class."""
        return highest(scores, self.count(cut, cuts, visual)).sort().values

    def count(self, cut: int, cuts: int, visual: int) -> int:
        """Of ``visual`` tokens, how many go on at cut number ``cut`` of ``cuts``."""
        budget = self.budget if self.budget.is_given else _PUBLISHED
        gone = (1 - budget.share(visual)) * (cut + 1) / cuts
        return max(1, share_of(visual, 1 - gone))
