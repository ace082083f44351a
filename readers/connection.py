"""One connection to a live source, from opening to the end or a loss, and a file that is played like one."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction

from streamprune.readers.base import Image
from streamprune.readers.scaling import resize
from streamprune.readers.source import Source


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture that has arrived and is not converted yet.

    Attributes:
        pts: seconds on the connection's clock, None without one.
        size: (rows, cols) as it stands, after rotation.
        image: makes the RGB picture in a size (rows, cols).
    """

    pts: float | None
    size: tuple[int, int]
    image: Callable[[tuple[int, int]], Image]
    key: bool = False
    corrupt: bool = False


class Connection(ABC):
    """Where pictures come from until they stop.

    Attributes:
        fps: frames a second as announced; None if unknown.
        codec: name of the video codec.
        has_audio: there is an audio stream beside the pictures.
        finite: it has an end that is no loss, as a download has.
        continues: its clock is the one of the connection before, as that of a playlist is.
    """

    fps: Fraction | None = None
    codec: str = "raw"
    has_audio: bool = False
    finite: bool = False
    continues: bool = False

    @abstractmethod
    def pictures(self) -> Iterator[Picture | None]:
        """What arrives, None for what cannot be decoded; ends with the connection, or raises SourceError."""

    @abstractmethod
    def close(self) -> None:
        """Release it; may be called twice."""


class PacedConnection(Connection):
    """A file that is played at the pace of its own times, as a camera would show it.

    Args:
        source: the file; closed with the connection.
        stopped: set to end a pause early.
    """

    finite = True

    def __init__(self, source: Source, stopped: threading.Event) -> None:
        self._source = source
        self._stopped = stopped
        self.fps = source.info.fps
        self.codec = source.info.codec
        self.has_audio = source.info.has_audio

    def pictures(self) -> Iterator[Picture | None]:
        """Every frame when its time has come."""
        started: float | None = None
        for frame in self._source:
            if started is None:
                started = time.monotonic() - frame.pts_seconds
            if self._stopped.wait(max(0.0, started + frame.pts_seconds - time.monotonic())):
                return
            image = frame.image
            yield Picture(
                frame.pts_seconds,
                (frame.rows, frame.cols),
                lambda size, image=image: resize(image, size),  # type: ignore[misc]
                key=frame.key,
                corrupt=frame.corrupt,
            )

    def close(self) -> None:
        """Close the file."""
        self._source.close()
