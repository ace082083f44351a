"""QuoTA: the more a frame has to do with the question, the more of the token budget it gets."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from streamprune.budget import split_by_weight, whole_tokens
from streamprune.checks import check_count, check_number
from streamprune.errors import InvalidValueError
from streamprune.frames.base import spread
from streamprune.frames.content import Floats, Previews, RelevanceMethod
from streamprune.frames.uniform import Uniform
from streamprune.readers.base import VideoInfo

# candidates of a video of no length, and how many more for each hour, as released
_CANDIDATES, _CANDIDATES_PER_HOUR = 96, 64


@dataclass(frozen=True, kw_only=True)
class Quota(RelevanceMethod):
    """Share a token budget out by relevance and look at the frames that get the most of it.

    Needs ``relevance``, 0 or more: the chance that the frame shows what the question is about. A frame's
    part of ``total_tokens`` grows with ``relevance ** power`` and is rounded down; frames that get no token
    are not looked at (of frames that all get the same, evenly spread ones are), and of the others the
    ``num_frames`` with the largest parts are.

    Args:
        preview_fps: candidates a second; None = as released, 96 and 64 more for each hour, evenly spread.
        total_tokens: budget of the clip.
        tokens_per_frame: the most one frame can hold; what is over goes to the others, and nothing is lost to
            rounding. None = no limit.
        power: 0 = every frame alike.

    Source: arXiv 2503.08689, sections 3.2 and 3.3. The release assigns tokens to all frames and resizes
    their maps; this stage can only look or not look. It scores with a second model that is asked, frame by
    frame, whether the objects of the question are there: pass such a ``scorer`` for that.
    """

    num_frames: int = 64
    preview_fps: float | Fraction | None = None
    total_tokens: int = 12544
    tokens_per_frame: int | None = None
    power: float = 2.0

    needs: ClassVar[frozenset[str]] = frozenset({"relevance"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("total_tokens", self.total_tokens)
        if self.tokens_per_frame is not None:
            check_count("tokens_per_frame", self.tokens_per_frame)
        check_number("power", self.power, 0, 16)

    def preview_times(self, info: VideoInfo) -> list[float]:
        """Seconds of the candidates, ascending."""
        if self.preview_fps is not None or info.duration_seconds is None:
            return super().preview_times(info)
        start, end = self.window(info)
        hours = ((end or start) - start) / 3600
        candidates = min(self.max_previews, _CANDIDATES + int(hours * _CANDIDATES_PER_HOUR))
        even = Uniform(num_frames=candidates, start_seconds=self.start_seconds, end_seconds=self.end_seconds)
        return even.times(info)

    def parts(self, relevance: Floats) -> NDArray[np.int64]:
        """(frames,) tokens assigned to each frame."""
        relevance = np.asarray(relevance, np.float64)
        if float(relevance.min()) < 0:
            raise InvalidValueError(
                f"relevance must be 0 or more for quota, got {relevance.min():g}; "
                "let the scorer return chances"
            )
        # relative to the best one, so that tiny chances do not vanish when raised
        top = float(relevance.max())
        weights = (relevance / top) ** self.power if top > 0 else np.ones(len(relevance))
        if self.tokens_per_frame is None:
            shares = self.total_tokens * weights / weights.sum()
            return np.array([whole_tokens(share) for share in shares.tolist()], np.int64)
        rooms = [self.tokens_per_frame] * len(relevance)
        return np.array(split_by_weight(self.total_tokens, weights.tolist(), rooms), np.int64)

    def choose(self, previews: Previews) -> list[int]:
        """Frames with the largest parts, ascending; at least one."""
        parts = self.parts(previews.need("relevance", "quota"))
        if parts.min() == parts.max():
            return spread(len(parts), self.num_frames)
        order = np.argsort(-parts, kind="stable")[: self.num_frames]
        return sorted(int(frame) for frame in order if parts[frame] > 0)
