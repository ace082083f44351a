"""SlimInfer: whole runs of neighbouring tokens leave the hidden states, several times on the way up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget, share_of
from streamprune.checks import check_count
from streamprune.in_llm.base import Decision, InLLMMethod, LayerProjections, PromptView, scaled_layer
from streamprune.in_llm.layer_list import check_layers
from streamprune.ops.selection import highest

_OURS = Budget(keep_ratio=0.25)


@dataclass(frozen=True, kw_only=True)
class SlimInfer(InLLMMethod):
    """Rank units of consecutive visual tokens by how well their keys answer the end of the prompt.

    A unit's score is the inner product of its mean key with the mean query of the prompt's last rows, both
    rotated, in the layer below, mean over heads. Units are cut once, from the first visual token on; the last
    may be smaller. The best units go on until the number of tokens is reached; of the one that would exceed
    it the first tokens do. The number falls by the same factor at every cut, to ``keep_ratio`` (default 0.25)
    or ``keep_tokens`` after the last, rounded down.

    Args:
        layers: the layers before which tokens are dropped; None = 8, 16 and 24 of 32, scaled to the depth.
        unit_size: tokens of a unit.
        window: rows at the end of the prompt that ask; never more than stand behind the video.

    Ties go to the unit further ahead.

    Source: arXiv 2508.06447, from its abstract and its project's page; text and code of the score, the sizes,
    the layers and the shares could not be read, and those here are ours. Only visual tokens are dropped. The
    paper also moves keys and values of layers below to host memory and fetches them ahead of time, which is
    not done here.
    """

    layers: tuple[int, ...] | None = None
    unit_size: int = 16
    window: int = 16

    needs: ClassVar[tuple[str, ...]] = ("projections",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers(self.layers))
        check_count("unit_size", self.unit_size)
        check_count("window", self.window)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The layers as given, or the ends of the quarters."""
        if self.layers is not None:
            return self.layers
        return tuple(sorted({scaled_layer(number, 4, depth) for number in (1, 2, 3)}))

    def count(self, cut: int, cuts: int, visual: int) -> int:
        """Visual tokens, of ``visual`` at first, that are left after decision ``cut`` of ``cuts``."""
        budget = self.budget if self.budget.is_given else _OURS
        if cut == cuts - 1:
            return budget.tokens(visual)
        return max(1, share_of(visual, budget.share(visual) ** ((cut + 1) / cuts)))

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        count = self.count(view.cut, len(self.cuts(view.depth)), view.visual_at_first)
        # unit of each visual token that is left
        unit = view.carried
        if unit is None:
            unit = torch.arange(len(view.visual), device=view.visual.device) // self.unit_size
        scores = unit_scores(view.before, view.visual, unit, view.after[-self.window :])
        best_first = highest(scores[unit], len(unit))
        chosen = best_first[:count].sort().values
        return Decision(view.kept_with_text(chosen), carried=unit[chosen])


def unit_scores(
    layer: LayerProjections, visual: torch.Tensor, unit: torch.Tensor, asking: torch.Tensor
) -> torch.Tensor:
    """(units,) inner product of each unit's mean key with the mean query of the rows ``asking``.

    Mean over heads; -inf for a unit of which nothing is left.

    Args:
        visual: (visual,) rows of the tokens.
        unit: (visual,) int64 number of each token's unit.
    """
    keys = layer.keys()[:, visual]
    units = int(unit.max()) + 1
    sums = keys.new_zeros(len(keys), units, keys.shape[2]).index_add_(1, unit, keys)
    sizes = torch.bincount(unit, minlength=units)
    means = sums / sizes.clamp(min=1)[:, None]
    query = layer.queries(asking).mean(1)
    # key heads serve as many query heads each
    grouped = query.reshape(len(keys), -1, query.shape[-1]).mean(1)
    scores = torch.einsum("kd,kud->ku", grouped, means).mean(0)
    return scores.masked_fill(sizes == 0, -torch.inf)
