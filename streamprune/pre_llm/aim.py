"""AIM's token merging: a frame is halved again and again by bipartite matching with plain means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from streamprune.budget import Budget
from streamprune.checks import check_count, check_instead_of_budget
from streamprune.ops.matching import joins_per_round, match_rounds
from streamprune.ops.partition import merge_frame_groups
from streamprune.ops.similarity import frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class AIM(PreLLMMethod):
    """Let half of a frame's tokens join the most similar of the other half, and again with what is left.

    Even-numbered tokens join odd-numbered ones by the cosine of the tokens themselves, most alike pairs
    first. The tokens that come together in a round count the same in their mean, whatever they stand for
    already. A merged token stands where its odd-numbered token stood.

    With a budget, rounds go on until each frame holds its share of it; the last round joins only as many as
    that takes. Without one, ``rounds`` says how often a frame is halved, as released.

    Args:
        rounds: only without a budget: join a half of a frame's tokens in the first round, a quarter in the
            second, and so on (rounded down; at most half of what is left). Released for video: 2, which keeps
            about a quarter; for images: 3.

    Source: arXiv 2412.03248, the merging part of its released code. Ties, left to an unstable sort there, go
    to the lower token.
    """

    rounds: int | None = None

    causal: ClassVar[bool] = True
    instead_of_budget: ClassVar[tuple[str, ...]] = ("rounds",)

    def __post_init__(self) -> None:
        if self.rounds is not None:
            check_count("rounds", self.rounds)
        check_instead_of_budget("aim", {"rounds": self.rounds}, budget_given=self.budget != Budget())

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """With ``rounds`` only where a frame is one token."""
        if self.rounds is None:
            return super().keeps_everything(grid)
        return not any(self.joins(grid))

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same for each frame."""
        return grid.frames * (grid.tokens_per_frame - sum(self.joins(grid)))

    def joins(self, grid: VideoGrid) -> list[int]:
        """How many tokens of a frame join another one in each round."""
        first = left = grid.tokens_per_frame
        if self.rounds is None:
            return joins_per_round(first, self.budget.per_frame(grid.frames, first))
        counts = []
        for number in range(self.rounds):
            counts.append(min(first // 2 ** (number + 1), left // 2))
            left -= counts[-1]
        return counts

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Match on the inner products of each frame, then take the means once."""
        merged = match_rounds(frame_grams(tokens.frames), self.joins(tokens.grid), equal_shares=True)
        return merge_frame_groups(tokens, merged.slot, merged.weight, merged.kept)
