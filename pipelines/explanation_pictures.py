"""The pictures of an explanation: small copies of what went into the vision tower."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamprune.readers import Frame
from streamprune.report.explain.data import Picture

if TYPE_CHECKING:
    from PIL import Image

# longest sides in pixels; 64 thumbnails of photographs come to about 1 MB
THUMBNAIL, STILL = 288, 720


class SeenPictures:
    """Copies the frames it is shown.

    Attributes:
        pictures: so far, in order.
        seconds: what copying took.
    """

    def __init__(self) -> None:
        self.pictures: list[Picture] = []
        self.seconds = 0.0

    def see(self, frames: Sequence[Frame]) -> None:
        """Take the next ``frames``."""
        started = time.perf_counter()
        self.pictures += map(_picture, frames)
        self.seconds += time.perf_counter() - started

    def by_frame(self, per_frame: int) -> tuple[tuple[Picture, ...], ...]:
        """The pictures of each frame of tokens, ``per_frame`` of them or, of the last, fewer."""
        starts = range(0, len(self.pictures), per_frame)
        return tuple(tuple(self.pictures[start : start + per_frame]) for start in starts)


def _picture(frame: Frame) -> Picture:
    """Small copies of ``frame``; the smaller one is made of the larger."""
    from PIL import Image

    image = Image.fromarray(frame.image)
    image.thumbnail((STILL, STILL), Image.Resampling.BICUBIC)
    still = _jpeg(image)
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC)
    return Picture(frame.pts_seconds, frame.rows, frame.cols, _jpeg(image), still)


def _jpeg(image: Image.Image) -> bytes:
    """``image`` as a JPEG."""
    written = io.BytesIO()
    # small pictures show what is lost with colours at half the size
    small = max(image.size) < THUMBNAIL
    image.save(written, "JPEG", quality=88 if small else 82, subsampling=0 if small else 2)
    return written.getvalue()
