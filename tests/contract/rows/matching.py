"""Methods that merge pairs of tokens or cluster tokens."""

from __future__ import annotations

from streamprune.tokens import VideoGrid
from tests.contract.row import Row


def top_cells(grid: VideoGrid) -> int:
    """Cells of the second coarsest level when sides are halved until one is 2 or less, once for the video."""
    sizes = [(grid.rows, grid.cols)]
    while min(sizes[-1]) > 2:
        rows, cols = sizes[-1]
        sizes.append(((rows + 1) // 2, (cols + 1) // 2))
    rows, cols = sizes[-2] if len(sizes) > 1 else sizes[0]
    return rows * cols


ROWS: tuple[Row, ...] = (
    Row("tome", merges=True, floor="frame"),
    Row("tome", {"rounds": 9}, merges=True, floor="frame"),
    Row("aim", merges=True, floor="frame"),
    Row("llava_scissor", merges=True),
    Row("llava_scissor", {"spatial_part": 1.0}, merges=True),
    Row("sttm", merges=True, counts=False, floor=top_cells),
    Row("sttm", {"as_released": False, "weigh_by_area": True}, merges=True, counts=False, floor=top_cells),
    Row("atc", merges=True, floor="frame"),
    Row("atc", {"linkage": "single"}, merges=True, floor="frame"),
    Row("saint", floor="frame"),
    Row("saint", {"as_released": False}, floor="frame"),
)
