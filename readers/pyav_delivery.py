"""From a decoded picture to a `Frame`: times, damage policy, rotation, one size."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING

from streamprune.errors import SourceFormatError
from streamprune.readers.base import Frame
from streamprune.readers.options import ReadOptions
from streamprune.readers.pyav_packets import PacketReader
from streamprune.readers.pyav_probe import VideoFacts
from streamprune.readers.report import ReadReport
from streamprune.readers.scaling import to_rgb

if TYPE_CHECKING:
    from av import VideoFrame
    from av.packet import Packet
    from av.video.codeccontext import VideoCodecContext
    from av.video.stream import VideoStream


def decode_packet(
    codec: VideoCodecContext, packet: Packet[VideoStream] | None, report: ReadReport
) -> list[VideoFrame]:
    """Decode one packet (None drains the decoder); a damaged one gives no frames and is counted."""
    import av

    try:
        return codec.decode(packet)
    except av.error.EOFError:
        return []
    except av.error.FFmpegError:
        report.packet_errors += 1
        return []


def decode_all(reader: PacketReader, report: ReadReport) -> Generator[VideoFrame, None, None]:
    """Decode from the reader's place to the end, going on after damage."""
    packets: Iterable[Packet[VideoStream] | None] = reader
    for packet in packets:
        yield from decode_packet(reader.codec, packet, report)
    yield from decode_packet(reader.codec, None, report)


class Delivery:
    """Makes the frames of one pass over a file, in the order they were decoded."""

    def __init__(self, facts: VideoFacts, options: ReadOptions, report: ReadReport) -> None:
        self._facts = facts
        self._options = options
        self._report = report
        self._last_seconds: float | None = None
        self._estimated = False

    def seconds(self, decoded: VideoFrame) -> float:
        """Time of a frame; one that carries none comes a frame's length after the one before it."""
        self._estimated = decoded.pts is None
        if decoded.pts is not None:
            time = self._facts.clock.seconds(decoded.pts)
        else:
            time = 0.0 if self._last_seconds is None else self._last_seconds + self._facts.frame_seconds
        self._last_seconds = time
        return time

    def usable(self, decoded: VideoFrame, pts_seconds: float) -> bool:
        """Apply the damage policy: False for a damaged frame that is to be dropped, an error if so chosen."""
        if not decoded.is_corrupt or self._options.corrupt == "keep":
            return True
        if self._options.corrupt == "raise":
            raise SourceFormatError(
                f"{self._facts.path}: the frame at {pts_seconds:.3f} s is damaged; "
                'use corrupt="keep" or corrupt="drop" to go on'
            )
        self._report.dropped_frames += 1
        return False

    def deliver(self, decoded: VideoFrame, pts_seconds: float, index: int) -> Frame:
        """Convert a usable frame: turned, of one size, in RGB."""
        facts, report = self._facts, self._report
        if (decoded.height, decoded.width) != facts.own_size:
            self._options.check_pixels(str(facts.path), decoded.height, decoded.width)
            report.rescaled_frames += 1
        report.corrupt_frames += decoded.is_corrupt
        report.estimated_pts += self._estimated
        return Frame(
            to_rgb(decoded, facts.size, facts.turn_degrees),
            pts_seconds,
            index,
            key=bool(decoded.key_frame),
            corrupt=decoded.is_corrupt,
            pts_estimated=self._estimated,
            source=str(facts.path),
        )

    def nothing_readable(self) -> SourceFormatError:
        """The error for a file of which not one frame could be delivered."""
        return SourceFormatError(f"{self._facts.path}: not one frame of it could be decoded")
