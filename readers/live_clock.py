"""Seconds that never go back, made of the clocks of connections that come and go."""

from __future__ import annotations

# a clock that runs back, or ahead of what passed here, by more than this has been set anew
_BACK_SECONDS = 0.5
_AHEAD_SECONDS = 30.0
# equal times are told apart by this
_STEP_SECONDS = 0.001


class LiveClock:
    """Times of a live source: its own clock inside a connection, the time that passed here between two.

    Args:
        trusted: the source's clock may jump ahead, as files do whose pictures stand still.
    """

    def __init__(self, *, trusted: bool = False) -> None:
        self._trusted = trusted
        self._first: float | None = None
        self._offset: float | None = None
        self._last = -_STEP_SECONDS
        self._last_arrival = 0.0

    @property
    def last_seconds(self) -> float:
        """Time of the newest frame."""
        return max(0.0, self._last)

    def begin(self) -> None:
        """Another connection: its clock starts somewhere."""
        self._offset = None

    def seconds(self, pts: float | None, arrival_seconds: float) -> tuple[float, bool]:
        """(seconds from the first frame, whether they had to be estimated) of the next frame.

        Args:
            pts: on the connection's clock; None: it has none.
            arrival_seconds: when it came, on the monotonic clock.
        """
        if self._first is None:
            self._first = self._last_arrival = arrival_seconds
        passed = arrival_seconds - self._last_arrival
        here = max(arrival_seconds - self._first, self._last + _STEP_SECONDS)
        if self._offset is None or pts is None:
            found, estimated = (0.0 if self._last < 0 else here), pts is None
        else:
            found, estimated = pts + self._offset, False
            ahead = found - self._last - passed > _AHEAD_SECONDS and not self._trusted
            if ahead or found < self._last - _BACK_SECONDS:
                found, estimated = self._last + max(passed, _STEP_SECONDS), True
                self._offset = None
            elif found < self._last + _STEP_SECONDS:
                found, estimated = self._last + _STEP_SECONDS, True
        if self._offset is None and pts is not None:
            self._offset = found - pts
        self._last, self._last_arrival = found, arrival_seconds
        return found, estimated
