"""VisPruner: keep each frame's salient tokens, and of the others those least like each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_number
from streamprune.ops.duplicates import drop_duplicates
from streamprune.ops.selection import highest
from streamprune.ops.similarity import cosines, frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

# cosines of so many frames are held at a time
_BLOCK_FRAMES = 8


@dataclass(frozen=True, kw_only=True)
class VisPruner(PreLLMMethod):
    """Keep important tokens by attention and diverse ones by removing duplicates, in every frame alike.

    Needs ``saliency`` (frames, rows, cols), higher = more important (the [CLS] row or what stands in for it),
    and ``encoder_features`` (frames, rows, cols, channels), the tower's output before the projector.

    A frame's most salient tokens are important. The others, by falling saliency, are thinned out in rounds:
    even places of the list are compared with odd ones, and those with the highest cosine go, until the rest
    of the budget is left. All tokens kept stay unchanged and in their places.

    Args:
        important_ratio: share of a frame's budget for important tokens, in [0, 1], rounded down; at 1 this is
            FasterVLM.
        drop_per_round: tokens removed in a round, at least 1; fewer make more rounds.

    Source: arXiv 2412.01818 v2 and its release. Differences: where the release raises because the list to
    thin out has odd length, its even places are one more here; a round drops no more tokens than there are
    even places; ties go to the token earlier on the list; a zero vector resembles nothing.
    """

    important_ratio: float = 0.5
    drop_per_round: int = 8

    needs: ClassVar[tuple[str, ...]] = ("saliency", "encoder_features")
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("important_ratio", self.important_ratio, 0, 1)
        check_count("drop_per_round", self.drop_per_round)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number of every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Rank each frame, then thin out what is not important."""
        grid = tokens.grid
        shape = (grid.frames, grid.rows, grid.cols)
        saliency = tokens.signal("saliency", shape).float().reshape(grid.frames, -1)
        features = tokens.signal("encoder_features", (*shape, None)).flatten(1, 2)
        per_frame = self.budget.per_frame(grid.frames, grid.tokens_per_frame)
        important = share_of(per_frame, self.important_ratio, rounding="truncate")
        ranked = highest(saliency, grid.tokens_per_frame)
        kept = ranked[:, :important]
        if important < per_frame:
            diverse = self._diverse(features, ranked[:, important:], per_frame - important)
            kept = torch.cat([kept, diverse], 1)
        start = torch.arange(grid.frames, device=kept.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (kept + start).flatten().sort().values)

    def _diverse(self, features: torch.Tensor, rest: torch.Tensor, count: int) -> torch.Tensor:
        """(frames, count) of the tokens ``rest`` (frames, others) of (frames, tokens, channels) features."""
        blocks = zip(torch.split(features, _BLOCK_FRAMES), torch.split(rest, _BLOCK_FRAMES), strict=True)
        return torch.cat(
            [
                drop_duplicates(cosines(frame_grams(block)), places, count, step=self.drop_per_round)
                for block, places in blocks
            ]
        )
