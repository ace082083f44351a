"""DyCoke's second stage: while decoding, upper layers attend to those visual tokens that matter now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count, check_flag, check_number
from streamprune.in_llm.base import scaled_layer
from streamprune.in_llm.steps import StepDecision, StepMethod, StepView
from streamprune.ops.selection import highest

# 1 - 0.7, p of the release
_RELEASED = Budget(keep_ratio=1 - 0.7)


@dataclass(frozen=True)
class _Last:
    """The last step: (visual,) attention to the visual tokens, and which of them were chosen."""

    attention: torch.Tensor
    chosen: torch.Tensor | None


@dataclass(frozen=True, kw_only=True)
class DyCokeInner(StepMethod):
    """At each step, choose the visual tokens that the new token looks at most, unless that has not changed.

    The attention of the layer below, mean over heads, is compared with that of the step before by its cosine
    on the visual tokens. Below ``gate`` the best are chosen anew; otherwise, as released, nothing is chosen
    and this step attends to everything. What is not chosen stays in the cache and may be chosen later.

    Args:
        layer: from this one on the choice holds; the attention is that of the layer below. None = 3 of 28,
            scaled to the depth.
        gate: cosine from which on two steps count as alike, in [-1, 1].
        as_released: False keeps the last choice when steps are alike, as the paper says.

    Of ``keep_ratio`` (default 0.3), the share attended to, a fraction is rounded down. Ties go to the token
    further ahead. The cache keeps its full length in all layers, so no memory is saved, and the prompt takes
    as long as ever. Upper layers attend to fewer keys, but those have to be chosen and gathered first: with
    4096 tokens a step took 1.1 times as long as a stock one on a CPU. In a batch the steps of every prompt
    are compared on their own; of beams, with what the beam in the same place had. Rows that come together (a
    prompt, a later turn) attend to everything.

    Source: arXiv 2411.15024, second of two stages, and its release. There a step's attention is also compared
    with the last one of the prompt before, which nothing clears.
    """

    layer: int | None = None
    gate: float = 0.9
    as_released: bool = True

    needs: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layer is not None:
            check_count("layer", self.layer)
        check_number("gate", self.gate, -1, 1)
        check_flag("as_released", self.as_released)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (scaled_layer(3, 28, depth) if self.layer is None else self.layer,)

    def step(self, view: StepView) -> StepDecision:
        """See the class."""
        attention = view.attention[:, view.visual].mean(0)
        last: _Last | None = view.carried
        if last is not None and len(last.attention) != len(attention):
            last = None  # another video has come since
        if self.likeness(attention, last) >= self.gate and last is not None:
            chosen = None if self.as_released else last.chosen
        else:
            budget = self.budget if self.budget.is_given else _RELEASED
            count = budget.tokens(len(attention), rounding="truncate")
            chosen = highest(attention, count).sort().values
        return StepDecision(chosen, _Last(attention, chosen))

    def likeness(self, attention: torch.Tensor, last: _Last | None) -> float:
        """Cosine with the attention of the step before; 0 where there is none."""
        if last is None:
            return 0.0
        return float(torch.nn.functional.cosine_similarity(attention, last.attention, 0))
