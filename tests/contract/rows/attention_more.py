"""More methods that rank tokens by attention, text or several tower layers."""

from __future__ import annotations

import math

from streamprune.tokens import VideoGrid
from tests.contract.row import Row


def _cells(grid: VideoGrid) -> int:
    """Cells of 2.5 tokens a side."""
    return grid.frames * math.ceil(grid.rows / 2.5) * math.ceil(grid.cols / 2.5)


def _cells_without_room(grid: VideoGrid) -> int:
    """Cells that VFlowOpt makes no room for in its budget, and a count rounded up."""
    return max(0, _cells(grid) - int(grid.tokens / 2.5**2)) + 1


def _windows(grid: VideoGrid) -> int:
    """Windows of three tokens a side, smaller at the edges."""
    return grid.frames * math.ceil(grid.rows / 3) * math.ceil(grid.cols / 3)


ROWS = (
    Row("flowcut", floor="frame"),
    Row("vflowopt", overshoot=lambda grid: 1),
    Row(
        "vflowopt",
        {"form": "image", "recycling_cell": 2.5},
        merges=True,
        counts=False,
        floor=_cells,
        overshoot=_cells_without_room,
    ),
    Row("mustdrop", merges=True, counts=False, floor=_windows),
    Row("mustdrop", {"shared_count": False}, merges=True, counts=False, floor=_windows),
    Row("recoverable_compression", merges=True, sums=True, floor="frame"),
    Row(
        "recoverable_compression",
        {"recovery": "union", "own_keys": True, "merge_neighbors": 3},
        merges=True,
        sums=True,
        floor="frame",
    ),
    Row("dytok", merges=True, sums=True),
    Row("dytok", {"merge": "mean", "frame_cap": 9}, merges=True),
    Row("pyramid_token_pruning", floor="frame"),
    Row("pyramid_token_pruning", {"regions": 3, "instruction_weight": 1.0}, floor="frame"),
    Row("lvlm_csp", floor="frame"),
    Row("lvlm_csp", {"representatives": "random", "seed": 5}, floor="frame"),
    Row("flowcut", {"schedule": "frame", "interval": 1, "momentum": 0.2}, floor="frame"),
)
