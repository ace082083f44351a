"""DART: a few pivots stay, and of the rest what is least like them, whatever anything attends to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget, whole_tokens
from streamprune.checks import check_count
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView
from streamprune.ops.selection import highest, lowest, marked
from streamprune.ops.similarity import unit_rows

# a third, as the ports' first setting
_RELEASED = Budget(keep_ratio=1 / 3)


@dataclass(frozen=True, kw_only=True)
class DART(InLLMMethod):
    """Let every pivot in turn add the tokens whose states are least like its own.

    Pivots are the visual tokens, and the text behind them, whose rotated keys of the layer below have the
    largest sums of absolute values, over all heads. Each takes the same number, cut off to an integer:
    ``keep_ratio`` of the visual tokens, divided by the number of pivots. Visual pivots stay on top of that,
    so a few tokens more than asked may be left. States are compared as the norm of the coming layer gives
    them. Ties go to the token further ahead.

    Args:
        layer: the layer before which tokens are dropped.
        visual_pivots: how many visual tokens are pivots, of so many as there are.
        text_pivots: how many text tokens are.

    Source: EMNLP 2025 DART, after two independent ports, which visit pivots in the order of a Python set;
    here visual pivots come first and then text, each from the largest sum on.
    """

    layer: int = 2
    visual_pivots: int = 4
    text_pivots: int = 4

    needs: ClassVar[tuple[str, ...]] = ("projections", "states")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("layer", self.layer)
        check_count("visual_pivots", self.visual_pivots)
        check_count("text_pivots", self.text_pivots, least=0)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (self.layer,)

    def pivots(self, view: PromptView) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the visual and of the text pivots, each from the largest sum on."""
        size = view.before.keys().abs().sum((0, 2))
        text = torch.arange(int(view.visual[-1]) + 1, view.rows, device=size.device)
        return (
            view.visual[highest(size[view.visual], self.visual_pivots)],
            text[highest(size[text], self.text_pivots)],
        )

    def each(self, visual: int, pivots: int) -> int:
        """How many of ``visual`` tokens each of ``pivots`` takes."""
        budget = self.budget if self.budget.is_given else _RELEASED
        wanted = (
            visual * budget.share(visual) if budget.keep_tokens is None else min(visual, budget.keep_tokens)
        )
        return whole_tokens(wanted / pivots, rounding="truncate")

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        own, text = self.pivots(view)
        pivots = torch.cat([own, text])
        stays = marked(own, view.rows)
        each = self.each(len(view.visual), len(pivots))
        stays[least_like(view.at.normed(), view.visual[~stays[view.visual]], pivots.tolist(), each)] = True
        return Decision(view.kept_with_text(stays[view.visual].nonzero()[:, 0]))


def least_like(states: torch.Tensor, pool: torch.Tensor, pivots: Iterable[int], each: int) -> torch.Tensor:
    """(taken,) rows of ``pool`` that the ``pivots`` take in turn: the ``each`` least like it (cosine).

    Args:
        states: (rows, width).
        pool: (pool,) ascending rows to take from; a row is taken once.
    """
    unit, taken = unit_rows(states), []
    for pivot in pivots:
        chosen = lowest(unit[pool] @ unit[pivot], each)
        taken.append(pool[chosen])
        pool = pool[~marked(chosen, len(pool))]
    return torch.cat(taken) if taken else pool[:0]
