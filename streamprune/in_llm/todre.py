"""ToDRE's second stage: near the end of the model, visual tokens that nobody looks at any more all go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_count, check_number
from streamprune.in_llm.base import Decision, InLLMMethod, LayerProjections, PromptView, scaled_layer
from streamprune.ops.selection import highest

# rows whose attention is in memory at a time
_BLOCK_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class ToDREInner(InLLMMethod):
    """Ask once whether text and video still attend to each other; if not, no visual token goes on.

    Looked at is the attention of the layer below, mean over heads: which share of its attention the text
    gives to visual tokens, and which the visual tokens give to the text. The text is what stands behind the
    first visual token; what stands before it (the system's prompt) does not count. When both shares are
    below ``threshold`` the tokens go, otherwise all stay. Where all text follows the video the second share
    is 0, since tokens see only what is before them.

    With ``keep_ratio`` (rounded down, at least one token) or ``keep_tokens``, so many go on when the others
    go: those that the text looks at most, ties to the token further ahead. As published none do.

    Args:
        threshold: share of the attention, in [0, 1]; 0 never drops anything, 1 always does unless one side
            attends to nothing else.
        layer: the layer before which tokens are dropped; None = at seven eighths of the model.

    Source: arXiv 2505.18757, second of two stages, from its text; no code was found. A budget is ours.
    """

    threshold: float = 0.1
    layer: int | None = None

    needs: ClassVar[tuple[str, ...]] = ("attention",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("threshold", self.threshold, 0, 1)
        if self.layer is not None:
            check_count("layer", self.layer)

    def cuts(self, depth: int) -> tuple[int, ...]:
        """The one layer."""
        return (scaled_layer(7, 8, depth) if self.layer is None else self.layer,)

    def decide(self, view: PromptView) -> Decision:
        """See the class."""
        text = text_behind(view)
        received = mean_attention(view.before, text)[view.visual]
        if self._is_used(float(received.sum())) or self._is_used(self._given_to_text(view, text)):
            return Decision(torch.arange(view.rows, device=view.visual.device))
        count = self.budget.tokens(len(view.visual)) if self.budget.is_given else 0
        return Decision(view.kept_with_text(highest(received, count)))

    def _is_used(self, share: float) -> bool:
        return share >= self.threshold

    def _given_to_text(self, view: PromptView, text: torch.Tensor) -> float:
        """Share of their attention that visual tokens give to the text."""
        if int(text[0]) > int(view.visual[-1]):
            return 0.0
        return float(mean_attention(view.before, view.visual)[text].sum())


def text_behind(view: PromptView) -> torch.Tensor:
    """(text,) every row behind the first visual token that is none itself; else the prompt's last row."""
    text = torch.ones(view.rows, dtype=torch.bool, device=view.visual.device)
    text[view.visual] = False
    text[: int(view.visual[0])] = False
    rows = text.nonzero()[:, 0]
    return rows if len(rows) else view.last


def mean_attention(layer: LayerProjections, rows: torch.Tensor) -> torch.Tensor:
    """(all rows,) attention that ``rows`` give, mean over heads and over them; sums to 1."""
    blocks = [layer.attention(block).mean(0).sum(0) for block in torch.split(rows, _BLOCK_ROWS)]
    return torch.stack(blocks).sum(0) / len(rows)
