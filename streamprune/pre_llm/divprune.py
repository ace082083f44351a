"""DivPrune: keep the tokens that differ most from each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch

from streamprune.errors import UnknownNameError
from streamprune.ops.diversity import greedy_max_min
from streamprune.ops.farthest import farthest_points
from streamprune.ops.similarity import cosines, frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

TokenSet = Literal["clip", "frame"]


@dataclass(frozen=True, kw_only=True)
class DivPrune(PreLLMMethod):
    """Keep tokens by farthest-point picks in cosine distance.

    The first pick is the token farthest from its nearest other token, each further one the token farthest
    from its nearest pick. No signal is needed.

    Args:
        token_set: what is picked from: all tokens of the ``clip`` at once (released), or each ``frame`` on
            its own with an equal share of the budget.

    Source: arXiv 2503.02175 and its released code. The share is rounded half to even, as released, but never
    to no token. Differences: a token is never picked twice (released code may when only exact copies are
    left; here the lowest copies follow), and distances are float32 whatever the features are. Distances that
    differ by no more than the rounding of float32 sums are compared again with more exact ones
    (:mod:`streamprune.ops.farthest`), equal ones go to the lower index.
    """

    token_set: TokenSet = "clip"

    def __post_init__(self) -> None:
        if self.token_set not in get_args(TokenSet):
            raise UnknownNameError.among("token_set of divprune", self.token_set, get_args(TokenSet))

    def count_reduced(self, grid: VideoGrid) -> int:
        """Half to even of the clip, or of each frame."""
        if self.token_set == "clip":
            return self.budget.tokens(grid.tokens, rounding="half_even")
        return grid.frames * self._per_frame(grid)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Emits the tokens in the order picked (frame after frame where each frame is a set)."""
        grid = tokens.grid
        if self.token_set == "clip":
            picks = farthest_points(
                tokens.features, self.count_reduced(grid), look_alike=grid.tokens_per_frame
            )
            return Reduction.select(tokens, picks)
        each = greedy_max_min(1 - cosines(frame_grams(tokens.frames)), self._per_frame(grid))
        offset = torch.arange(grid.frames, device=each.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (each + offset).flatten())

    def _per_frame(self, grid: VideoGrid) -> int:
        return self.budget.per_frame(grid.frames, grid.tokens_per_frame, rounding="half_even")
