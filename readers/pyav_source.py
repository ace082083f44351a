"""Video files through PyAV, the default reader."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

from streamprune.readers.base import SAME_MOMENT_SECONDS, Frame
from streamprune.readers.options import ReadOptions
from streamprune.readers.pyav_delivery import Decoded, Delivery
from streamprune.readers.pyav_packets import PacketReader
from streamprune.readers.pyav_parallel import fetch
from streamprune.readers.pyav_probe import probe
from streamprune.readers.pyav_replay import decode_from
from streamprune.readers.report import ReadReport
from streamprune.readers.source import Source
from streamprune.readers.timeline import scan_times


class PyavSource(Source):
    """A video file; each iteration and each sampling has a container of its own, so none disturbs another."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        info, self._facts = probe(path, options)
        super().__init__(info, prefetch_bytes=options.prefetch_bytes)
        self._options = options
        self.report.missing_end_seconds = self._facts.missing_end_seconds

    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        facts = self._facts
        delivery = Delivery(facts, self._options, self.report)
        with PacketReader(facts.path, facts.clock, self._options.num_threads) as reader:
            index, last_pts = 0, float("-inf")
            for decoded in decode_from(reader, self.report, start_seconds if facts.timed else 0.0):
                pts = delivery.seconds(decoded)
                if pts <= last_pts:  # damage upsets the order; a frame whose time has passed is lost
                    self.report.note("dropped_frames", decoded.pts)
                    continue
                last_pts = pts
                if end_seconds is not None and pts >= end_seconds:
                    return
                if pts >= start_seconds and delivery.usable(decoded, pts):
                    self.report.frames_read += 1
                    yield delivery.deliver(decoded, pts, index)
                    index += 1

    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        if not self._facts.timed:
            return self._sample_by_counting(times_seconds)
        report = ReadReport()
        shown = fetch(self._facts, self._options, times_seconds, report)
        self.report.merge(report)
        numbered: dict[float, Frame] = {}
        for time in times_seconds:
            pts = shown[time].pts_seconds
            if pts not in numbered:
                numbered[pts] = replace(shown[time], index=len(numbered))
        return {time: numbered[shown[time].pts_seconds] for time in times_seconds}

    def _sample_by_counting(self, times_seconds: list[float]) -> dict[float, Frame]:
        """Decode from the start: the packets of this file carry no times to plan by."""
        facts = self._facts
        delivery = Delivery(facts, self._options, self.report)
        shown: dict[float, Frame] = {}
        waiting = list(times_seconds)
        held: tuple[Decoded, float] | None = None
        with PacketReader(facts.path, facts.clock, self._options.num_threads) as reader:
            for decoded in decode_from(reader, self.report, 0.0):
                pts = delivery.seconds(decoded)
                due = [time for time in waiting if held is not None and time + SAME_MOMENT_SECONDS < pts]
                if held is not None and due:
                    shown |= dict.fromkeys(due, delivery.deliver(*held, len(shown)))
                    waiting = waiting[len(due) :]
                if not waiting:
                    return shown
                if delivery.usable(decoded, pts):
                    held = (decoded, pts)
        if held is None:
            raise delivery.nothing_readable()
        return shown | dict.fromkeys(waiting, delivery.deliver(*held, len(shown)))

    def _keyframes(self) -> list[float]:
        return scan_times(self._facts, keyframes_only=True)

    def _close(self) -> None:
        """Nothing is held between calls; running iterations were closed already."""
