"""A2SF: attention received, forgotten a little with every later query."""

from __future__ import annotations

from dataclasses import dataclass

from streamprune.checks import check_number
from streamprune.kv.accumulated import AccumulatedAttention


@dataclass(frozen=True, kw_only=True)
class A2SF(AccumulatedAttention):
    """Keep the entries with the most attention received, where each later query makes earlier ones fade.

    Old entries have been seen by more queries; forgetting takes that advantage away.

    Args:
        forgetting: factor per query, in [0, 1]: 1 forgets nothing, 0 knows the newest query only. For long
            prompts, values near 1.
        recent_share: share of the budget for the newest tokens; none, as published.

    Source: arXiv 2407.20485, the paper's form. Attention is averaged over the query heads of a group.
    """

    forgetting: float = 0.2
    recent_share: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("forgetting", self.forgetting, 0.0, 1.0)

    @property
    def decay(self) -> float:
        """The forgetting factor."""
        return self.forgetting
