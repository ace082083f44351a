"""PLPHP: more visual entries in layers that look at the video, and other ones in every head."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import whole_tokens
from streamprune.checks import check_flag, check_number
from streamprune.errors import InvalidValueError
from streamprune.kv.base import Decoding, Policy, always_above, segments_of
from streamprune.kv.view import NOT_LABELLED, PROMPT_TEXT, LayerView
from streamprune.ops.selection import ranks_within


@dataclass(frozen=True, kw_only=True)
class PLPHP(Policy):
    """Keep text, and in each head the visual entries that the last token attends to most, frame by frame.

    How many depends on the layer: the share of its attention that the last token of the prompt pays to the
    video makes a layer attentive, balanced or indifferent. The budget, text included, is what an attentive
    layer holds; the others hold less.

    Args:
        spread: share of the visual tokens that a balanced layer holds less than an attentive one, and an
            indifferent layer less than a balanced one, in [0, 1].
        attentive: layers that pay more than this share of their attention to the video are attentive.
        indifferent: layers that pay less than this are indifferent; no more than ``attentive``.
        by_frame: frames lose in proportion to their entries; off, entries of all frames compete.

    Source: arXiv 2502.14504, the idea; the paper's retention rate is that of balanced layers. Rounding, the
    values of the thresholds and what grouped queries do are ours: the attention is the mean over all query
    heads for the layer, and over those of a group for its entries. Rows of a batch share the mean, since they
    hold equally many entries. The prompt's text stays, so the budget must leave room for it. The answer's
    entries stay (``decoding="grow"``); with "hold" each new token's query decides anew.
    """

    spread: float = 0.25
    attentive: float = 0.3
    indifferent: float = 0.1
    by_frame: bool = True
    decoding: Decoding = "grow"

    needs: ClassVar[tuple[str, ...]] = ("queries", "segments")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("spread", self.spread, 0.0, 1.0)
        check_number("attentive", self.attentive, 0.0, 1.0)
        check_number("indifferent", self.indifferent, 0.0, 1.0)
        check_flag("by_frame", self.by_frame)
        if self.indifferent > self.attentive:
            raise InvalidValueError(
                f"indifferent={self.indifferent} must be no more than attentive={self.attentive}"
            )

    def query_rows(self, new: int) -> int:
        """The last."""
        return 1

    def limit(self, view: LayerView, entry_bytes: int) -> int:
        """What this layer may hold, by its attention to the video."""
        most = self.budget.exact_entries(view.prompt, entry_bytes, view.depth)
        visual = int(_visual(view).sum(-1).max())
        share = self.attention_to_video(view)
        steps = (share <= self.attentive) + (share < self.indifferent)
        text = int(self.protected(view).sum(-1).max())
        least = min(max(1, text), whole_tokens(most))
        return max(1, least, whole_tokens(most - steps * self.spread * visual))

    def attention_to_video(self, view: LayerView) -> float:
        """Share of its attention that the last token pays to visual entries, of all heads and rows."""
        paid = view.attention(1)[..., 0, :] * _visual(view)[:, :, None]
        return float(paid.sum(-1).mean())

    def protected(self, view: LayerView) -> torch.Tensor:
        """The prompt's text, beside what the options protect."""
        own = (segments_of(view) == PROMPT_TEXT) & ~view.hidden
        given = super().protected(view)
        return own if given is None else own | given

    def score(self, view: LayerView) -> torch.Tensor:
        """Minus the share of its frame's entries that an entry is behind of; later text is above."""
        votes = view.attention(1)[..., 0, :].mean(2)
        if self.by_frame:
            rank, size = ranks_within(votes, segments_of(view))
            votes = -(rank + 0.5) / size
        later = (segments_of(view) == NOT_LABELLED) & ~view.hidden
        return always_above(votes, later)


def _visual(view: LayerView) -> torch.Tensor:
    """(b, h, n) bool: entries of frames."""
    return (segments_of(view) >= 0) & ~view.hidden
