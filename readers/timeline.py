"""The exact times of a file's frames, from its packets; other backends know them only roughly."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from streamprune.errors import SourceFormatError
from streamprune.readers.base import SAME_MOMENT_SECONDS
from streamprune.readers.pyav_packets import PacketReader
from streamprune.readers.pyav_probe import VideoFacts


def scan_times(facts: VideoFacts, *, keyframes_only: bool = False) -> list[float]:
    """Return the seconds of all frames, or all keyframes, ascending; reads every packet, decodes none."""
    with PacketReader(facts.path, facts.clock, 1) as reader:
        times = {
            facts.clock.seconds(packet.pts)
            for packet in reader
            if packet.pts is not None and not packet.is_discard and (packet.is_keyframe or not keyframes_only)
        }
    return sorted(time for time in times if time >= 0)


def require_times(facts: VideoFacts, backend: str) -> list[float]:
    """Return the seconds of all frames; `SourceFormatError` if the packets of this file carry none."""
    times = scan_times(facts) if facts.timed else []
    if not times:
        raise SourceFormatError(
            f'{facts.path}: carries no time stamps, which {backend} needs; use backend="pyav"'
        )
    return times


def places_shown(frame_times: Sequence[float], times_seconds: Sequence[float]) -> list[int]:
    """Return for each time the index of the frame on screen then; before the first frame, the first one."""
    return [max(0, bisect_right(frame_times, time + SAME_MOMENT_SECONDS) - 1) for time in times_seconds]
