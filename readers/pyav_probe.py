"""What a video file is, found out once when it is opened: size, rotation, start, end, keyframes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from streamprune.errors import SourceFormatError
from streamprune.readers.base import VideoInfo
from streamprune.readers.options import ReadOptions
from streamprune.readers.pyav_packets import FIRST_RETREAT_SECONDS, Clock, PacketReader

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.stream import VideoStream

# Give up on a file whose first packets, this many, hold no picture.
MAX_PROBE_PACKETS = 1000
# Containers announce ends that are off by a frame or two; only more than this is a missing end.
END_SLACK_SECONDS = 0.5
INDEXED_FORMATS = frozenset({"mov", "mp4", "matroska", "webm", "avi", "flv"})


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What decoding needs to know about a file.

    Args:
        path: the file.
        clock: turns its time stamps into seconds from the first frame.
        frame_seconds: usual distance of two frames; fills in missing times.
        own_size: (rows, cols) of the first frame as coded, before rotation.
        size: (rows, cols) of the frames handed out.
        turn_degrees: counter-clockwise rotation to apply.
        has_index: the container lists where frames are, which MPEG-TS does not.
        keyframe_hints: seconds near which the index lists keyframes, ascending; None if they cannot be seen.
            Good enough to decide whether to seek, not to say where a keyframe is.
        timed: packets carry time stamps; without them frames can only be counted from the start.
        missing_end_seconds: how much earlier the pictures end than announced.
    """

    path: Path
    clock: Clock
    frame_seconds: float
    own_size: tuple[int, int]
    size: tuple[int, int]
    turn_degrees: int
    has_index: bool
    keyframe_hints: list[float] | None
    timed: bool
    missing_end_seconds: float


@dataclass(frozen=True)
class Extent:
    """How far a file reaches: seconds of the end, and the number of packets if all were seen."""

    end_seconds: float
    num_packets: int | None


def probe(path: Path, options: ReadOptions) -> tuple[VideoInfo, VideoFacts]:
    """Open a file, decode its first frame, and find its true end; `SourceFormatError` says why not."""
    with PacketReader(path, None, 1) as reader:
        options.check_pixels(str(path), reader.codec.height, reader.codec.width)
        first, damaged, timed = _first_frame(reader)
        reader.clock = clock = _clock(reader.stream, first, damaged)
        rate = reader.stream.average_rate or reader.stream.guessed_rate
        frame_seconds = float(1 / (rate or Fraction(25)))
        rotation = round(first.rotation / 90) * 90 % 360
        rows, cols = (first.height, first.width) if rotation % 180 == 0 else (first.width, first.height)
        size = options.output_size(rows, cols)
        announced, is_exact = _announced_seconds(reader)
        extent = _extent(reader, announced, frame_seconds)  # may open the file again
        missing = announced - extent.end_seconds if announced is not None and is_exact else 0.0
        info = VideoInfo(
            source=str(path),
            rows=size[0],
            cols=size[1],
            fps=rate,
            duration_seconds=extent.end_seconds,
            num_frames=extent.num_packets or reader.stream.frames or None,
            codec=reader.codec.codec.canonical_name,
            rotation_degrees=rotation,
            has_audio=bool(reader.container.streams.audio),
            backend="pyav",
            start_seconds=float(clock.start_pts * clock.time_base),
        )
        facts = VideoFacts(
            path=path,
            clock=clock,
            frame_seconds=frame_seconds,
            own_size=(first.height, first.width),
            size=size,
            turn_degrees=rotation,
            has_index=_has_index(reader),
            keyframe_hints=_keyframe_hints(reader),
            timed=timed,
            missing_end_seconds=missing if missing > max(END_SLACK_SECONDS, 2 * frame_seconds) else 0.0,
        )
        return info, facts


def _first_frame(reader: PacketReader) -> tuple[VideoFrame, bool, bool]:
    """Decode the first picture; also say if anything before it failed, and if packets carry times."""
    import av

    failed, timed = 0, True
    for count, packet in enumerate(reader):
        if count >= MAX_PROBE_PACKETS:
            break
        timed = timed and packet.pts is not None
        try:
            frames = packet.decode()
        except av.error.FFmpegError:
            failed += 1
            continue
        if frames:
            return frames[0], failed > 0, timed
    try:
        frames = reader.codec.decode(None)
    except av.error.FFmpegError:
        frames = []
    if not frames:
        raise SourceFormatError(
            f"{reader.path}: no picture could be decoded ({failed} damaged packets); the file may be cut off"
        )
    return frames[0], failed > 0, timed


def _clock(stream: VideoStream, first: VideoFrame, damaged: bool) -> Clock:
    """Start the clock at the first frame, or at the announced start if the beginning is lost."""
    time_base = stream.time_base or Fraction(1, 1000)
    starts = [
        pts
        for pts in (first.pts, stream.start_time if damaged or first.pts is None else None)
        if pts is not None
    ]
    return Clock(time_base=time_base, start_pts=min(starts, default=0))


def _announced_seconds(reader: PacketReader) -> tuple[float | None, bool]:
    """Return the length the container claims, and whether that surely is the length of the pictures."""
    stream, container = reader.stream, reader.container
    if stream.duration is not None and stream.time_base is not None:
        return float(stream.duration * stream.time_base), True
    offset = 0.0 if reader.clock is None else float(reader.clock.start_pts * reader.clock.time_base)
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?).*", stream.metadata.get("DURATION", ""))
    if tag:
        return max(0.0, int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) - offset), True
    if container.duration is not None:
        return max(0.0, container.duration / 1_000_000 - offset), len(container.streams) == 1
    return None, False


def _extent(reader: PacketReader, announced: float | None, frame_seconds: float) -> Extent:
    """Find the end of the last frame from the packets near the end, without decoding; scan all if need be."""
    retreat = 0.0
    while announced is not None and announced - retreat > 0 and reader.seek(announced - retreat):
        end, _ = _end_of_packets(reader, frame_seconds, announced)
        if end is not None:
            return Extent(end, None)
        retreat = 2 * retreat or FIRST_RETREAT_SECONDS
    reader.restart()
    end, count = _end_of_packets(reader, frame_seconds, announced)
    return Extent(count * frame_seconds if end is None else end, count)


def _end_of_packets(
    reader: PacketReader, frame_seconds: float, announced: float | None
) -> tuple[float | None, int]:
    """Return the end (seconds; None without time stamps) of the packets from here on, and their count.

    A packet's own duration may be the distance in decoding order; it counts only up to the announced end.
    """
    clock, last, end, count = reader.clock, 0.0, None, 0
    for packet in reader:
        if packet.is_discard:
            continue
        count += 1
        if packet.pts is None or clock is None:
            continue
        length = float(packet.duration * clock.time_base) if packet.duration else frame_seconds
        last = max(last, clock.seconds(packet.pts))
        end = max(end or 0.0, clock.seconds(packet.pts) + length)
    if end is not None and announced is not None:
        end = max(last, min(end, announced))
    return end, count


def _has_index(reader: PacketReader) -> bool:
    return bool(INDEXED_FORMATS & set(reader.container.format.name.split(",")))


def _keyframe_hints(reader: PacketReader) -> list[float] | None:
    """Read the container's index of keyframes, where it has a whole one."""
    if not _has_index(reader) or reader.clock is None:
        return None
    reader.seek(0.0)  # Matroska reads its index on the first seek
    entries = getattr(reader.stream, "index_entries", ())  # PyAV before 17 does not show it
    keys = [entry.timestamp for entry in entries if entry.is_keyframe]
    if not keys:
        return None
    # mp4 indexes decoding times: shift so that the first one falls on the start.
    return sorted((key - keys[0]) * float(reader.clock.time_base) for key in keys)
