"""How a live source is doing: counted by its thread, read by anybody."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

_RATE_SECONDS = 5.0
_GAPS_TOLD = 100


@dataclass(frozen=True)
class Gap:
    """A time without frames.

    Attributes:
        after_pts_seconds: of the last frame before it.
        seconds: until frames came again.
        reason: what was heard of it.
    """

    after_pts_seconds: float
    seconds: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Health:
    """One moment of a live source.

    Attributes:
        connected: frames can come.
        fps: frames a second that arrived lately, those left out by the wanted rate not counted.
        received: frames that arrived, likewise.
        delivered: frames that were read.
        dropped: frames that nobody read in time.
        skipped: frames left out by the wanted rate.
        repeated: frames left out because they had come before a reconnect.
        corrupt: damaged frames, packets that could not be decoded included.
        reconnects: times that the connection came back.
        latency_seconds: between arriving and being read, of the last frame read; None before.
        silent_seconds: since a frame arrived; None before the first.
        waiting_bytes: of the frames that arrived and nobody has read yet.
        gaps: the latest 100 times without frames.
        error: why it is not connected now; empty when it is.
    """

    connected: bool
    fps: float
    received: int
    delivered: int
    dropped: int
    skipped: int
    repeated: int
    corrupt: int
    reconnects: int
    latency_seconds: float | None
    silent_seconds: float | None
    waiting_bytes: int
    gaps: tuple[Gap, ...]
    error: str


class Pulse:
    """Counts what happens to a live source; every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts = dict.fromkeys(
            ("received", "delivered", "dropped", "skipped", "repeated", "corrupt", "reconnects"), 0
        )
        self._arrivals: deque[float] = deque(maxlen=1000)
        self._gaps: deque[Gap] = deque(maxlen=_GAPS_TOLD)
        self._lost: tuple[float, float, str] | None = None
        self._latency: float | None = None
        self._last: tuple[float, float] | None = None  # arrival and pts of the newest frame
        self._connected = False

    def count(self, name: str, number: int = 1) -> None:
        """So many more of "dropped", "skipped", "repeated" or "corrupt"."""
        with self._lock:
            self._counts[name] += number

    def arrived(self, arrival_seconds: float, pts_seconds: float) -> None:
        """A frame came; it ends a gap if there was one."""
        with self._lock:
            self._counts["received"] += 1
            self._arrivals.append(arrival_seconds)
            if self._lost is not None:
                since, after, reason = self._lost
                self._gaps.append(Gap(after, arrival_seconds - since, reason))
                self._counts["reconnects"] += 1
                self._lost = None
            self._last = (arrival_seconds, pts_seconds)
            self._connected = True

    def read(self, arrival_seconds: float) -> None:
        """A frame was handed out."""
        with self._lock:
            self._counts["delivered"] += 1
            self._latency = self._clock() - arrival_seconds

    def lost(self, reason: str) -> None:
        """No frames come any more; counted from the last one."""
        with self._lock:
            self._connected = False
            if self._lost is None:
                since, after = self._last or (self._clock(), 0.0)
                self._lost = (since, after, reason)
            else:
                self._lost = (*self._lost[:2], reason)

    def ended(self) -> None:
        """The source is closed or over."""
        with self._lock:
            self._connected = False

    def health(self, waiting_bytes: int = 0) -> Health:
        """This moment, with so many bytes of frames not read yet."""
        with self._lock:
            now = self._clock()
            lately = [arrival for arrival in self._arrivals if now - arrival <= _RATE_SECONDS]
            span = min(_RATE_SECONDS, now - self._arrivals[0]) if self._arrivals else 0.0
            return Health(
                connected=self._connected,
                fps=len(lately) / span if span > 0 else 0.0,
                latency_seconds=self._latency,
                silent_seconds=None if self._last is None else now - self._last[0],
                waiting_bytes=waiting_bytes,
                gaps=tuple(self._gaps),
                error="" if self._lost is None else self._lost[2],
                **self._counts,
            )
