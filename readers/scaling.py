"""Scaling and turning pictures; the scaler is FFmpeg's, so every kind of source scales alike."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from streamprune.readers.base import Image

if TYPE_CHECKING:
    from av import VideoFrame


def to_rgb(frame: VideoFrame, size: tuple[int, int], turn_degrees: int = 0) -> Image:
    """Convert a decoded frame to RGB of ``size`` (rows, cols), counted after turning it counter-clockwise."""
    rows, cols = size if turn_degrees % 180 == 0 else size[::-1]
    shrinks = rows * cols < frame.height * frame.width
    picture = frame.reformat(
        width=cols,
        height=rows,
        format="rgb24",
        interpolation="AREA" if shrinks else "BICUBIC",
        **_one_thread(),
    ).to_ndarray()
    return turn(cast(Image, picture), turn_degrees)


@cache
def _one_thread() -> dict[str, Any]:
    """Keep the scaler to one thread: PyAV from 17 on starts one per core for each frame, which costs more."""
    import av

    return {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}


def turn(image: Image, degrees: int) -> Image:
    """Turn a picture counter-clockwise by a multiple of 90 degrees."""
    quarter_turns = degrees // 90 % 4
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def resize(image: Image, size: tuple[int, int]) -> Image:
    """Scale an RGB picture to ``size`` (rows, cols); one of that size comes back as it is."""
    if image.shape[:2] == tuple(size):
        return image
    from av import VideoFrame

    return to_rgb(VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24"), size)
