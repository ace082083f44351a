"""VATP: attention received, times the size of the value it brings in."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.checks import check_count
from streamprune.kv.accumulated import AccumulatedAttention
from streamprune.kv.base import always_above
from streamprune.kv.view import LayerView


@dataclass(frozen=True, kw_only=True)
class VATP(AccumulatedAttention):
    """Keep the entries that matter most to sums of values: attention received times the value's l1 norm.

    Args:
        sinks: first tokens that stay although their values are small, 0 or more.
        recent_share: share of the budget for the newest tokens; half of it, as released.

    Source: arXiv 2406.12335, with the running sum of H2O as the attention. The release was made for one query
    head per key-value head; here a group's mean attention meets the value they share. Sinks are kept by
    rank and not by the largest number there is.
    """

    sinks: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("sinks", self.sinks, least=0)

    def score(self, view: LayerView) -> torch.Tensor:
        """The product; sinks above."""
        weighed = view.state["received"] * view.values.float().abs().sum(-1)
        return always_above(weighed, view.oldest(self.sinks))
