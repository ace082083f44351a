"""Frames between the thread that takes them in and the one that reads them."""

from __future__ import annotations

import threading
from collections import deque

from streamprune.readers.base import Frame
from streamprune.readers.live_options import DropPolicy


class Waiting:
    """A queue that loses frames as its policy says, and never holds more than so many bytes (or one frame).

    Args:
        policy: see :class:`LiveOptions`.
        max_bytes: of the frames that wait, for "every" and "block".
    """

    def __init__(self, policy: DropPolicy, max_bytes: int) -> None:
        self._policy = policy
        self._max_bytes = max_bytes
        self._frames: deque[Frame] = deque()
        self._held_bytes = 0
        self._finished = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()

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
                self._frames.clear()
                self._held_bytes = 0
            elif not self._fits(frame):
                return 1
            self._frames.append(frame)
            self._held_bytes += frame.num_bytes
            self._changed.notify_all()
            return lost

    def get(self) -> Frame | None:
        """The oldest frame, as soon as there is one; None at the end. Raises what the other side met."""
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
        """Raise what the other side met, if anything."""
        with self._changed:
            if self._failure is not None:
                raise self._failure

    def finish(self, failure: BaseException | None = None) -> None:
        """Nothing comes any more; what waits can still be read, then ``failure`` is raised."""
        with self._changed:
            if not self._finished:
                self._finished, self._failure = True, failure
            self._changed.notify_all()

    def clear(self) -> None:
        """Forget what waits."""
        with self._changed:
            self._frames.clear()
            self._held_bytes = 0

    def _fits(self, frame: Frame) -> bool:
        return not self._frames or self._held_bytes + frame.num_bytes <= self._max_bytes
