"""What users push, read as a picture with what is known about it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from streamprune.errors import InvalidTypeError, InvalidValueError
from streamprune.readers.base import Frame, Image, as_rgb_image


@dataclass(frozen=True, eq=False)
class Picture:
    """A frame on its way in.

    Attributes:
        image: uint8 RGB (rows, cols, 3).
        pts_seconds: when it was; None when nobody says.
        origin: source and connection, within which times grow.
        corrupt: the decoder reported damage.
        arrival_seconds: monotonic clock when it arrived, for live sources.
    """

    image: Image
    pts_seconds: float | None
    origin: str = ""
    corrupt: bool = False
    arrival_seconds: float | None = None


def read_picture(frame: Any, pts_seconds: float | None = None, origin: str = "") -> Picture:
    """Check what was pushed. Raises InvalidTypeError or InvalidValueError."""
    if pts_seconds is not None:
        if isinstance(pts_seconds, bool) or not isinstance(pts_seconds, (int, float)):
            raise InvalidTypeError(f"pts_seconds must be a number of seconds or None, got {pts_seconds!r}")
        if not math.isfinite(pts_seconds):
            raise InvalidValueError(f"pts_seconds must be finite, got {pts_seconds!r}")
    if not isinstance(frame, Frame):
        return Picture(as_rgb_image(frame, "frame"), pts_seconds, origin)
    seconds = frame.pts_seconds if pts_seconds is None else pts_seconds
    origin = f"{origin} {frame.source} {frame.epoch}"
    return Picture(frame.image, seconds, origin, frame.corrupt, frame.arrival_seconds)
