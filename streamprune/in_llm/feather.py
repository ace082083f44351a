"""FEATHER: ranking without rotary positions and an even grid first, a second ranking deeper down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import whole_tokens
from streamprune.checks import check_count, check_flag, check_share
from streamprune.errors import InvalidValueError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.in_llm.layer_list import check_layers
from streamprune.ops.attention_rows import attention_rows
from streamprune.ops.selection import highest, marked

# what the release keeps at its first cut
_RELEASED = 0.3


@dataclass(frozen=True, kw_only=True)
class Feather(InLLMMethod):
    """Score visual tokens by the last row's attention to them before rotation, which favours no place.

    Cut number n (from 1) keeps the share ``share ** n`` of what is there, cut off to an integer, at least one
    token; the first cut also keeps an even grid of every frame, so a single cut may leave more than asked.
    The attention is that of the layer below the cut, over the visual tokens alone.

    Args:
        layers: the layers before which tokens are dropped; None = 8 and 16 of 32, scaled to the depth.
        share: kept at the first cut; None = 0.3. With ``keep_ratio`` or ``keep_tokens`` the last cut keeps
            that number and the others follow the rule above.
        stride: distance of the grid's rows and columns; None = no grid.
        rotated: score after the rotary embedding, as FastV does.

    Ties go to the token further ahead.

    Source: arXiv 2412.13180, whose text scores with the layer that comes next; its code takes the one below,
    and so does this.
    """

    layers: tuple[int, ...] | None = None
    share: float | None = None
    stride: int | None = 3
    rotated: bool = False

    needs: ClassVar[tuple[str, ...]] = ("projections", "grid")

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers(self.layers))
        check_flag("rotated", self.rotated)
        if self.stride is not None:
            check_count("stride", self.stride)
        if self.share is not None:
            check_share("share", self.share)
            if self.budget.is_given:
                raise InvalidValueError(
                    "share says how much stays, and so does keep_ratio or keep_tokens; give one"
                )

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The layers as given, or the quarter and the half."""
        if self.layers is not None:
            return self.layers
        return tuple(sorted({scaled_layer(8, 32, depth), scaled_layer(16, 32, depth)}))

    def count(self, view: PromptView) -> int:
        """Visual tokens that the ranking keeps at this cut."""
        cuts, left = len(self.cuts(view.depth)), float(len(view.visual))
        if not self.budget.is_given:
            share = _RELEASED if self.share is None else self.share
        elif view.cut == cuts - 1:
            return min(self.budget.tokens(view.visual_at_first), len(view.visual))
        else:
            share = self.budget.share(view.visual_at_first) ** (2 / (cuts * (cuts + 1)))
        for _ in range(view.cut + 1):
            left *= share
        return max(1, whole_tokens(left, rounding="truncate"))

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        chosen = marked(highest(self.scores(view), self.count(view)), len(view.visual))
        if view.cut == 0 and self.stride is not None:
            chosen = chosen | self._even_grid(view, self.stride)
        return Decision(view.kept_with_text(chosen.nonzero()[:, 0]))

    def scores(self, view: PromptView) -> torch.Tensor:
        """(visual,) attention of the last row to visual tokens, mean over heads; sums to 1."""
        query = view.before.queries(view.last, rotated=self.rotated)
        keys = view.before.keys(rotated=self.rotated)[:, view.visual]
        attention = attention_rows(query, keys, view.before.scaling)
        return attention[:, 0].mean(0)

    def _even_grid(self, view: PromptView, stride: int) -> torch.Tensor:
        """(visual,) bool: the tokens in every ``stride``-th row and column of their frame."""
        if view.grid is None or view.places is None:
            raise InvalidValueError(
                "feather keeps an even grid of one video; this prompt has none or several: give stride=None"
            )
        _, row, col = view.grid.places(view.places)
        return (row % stride == 0) & (col % stride == 0)
