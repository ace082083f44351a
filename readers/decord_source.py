"""Video files through decord, which runs in a child process with a deadline."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from streamprune.errors import SourceFormatError
from streamprune.readers.base import Frame
from streamprune.readers.decord_process import DecordProcess
from streamprune.readers.options import ReadOptions
from streamprune.readers.pyav_probe import probe
from streamprune.readers.scaling import resize
from streamprune.readers.source import Source
from streamprune.readers.timeline import places_shown, require_times, scan_times


class DecordSource(Source):
    """A video file; decord does not tell of damage, so no frame is ever marked corrupt.

    decord addresses frames by number and rounds their times to single precision; the exact times come from
    the packets. Files where the two disagree about the number of frames (edit lists) are refused.
    """

    def __init__(self, path: Path, options: ReadOptions) -> None:
        info, self._facts = probe(path, options)
        if not self._facts.has_index or info.codec == "hevc":
            what = "HEVC" if info.codec == "hevc" else "files without an index (MPEG-TS)"
            raise SourceFormatError(f'{path}: decord gives wrong frames of {what}; use backend="pyav"')
        super().__init__(replace(info, backend="decord"), prefetch_bytes=options.prefetch_bytes)
        self._options = options
        self.report.missing_end_seconds = self._facts.missing_end_seconds
        self._times = require_times(self._facts, "decord")
        self._open().close()  # whether decord is there and can read the file is known at once

    def _open(self) -> DecordProcess:
        process = DecordProcess(self._facts.path, self._options.num_threads, self._options.timeout_seconds)
        if process.num_frames != len(self._times):
            process.close()
            raise SourceFormatError(
                f"{self._facts.path}: decord counts {process.num_frames} frames where the file shows "
                f'{len(self._times)}; use backend="pyav"'
            )
        return process

    def _frame(self, process: DecordProcess, place: int, index: int) -> Frame:
        image = resize(process.frame(place), self._facts.size)
        return Frame(image, self._times[place], index, source=self.info.source)

    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        index = 0
        with closing(self._open()) as process:
            for place, pts in enumerate(self._times):
                if end_seconds is not None and pts >= end_seconds:
                    return
                if pts >= start_seconds:
                    self.report.frames_read += 1
                    yield self._frame(process, place, index)
                    index += 1

    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        places = places_shown(self._times, times_seconds)
        with closing(self._open()) as process:
            frames = {place: self._frame(process, place, i) for i, place in enumerate(sorted(set(places)))}
        return {time: frames[place] for time, place in zip(times_seconds, places, strict=True)}

    def _keyframes(self) -> list[float]:
        return scan_times(self._facts, keyframes_only=True)

    def _close(self) -> None:
        """Nothing is held between calls; running iterations were closed already."""
