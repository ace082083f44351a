"""Video files through torchcodec, where its FFmpeg libraries load."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

from streamprune.errors import MissingDependencyError, SourceFormatError
from streamprune.readers.base import Frame
from streamprune.readers.options import ReadOptions
from streamprune.readers.pyav_probe import probe
from streamprune.readers.scaling import resize
from streamprune.readers.source import Source
from streamprune.readers.timeline import places_shown, require_times, scan_times


class TorchcodecSource(Source):
    """A video file; the times are the exact ones of the packets, the pictures torchcodec's."""

    def __init__(self, path: Path, options: ReadOptions) -> None:
        try:
            self._decoders: Any = import_module("torchcodec.decoders")
        except (
            ImportError,
            OSError,
            RuntimeError,
        ) as error:  # it raises the last two without its FFmpeg libraries
            raise MissingDependencyError.extra("torchcodec", "torchcodec", 'backend="torchcodec"') from error
        info, self._facts = probe(path, options)
        super().__init__(replace(info, backend="torchcodec"), prefetch_bytes=options.prefetch_bytes)
        self._options = options
        self.report.missing_end_seconds = self._facts.missing_end_seconds
        self._times = require_times(self._facts, "torchcodec")

    def _decoder(self) -> Any:
        try:
            decoder = self._decoders.VideoDecoder(
                str(self._facts.path), dimension_order="NHWC", num_ffmpeg_threads=self._options.num_threads
            )
        except (RuntimeError, ValueError) as error:
            raise self._refused(error) from error
        if len(decoder) != len(self._times):
            raise self._refused(f"it counts {len(decoder)} frames, the file shows {len(self._times)}")
        return decoder

    def _frame(self, decoder: Any, place: int, index: int) -> Frame:
        try:
            picture = decoder.get_frame_at(place).data.numpy()  # (rows, cols, 3)
        except (RuntimeError, IndexError, ValueError) as error:
            raise self._refused(error) from error
        return Frame(resize(picture, self._facts.size), self._times[place], index, source=self.info.source)

    def _refused(self, error: Exception | str) -> SourceFormatError:
        reason = str(error).strip().splitlines()[0]
        return SourceFormatError(
            f'{self._facts.path}: torchcodec cannot read it ({reason}); use backend="pyav"'
        )

    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        decoder = self._decoder()
        index = 0
        for place, pts in enumerate(self._times):
            if end_seconds is not None and pts >= end_seconds:
                return
            if pts >= start_seconds:
                self.report.frames_read += 1
                yield self._frame(decoder, place, index)
                index += 1

    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        decoder = self._decoder()
        places = places_shown(self._times, times_seconds)
        frames = {place: self._frame(decoder, place, i) for i, place in enumerate(sorted(set(places)))}
        return {time: frames[place] for time, place in zip(times_seconds, places, strict=True)}

    def _keyframes(self) -> list[float]:
        return scan_times(self._facts, keyframes_only=True)

    def _close(self) -> None:
        """Nothing is held between calls; running iterations were closed already."""
