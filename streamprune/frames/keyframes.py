"""The frames an encoder chose to start anew: cheap to decode, and often the start of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from streamprune.checks import check_count
from streamprune.errors import SignalError
from streamprune.frames.base import FrameMethod, spread
from streamprune.readers.base import VideoInfo


@dataclass(frozen=True, kw_only=True)
class Keyframes(FrameMethod):
    """Look at the keyframes inside the window; at its start if there is none.

    Args:
        max_frames: look at most so often, evenly spread over the keyframes; None looks at all of them.

    Source: the usual baseline; no paper.
    """

    max_frames: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"keyframes"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_frames is not None:
            check_count("max_frames", self.max_frames)

    def times(self, info: VideoInfo, keyframes: Sequence[float] | None = None) -> list[float]:
        """Return the seconds of the keyframes, ascending, given those of `Source.keyframes`."""
        if keyframes is None:
            raise SignalError("keyframes needs the times of the keyframes: pass keyframes=source.keyframes()")
        start, end = self.window(info)
        inside = sorted(time for time in keyframes if time >= start and (end is None or time < end))
        if not inside:
            return [start]
        if self.max_frames is None:
            return inside
        return [inside[item] for item in spread(len(inside), self.max_frames)]
