"""ToMe between tower and language model: rounds of bipartite matching inside each frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from streamprune.checks import check_count
from streamprune.ops.matching import joins_per_round, match_rounds
from streamprune.ops.partition import merge_frame_groups
from streamprune.ops.similarity import frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.pre_llm.metric import Metric, compared, needs_of
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class ToMe(PreLLMMethod):
    """Let every second token of a frame join the most similar of the others, the most alike pairs first.

    A round joins at most half of a frame's tokens; rounds go on until the frame's share of the budget is
    reached, each on the tokens the one before left. A merged token is the mean of all original tokens in
    it, and stands where the odd-numbered token stood that the others joined.

    Args:
        rounds: the tokens to remove are spread evenly over so many rounds (more where that would ask more
            than half of a round); None = as few rounds as possible.
        metric: tokens are alike by the cosine of their ``features`` or of the tower's ``keys`` (frames, rows,
            cols, channels), as inside the tower; keys merge with the tokens.

    Source: arXiv 2210.09461. The released code merges a fixed number of tokens in every block of the tower;
    between tower and language model the rounds follow one another without blocks in between, so the
    schedule is ours. Ties, left to an unstable sort there, go to the lower token.
    """

    rounds: int | None = None
    metric: Metric = "features"

    needs: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.rounds is not None:
            check_count("rounds", self.rounds)
        object.__setattr__(self, "needs", needs_of("tome", self.metric))

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same for each frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Match on the inner products of each frame, then take the means once."""
        grid = tokens.grid
        counts = joins_per_round(
            grid.tokens_per_frame, self.count_reduced(grid) // grid.frames, rounds=self.rounds
        )
        size = None if tokens.size is None else tokens.size.reshape(grid.frames, -1)
        merged = match_rounds(frame_grams(compared(tokens, self.metric)), counts, size=size)
        return merge_frame_groups(tokens, merged.slot, merged.weight, merged.kept)
