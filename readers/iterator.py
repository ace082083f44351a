"""Frames that come one by one from an iterator, perhaps for ever: read once, forward, never held in bulk."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from fractions import Fraction
from typing import Any

from streamprune.errors import InvalidValueError, SourceError, SourceFormatError
from streamprune.readers.base import SAME_MOMENT_SECONDS, Frame, VideoInfo, as_rgb_image
from streamprune.readers.memory import DEFAULT_FPS
from streamprune.readers.options import ReadOptions
from streamprune.readers.scaling import resize
from streamprune.readers.source import Source


class IteratorSource(Source):
    """Frames pulled from an iterator of pictures (rows, cols, 3) or `Frame` objects.

    Its length is unknown, so it has no duration; every frame can be read once, and only forward.
    """

    def __init__(self, frames: Iterator[Any], fps: Fraction | None, options: ReadOptions) -> None:
        self._incoming = frames
        self._rate = fps
        self._count = 0
        self._timed = False
        self._options = options
        self._size: tuple[int, int] | None = options.resize
        first = self._pull()
        if first is None:
            raise SourceFormatError("source is an iterator without a single frame")
        self._next: Frame | None = first
        self._shown: Frame | None = None
        rate = None if self._timed else fps or DEFAULT_FPS
        super().__init__(VideoInfo(source="iterator", rows=first.rows, cols=first.cols, fps=rate))

    def _pull(self) -> Frame | None:
        item = next(self._incoming, None)
        if item is None:
            return None
        index = self._count
        self._count += 1
        if isinstance(item, Frame):
            if self._rate is not None:
                raise InvalidValueError("fps cannot be given with Frame objects: they carry their own times")
            self._timed = True
            image, pts = item.image, item.pts_seconds
        else:
            image, pts = as_rgb_image(item, f"frame {index}"), float(index / (self._rate or DEFAULT_FPS))
        size = (int(image.shape[0]), int(image.shape[1]))
        if self._size is None:
            self._size = size
        elif size != self._size and self._options.resize is None:
            raise InvalidValueError(
                f"frame {index} is {size}, the frames before it are {self._size}; "
                "give resize=(rows, cols) to scale them to one size"
            )
        return Frame(resize(image, self._size), pts, index, key=True, source="iterator")

    def _advance(self) -> Frame | None:
        """Show the next frame and look one ahead; None at the end."""
        self._check_open()
        frame = self._next
        if frame is not None:
            self._shown = frame
            self._next = self._pull()
        return frame

    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        if self._shown is not None and start_seconds <= self._shown.pts_seconds:
            raise self._already_read(start_seconds)
        while self._next is not None and (end_seconds is None or self._next.pts_seconds < end_seconds):
            frame = self._advance()
            if frame is not None and frame.pts_seconds >= start_seconds:
                self.report.frames_read += 1
                yield frame

    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        if self._shown is not None and times_seconds[0] + SAME_MOMENT_SECONDS < self._shown.pts_seconds:
            raise self._already_read(times_seconds[0])
        shown: dict[float, Frame] = {}
        for time in times_seconds:
            while self._shown is None or (
                self._next is not None and self._next.pts_seconds <= time + SAME_MOMENT_SECONDS
            ):
                self._advance()
            if self._next is None and time > self._shown.pts_seconds + SAME_MOMENT_SECONDS:
                self.report.times_past_end += 1
            shown[time] = self._shown
        return shown

    def _already_read(self, start_seconds: float) -> SourceError:
        return SourceError(
            f"iterator: the frames at {start_seconds:.3f} s were read already, and an iterator is read once; "
            "open a new one, or give a list"
        )

    def _keyframes(self) -> list[float]:
        raise InvalidValueError("an iterator has no known keyframes; sample it by fps or by times")

    def _close(self) -> None:
        self._next = None
        self._shown = None
