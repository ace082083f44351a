"""QuoTA: the more a frame has to do with the question, the more of the token budget it gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from streamprune.checks import check_count, check_number
from streamprune.frames.content import Floats, Previews, RelevanceMethod


@dataclass(frozen=True, kw_only=True)
class Quota(RelevanceMethod):
    """Share a token budget out by relevance and look at the frames that get the most of it.

    Needs ``relevance``: the chance, by the loaded model or any scorer, that the frame shows what the question
    is about. A frame's part of ``total_tokens`` grows with ``relevance ** power``; frames whose part is less
    than one token are not looked at, and of the others the ``num_frames`` with the largest parts are.

    Args:
        total_tokens: budget of the clip.
        tokens_per_frame: the most one frame can hold; what is over goes to the others. None = no limit.
        power: 0 = every frame alike.

    Source: arXiv 2503.08689, sections 3.2 and 3.3. The release assigns tokens to all frames and resizes
    their maps; parts are rounded down there and the rest is lost, here it goes to the largest remainders.
    """

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

    def parts(self, relevance: Floats) -> NDArray[np.int64]:
        """(frames,) tokens assigned to each frame."""
        from streamprune.budget import split_by_weight

        relevance = np.asarray(relevance, np.float64)
        # relative to the best one, so that tiny chances do not vanish when raised
        top = float(relevance.max())
        weights = (relevance / top) ** self.power if top > 0 else np.ones(len(relevance))
        room = self.total_tokens if self.tokens_per_frame is None else self.tokens_per_frame
        parts = split_by_weight(self.total_tokens, weights.tolist(), [room] * len(relevance))
        return np.asarray(parts, np.int64)

    def choose(self, previews: Previews) -> list[int]:
        """Frames with the largest parts, ascending; at least one."""
        parts = self.parts(previews.need("relevance", "quota"))
        order = np.argsort(-parts, kind="stable")[: self.num_frames]
        return sorted(int(frame) for frame in order if parts[frame] > 0)
