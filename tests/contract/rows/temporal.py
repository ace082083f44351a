"""Methods that compare a frame with the frames before it."""

from __future__ import annotations

from streamprune.tokens import VideoGrid
from tests.contract.row import Row


def first_frame(grid: VideoGrid) -> int:
    """The first frame is never cut."""
    return grid.tokens_per_frame


def half_each_frame(grid: VideoGrid) -> int:
    """What rounding every frame to the nearest integer can add up to."""
    return (grid.frames + 1) // 2


ROWS: tuple[Row, ...] = (
    Row("evs", floor=first_frame),
    Row("vidcom2", counts=False, floor="frame", overshoot=half_each_frame),
    Row("vidcom2", {"exact_count": True}, floor="frame"),
)
