"""A fixed number of looks a second."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from streamprune.checks import check_count
from streamprune.errors import InvalidValueError
from streamprune.frames.base import FrameMethod
from streamprune.readers.base import VideoInfo, check_fps


@dataclass(frozen=True, kw_only=True)
class Fps(FrameMethod):
    """Look ``fps`` times a second, from the start of the window on.

    Args:
        fps: looks a second, above 0; more than the video's own rate gives every frame once.
        max_frames: look at most so often. Where the end is known the looks are spread wider, so that they
            still span the window; where it is not (live, endless iterators) looking stops there.

    Source: the usual baseline; no paper.
    """

    fps: float | Fraction
    max_frames: int | None = None

    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fps("fps", self.fps)
        if self.max_frames is not None:
            check_count("max_frames", self.max_frames)

    def times(self, info: VideoInfo, keyframes: Sequence[float] | None = None) -> list[float]:
        """Return the seconds to look at, ascending, the first one being ``start_seconds``.

        Raises `InvalidValueError` if neither the end of the video nor ``max_frames`` bounds them.
        """
        rate = check_fps("fps", self.fps)
        start, end = self.window(info)
        if end is None:
            if self.max_frames is None:
                raise InvalidValueError(
                    f"fps needs to know where to stop, and {info.source} may never end: "
                    "give max_frames or end_seconds"
                )
            return [start + float(look / rate) for look in range(self.max_frames)]
        looks = max(1, math.ceil(Fraction(end - start) * rate - Fraction(1, 10**6)))
        if self.max_frames is None or looks <= self.max_frames:
            return [start + float(look / rate) for look in range(looks)]
        return [start + look * (end - start) / self.max_frames for look in range(self.max_frames)]
