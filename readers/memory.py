"""Frames that are in memory already: arrays, tensors, lists of pictures."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Generator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import Any

from streamprune.errors import InvalidTypeError, InvalidValueError, SourceFormatError
from streamprune.readers.base import SAME_MOMENT_SECONDS, Frame, Image, VideoInfo, as_array, as_rgb_image
from streamprune.readers.options import ReadOptions
from streamprune.readers.scaling import resize
from streamprune.readers.source import Source

# Without a rate there is no time: one frame a second makes seconds and frame numbers the same thing.
DEFAULT_FPS = Fraction(1)


class MemorySource(Source):
    """A known number of frames, each made on demand by ``frame_at(index)``; ``pts`` holds their times."""

    def __init__(
        self, info: VideoInfo, pts: Sequence[float], frame_at: Callable[[int], Frame], options: ReadOptions
    ) -> None:
        super().__init__(info)
        self._pts = list(pts)
        self._frame_at = frame_at
        self._size = options.output_size(info.rows, info.cols)

    def _get(self, index: int, number: int) -> Frame:
        frame = self._frame_at(index)
        return Frame(
            resize(frame.image, self._size),
            frame.pts_seconds,
            number,
            key=True,
            corrupt=frame.corrupt,
            epoch=frame.epoch,
            arrival_seconds=frame.arrival_seconds,
            source=frame.source or self.info.source,
        )

    def _frames(self, start_seconds: float, end_seconds: float | None) -> Generator[Frame, None, None]:
        for index, pts in enumerate(self._pts):
            if end_seconds is not None and pts >= end_seconds:
                return
            if pts >= start_seconds:
                self.report.frames_read += 1
                yield self._get(index, index)

    def _sample(self, times_seconds: list[float]) -> dict[float, Frame]:
        shown = [max(0, bisect_right(self._pts, time + SAME_MOMENT_SECONDS) - 1) for time in times_seconds]
        numbers = {index: number for number, index in enumerate(sorted(set(shown)))}
        frames = {index: self._get(index, number) for index, number in numbers.items()}
        return {time: frames[index] for time, index in zip(times_seconds, shown, strict=True)}

    def _keyframes(self) -> list[float]:
        return list(self._pts)

    def _close(self) -> None:
        self._pts = []


def open_array(array: Any, fps: Fraction | None, options: ReadOptions) -> MemorySource:
    """Open a uint8 array or tensor (frames, rows, cols, 3) at ``fps`` frames a second."""
    video = as_array(array, "source")
    if video.ndim == 3 and video.shape[-1] == 3:
        video = video[None]  # (1, rows, cols, 3): one picture is a video of one frame
    if video.ndim != 4:
        raise InvalidValueError(
            f"source must have shape (frames, rows, cols, 3), got {video.shape}{_grey(video.ndim)}"
        )
    if video.shape[0] == 0:
        raise SourceFormatError(f"source has no frames: its shape is {video.shape}")
    if video.shape[1] == 3 and video.shape[-1] != 3:
        raise InvalidValueError(
            f"source must have shape (frames, rows, cols, 3), got {video.shape}: "
            "permute (frames, 3, rows, cols) so that colours come last"
        )
    return _open_images(list(video), fps, options, "array")


def open_sequence(frames: Sequence[Any], fps: Fraction | None, options: ReadOptions) -> MemorySource:
    """Open a list of pictures (rows, cols, 3), or of `Frame` objects, which keep their times."""
    if not frames:
        raise SourceFormatError("source is an empty list: give at least one frame")
    if not any(isinstance(frame, Frame) for frame in frames):
        return _open_images([as_array(frame, "frame") for frame in frames], fps, options, "list")
    given = [frame for frame in frames if isinstance(frame, Frame)]
    if len(given) != len(frames):
        raise InvalidTypeError(
            "source mixes Frame objects and bare pictures: give all frames a time, or none"
        )
    if fps is not None:
        raise InvalidValueError("fps cannot be given with Frame objects: they carry their own times")
    pts = [frame.pts_seconds for frame in given]
    if any(later <= earlier for earlier, later in pairwise(pts)):
        raise InvalidValueError("source must be in time order: pts_seconds of the frames must increase")
    _check_same_size([frame.image for frame in given], options)
    mean_step = (pts[-1] - pts[0]) / (len(pts) - 1) if len(pts) > 1 else 0.0
    info = _info(given[0].image, len(pts), None, pts[-1] + mean_step, options, given[0].source or "frames")
    return MemorySource(info, pts, given.__getitem__, options)


def _open_images(images: list[Any], fps: Fraction | None, options: ReadOptions, name: str) -> MemorySource:
    rate = DEFAULT_FPS if fps is None else fps
    checked = [as_rgb_image(image, "source") for image in images]
    _check_same_size(checked, options)
    pts = [float(index / rate) for index in range(len(checked))]
    info = _info(checked[0], len(checked), rate, float(len(checked) / rate), options, name)
    return MemorySource(info, pts, lambda index: Frame(checked[index], pts[index], index), options)


def _info(
    first: Image, num_frames: int, fps: Fraction | None, duration: float, options: ReadOptions, name: str
) -> VideoInfo:
    rows, cols = options.output_size(int(first.shape[0]), int(first.shape[1]))
    return VideoInfo(
        source=name, rows=rows, cols=cols, fps=fps, duration_seconds=duration, num_frames=num_frames
    )


def _check_same_size(images: list[Image], options: ReadOptions) -> None:
    if options.resize is not None:
        return
    for index, image in enumerate(images):
        if image.shape != images[0].shape:
            raise InvalidValueError(
                f"source mixes sizes: frame 0 is {images[0].shape[:2]}, frame {index} is {image.shape[:2]}; "
                "give resize=(rows, cols) to scale them to one size"
            )


def _grey(dimensions: int) -> str:
    return ": grey video; repeat it three times along a new last axis" if dimensions == 3 else ""
