"""ViLaMP's keyframes: the most relevant frames that do not look like one already taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from streamprune.checks import check_flag, check_number
from streamprune.frames.base import spread
from streamprune.frames.content import Previews, RelevanceMethod, unit_rows


@dataclass(frozen=True, kw_only=True)
class ViLaMPFrames(RelevanceMethod):
    """Visit the candidates by falling relevance; take each that is not too much like one taken before.

    Needs ``frame_features`` and ``relevance``. Frames left over when the visit ends go into the gaps between
    those taken, at steps as even as whole ones allow, and the last few of them to the end.

    Args:
        similarity_threshold: a candidate with a cosine strictly above it to a frame taken is passed over, in
            [-1, 1]; 1 = plain most relevant.
        relevance_threshold: candidates below it are not taken by relevance; None = all may be.
        fill: whether the gaps are filled until there are ``num_frames`` (released) or not (the paper; evenly
            spread frames then stand in where none is relevant enough).

    Source: arXiv 2504.02438, differential keyframe selection. The release scores candidates with CLIP; here
    relevance and features are what the loaded model, or the caller, gives.
    """

    num_frames: int = 32
    max_previews: int = 600
    similarity_threshold: float = 0.85
    relevance_threshold: float | None = None
    fill: bool = True

    needs: ClassVar[frozenset[str]] = frozenset({"frame_features", "relevance"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)
        if self.relevance_threshold is not None:
            check_number("relevance_threshold", self.relevance_threshold, -math.inf, math.inf)
        check_flag("fill", self.fill)

    def choose(self, previews: Previews) -> list[int]:
        """The keyframes, ascending."""
        unit = unit_rows(previews.need("frame_features", "vilamp"))
        relevance = np.asarray(previews.need("relevance", "vilamp"))
        taken: list[int] = []
        passed = np.zeros(len(relevance), bool)
        if self.relevance_threshold is not None:
            passed = relevance < self.relevance_threshold
        for candidate in np.argsort(-relevance, kind="stable"):
            if len(taken) == self.num_frames:
                break
            if not passed[candidate]:
                taken.append(int(candidate))
                # rounding must not lift a cosine above 1
                passed |= np.minimum(unit @ unit[candidate], 1) > self.similarity_threshold
        if self.fill:
            return fill_gaps(sorted(taken), len(relevance), self.num_frames)
        return sorted(taken) or spread(len(relevance), self.num_frames)


def fill_gaps(taken: list[int], total: int, wanted: int) -> list[int]:
    """Add positions of ``range(total)`` between the ascending ``taken`` until there are ``wanted`` (or all).

    A gap of ``n`` positions gets one less than the parts of at most ``step`` positions it divides into, for
    the smallest step at which that is not too many; what is then left to give fills up the end.
    """
    left = min(wanted, total) - len(taken)
    edges = pairwise([-1, *taken, total])
    gaps = [(before + 1, after) for before, after in edges if after - before > 1]
    parts = next(
        found
        for step in range(1, total + 1)
        if sum(found := [math.ceil((stop - start) / step) for start, stop in gaps]) - len(gaps) <= left
    )
    chosen = set(taken)
    for (start, stop), count in zip(gaps, parts, strict=True):
        stride = math.ceil((stop - start) / count)
        chosen.update(start + part * stride for part in range(1, count))
    free = [position for position in range(total) if position not in chosen]
    return sorted([*chosen, *free[len(free) - (min(wanted, total) - len(chosen)) :]])
