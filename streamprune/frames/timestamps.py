"""Times the user chose."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.frames.base import FrameMethod
from streamprune.readers.base import VideoInfo, check_seconds


@dataclass(frozen=True, kw_only=True)
class Timestamps(FrameMethod):
    """Look at exactly these seconds, as far as they lie inside the window.

    Args:
        times_seconds: seconds from the first frame, 0 or more, in any order; at least one.
    """

    times_seconds: Sequence[float]

    def __post_init__(self) -> None:
        super().__post_init__()
        times: object = self.times_seconds
        if isinstance(times, (str, bytes)) or not isinstance(times, (Sequence, np.ndarray)):
            raise InvalidTypeError(f"times_seconds must be a list of seconds, got {times!r}")
        if len(times) == 0:
            raise InvalidValueError("times_seconds must name at least one time, got none")
        checked = tuple(check_seconds("times_seconds", time) for time in times)
        object.__setattr__(self, "times_seconds", checked)

    def times(self, info: VideoInfo, keyframes: Sequence[float] | None = None) -> list[float]:
        """Return the given seconds that lie inside the window, ascending.

        Raises `InvalidValueError` if none does, or if one is after the end of the video.
        """
        duration = info.duration_seconds
        late = [time for time in self.times_seconds if duration is not None and time > duration]
        if late:
            raise InvalidValueError(
                f"times_seconds has {late[0]:g}, after the end of {info.source} ({duration:.2f} s)"
            )
        start, end = self.start_seconds, self.end_seconds
        inside = sorted(time for time in self.times_seconds if time >= start and (end is None or time < end))
        if not inside:
            raise InvalidValueError(
                f"none of times_seconds lies between start_seconds={start} and end_seconds={end}"
            )
        return inside
