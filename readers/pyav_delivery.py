"""From a packet to a `Frame`: decoding that survives damage, times, damage policy, rotation, one size."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
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
    from av.video.stream import VideoStream

# At most so many pictures in a row wait for a later one they are built on: what a decoder can hold.
MAX_BIPREDICTED = 16


class DamageMetError(Exception):
    """A decoder that is to stop at damage met some; never leaves the readers."""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture out of the decoder, and whether it, or a picture it may be built on, is damaged."""

    picture: VideoFrame
    corrupt: bool

    @property
    def pts(self) -> int | None:
        """Its time stamp."""
        return self.picture.pts

    @property
    def is_bipredicted(self) -> bool:
        """Whether it may be built on a picture that is shown later."""
        from av.video.frame import PictureType

        return int(self.picture.pict_type) == PictureType.B


class Decoder:
    """Decodes the packets of a reader and goes on after damage.

    Decoders hide most damage: they fill holes from other pictures and say nothing. So from a damaged packet
    on, every picture counts as corrupt until the next keyframe.

    Args:
        reader: where packets and codec come from.
        report: counts the packets that fail.
        stop_at_damage: raise `DamageMetError` at the first sign of damage, and count nothing.
    """

    def __init__(self, reader: PacketReader, report: ReadReport, *, stop_at_damage: bool = False) -> None:
        self._reader = reader
        self._stop_at_damage = stop_at_damage
        self._report = report
        self._suspect_since: int | None = None  # time stamp of the damaged packet

    def decode(self, packet: Packet[VideoStream] | None) -> list[Decoded]:
        """Decode one packet (None drains the decoder); one that fails gives no pictures and is counted."""
        import av

        damaged = packet is not None and packet.is_corrupt
        try:
            pictures = self._reader.codec.decode(packet)
        except av.error.EOFError:
            return []
        except av.error.FFmpegError:
            damaged, pictures = True, []
        if self._stop_at_damage and (damaged or any(picture.is_corrupt for picture in pictures)):
            raise DamageMetError
        if damaged and packet is not None:
            self._report.note("packet_errors", packet.pts)
            self._suspect_since = packet.pts if packet.pts is not None else 2**62
        return [Decoded(picture, self._judge(picture)) for picture in pictures]

    def decode_all(self) -> Generator[Decoded, None, None]:
        """Decode from the reader's place to the end."""
        for packet in self._reader:
            yield from self.decode(packet)
        yield from self.decode(None)

    def forget(self) -> None:
        """Start afresh after a jump; the next packet is a keyframe."""
        self._suspect_since = None

    def _judge(self, picture: VideoFrame) -> bool:
        since = self._suspect_since
        if since is not None and picture.key_frame and picture.pts is not None and picture.pts > since:
            self._suspect_since = None
        return picture.is_corrupt or self._suspect_since is not None


class Delivery:
    """Makes the frames of one pass over a file, in the order they were decoded."""

    def __init__(self, facts: VideoFacts, options: ReadOptions, report: ReadReport) -> None:
        self._facts = facts
        self._options = options
        self._report = report
        self._last_known_seconds = 0.0
        self._num_unknown = -1  # frames without a time since the last one with it
        self._estimated = False

    def seconds(self, decoded: Decoded) -> float:
        """Time of a frame; one that carries none comes a frame's length after the one before it."""
        self._estimated = decoded.pts is None
        if decoded.pts is not None:
            self._last_known_seconds = self._facts.clock.seconds(decoded.pts)
            self._num_unknown = 0
        else:
            self._num_unknown += 1
        return self._last_known_seconds + self._num_unknown * self._facts.frame_seconds

    def usable(self, decoded: Decoded, pts_seconds: float) -> bool:
        """Apply the damage policy: False for a damaged frame that is to be dropped, an error if so chosen."""
        if not decoded.corrupt or self._options.corrupt == "keep":
            return True
        if self._options.corrupt == "raise":
            raise SourceFormatError(
                f"{self._facts.path}: the frame at {pts_seconds:.3f} s is damaged; "
                'use corrupt="keep" or corrupt="drop" to go on'
            )
        self._report.note("dropped_frames", decoded.pts)
        return False

    def deliver(self, decoded: Decoded, pts_seconds: float, index: int) -> Frame:
        """Convert a usable frame: turned, of one size, in RGB."""
        facts, picture = self._facts, decoded.picture
        if (picture.height, picture.width) != facts.own_size:
            self._options.check_pixels(str(facts.path), picture.height, picture.width)
            self._report.note("rescaled_frames", picture.pts)
        if decoded.corrupt:
            self._report.note("corrupt_frames", picture.pts)
        if self._estimated:
            self._report.note("estimated_pts", None)
        return Frame(
            to_rgb(picture, facts.size, facts.turn_degrees),
            pts_seconds,
            index,
            key=bool(picture.key_frame),
            corrupt=decoded.corrupt,
            pts_estimated=self._estimated,
            source=str(facts.path),
        )

    def nothing_readable(self) -> SourceFormatError:
        """The error for a file of which not one frame could be delivered."""
        return SourceFormatError(f"{self._facts.path}: not one frame of it could be decoded")
