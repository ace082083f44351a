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


def first_of_each_window(grid: VideoGrid) -> int:
    """DyCoke's whole frames in the paper."""
    return -(-grid.frames // 4) * grid.tokens_per_frame


def never_cut(grid: VideoGrid) -> int:
    """DyCoke's whole frames as released: the third frame of the last window is one too."""
    frames = grid.frames if grid.frames <= 4 else grid.frames // 2 * 2
    thirds = max(0, -(-(grid.frames - 4) // 4))
    return (frames - frames // 2 - thirds) * grid.tokens_per_frame


ROWS: tuple[Row, ...] = (
    Row("evs", floor=first_frame),
    Row("vidcom2", counts=False, floor="frame", overshoot=half_each_frame),
    Row("vidcom2", {"exact_count": True}, floor="frame"),
    Row("dycoke", floor=never_cut),
    Row("dycoke", {"form": "paper"}, floor=first_of_each_window),
    Row("timechat_online", floor=first_frame),
    Row("timechat_online", {"rank": "frame"}, floor=first_frame),
    Row("timechat_online", {"rank": "frame", "reference": "last_kept"}, floor=first_frame),
    Row("stc", floor="frame"),
    Row("stc", {"score": "dual_anchor", "align_memory": True}, floor="frame"),
    Row("streaming_tom", merges=True, floor="frame"),
    Row("streaming_tom", {"away_from": "denser", "centre_weight": 0.2}, merges=True, floor="frame"),
)
