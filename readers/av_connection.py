"""The connection to a stream, camera or pipe that PyAV opens. Owns its container."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from streamprune.errors import SourceFormatError
from streamprune.readers.address import Address
from streamprune.readers.connection import Connection, Picture
from streamprune.readers.connection_errors import explained
from streamprune.readers.credentials import hide_in_ffmpeg_logs
from streamprune.readers.live_options import LiveOptions
from streamprune.readers.pipe import Pipe
from streamprune.readers.scaling import to_rgb

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer

# what a playlist or redirection may open in turn: never a local file
_PROTOCOLS = "http,https,tcp,tls,udp,rtp,rtsp,rtsps,rtmp,rtmps,rtmpt,crypto,data"
# its time stamps only count pictures
_UNTIMED_FORMATS = frozenset({"mpjpeg"})


class AvConnection(Connection):
    """A stream, camera or pipe, opened by PyAV.

    Raises SourceError, or the kind of it that says what is wrong; never with a password in it.
    """

    def __init__(self, address: Address, live: LiveOptions) -> None:
        self._name = address.name
        self._pipe = address.target if isinstance(address.target, Pipe) else None
        self._container = _open(address, live)
        streams = self._container.streams.video
        if not streams or streams[0].codec_context is None:
            kinds = ", ".join(sorted({stream.type for stream in self._container.streams})) or "no streams"
            self.close()
            raise SourceFormatError(f"{self._name}: carries no video that can be decoded, only: {kinds}")
        self._stream = streams[0]
        self._stream.codec_context.thread_type = "SLICE"  # threads by frame would hold frames back
        self.fps = self._stream.average_rate
        self.codec = self._stream.codec_context.name
        self.has_audio = bool(self._container.streams.audio)
        self.finite = not address.returns or (
            self._container.duration is not None and str(address.target).startswith("http")
        )
        self.continues = self._container.format.name.startswith("hls")

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
            return
        except (av.error.FFmpegError, ValueError, OSError) as error:
            loss = explained(error, self._name)
        raise loss  # out here it has no context, which would show the whole URL

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
        if self._pipe is not None:
            self._pipe.close()


def _open(address: Address, live: LiveOptions) -> InputContainer:
    """Open it; SourceError says why not, and neither it nor its context holds what FFmpeg was told."""
    import av

    hide_in_ffmpeg_logs()
    timed = address.returns
    more = {"protocol_whitelist": _PROTOCOLS} if timed and address.format is None else {}
    if str(address.target).startswith("rtsp"):
        more["rtsp_transport"] = live.rtsp_transport
    try:
        return av.open(
            address.target.open() if isinstance(address.target, Pipe) else address.target,
            mode="r",
            format=address.format,
            container_options={**address.options, **more},
            timeout=(live.open_timeout_seconds, live.read_timeout_seconds) if timed else None,
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError, OSError) as error:
        refusal = explained(error, address.name, opening=True)
    if isinstance(address.target, Pipe):
        address.target.close()
    raise refusal
