"""Methods that compare a frame with the frames before it."""

from __future__ import annotations

from streamprune.tokens import VideoGrid
from tests.contract.row import Row


def first_frame(grid: VideoGrid) -> int:
    """The first frame is never cut."""
    return grid.tokens_per_frame


ROWS: tuple[Row, ...] = (Row("evs", floor=first_frame),)
