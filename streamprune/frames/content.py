"""Ways of choosing times that look at the video first: candidates in, the ones worth a full look out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from streamprune.checks import check_count
from streamprune.errors import InvalidTypeError, InvalidValueError, SignalError
from streamprune.frames.base import FrameMethod, spread
from streamprune.frames.fps import Fps
from streamprune.frames.uniform import Uniform
from streamprune.readers.base import VideoInfo, as_rgb_image, check_fps

Floats = NDArray[np.floating[Any]]

_AXES = {
    "frame_features": 2,
    "mean_features": 2,
    "token_features": 3,
    "encoder_features": 3,
    "relevance": 1,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Previews:
    """What is known about the candidate frames of a video; only what a method needs has to be there.

    Args:
        times_seconds: when each candidate is shown, ascending.
        images: one small uint8 (rows, cols, 3) picture per candidate.
        frame_features: (frames, width), one vector per candidate, as a model sums up a picture.
        mean_features: (frames, channels), mean over the tokens of each candidate.
        token_features: (frames, tokens, channels), as they enter the language model.
        encoder_features: (frames, tokens, width), as they leave the vision tower.
        relevance: (frames,) how much a candidate has to do with the question; higher is more.
    """

    times_seconds: Sequence[float]
    images: Sequence[NDArray[np.uint8]] | None = None
    frame_features: Floats | None = None
    mean_features: Floats | None = None
    token_features: Floats | None = None
    encoder_features: Floats | None = None
    relevance: Floats | None = None

    def __post_init__(self) -> None:
        if len(self.times_seconds) == 0:
            raise InvalidValueError("times_seconds must name at least one candidate, got none")
        if not bool(np.all(np.diff(self.times_seconds) > 0)):
            raise InvalidValueError("times_seconds must ascend; sort the candidates and name each once")
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None and len(value) != len(self):
                raise InvalidValueError(
                    f"{field.name} must have one entry per candidate ({len(self)}), got {len(value)}"
                )
        for image in () if self.images is None else self.images:
            as_rgb_image(image, "images")
        for name, axes in _AXES.items():
            value = getattr(self, name)
            if value is not None and np.ndim(value) != axes:
                raise InvalidValueError(f"{name} must have {axes} axes, got shape {np.shape(value)}")
            if value is not None and not np.isfinite(value).all():
                raise InvalidValueError(f"{name} must be finite; it holds NaN or inf")

    def __len__(self) -> int:
        return len(self.times_seconds)

    def need(self, name: str, method: str) -> Any:
        """What a method cannot do without; SignalError names it when it is not there."""
        value = getattr(self, name)
        if value is None:
            raise SignalError(f"{method} needs {name} of the candidate frames, which were not given")
        return value


@dataclass(frozen=True, kw_only=True)
class ContentMethod(FrameMethod):
    """A rule that looks at candidates, spread evenly over the window, and takes some of them.

    Args:
        num_frames: at most so many are taken, 1 or more; of fewer candidates, no more than there are.
        preview_fps: candidates a second, above 0; None = ``max_previews`` candidates, evenly spread.
        max_previews: at most so many candidates; of longer windows they lie further apart.

    Class attributes:
        needs: names of what it reads from :class:`Previews`.
    """

    num_frames: int = 16
    preview_fps: float | Fraction | None = 2.0
    max_previews: int = 256

    needs: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_frames", self.num_frames)
        check_count("max_previews", self.max_previews)
        if self.preview_fps is not None:
            check_fps("preview_fps", self.preview_fps)

    def preview_times(self, info: VideoInfo) -> list[float]:
        """Seconds of the candidates, ascending."""
        window: dict[str, Any] = {"start_seconds": self.start_seconds, "end_seconds": self.end_seconds}
        if self.preview_fps is None:
            return Uniform(num_frames=self.max_previews, **window).times(info)
        return Fps(fps=self.preview_fps, max_frames=self.max_previews, **window).times(info)

    def times(self, info: VideoInfo, keyframes: Sequence[float] | None = None) -> list[float]:
        """Always raises SignalError: this method has to see the candidates first."""
        raise SignalError(
            f"{type(self).__name__} decides by what is in the video: fetch the frames of "
            "preview_times(info), describe them with Previews and call choose(previews), or let ask() do that"
        )

    @abstractmethod
    def choose(self, previews: Previews) -> list[int]:
        """Positions of the candidates to look at, ascending, at most ``num_frames``."""


@dataclass(frozen=True, kw_only=True)
class RelevanceMethod(ContentMethod):
    """A rule that also asks how much each candidate has to do with the question.

    Args:
        scorer: called as ``scorer(question, images)`` with uint8 RGB pictures at their own size, returns one
            number for each, the higher the more relevant; of videos with huge pictures it is shown some
            candidates at a time. None = the loaded model itself: how much of its attention to the candidates,
            reading the question, goes to each.
    """

    scorer: Callable[[str, Sequence[NDArray[np.uint8]]], Iterable[float]] | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"relevance"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scorer is not None and not callable(self.scorer):
            raise InvalidTypeError(
                f"scorer must be callable as scorer(question, images), or None, got {self.scorer!r}"
            )


def spread_over(segments: Sequence[tuple[int, int]], num_frames: int) -> list[int]:
    """At most ``num_frames`` positions, evenly spread inside half-open ranges.

    Every range gets one, the longest first when there are more ranges than that; the others go one by one to
    the range that has the most positions for each one taken. Ties go to the earlier range.
    """
    lengths = [stop - start for start, stop in segments]
    taken = [0] * len(segments)
    for _ in range(min(num_frames, sum(lengths))):
        # an untouched range comes before all others; 1e9 is longer than any video
        hunger = [
            (length / count if count else 1e9 + length) if count < length else -1.0
            for length, count in zip(lengths, taken, strict=True)
        ]
        taken[int(np.argmax(hunger))] += 1
    return [
        start + place
        for (start, stop), count in zip(segments, taken, strict=True)
        if count
        for place in spread(stop - start, count)
    ]


def unit_rows(values: Floats) -> NDArray[np.float64]:
    """(..., channels) every row divided by its length; a zero row stays zero."""
    values = np.asarray(values, np.float64)
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(values, length, out=np.zeros_like(values), where=length > 0)
    return unit
