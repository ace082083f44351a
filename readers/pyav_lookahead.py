"""When each packet's picture is on screen, known from the packets alone."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from streamprune.readers.base import SAME_MOMENT_SECONDS
from streamprune.readers.pyav_packets import Clock, PacketReader

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

# Without decoding times, this many later packets settle which picture follows which.
MAX_REORDER = 32


@dataclass(frozen=True, eq=False)
class Shown:
    """A packet and the half-open range of seconds in which its picture is on screen; empty if it never is."""

    packet: Packet[VideoStream]
    from_seconds: float
    until_seconds: float

    def covers(self, time: float) -> bool:
        """Whether the picture is on screen at ``time``."""
        return self.from_seconds <= time + SAME_MOMENT_SECONDS < self.until_seconds


class Lookahead:
    """Packets in decoding order, each with the time its picture leaves the screen.

    A picture is replaced by the next later one. Which that is, is settled once the decoding times have passed
    it: no packet still to come can be shown before its own decoding time.
    """

    def __init__(self, reader: PacketReader, clock: Clock) -> None:
        self._reader = reader
        self._clock = clock
        self._waiting: deque[Packet[VideoStream]] = deque()
        self._pts: list[int] = []
        self._decoding_pts: int | None = None
        self._ended = False

    def __iter__(self) -> Lookahead:
        return self

    def __next__(self) -> Shown:
        while not self._ended and not self._settled():
            self._pull()
        if not self._waiting:
            raise StopIteration
        packet = self._waiting.popleft()
        if packet.pts is None:
            return Shown(packet, float("-inf"), float("-inf"))
        start = self._clock.seconds(packet.pts)
        if packet.is_discard:
            return Shown(packet, start, start)
        successor = self._successor(packet.pts)
        return Shown(packet, start, float("inf") if successor is None else self._clock.seconds(successor))

    def _pull(self) -> None:
        packet = next(self._reader, None)
        if packet is None:
            self._ended = True
            return
        self._waiting.append(packet)
        if packet.dts is not None:
            self._decoding_pts = packet.dts
        if packet.pts is not None and not packet.is_discard:
            insort(self._pts, packet.pts)
            if len(self._pts) > 4 * MAX_REORDER:
                self._forget()

    def _settled(self) -> bool:
        if not self._waiting:
            return False
        first = self._waiting[0]
        if first.pts is None or first.is_discard or len(self._waiting) > MAX_REORDER:
            return True
        successor = self._successor(first.pts)
        return successor is not None and self._decoding_pts is not None and self._decoding_pts >= successor

    def _successor(self, pts: int) -> int | None:
        place = bisect_right(self._pts, pts)
        return self._pts[place] if place < len(self._pts) else None

    def _forget(self) -> None:
        """Drop the times before every picture that still waits; they follow nothing any more."""
        earliest = min(
            (packet.pts for packet in self._waiting if packet.pts is not None), default=self._pts[-1]
        )
        del self._pts[: bisect_right(self._pts, earliest) - 1]
