"""A video file as a row of compressed packets: opening, seeking that never overshoots, going on after damage.

Nothing is decoded here except the first frame, which tells what the container does not.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from streamprune.errors import SourceFormatError, SourcePermissionError
from streamprune.readers.base import SAME_MOMENT_SECONDS

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# A demuxer that fails this often in a row has nothing more to give.
MAX_DEMUX_FAILURES = 32
FIRST_RETREAT_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class Clock:
    """Turns a stream's time stamps into seconds from its first frame."""

    time_base: Fraction
    start_pts: int

    def seconds(self, pts: int) -> float:
        """Seconds of a time stamp; one exact division, so equal stamps give equal floats."""
        return (pts - self.start_pts) * self.time_base.numerator / self.time_base.denominator

    def pts(self, seconds: float) -> int:
        """The time stamp nearest to ``seconds``."""
        return round(seconds / self.time_base) + self.start_pts


def open_container(path: Path, num_threads: int) -> tuple[InputContainer, VideoStream]:
    """Open a file for its first video stream. Raises `SourceFormatError` with the path if there is none."""
    import av

    try:
        # Only local files: a playlist in disguise must not make the reader open network addresses.
        container = av.open(
            str(path.absolute()),
            metadata_errors="replace",
            container_options={"protocol_whitelist": "file,crypto,data"},
        )
    except av.error.PermissionError as error:
        raise SourcePermissionError(f"{path}: no permission to read it") from error
    except (av.error.FFmpegError, ValueError, OSError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SourceFormatError(f"{path}: not a readable video file ({reason})") from error
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "no streams at all"
        container.close()
        raise SourceFormatError(f"{path}: holds no video, only: {kinds}")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        container.close()
        raise SourceFormatError(f"{path}: no decoder for its video codec")
    stream.codec_context.thread_count = num_threads
    stream.codec_context.thread_type = "AUTO" if num_threads > 1 else "NONE"
    return container, stream


class PacketReader:
    """The packets of one file from a chosen place on. Owns its container: close it, or use it in ``with``.

    Args:
        path: the file.
        clock: of the file's video stream; None until it is known (then seeking is not possible).
        num_threads: decoder threads of the container.
    """

    def __init__(self, path: Path, clock: Clock | None, num_threads: int) -> None:
        self.path = path
        self.clock = clock
        self.num_threads = num_threads
        self._held: list[Packet[VideoStream]] = []
        self._open()

    def _open(self) -> None:
        self.container, self.stream = open_container(self.path, self.num_threads)
        self.codec = self.stream.codec_context
        self._demuxed = self._demux()

    def _demux(self) -> Generator[Packet[VideoStream], None, None]:
        import av

        failures = 0
        while failures < MAX_DEMUX_FAILURES:
            try:
                for packet in self.container.demux(self.stream):
                    failures = 0
                    if packet.size > 0:  # the last one is empty and asks to drain the decoder
                        yield packet
                return
            except IndexError:  # damage made up another stream, which PyAV cannot drain at the end
                return
            except av.error.FFmpegError:
                failures += 1

    def __iter__(self) -> Iterator[Packet[VideoStream]]:
        return self

    def __next__(self) -> Packet[VideoStream]:
        return self._held.pop(0) if self._held else next(self._demuxed)

    def seek(self, seconds: float) -> bool:
        """Go to where the container thinks ``seconds`` is, which may be too late; False if it cannot seek."""
        import av

        if self.clock is None:
            return False
        try:
            self.container.seek(self.clock.pts(seconds), stream=self.stream, backward=True)
        except (av.error.FFmpegError, OverflowError):
            return False
        self._held.clear()
        self._demuxed = self._demux()
        return True

    def seek_before(self, seconds: float) -> float:
        """Go to a keyframe shown at or before ``seconds``, or else to the start of the file; return its
        seconds.

        Containers without an index (MPEG-TS) land after the target: go back further until a keyframe precedes
        it.
        """
        retreat = 0.0
        while seconds - retreat > 0 and self.seek(seconds - retreat):
            key = next((packet for packet in self if packet.is_keyframe), None)
            if key is not None and (key.pts is None or self.clock is None):
                break
            landed = float("inf") if key is None or self.clock is None else self.clock.seconds(key.pts or 0)
            if key is not None and landed <= seconds + SAME_MOMENT_SECONDS:
                self._held.insert(0, key)
                return landed
            retreat = 2 * retreat or FIRST_RETREAT_SECONDS
        self.restart()
        return 0.0

    def restart(self, num_threads: int | None = None) -> None:
        """Go back to the start of the file, which works for every container; change the decoder threads."""
        self.close()
        self.num_threads = num_threads or self.num_threads
        self._held.clear()
        self._open()

    def close(self) -> None:
        """Release the file and the decoder."""
        self._demuxed.close()
        self.container.close()

    def __enter__(self) -> PacketReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
