"""Frames between the thread that produces them and the one that reads them."""

from __future__ import annotations

import threading
from collections import deque

from streamprune.readers.base import Frame
from streamprune.readers.live_options import DropPolicy


class Waiting:
    """A queue that loses frames as its policy says, and never holds more than so many bytes (or one frame).

    Args:
        policy: see :class:`LiveOptions`; "block" holds the producer back and loses nothing.
        max_bytes: of the frames that wait, for "every" and "block".
    """

    def __init__(self, policy: DropPolicy, max_bytes: int) -> None:
        self._policy = policy
        self._max_bytes = max_bytes
        self._frames: deque[Frame] = deque()
        self._held_bytes = 0
        self._peak_bytes = 0
        self._finished = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def max_bytes(self) -> int:
        """Most bytes that wait; 0 where only the newest frame does."""
        return 0 if self._policy == "latest" else self._max_bytes

    @property
    def held_bytes(self) -> int:
        """Bytes of the frames that wait now."""
        return self._held_bytes

    @property
    def peak_bytes(self) -> int:
        """The most bytes that ever waited."""
        return self._peak_bytes

    @property
    def finished(self) -> bool:
        """Whether nothing more is taken in."""
        return self._finished

    def put(self, frame: Frame) -> int:
        """Add ``frame``; how many frames were lost because of it."""
        with self._changed:
            if self._policy == "block":
                while not self._finished and not self._fits(frame):
                    self._changed.wait()
            if self._finished:
                return 1
            lost = 0
            if self._policy == "latest":
                lost = len(self._frames)
                self._forget()
            elif not self._fits(frame):
                return 1
            self._frames.append(frame)
            self._held_bytes += frame.num_bytes
            self._peak_bytes = max(self._peak_bytes, self._held_bytes)
            self._changed.notify_all()
            return lost

    def get(self) -> Frame | None:
        """The oldest frame, as soon as there is one; None at the end. Raises what the producer met."""
        with self._changed:
            while not self._frames and not self._finished:
                self._changed.wait()
            if self._frames:
                frame = self._frames.popleft()
                self._held_bytes -= frame.num_bytes
                self._changed.notify_all()
                return frame
            if self._failure is not None:
                raise self._failure
            return None

    def raise_failure(self) -> None:
        """Raise what the producer met, if anything."""
        with self._changed:
            if self._failure is not None:
                raise self._failure

    def finish(self, failure: BaseException | None = None) -> None:
        """Nothing comes any more; what waits can still be read, then ``failure`` is raised."""
        with self._changed:
            if not self._finished:
                self._finished, self._failure = True, failure
            self._changed.notify_all()

    def abandon(self) -> None:
        """Nobody reads any more: forget what waits and what the producer met, and let it go."""
        with self._changed:
            self._finished, self._failure = True, None
            self._forget()
            self._changed.notify_all()

    def _forget(self) -> None:
        self._frames.clear()
        self._held_bytes = 0

    def _fits(self, frame: Frame) -> bool:
        return not self._frames or self._held_bytes + frame.num_bytes <= self._max_bytes
