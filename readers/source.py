"""What every source of frames can do, whatever is behind it: iterate, sample at times, read a range, close.

A concrete source implements the four methods that start with an underscore; this module checks what users
pass.
"""

from __future__ import annotations

import logging
import weakref
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Self

from streamprune.errors import InvalidTypeError, InvalidValueError, SourceError
from streamprune.readers.base import SAME_MOMENT_SECONDS, Frame, VideoInfo, check_seconds, check_window
from streamprune.readers.prefetch import Prefetcher
from streamprune.readers.report import ReadReport

logger = logging.getLogger("streamprune.readers")


class Source(ABC):
    """Frames in time order, from a file, a folder, an array or an iterator.

    Use it as a context manager. `info` says what is known, `report` what was lost; both are valid after
    closing.
    """

    def __init__(self, info: VideoInfo, *, prefetch_bytes: int = 0) -> None:
        self.info = info
        self.report = ReadReport()
        self._prefetch_bytes = prefetch_bytes
        self._closed = False
        self._streams: weakref.WeakSet[Prefetcher] = weakref.WeakSet()
        self._told: set[str] = set()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def queue_bytes(self) -> int:
        """Most bytes of decoded pictures that wait for whoever iterates; a single one may be larger."""
        return self._prefetch_bytes

    def __iter__(self) -> Iterator[Frame]:
        return self.read()

    def read(self, start_seconds: float = 0.0, end_seconds: float | None = None) -> Iterator[Frame]:
        """Iterate over the frames with ``start_seconds <= pts_seconds < end_seconds`` (None: to the end), in
        order.

        Raises `InvalidValueError` for a range that is not one, and `SourceError` when the source is closed.
        """
        self._check_open()
        check_window(start_seconds, end_seconds)
        if self._prefetch_bytes <= 0:
            return self._told_at_end(start_seconds, end_seconds)
        stream = Prefetcher(lambda: self._told_at_end(start_seconds, end_seconds), self._prefetch_bytes)
        self._streams.add(stream)
        return stream

    def sample(self, times_seconds: Iterable[float], *, keep_repeats: bool = False) -> list[Frame]:
        """Return the frame shown at each of the given times: the last one that started by then, or the first
        frame.

        Args:
            times_seconds: seconds from the first frame, 0 or more, in any order. Times after the end show the
                last frame, which the report counts.
            keep_repeats: False returns each frame once, in time order, also when several times show it (so
                asking for more frames than exist gives every frame once); True returns one frame for each
                time, in the order the times were given.

        Raises `InvalidValueError` for no times, or a negative or non-finite one.
        """
        self._check_open()
        if isinstance(times_seconds, (str, bytes)) or not isinstance(times_seconds, Iterable):
            raise InvalidTypeError(
                f"times_seconds must be a list of seconds, got {type(times_seconds).__name__}"
            )
        times = [check_seconds("times_seconds", time) for time in times_seconds]
        if not times:
            raise InvalidValueError("times_seconds must name at least one time, got none")
        shown = self._sample(sorted(set(times)))
        self._count_times(times, shown)
        self._tell()
        if keep_repeats:
            return [shown[time] for time in times]
        frames: list[Frame] = []
        for time in sorted(shown):
            if not frames or frames[-1] is not shown[time]:
                frames.append(shown[time])
        return frames

    def keyframes(self) -> list[float]:
        """Return the times (seconds, ascending) of the frames that can be decoded without any other."""
        self._check_open()
        return self._keyframes()

    def close(self) -> None:
        """Stop every running iteration and release what is held; closing twice is harmless."""
        self._closed = True
        for stream in list(self._streams):
            stream.close()
        self._close()

    def __enter__(self) -> Self:
        self._check_open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        info = self.info
        length = "?" if info.duration_seconds is None else f"{info.duration_seconds:.2f} s"
        state = ", closed" if self._closed else ""
        return (
            f"{type(self).__name__}({info.source!r}, {info.rows}x{info.cols}, {length}, {info.codec}{state})"
        )

    def _check_open(self) -> None:
        if self._closed:
            raise SourceError(f"{self.info.source}: this source is closed; open it again with open_source")

    def _told_at_end(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        yield from self._frames(start_seconds, end_seconds)
        self._tell()

    def _count_times(self, times: list[float], shown: dict[float, Frame]) -> None:
        distinct = {id(frame) for frame in shown.values()}
        self.report.repeated_times += len(times) - len(distinct)
        self.report.frames_read += len(distinct)
        duration = self.info.duration_seconds
        if duration is not None:
            self.report.times_past_end += sum(time > duration + SAME_MOMENT_SECONDS for time in times)

    def _tell(self) -> None:
        """Log each new kind of damage once: a shortened video must not pass in silence."""
        if not self.report.damaged:
            return
        for line in self.report.lines():
            kind = line.lstrip("0123456789 ")
            if kind not in self._told:
                self._told.add(kind)
                logger.warning("%s: %s", self.info.source, line)

    @abstractmethod
    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        """Yield the frames of a checked range; must release everything when closed early."""

    @abstractmethod
    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        """Map each of the ascending, distinct times to its frame; equal frames are the same object."""

    @abstractmethod
    def _keyframes(self) -> list[float]:
        """Return the times of the keyframes, ascending."""

    @abstractmethod
    def _close(self) -> None:
        """Release what is held; may be called twice."""
