"""AdaptInfer: words that other words have to do with say which visual tokens stay, anew at every stage."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.errors import UnknownNameError
from streamprune.in_llm.base import Decision, PromptView
from streamprune.in_llm.stages import StagedMethod
from streamprune.ops.selection import highest

Words = Literal["both", "received", "even"]


@dataclass(frozen=True, kw_only=True)
class AdaptInfer(StagedMethod):
    """Weigh the attention that text gives to the video by how much each text row matters to the others.

    Looked at is the attention of the layer below, of the rows behind the video. In every head a row weighs as
    much as it gives to these rows and gets from them (from itself once); its weight times what it gives to a
    visual token, summed over rows and heads, is the token's score.

    Args:
        layers: the layers before which tokens are dropped; None = 2, 11 and 21 of 32 (after layers 1, 10 and
            20), scaled to the depth.
        shares: share of the ORIGINAL visual tokens kept at each of them; None = 133, 27 and 3 of 576, the
            release's list for 64 tokens. With ``keep_ratio`` or ``keep_tokens`` the shares fall by
            the same factor at every layer, to what is left after the last.
        words: "both" as released; "received": a row weighs what it gets, which in a causal model is more
            for the first ones; "even": all rows weigh the same.

    Numbers of tokens are rounded down, never less than one but for a share of 0. Ties go to the token further
    ahead.

    Source: arXiv 2508.06084 and its release for LLaVA. There the positions are numbered anew after a cut and
    at least one token is dropped at each; here tokens keep their places in the prompt.
    """

    words: Words = "both"

    needs: ClassVar[tuple[str, ...]] = ("attention",)
    published: ClassVar[tuple[tuple[int, float], ...]] = ((2, 133 / 576), (11, 27 / 576), (21, 3 / 576))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.words not in get_args(Words):
            raise UnknownNameError.among("words", self.words, get_args(Words))

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        count = self.count(view.cut, view.depth, view.visual_at_first)
        return Decision(view.kept_with_text(highest(self.scores(view), count)))

    def scores(self, view: PromptView) -> torch.Tensor:
        """(visual,) weighted attention of each visual token, summed over heads and text rows."""
        attention = view.before.attention(view.after)
        weight = word_weights(attention[:, :, view.after], self.words)
        return (weight[:, :, None] * attention[:, :, view.visual]).sum((0, 1))


def word_weights(attention: torch.Tensor, words: Words) -> torch.Tensor:
    """(heads, text) how much each row of the (heads, text, text) ``attention`` among text counts."""
    if words == "even":
        return torch.ones_like(attention[:, 0])
    received = attention.sum(1)
    if words == "received":
        return received
    return received + attention.sum(2) - attention.diagonal(dim1=1, dim2=2)
