"""The prefetch queue: bounded in bytes, in order, and gone when closed."""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator

import numpy as np
import pytest

from streamprune.errors import SourceFormatError
from streamprune.readers import Frame
from streamprune.readers.prefetch import Prefetcher

FRAME_BYTES = 10 * 10 * 3


def produce(count: int, closed: list[bool] | None = None, fail_at: int = -1) -> Generator[Frame, None, None]:
    try:
        for number in range(count):
            if number == fail_at:
                raise SourceFormatError("broken here")
            yield Frame(np.zeros((10, 10, 3), np.uint8), float(number), number)
    finally:
        if closed is not None:
            closed.append(True)


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("streamprune")]


def test_frames_come_in_order_and_never_fill_more_than_the_bound() -> None:
    frames = Prefetcher(lambda: produce(200), max_bytes=5 * FRAME_BYTES)
    assert [frame.index for frame in frames] == list(range(200))
    assert 0 < frames.peak_bytes <= 5 * FRAME_BYTES
    assert reading_threads() == []


def test_a_frame_larger_than_the_bound_still_passes() -> None:
    frames = Prefetcher(lambda: produce(10), max_bytes=1)
    assert len(list(frames)) == 10
    assert frames.peak_bytes == FRAME_BYTES


@pytest.mark.parametrize("how", ["close", "forget"])
def test_stopping_early_ends_the_thread_and_closes_the_producer(how: str) -> None:
    closed: list[bool] = []
    frames = Prefetcher(lambda: produce(10**9, closed), max_bytes=3 * FRAME_BYTES)
    assert next(frames).index == 0
    if how == "close":
        frames.close()
        with pytest.raises(StopIteration):
            next(frames)
    else:
        del frames
        gc.collect()
    assert closed == [True]
    assert reading_threads() == []


def test_a_failure_comes_after_the_frames_before_it() -> None:
    frames = Prefetcher(lambda: produce(10, fail_at=4), max_bytes=100 * FRAME_BYTES)
    assert [next(frames).index for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(SourceFormatError, match="broken here"):
        next(frames)
    with pytest.raises(StopIteration):
        next(frames)
    assert reading_threads() == []
