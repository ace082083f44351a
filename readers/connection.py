"""One connection to a live source, from opening to the end or a loss. Owns its container."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from streamprune.errors import (
    SourceError,
    SourceFormatError,
    SourceNotFoundError,
    SourcePermissionError,
    SourceTimeoutError,
)
from streamprune.readers.address import Address
from streamprune.readers.base import Image
from streamprune.readers.live_options import LiveOptions
from streamprune.readers.scaling import resize, to_rgb
from streamprune.readers.source import Source

if TYPE_CHECKING:
    from av import VideoFrame

# what a playlist or redirection may open in turn: never a local file
_PROTOCOLS = "http,https,tcp,tls,udp,rtp,rtsp,rtsps,rtmp,rtmps,rtmpt,crypto,data"
# its time stamps only count pictures
_UNTIMED_FORMATS = frozenset({"mpjpeg"})


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
    """

    fps: Fraction | None = None
    codec: str = "raw"
    has_audio: bool = False
    finite: bool = False

    @abstractmethod
    def pictures(self) -> Iterator[Picture | None]:
        """What arrives, None for what cannot be decoded; ends with the connection, or raises SourceError."""

    @abstractmethod
    def close(self) -> None:
        """Release it; may be called twice."""


class AvConnection(Connection):
    """A stream, camera or pipe, opened by PyAV.

    Raises SourceError, or the kind of it that says what is wrong; never with a password in it.
    """

    def __init__(self, address: Address, live: LiveOptions) -> None:
        import av

        self._name = address.name
        timed = address.returns
        protocols = {"protocol_whitelist": _PROTOCOLS} if timed and address.format is None else {}
        try:
            self._container = av.open(
                address.target,
                format=address.format,
                container_options={**address.options, **protocols},
                timeout=(live.open_timeout_seconds, live.read_timeout_seconds) if timed else None,
                metadata_errors="replace",
            )
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise explained(error, self._name) from None  # the cause would show the whole URL
        streams = self._container.streams.video
        if not streams or streams[0].codec_context is None:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams})) or "no streams"
            self._container.close()
            raise SourceFormatError(f"{self._name}: carries no video that can be decoded, only: {kinds}")
        self._stream = streams[0]
        self._stream.codec_context.thread_type = "SLICE"  # threads by frame would hold frames back
        self.fps = self._stream.average_rate
        self.codec = self._stream.codec_context.name
        self.has_audio = bool(self._container.streams.audio)
        self.finite = not timed or (
            self._container.duration is not None and str(address.target).startswith("http")
        )

    def pictures(self) -> Iterator[Picture | None]:
        """Decode what arrives; a packet that cannot be decoded is None."""
        import av

        try:
            for packet in self._container.demux(self._stream):
                try:
                    decoded = packet.decode()
                except av.error.EOFError:
                    return
                except av.error.FFmpegError:
                    yield None
                    continue
                for frame in decoded:
                    yield self._picture(frame, packet.is_corrupt)
        except (av.error.FFmpegError, ValueError, OSError) as error:
            raise explained(error, self._name) from None

    def _picture(self, frame: VideoFrame, damaged: bool) -> Picture:
        timed = frame.pts is not None and self._container.format.name not in _UNTIMED_FORMATS
        turn = round(frame.rotation / 90) * 90 % 360
        size = (frame.height, frame.width) if turn % 180 == 0 else (frame.width, frame.height)
        return Picture(
            frame.time if timed else None,
            size,
            lambda wanted: to_rgb(frame, wanted, turn),
            key=bool(frame.key_frame),
            corrupt=damaged or frame.is_corrupt,
        )

    def close(self) -> None:
        """Release the container."""
        self._container.close()


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


def explained(error: Exception, name: str) -> SourceError:
    """What went wrong at ``name``, without anything of FFmpeg's own message that could hold a password."""
    import av

    kinds: tuple[tuple[Any, type[SourceError], str], ...] = (
        (
            (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError),
            SourcePermissionError,
            "the server refuses; give the right user and password, as in rtsp://user:password@host/path",
        ),
        (av.error.HTTPNotFoundError, SourceNotFoundError, "the server has nothing under this path"),
        (
            (av.error.HTTPClientError, av.error.HTTPServerError),
            SourceError,
            "the server answers with an error",
        ),
        (
            ConnectionRefusedError,
            SourceNotFoundError,
            "nothing listens there; is the server running, and the port right?",
        ),
        ((TimeoutError, av.error.ExitError), SourceTimeoutError, "no answer in time"),
        (PermissionError, SourcePermissionError, "no permission to open it"),
        (FileNotFoundError, SourceNotFoundError, "there is no such source"),
        (av.error.InvalidDataError, SourceFormatError, "what comes is no video, or stopped in the middle"),
    )
    for kind, ours, reason in kinds:
        if isinstance(error, kind):
            return ours(f"{name}: {reason}")
    told = getattr(error, "strerror", None) or type(error).__name__
    return SourceError(f"{name}: cannot be read ({told})")
