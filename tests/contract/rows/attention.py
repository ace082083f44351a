"""Methods that rank tokens by the attention of the vision tower."""

from __future__ import annotations

from streamprune.tokens import VideoGrid
from tests.contract.row import Row


def half_each_frame(grid: VideoGrid) -> int:
    """Rounding a frame's share to the nearest integer adds at most half a token."""
    return (grid.frames + 1) // 2


ROWS: tuple[Row, ...] = (
    Row("visionzip", merges=True, sums=True, floor="frame"),
    Row("visionzip", {"merge": "mean"}, merges=True, floor="frame"),
    Row("visionzip", {"form": "clip"}, merges=True, sums=True, floor="frame"),
    Row("fastervlm", floor="frame"),
    Row("vispruner", floor="frame"),
    Row("vispruner", {"important_ratio": 0.0, "drop_per_round": 3}, floor="frame"),
    Row("hiprune", floor="frame"),
    Row("hiprune", {"anchor_ratio": 1.0, "wrap_rows": False}, floor="frame"),
    Row("hiprune", {"form": "qwen2_5_vl"}, floor="frame", overshoot=half_each_frame),
    Row("holov", repeats=True, floor="frame"),
    Row("holov", {"num_chunks": None, "power": 2.0}, repeats=True, floor="frame"),
    Row("holov", {"as_released": False, "num_chunks": 5}, floor="frame"),
    Row("vscan", merges=True, floor="frame"),
    Row("vscan", {"fill_budget": True, "window": 2}, merges=True, floor="frame"),
    Row("vscan", {"form": "qwen2_5_vl"}, merges=True, floor="frame"),
    Row("vscan", {"local_ratio": 1.0, "window": 2}, merges=True, floor="frame"),
)
