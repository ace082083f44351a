"""A fixed number of frames, evenly spread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from streamprune.checks import check_count
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.frames.base import FrameMethod
from streamprune.readers.base import VideoInfo

Placement = Literal["middle", "ends"]


@dataclass(frozen=True, kw_only=True)
class Uniform(FrameMethod):
    """Look ``num_frames`` times, evenly spread over the window.

    Asking for more frames than the video has is no error: `Source.sample` gives each frame once.

    Args:
        num_frames: how many times to look, 1 or more.
        placement: "middle" cuts the window into equal parts and looks at the middle of each; "ends" looks at
            the first and the last moment too (a frame's length before the end, where the rate is known).

    Source: the usual baseline; no paper.
    """

    num_frames: int
    placement: Placement = "middle"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_frames", self.num_frames)
        if self.placement not in get_args(Placement):
            raise UnknownNameError.among("placement", self.placement, get_args(Placement))

    def times(self, info: VideoInfo, keyframes: Sequence[float] | None = None) -> list[float]:
        """Return ``num_frames`` seconds, ascending; `InvalidValueError` if nobody knows where the end is."""
        start, end = self.window(info)
        if end is None:
            raise InvalidValueError(
                f"uniform needs to know how long {info.source} is, and it may never end: give end_seconds, "
                "or sample it with fps and max_frames"
            )
        if self.placement == "middle" or self.num_frames == 1:
            step = (end - start) / self.num_frames
            return [start + (look + 0.5) * step for look in range(self.num_frames)]
        last = max(start, end - float(1 / info.fps)) if info.fps else end
        return [start + look * (last - start) / (self.num_frames - 1) for look in range(self.num_frames)]
