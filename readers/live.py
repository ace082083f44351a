"""Sources that go on by themselves: cameras, streams, pipes, and files played as if they were one.

    with open_source("rtsp://camera.local/stream", fps=2) as camera:
        for frame in camera:
            ...

A thread takes the pictures in, connects again after a loss, and lets the reader see what its policy keeps.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Generator
from dataclasses import replace
from fractions import Fraction

from streamprune.errors import InvalidValueError, SourceTimeoutError
from streamprune.readers.base import Frame, VideoInfo
from streamprune.readers.health import Health
from streamprune.readers.intake import Intake
from streamprune.readers.source import Source

_GOODBYE_SECONDS = 2.0


class LiveSource(Source):
    """Frames that arrive by themselves. Iterate over it; `health` says how it is doing.

    `pts_seconds` count from the first frame and never go back, across losses too; `epoch` counts connections,
    and `arrival_seconds` is the monotonic clock when a frame came, from which `Frame.age_seconds` counts.

    Raises the SourceError of the first connection; later losses are mended, see LiveOptions.
    """

    def __init__(self, intake: Intake, timeout_seconds: float) -> None:
        self._intake = intake
        self._count = 0
        self._thread = threading.Thread(target=intake.run, name=f"streamprune {intake.name}", daemon=True)
        self._thread.start()
        self._finalizer = weakref.finalize(self, intake.stop)
        try:
            info = self._first_info(timeout_seconds)
        except BaseException:
            intake.stop()
            raise
        super().__init__(info)
        self.report = intake.report

    def _first_info(self, timeout_seconds: float) -> VideoInfo:
        intake = self._intake
        intake.begun.wait(timeout_seconds)
        if intake.first is None:
            intake.waiting.raise_failure()
            raise SourceTimeoutError(
                f"{intake.name}: no picture within {timeout_seconds:g} s; raise open_timeout_seconds, or "
                "look whether it is on"
            )
        rows, cols = intake.size
        fps = intake.first.fps
        return VideoInfo(
            source=intake.name,
            rows=rows,
            cols=cols,
            fps=Fraction(fps) if fps else None,
            live=True,
            codec=intake.first.codec,
            has_audio=intake.first.has_audio,
            backend="pyav",
        )

    @property
    def queue_bytes(self) -> int:
        """As of every source."""
        return self._intake.waiting.max_bytes

    def health(self) -> Health:
        """How it is doing now; also after closing."""
        return self._intake.pulse.health(self._intake.waiting.held_bytes)

    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        while (frame := self._intake.waiting.get()) is not None:
            if frame.arrival_seconds is not None:
                self._intake.pulse.read(frame.arrival_seconds)
            if end_seconds is not None and frame.pts_seconds >= end_seconds:
                return
            if frame.pts_seconds >= start_seconds:
                self.report.frames_read += 1
                yield replace(frame, index=self._count)
                self._count += 1

    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        raise InvalidValueError(
            f"{self.info.source}: a live source cannot be asked for times; iterate over it, or give "
            "realtime=False for a file"
        )

    def _keyframes(self) -> list[float]:
        raise InvalidValueError(f"{self.info.source}: a live source has no known keyframes; iterate over it")

    def _close(self) -> None:
        self._intake.stop()
        self._intake.waiting.abandon()
        if self._thread is not threading.current_thread():
            # a thread that waits for the network ends by itself at the time-out
            self._thread.join(_GOODBYE_SECONDS)
