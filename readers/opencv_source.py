"""Video files through OpenCV, for those who have it anyway.

Frames are only ever read one after the other: OpenCV's own positioning returns wrong frames for variable
rates and edit lists. So sparse sampling of a long file decodes all of it up to the last wanted frame; PyAV
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from streamprune.errors import MissingDependencyError, SourceFormatError
from streamprune.readers.base import Frame, Image
from streamprune.readers.options import ReadOptions
from streamprune.readers.pyav_probe import probe
from streamprune.readers.scaling import resize
from streamprune.readers.source import Source
from streamprune.readers.timeline import places_shown, require_times, scan_times

# OpenCV tells the time in milliseconds as a float.
TIME_SLACK_SECONDS = 1e-4


class OpencvSource(Source):
    """A video file; OpenCV does not tell of damage, so no frame is ever marked corrupt."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        try:
            self._cv2: Any = import_module("cv2")
        except ImportError as error:
            raise MissingDependencyError.extra(
                "opencv-python-headless", "opencv", 'backend="opencv"'
            ) from error
        try:
            str(path).encode()
        except UnicodeEncodeError as error:  # OpenCV would take the whole process down
            raise SourceFormatError(
                f'{path}: OpenCV opens no file whose name is not valid UTF-8; use backend="pyav"'
            ) from error
        info, self._facts = probe(path, options)
        super().__init__(replace(info, backend="opencv"), prefetch_bytes=options.prefetch_bytes)
        self._options = options
        self.report.missing_end_seconds = self._facts.missing_end_seconds

    def _grabbed(self) -> Generator[tuple[float, Callable[[], Image]], None, None]:
        """Yield the time of each frame, and a function that converts it until the next one is grabbed."""
        cv2, path = self._cv2, self._facts.path
        threads = [cv2.CAP_PROP_N_THREADS, self._options.num_threads]
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, threads)

        def convert() -> Image:
            _, picture = capture.retrieve()
            return resize(np.ascontiguousarray(picture[:, :, ::-1]), self._facts.size)

        found = False
        try:
            while capture.isOpened() and capture.grab():
                found = True
                yield max(0.0, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000), convert
        finally:
            capture.release()
        if not found:
            codec = self.info.codec
            raise SourceFormatError(f'{path}: OpenCV reads no frame of this {codec} file; use backend="pyav"')

    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        index = 0
        for pts, convert in self._grabbed():
            if end_seconds is not None and pts >= end_seconds - TIME_SLACK_SECONDS:
                return
            if pts >= start_seconds - TIME_SLACK_SECONDS:
                self.report.frames_read += 1
                yield Frame(convert(), pts, index, source=self.info.source)
                index += 1

    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        exact = require_times(self._facts, "opencv")
        planned = [exact[place] for place in places_shown(exact, times_seconds)]
        wanted = sorted(set(planned), reverse=True)
        frames: list[Frame] = []
        for pts, convert in self._grabbed():
            while wanted and wanted[-1] < pts - TIME_SLACK_SECONDS:
                wanted.pop()  # lost: OpenCV has gone past it
            if not wanted:
                break
            if wanted[-1] <= pts + TIME_SLACK_SECONDS:
                frames.append(Frame(convert(), wanted.pop(), len(frames), source=self.info.source))
        if not frames:
            raise SourceFormatError(f'{self._facts.path}: OpenCV gives no wanted frame; use backend="pyav"')
        given = [frame.pts_seconds for frame in frames]
        self.report.approximate_times += sum(pts not in given for pts in planned)
        places = places_shown(given, planned)
        return {time: frames[place] for time, place in zip(times_seconds, places, strict=True)}

    def _keyframes(self) -> list[float]:
        return scan_times(self._facts, keyframes_only=True)

    def _close(self) -> None:
        """Nothing is held between calls; running iterations were closed already."""
