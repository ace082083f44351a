"""When a frame of a stream was: times that only grow, whatever clocks and connections do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

# what goes back by less is a frame out of order; by more, a clock that was set
_JUMP_SECONDS = 1.0
# rate of pictures that come without times, where nobody says
_DEFAULT_FPS = Fraction(1)
_SLACK = 1e-6

LATE = "not after the newest frame"
TOO_SOON = "sooner than fps= asks for"


@dataclass(frozen=True)
class Moment:
    """When a frame is.

    Attributes:
        seconds: of the stream.
        refused: why it is not taken; empty when it is.
    """

    seconds: float
    refused: str = ""


class Slots:
    """Lets one frame through in each of the slots that a rate cuts time into.

    Args:
        fps: slots a second; None lets everything through.
    """

    def __init__(self, fps: Fraction | None) -> None:
        self._fps = fps
        self.taken: int | None = None

    def take(self, seconds: float) -> bool:
        """Whether the slot at ``seconds`` was free until now."""
        if self._fps is None:
            return True
        slot = math.floor(seconds * float(self._fps) + _SLACK)
        if slot == self.taken:
            return False
        self.taken = slot
        return True


class StreamClock:
    """Gives frames their times in the stream, and says which come too soon.

    A frame that is not after the newest one is refused: it is a repeat, or out of order. Where times go back
    by a second or more the clock was set, and where a source begins anew its times do: from there on they are
    moved behind the newest frame. A frame without a time comes one frame's duration after the newest.

    Args:
        fps: at most so many frames a second are taken; also the rate of frames without times, 1 when None.
    """

    def __init__(self, fps: Fraction | None) -> None:
        self._slots = Slots(fps)
        self._step = float(1 / (fps or _DEFAULT_FPS))
        self._newest: float | None = None
        self._offset = 0.0
        self._origin = ""
        self.jumps = 0

    @property
    def newest(self) -> float | None:
        """Seconds of the newest frame that was not refused for its time; None before the first."""
        return self._newest

    def read(self, pts_seconds: float | None, origin: str = "") -> Moment:
        """The moment of the next frame.

        Args:
            pts_seconds: what its source says, any finite number; None when it says nothing.
            origin: source and connection, within which times are expected to grow.
        """
        seconds = self._seconds(pts_seconds, origin)
        if self._newest is not None and seconds <= self._newest:
            return Moment(seconds, LATE)
        self._newest = seconds
        return Moment(seconds, "" if self._slots.take(seconds) else TOO_SOON)

    def _seconds(self, pts_seconds: float | None, origin: str) -> float:
        new, self._origin = origin != self._origin, origin
        newest = self._newest
        if pts_seconds is None:
            return 0.0 if newest is None else newest + self._step
        seconds = pts_seconds + self._offset
        if newest is None or seconds > newest:
            return seconds
        if new or seconds <= newest - _JUMP_SECONDS:
            self.jumps += not new
            self._offset += newest + self._step - seconds
            return newest + self._step
        return seconds

    def state(self) -> dict[str, Any]:
        """What JSON can hold of it."""
        return {"newest": self._newest, "slot": self._slots.taken, "jumps": self.jumps}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved :meth:`state`; what comes then begins anew."""
        self._newest, self._slots.taken, self.jumps = state["newest"], state["slot"], state["jumps"]
        self._offset, self._origin = 0.0, "before"
