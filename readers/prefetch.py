"""Decoding ahead in a thread: a queue bounded in bytes that holds the decoder back and drops nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing

from streamprune.readers.base import Frame
from streamprune.readers.waiting import Waiting

DEFAULT_PREFETCH_BYTES = 64 * 2**20


def _produce(waiting: Waiting, produce: Callable[[], Generator[Frame, None, None]]) -> None:
    """Fill ``waiting``; the thread holds only this, so that the `Prefetcher` can be collected."""
    failure: BaseException | None = None
    try:
        with closing(produce()) as frames:
            for frame in frames:
                waiting.put(frame)
                if waiting.finished:
                    break
    except BaseException as error:  # handed to the consumer, who raises it
        failure = error
    waiting.finish(failure)


class Prefetcher(Iterator[Frame]):
    """Iterate over the frames of ``produce()``, which runs in its own thread up to ``max_bytes`` ahead.

    Args:
        produce: makes the generator of frames; it is created, run and closed in the thread.
        max_bytes: bound on the pictures waiting in the queue; a single larger picture still passes.
    """

    def __init__(self, produce: Callable[[], Generator[Frame, None, None]], max_bytes: int) -> None:
        self._waiting = Waiting("block", max_bytes)
        self._thread = threading.Thread(
            target=_produce, args=(self._waiting, produce), name="streamprune-prefetch", daemon=True
        )
        self._thread.start()

    @property
    def peak_bytes(self) -> int:
        """The most bytes that ever waited in the queue."""
        return self._waiting.peak_bytes

    def __next__(self) -> Frame:
        try:
            frame = self._waiting.get()
        except BaseException:  # an iterator fails once, then it is at its end
            self.close()
            raise
        if frame is None:
            self.close()
            raise StopIteration
        return frame

    def close(self) -> None:
        """Stop the thread and wait until it has released its file."""
        self._waiting.abandon()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def __del__(self) -> None:
        if hasattr(self, "_thread"):
            self.close()
