"""AIM's schedule inside the language model: every layer of a range drops some more, by PageRank."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_number
from streamprune.errors import InvalidValueError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.in_llm.layer_list import check_layers
from streamprune.ops.attention_rows import attention_rows
from streamprune.ops.selection import highest


@dataclass(frozen=True, kw_only=True)
class AIMInner(InLLMMethod):
    """Rank visual tokens by where attention leads when it is followed for a few steps.

    Importance starts out equal for all rows; in each step every row hands what it has to the rows that it
    attends to. This goes on in every head on its own; the root of the heads' mean square counts. From the
    first layer of the range to its last the number of visual tokens falls in even steps, one before each
    layer, by the attention of the layer below.

    Without a budget nothing visual goes on into the last layer of the range, as released; ``keep_ratio`` or
    ``keep_tokens`` says what does. Numbers are rounded down; with a budget, never less than one.

    Args:
        layers: the layer that still gets all tokens, and the one where the last go; None = 14 and 22 of 28,
            scaled to the depth.
        temperature: attention is sharpened by dividing its scores by this before the softmax, above 0.
        steps: how often importance is handed on.

    Ties go to the token further ahead. All rows attend, so this takes the time of a full attention map in
    each layer of the range; one head's map is in memory at a time.

    Source: arXiv 2412.03248 and its release. There dropped tokens are hidden from the others, but still take
    part in the ranking of later layers with the share that they hand on in the first step; here they are
    gone, which can change the order of tokens that are nearly equal.
    """

    layers: tuple[int, ...] | None = None
    temperature: float = 0.1
    steps: int = 5

    needs: ClassVar[tuple[str, ...]] = ("projections",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers(self.layers))
        if self.layers is not None and len(self.layers) != 2:
            raise InvalidValueError(
                f"layers must be two numbers, the first and the last of the range, got {self.layers}"
            )
        check_number("temperature", self.temperature, 0, float("inf"))
        if self.temperature == 0:
            raise InvalidValueError("temperature must be above 0, got 0")
        check_count("steps", self.steps)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """Every layer of the range but its first."""
        first, last = self._range(depth)
        return tuple(range(first + 1, last + 1))

    def _range(self, depth: int) -> tuple[int, int]:
        if self.layers is not None:
            return self.layers[0], self.layers[1]
        first = scaled_layer(14, 28, depth)
        return first, max(first + 1, scaled_layer(22, 28, depth))

    def count(self, layer: int, depth: int, visual: int) -> int:
        """Visual tokens, of ``visual`` at first, that go on into ``layer``, one of :meth:`cuts`."""
        first, last = self._range(depth)
        gone = (layer - first) / (last - first)
        if not self.budget.is_given:
            return share_of(visual, 1 - gone)
        share = 1 - (1 - self.budget.share(visual)) * gone
        return max(1, share_of(visual, share))

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        count = self.count(view.layer, view.depth, view.visual_at_first)
        if count == 0:
            return Decision(view.kept_with_text(view.visual[:0]))
        rows = torch.arange(view.rows, device=view.visual.device)
        scaling = view.before.scaling / self.temperature
        scores = importance(view.before.queries(rows), view.before.keys(), scaling, rows, steps=self.steps)
        return Decision(view.kept_with_text(highest(scores[view.visual], count)))


def importance(
    queries: torch.Tensor, keys: torch.Tensor, scaling: float, kept: torch.Tensor, *, steps: int
) -> torch.Tensor:
    """(kept,) float32 importance of every row that can be attended to, after ``steps`` steps.

    Args:
        queries: (heads, rows, dim); every row hands on what it has at first.
        keys: (key heads, kept, dim) of the rows that can be attended to.
        scaling: factor of the inner products.
        kept: (kept,) int64, which rows those are, ascending, the first among them.
    """
    heads, rows = queries.shape[:2]
    # the last key that each row sees
    seen = torch.searchsorted(kept, torch.arange(rows, device=kept.device), right=True) - 1
    squares = queries.new_zeros(len(kept), dtype=torch.float32)
    for head in range(heads):
        serves = head * len(keys) // heads
        attention = attention_rows(queries[head : head + 1], keys[serves : serves + 1], scaling, seen)[0]
        # nothing has come to a row that cannot be attended to
        onward = attention if len(kept) == rows else attention[kept]
        ranks = attention.mean(0)
        for _ in range(steps - 1):
            ranks = ranks @ onward
        squares += ranks.square()
    return (squares / heads).sqrt()
