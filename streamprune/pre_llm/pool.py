"""The baseline that averages neighbouring tokens of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.ops.tiles import block_layout, tile
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class Pool(PreLLMMethod):
    """Average over blocks that tile each frame's grid, every frame alike.

    The budget says how many blocks a frame may have; of all layouts of that many or fewer (``down`` x
    ``across``) the one with the smallest, squarest blocks is taken, so the count may stay below the budget.
    Where the grid does not divide, blocks differ by one row or column. A frame keeps at least one block.

    A block's representative is the token nearest its centre (of equally near ones, the lower index).
    """

    causal: ClassVar[bool] = True

    def count_reduced(self, grid: VideoGrid) -> int:
        """Blocks of a frame times frames."""
        down, across = self.layout(grid)
        return grid.frames * down * across

    def layout(self, grid: VideoGrid) -> tuple[int, int]:
        """Blocks (down, across) of a frame."""
        room = self.budget.per_frame(grid.frames, grid.tokens_per_frame)
        return block_layout(grid.rows, grid.cols, room)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """One row per block, each the plain mean of its tokens."""
        grid = tokens.grid
        down, across = self.layout(grid)
        device = tokens.features.device
        row_block, row_centre, row_size = tile(grid.rows, down, device)
        col_block, col_centre, col_size = tile(grid.cols, across, device)
        frame = torch.arange(grid.frames, device=device)[:, None, None]
        block = frame * (down * across) + row_block[:, None] * across + col_block
        index = frame * grid.tokens_per_frame + row_centre[:, None] * grid.cols + col_centre
        size = (row_size[:, None] * col_size).flatten().repeat(grid.frames)
        token = torch.arange(len(tokens), device=device)
        row = block.flatten()
        return Reduction.merge(tokens, index.flatten(), (row, token, 1 / size[row].float()))
