"""Methods that cut the clip into segments and cluster what is in them."""

from __future__ import annotations

from streamprune.tokens import VideoGrid
from tests.contract.row import Row


def _up_per_frame_half_per_segment(grid: VideoGrid) -> int:
    """One more each frame, rounded up, and half a token more each segment of two frames or more."""
    return -(-5 * grid.frames // 4)


def _up_twice_per_frame(grid: VideoGrid) -> int:
    """A frame's budget is rounded up, and then the number of its clusters."""
    return 2 * grid.frames


def _one_per_group(grid: VideoGrid) -> int:
    """A token each frame and one each segment of two frames or more."""
    return grid.frames + grid.frames // 2


ROWS: tuple[Row, ...] = (
    Row("holitom", merges=True, counts=False, overshoot=_up_per_frame_half_per_segment),
    Row(
        "holitom",
        {"context_ratio": 0.5, "center_weight": None, "longest_segment": 3},
        merges=True,
        counts=False,
        overshoot=_up_per_frame_half_per_segment,
    ),
    Row("prunevid", merges=True, counts=False, floor=_one_per_group),
    Row(
        "prunevid",
        {"segment_ratio": 0.5, "smallest_group": 0, "similarity_threshold": 0.6},
        merges=True,
        counts=False,
        floor=_one_per_group,
    ),
    Row(
        "flashvid",
        merges=True,
        sums=True,
        repeats=True,
        counts=False,
        floor="frame",
        overshoot=_up_twice_per_frame,
    ),
    Row(
        "flashvid",
        {"selection": "attn_div_v2", "segment_threshold": -1.0, "num_segments": 2},
        merges=True,
        sums=True,
        repeats=True,
        counts=False,
        floor="frame",
        overshoot=_up_twice_per_frame,
    ),
    Row(
        "flashvid",
        {"as_released": False, "segmented": False, "salient_ratio": 0.3},
        merges=True,
        sums=True,
        repeats=True,
        counts=False,
        floor="frame",
        overshoot=_up_twice_per_frame,
    ),
    Row("metok", merges=True, counts=False, floor="frame"),
    Row(
        "metok",
        {"num_cuts": 2, "num_key_events": 1, "num_key_frames": 1},
        merges=True,
        counts=False,
        floor="frame",
    ),
    Row("vilamp", merges=True, floor="frame"),
    Row(
        "vilamp",
        {"fill_gaps": False, "as_released": False, "similarity_threshold": 0.2, "temperature": 0.5},
        merges=True,
        counts=False,
        floor="frame",
    ),
)
