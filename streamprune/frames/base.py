"""What a way of choosing times has to offer: validated options, a time window, and `times`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from streamprune.errors import InvalidValueError
from streamprune.readers.base import VideoInfo, check_window


@dataclass(frozen=True, kw_only=True)
class FrameMethod(ABC):
    """A rule that says at which seconds of a video to look.

    Args:
        start_seconds: look at nothing before this, in seconds from the first frame.
        end_seconds: look at nothing from this on (half-open); None means the end of the video.
    """

    start_seconds: float = 0.0
    end_seconds: float | None = None

    needs: ClassVar[frozenset[str]] = frozenset()
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_window(self.start_seconds, self.end_seconds)

    @abstractmethod
    def times(self, info: VideoInfo, keyframes: Sequence[float] | None = None) -> list[float]:
        """Return the seconds to look at, ascending; `Source.sample` turns them into frames."""

    def window(self, info: VideoInfo) -> tuple[float, float | None]:
        """Return the (start, end) seconds to look at in this video; the end is None only if nobody knows it.

        Raises `InvalidValueError` if the window begins after the end of the video.
        """
        duration = info.duration_seconds
        if duration is None:
            return self.start_seconds, self.end_seconds
        if self.start_seconds > 0 and self.start_seconds >= duration:
            raise InvalidValueError(
                f"start_seconds={self.start_seconds:g} is after the end of {info.source} ({duration:.2f} s)"
            )
        return self.start_seconds, duration if self.end_seconds is None else min(self.end_seconds, duration)


def spread(num_items: int, num_kept: int) -> list[int]:
    """Return ``num_kept`` of ``range(num_items)``, evenly spread; all of them if there are fewer."""
    if num_kept >= num_items:
        return list(range(num_items))
    return [(2 * kept + 1) * num_items // (2 * num_kept) for kept in range(num_kept)]
