"""Attention that entries have received so far, which several policies judge by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_number
from streamprune.kv.base import Policy, always_above
from streamprune.kv.view import LayerView


@dataclass(frozen=True, kw_only=True)
class AccumulatedAttention(Policy):
    """Remembers how much attention each entry has received; part of the budget goes to the newest tokens.

    Every query is looked at, also those of the prompt, a block at a time. The query heads that share a
    key-value head count as their mean.

    Args:
        recent_share: share of the budget that the newest tokens have for themselves, in [0, 1].
    """

    recent_share: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("queries",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("recent_share", self.recent_share, 0.0, 1.0)

    @property
    def decay(self) -> float:
        """Factor that attention already received loses with every further query."""
        return 1.0

    def query_rows(self, new: int) -> int:
        """All."""
        return new

    def observe(self, view: LayerView) -> Mapping[str, torch.Tensor]:
        """Add what this call's queries paid."""
        received = view.received(decay=self.decay)
        before = view.state.get("received")
        return {"received": received if before is None else before * self.decay**view.new + received}

    def keep(self, view: LayerView, limit: int) -> torch.Tensor:
        """By score, beside the newest tokens."""
        recent = share_of(limit, self.recent_share)
        return self.best(view, always_above(self.score(view), view.newest(recent)), limit)

    def score(self, view: LayerView) -> torch.Tensor:
        """What was received."""
        return view.state["received"]
