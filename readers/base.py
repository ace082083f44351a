"""The nouns every reader speaks: one picture (`Frame`) and what is known about where it came from
(`VideoInfo`).

Nothing here opens a file. Times are seconds from the first frame of the source; a rate is an exact fraction.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamprune.errors import InvalidTypeError, InvalidValueError

Image: TypeAlias = NDArray[np.uint8]
CorruptPolicy: TypeAlias = Literal["keep", "drop", "raise"]

# Two times closer than this are the same moment: it absorbs the rounding of `i / fps` and is far below the
# duration of any frame.
SAME_MOMENT_SECONDS = 1e-6


def as_rgb_image(image: Any, name: str = "image") -> Image:
    """Return ``image`` as a uint8 array (rows, cols, 3), or say what is wrong with it.

    Torch tensors are taken without importing torch. Raises `InvalidTypeError` for another element type and
    `InvalidValueError` for another shape.
    """
    array = as_array(image, name)
    if array.dtype != np.uint8:
        hint = "multiply by 255, round and cast" if array.dtype.kind == "f" else "cast"
        raise InvalidTypeError(f"{name} must be uint8 RGB (0..255), got {array.dtype}: {hint} to uint8 first")
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise InvalidValueError(
            f"{name} must have shape (rows, cols, 3), got {array.shape}{_shape_hint(array.shape)}"
        )
    return array


def as_array(value: Any, name: str) -> NDArray[Any]:
    """View a NumPy array, torch tensor or Pillow image (as RGB) as a NumPy array; else `InvalidTypeError`."""
    if isinstance(value, np.ndarray):
        return value
    if is_pillow_image(value):
        return np.asarray(value.convert("RGB"))
    if type(value).__module__.split(".")[0] == "torch" and hasattr(value, "detach"):
        array: NDArray[Any] = value.detach().cpu().numpy()
        return array
    raise InvalidTypeError(
        f"{name} must be a NumPy array, a torch tensor or a Pillow image, got {type(value).__name__}"
    )


def is_pillow_image(value: Any) -> bool:
    """Tell a Pillow image, without importing Pillow."""
    return type(value).__module__.split(".")[0] == "PIL" and hasattr(value, "convert")


def _shape_hint(shape: tuple[int, ...]) -> str:
    if len(shape) == 2:
        return ": a grey picture; repeat it three times along a new last axis"
    if len(shape) == 3 and shape[0] == 3:
        return ": colours come last; permute (3, rows, cols) to (rows, cols, 3)"
    if len(shape) == 3 and shape[-1] == 1:
        return ": a grey picture; repeat it three times along the last axis"
    if len(shape) == 3 and shape[-1] == 4:
        return ": drop the alpha channel"
    return ""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture and when it is shown.

    Args:
        image: uint8 RGB, shape (rows, cols, 3).
        pts_seconds: presentation time in seconds from the first frame of the source (of the epoch, when
            live).
        index: 0-based number among the frames that were asked for: of the whole source when it is iterated,
            of the result when it is sampled.
        key: the frame can be decoded without any other.
        corrupt: the decoder reported damage in this picture.
        pts_estimated: the source gave no time; it was filled in from the previous frame and the rate.
        epoch: how often a live source has reconnected; order frames by (epoch, pts_seconds).
        arrival_seconds: monotonic clock when the picture arrived, for live sources.
        source: name of the file, folder or stream.
    """

    image: Image
    pts_seconds: float
    index: int
    key: bool = field(default=False, kw_only=True)
    corrupt: bool = field(default=False, kw_only=True)
    pts_estimated: bool = field(default=False, kw_only=True)
    epoch: int = field(default=0, kw_only=True)
    arrival_seconds: float | None = field(default=None, kw_only=True)
    source: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "image", as_rgb_image(self.image))
        if not math.isfinite(self.pts_seconds):
            raise InvalidValueError(f"pts_seconds must be a finite number of seconds, got {self.pts_seconds}")
        if self.index < 0:
            raise InvalidValueError(f"index must be 0 or more, got {self.index}")

    @property
    def rows(self) -> int:
        """Height in pixels."""
        return int(self.image.shape[0])

    @property
    def cols(self) -> int:
        """Width in pixels."""
        return int(self.image.shape[1])

    @property
    def num_bytes(self) -> int:
        """Size of the picture in memory."""
        return int(self.image.nbytes)

    @property
    def age_seconds(self) -> float | None:
        """How long ago the picture arrived: the latency of whatever is done with it now; None if not live."""
        return None if self.arrival_seconds is None else time.monotonic() - self.arrival_seconds

    def __repr__(self) -> str:
        marks = "".join(f", {name}" for name in ("key", "corrupt", "pts_estimated") if getattr(self, name))
        epoch = f", epoch={self.epoch}" if self.epoch else ""
        where = f", source={self.source!r}" if self.source else ""
        size = f"{self.rows}x{self.cols}"
        return f"Frame({size}, pts_seconds={self.pts_seconds:.6g}, index={self.index}{marks}{epoch}{where})"


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """What is known about a source before its frames are read.

    Args:
        source: name of the file, folder or stream.
        rows: height in pixels, after rotation and resizing.
        cols: width in pixels, after rotation and resizing.
        fps: frames a second as the container announces it; a hint, wrong for variable rates; None if unknown.
        duration_seconds: from the first frame to the end of the last one; None if unknown (live, iterators).
        num_frames: as announced; a hint, too large for damaged files; None if unknown.
        live: frames arrive in real time and cannot be sought.
        codec: name of the video codec, or "raw" for arrays.
        rotation_degrees: counter-clockwise turn the container asks for, already applied to the frames.
        has_audio: there is an audio stream beside the pictures.
        backend: which library reads it.
        start_seconds: the container's own time of the first frame (`pts_seconds` counts from there).
    """

    source: str
    rows: int
    cols: int
    fps: Fraction | None = None
    duration_seconds: float | None = None
    num_frames: int | None = None
    live: bool = False
    codec: str = "raw"
    rotation_degrees: int = 0
    has_audio: bool = False
    backend: str = "memory"
    start_seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.cols < 1:
            raise InvalidValueError(f"rows and cols must be at least 1, got {self.rows} x {self.cols}")
        if self.fps is not None and self.fps <= 0:
            raise InvalidValueError(f"fps must be positive or None, got {self.fps}")
        duration = self.duration_seconds
        if duration is not None and not (math.isfinite(duration) and duration >= 0):
            raise InvalidValueError(f"duration_seconds must be finite and 0 or more, or None, got {duration}")
        if self.num_frames is not None and self.num_frames < 0:
            raise InvalidValueError(f"num_frames must be 0 or more, or None, got {self.num_frames}")


def check_window(start_seconds: float, end_seconds: float | None) -> None:
    """Refuse a time range that is not ``0 <= start_seconds < end_seconds`` (None: to the end)."""
    check_seconds("start_seconds", start_seconds)
    if end_seconds is None:
        return
    check_seconds("end_seconds", end_seconds)
    if end_seconds <= start_seconds:
        raise InvalidValueError(
            "end_seconds must be after start_seconds, "
            f"got start_seconds={start_seconds}, end_seconds={end_seconds}"
        )


def check_seconds(name: str, value: object) -> float:
    """Return ``value`` as a float if it is a finite number of seconds, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction, np.floating, np.integer)):
        raise InvalidTypeError(f"{name} must be a number of seconds, got {type(value).__name__}: {value!r}")
    seconds = float(value)
    if not math.isfinite(seconds) or seconds < 0:
        raise InvalidValueError(f"{name} must be a finite number of seconds, 0 or more, got {value}")
    return seconds


def check_fps(name: str, value: object) -> Fraction:
    """Return ``value`` as an exact rate if it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float, Fraction, np.floating, np.integer)):
        raise InvalidTypeError(
            f"{name} must be a number of frames a second, got {type(value).__name__}: {value!r}"
        )
    if isinstance(value, Fraction):
        rate = value
    elif math.isfinite(float(value)):
        rate = Fraction(float(value)).limit_denominator(100_000)
    else:
        raise InvalidValueError(f"{name} must be a finite number of frames a second above 0, got {value}")
    if rate <= 0:
        raise InvalidValueError(f"{name} must be a finite number of frames a second above 0, got {value}")
    return rate
