"""PyramidDrop: at the end of every quarter of the model, half of the visual tokens that are left go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from streamprune.budget import share_of
from streamprune.checks import check_share
from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.in_llm.base import Decision, InLLMMethod, PromptView, scaled_layer
from streamprune.in_llm.fastv import last_row_scores
from streamprune.in_llm.layer_list import check_layers
from streamprune.ops.selection import highest


@dataclass(frozen=True, kw_only=True)
class PyramidDrop(InLLMMethod):
    """Rank the visual tokens several times by the last row's attention and keep fewer each time.

    The attention is that of the layer the tokens are about to enter.

    Args:
        layers: the layers before which tokens are dropped; None = 8, 16 and 24 of 32, scaled to the depth.
        shares: share of the ORIGINAL visual tokens kept at each of them, descending; None = 0.5, 0.25, 0.125
            and so on. With ``keep_ratio`` or ``keep_tokens`` the shares fall evenly, by the same factor at
            every layer, to what is left after the last.

    Numbers of tokens are cut off to integers, never less than one. Ties go to the token further ahead.

    Source: arXiv 2410.17247. Its release renumbers the positions after every cut; here tokens keep their
    places in the prompt.
    """

    layers: tuple[int, ...] | None = None
    shares: tuple[float, ...] | None = None

    needs: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "layers", check_layers(self.layers))
        if self.shares is None:
            return
        if isinstance(self.shares, str) or not isinstance(self.shares, Sequence):
            raise InvalidTypeError(f"shares must be a list of numbers in (0, 1], got {self.shares!r}")
        for share in self.shares:
            check_share("shares", share)
        if list(self.shares) != sorted(self.shares, reverse=True):
            raise InvalidValueError(f"shares must not rise, got {tuple(self.shares)}")
        if self.budget.is_given:
            raise InvalidValueError(
                "shares say how much stays, and so does keep_ratio or keep_tokens; give one"
            )
        if self.layers is not None and len(self.layers) != len(self.shares):
            raise InvalidValueError(
                f"shares must hold one number for each of the layers {self.layers}, got {tuple(self.shares)}"
            )
        object.__setattr__(self, "shares", tuple(self.shares))

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The layers as given, or the ends of the quarters."""
        if self.layers is not None:
            return self.layers
        stages = 4 if self.shares is None else len(self.shares) + 1
        cuts = tuple(sorted({scaled_layer(number, stages, depth) for number in range(1, stages)}))
        if self.shares is not None and len(cuts) != len(self.shares):
            raise InvalidValueError(f"shares must be fewer than the {depth} layers, got {self.shares}")
        return cuts

    def count(self, cut: int, cuts: int, visual: int) -> int:
        """Visual tokens, of ``visual`` at first, that are left after decision ``cut`` of ``cuts``."""
        if self.shares is not None:
            share = self.shares[cut]
        elif self.budget.is_given:
            if cut == cuts - 1:
                return self.budget.tokens(visual)
            share = self.budget.share(visual) ** ((cut + 1) / cuts)
        else:
            share = 0.5 ** (cut + 1)
        return max(1, share_of(visual, share, rounding="truncate"))

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        count = self.count(view.cut, len(self.cuts(view.depth)), view.visual_at_first)
        scores = last_row_scores(view.at.attention(view.last), view.visual)
        return Decision(view.kept_with_text(highest(scores, count)))
