"""STTM: quadtree cells inside each frame, and runs of alike cells over time, become one token each."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count, check_flag, check_instead_of_budget, check_number
from streamprune.ops.components import components, first_come_components
from streamprune.ops.partition import merge_groups
from streamprune.ops.quadtree import CellSimilarity, Level, cell_similarity, cut, part_shares, quadtree
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

# halvings of the range of thresholds in a search: fine enough that hardly two cosines lie in one step
_HALVINGS = 20
# a threshold no cosine reaches, and all reach its negative
_NEVER = 4.0


@dataclass(frozen=True)
class _Cells:
    """The cells that frames are cut into, each named by the flat index of its first token.

    Attributes:
        of_token: (tokens,) int64 cell of every token.
        share: (tokens,) float32 share of every token in its cell.
        first: (pairs,) int64 cells that are alike to one of the next frame,
        second: (pairs,) int64 which is this.
    """

    of_token: torch.Tensor
    share: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class STTM(PreLLMMethod):
    """Cut every frame into cells of alike tokens, then join cells that stay alike from frame to frame.

    A frame's grid is pooled two by two, level by level. From the top, a cell becomes one token when it has at
    least the cosine ``spatial_threshold`` with each of its parts; else its parts are looked at. Cells of
    neighbouring frames of which one contains the other (or that are equal) and that have at least the cosine
    ``temporal_threshold`` are joined, and so on through time. A joined token is the plain mean of its cells
    and stands where the first of them begins.

    Released code has two thresholds and no budget. With a budget and no thresholds, both are lowered together
    until no more than the budget is left. The least possible is one token per cell of the top level.

    Args:
        spatial_threshold: only without a budget, in [-1, 2] (nothing reaches what is above 1). Released for
            LLaVA-Video: 0.85 to keep about a half, 0.8 for about a third.
        temporal_threshold: only without a budget, in [0, 2]; None or 0 = frames are not joined. Released:
            0.55 to 0.65 beside the above.
        threshold_gap: with a budget, how far the temporal threshold stays below the spatial one, in
            [-2, 2].
        root_level: so many of the coarsest levels are left out; at 0 a 14 x 14 frame begins at 2 x 2 cells,
            at 1 at 4 x 4.
        weigh_by_area: a joined token is the mean of its original tokens, not of its cells.
        as_released: cells of fewer than four parts (in the first row or column of an odd level) are compared
            with the first cell of the level of their parts, too; a cell with a single part is one token
            whatever lies in that; and a cell alike to two cells of the frame before that nothing else joins
            goes to the first and leaves the second apart. False: none of this, as the paper describes.

    Source: arXiv 2507.07990 and its released code, which works on the hidden states before a decoder layer
    (the third, or the first); here on the tokens before the language model. Where a side has one or two
    tokens only time is merged; the release does not end on a side of one.
    """

    spatial_threshold: float | None = None
    temporal_threshold: float | None = None
    threshold_gap: float = 0.3
    root_level: int = 1
    weigh_by_area: bool = False
    as_released: bool = True

    def __post_init__(self) -> None:
        if self.spatial_threshold is not None:
            check_number("spatial_threshold", self.spatial_threshold, -1, 2)
        if self.temporal_threshold is not None:
            check_number("temporal_threshold", self.temporal_threshold, 0, 2)
        check_number("threshold_gap", self.threshold_gap, -2, 2)
        check_count("root_level", self.root_level, least=0)
        check_flag("weigh_by_area", self.weigh_by_area)
        check_flag("as_released", self.as_released)
        thresholds = {
            "spatial_threshold": self.spatial_threshold,
            "temporal_threshold": self.temporal_threshold,
        }
        check_instead_of_budget("sttm", thresholds, budget_given=self.budget != Budget())

    @property
    def _has_thresholds(self) -> bool:
        return self.spatial_threshold is not None or self.temporal_threshold is not None

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """Never with thresholds: the content decides."""
        return not self._has_thresholds and super().keeps_everything(grid)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """The content decides."""
        return None

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Compare every cell once, then cut and join by thresholds."""
        grid = tokens.grid
        levels = quadtree(grid.rows, grid.cols, self.root_level, tokens.features.device)
        similarity = cell_similarity(
            tokens.frames, levels, sums=self.weigh_by_area, as_released=self.as_released
        )
        if self._has_thresholds:
            spatial = _NEVER if self.spatial_threshold is None else self.spatial_threshold
            cells = _cut(levels, similarity, spatial, self.temporal_threshold or _NEVER)
        else:
            cells = self._within_budget(grid, levels, similarity)
        index, group = torch.unique(self._joined(cells), return_inverse=True)
        if self.weigh_by_area:
            weight = 1 / torch.bincount(group)[group]
        else:
            is_cell = cells.of_token == torch.arange(len(tokens), device=group.device)
            weight = cells.share / torch.bincount(group[is_cell])[group]
        return merge_groups(tokens, group, weight, index)

    def _joined(self, cells: _Cells) -> torch.Tensor:
        """(tokens,) the first cell of the cells that each token's cell is joined with."""
        join = first_come_components if self.as_released else components
        return join(cells.first, cells.second, len(cells.of_token))[cells.of_token]

    def _within_budget(self, grid: VideoGrid, levels: list[Level], similarity: CellSimilarity) -> _Cells:
        """Cut by the highest thresholds found that keep no more than the budget, else by the lowest."""
        most = self.budget.tokens(grid.tokens)
        low, high = -_NEVER, _NEVER
        best = _cut(levels, similarity, low, low)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            cells = _cut(levels, similarity, middle, middle - self.threshold_gap)
            kept = len(torch.unique(self._joined(cells)))
            if kept > most:
                high = middle
                continue
            low, best = middle, cells
            if kept == most:
                break
        return best


def _cut(levels: list[Level], similarity: CellSimilarity, spatial: float, temporal: float) -> _Cells:
    """Cut every frame by the ``spatial`` threshold and find the pairs alike by the ``temporal`` one."""
    frames, tokens = similarity.over_time.shape[0] + 1, levels[0].cells
    whole = cut(levels, similarity.least, spatial, frames)
    device = whole.device
    start = tokens * torch.arange(frames, device=device)[:, None]
    of_token = torch.zeros(frames, tokens, dtype=torch.int64, device=device)
    share = torch.zeros(frames, tokens, device=device)
    for level, level_share in zip(levels, part_shares(levels), strict=True):
        inside = whole[:, level.first + level.ancestor]
        of_token = torch.where(inside, start + level.corner[level.ancestor], of_token)
        share = torch.where(inside, level_share, share)
    alike = whole[:-1, similarity.here] & whole[1:, similarity.there] & (similarity.over_time >= temporal)
    frame, pair = alike.nonzero(as_tuple=True)
    corner = torch.cat([level.corner for level in levels])
    first = corner[similarity.here[pair]] + frame * tokens
    second = corner[similarity.there[pair]] + (frame + 1) * tokens
    return _Cells(of_token.flatten(), share.flatten(), first, second)
