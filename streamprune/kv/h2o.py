"""H2O: heavy hitters, which attention has fallen on most, and the newest tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.checks import check_flag
from streamprune.kv.accumulated import AccumulatedAttention
from streamprune.kv.view import LayerView


@dataclass(frozen=True, kw_only=True)
class H2O(AccumulatedAttention):
    """Keep the entries that all queries so far have attended to most, and the newest.

    Args:
        recent_share: share of the budget for the newest tokens, in [0, 1]; half of it, as released.
        by_age: divide by the number of queries that could see an entry, so that old ones have no advantage.

    Source: arXiv 2306.14048. Under grouped queries the mean over a group is remembered, in float32 (the
        release
    knows no groups). ``by_age=True, recent_share=0`` is the kvpress library's observed attention.
    """

    by_age: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_flag("by_age", self.by_age)

    def score(self, view: LayerView) -> torch.Tensor:
        """What was received, in sum or on average."""
        received = view.state["received"]
        return received / (view.count() - view.tokens) if self.by_age else received
