"""The baseline that averages neighbouring tokens of a frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

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
        layouts = [(down, min(grid.cols, room // down)) for down in range(1, min(grid.rows, room) + 1)]
        # a token's mean squared distance from its block's centre grows with this sum
        return min(layouts, key=lambda shape: (grid.rows / shape[0]) ** 2 + (grid.cols / shape[1]) ** 2)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """One row per block, each the plain mean of its tokens."""
        grid = tokens.grid
        down, across = self.layout(grid)
        device = tokens.features.device
        row_block, row_centre, row_size = _tile(grid.rows, down, device)
        col_block, col_centre, col_size = _tile(grid.cols, across, device)
        frame = torch.arange(grid.frames, device=device)[:, None, None]
        block = frame * (down * across) + row_block[:, None] * across + col_block
        index = frame * grid.tokens_per_frame + row_centre[:, None] * grid.cols + col_centre
        size = (row_size[:, None] * col_size).flatten().repeat(grid.frames)
        token = torch.arange(len(tokens), device=device)
        row = block.flatten()
        return Reduction.merge(tokens, index.flatten(), (row, token, 1 / size[row].float()))


def _tile(length: int, blocks: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cut ``length`` places into ``blocks`` runs: each place's run, and each run's middle place and size."""
    edges = torch.arange(blocks + 1, device=device) * length // blocks
    size = edges.diff()
    run = torch.repeat_interleave(torch.arange(blocks, device=device), size)
    return run, edges[:-1] + (size - 1) // 2, size
