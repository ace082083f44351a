"""Decoding ahead in a thread: a queue bounded in bytes that holds the decoder back and drops nothing."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from streamprune.readers.base import Frame

DEFAULT_PREFETCH_BYTES = 64 * 2**20


class _Queue:
    """The state both sides share; the thread holds only this, so that the `Prefetcher` can be collected."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.frames: deque[Frame] = deque()
        self.held_bytes = 0
        self.peak_bytes = 0
        self.finished = False
        self.closed = False
        self.failure: BaseException | None = None
        self.changed = threading.Condition()

    def put(self, frame: Frame) -> bool:
        """Wait for room (one frame always fits) and add ``frame``; False once the consumer has gone."""
        with self.changed:
            while not self.closed and self.frames and self.held_bytes + frame.num_bytes > self.max_bytes:
                self.changed.wait()
            if self.closed:
                return False
            self.frames.append(frame)
            self.held_bytes += frame.num_bytes
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)
            self.changed.notify_all()
            return True

    def finish(self, failure: BaseException | None) -> None:
        with self.changed:
            self.finished = True
            self.failure = failure
            self.changed.notify_all()

    def get(self) -> Frame | None:
        """Wait for the next frame; None at the end. A failure of the producer comes after its frames."""
        with self.changed:
            while not self.frames and not self.finished and not self.closed:
                self.changed.wait()
            if self.frames:
                frame = self.frames.popleft()
                self.held_bytes -= frame.num_bytes
                self.changed.notify_all()
                return frame
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            return None

    def close(self) -> None:
        with self.changed:
            self.closed = True
            self.frames.clear()
            self.held_bytes = 0
            self.changed.notify_all()


def _produce(queue: _Queue, produce: Callable[[], Generator[Frame, None, None]]) -> None:
    failure: BaseException | None = None
    try:
        with closing(produce()) as frames:
            for frame in frames:
                if not queue.put(frame):
                    break
    except BaseException as error:  # handed to the consumer, who raises it
        failure = error
    queue.finish(failure)


class Prefetcher(Iterator[Frame]):
    """Iterate over the frames of ``produce()``, which runs in its own thread up to ``max_bytes`` ahead.

    Args:
        produce: makes the generator of frames; it is created, run and closed in the thread.
        max_bytes: bound on the pictures waiting in the queue; a single larger picture still passes.
    """

    def __init__(self, produce: Callable[[], Generator[Frame, None, None]], max_bytes: int) -> None:
        self._queue = _Queue(max_bytes)
        self._thread = threading.Thread(
            target=_produce, args=(self._queue, produce), name="streamprune-prefetch", daemon=True
        )
        self._thread.start()

    @property
    def peak_bytes(self) -> int:
        """The most bytes that ever waited in the queue."""
        return self._queue.peak_bytes

    def __next__(self) -> Frame:
        frame = self._queue.get()
        if frame is None:
            self.close()
            raise StopIteration
        return frame

    def close(self) -> None:
        """Stop the thread and wait until it has released its file."""
        self._queue.close()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __del__(self) -> None:
        if hasattr(self, "_thread"):
            self.close()
