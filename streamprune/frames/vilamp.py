"""ViLaMP's keyframes: the most relevant frames that do not look like one already taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from streamprune.checks import check_number
from streamprune.frames.base import spread
from streamprune.frames.content import Previews, RelevanceMethod, unit_rows


@dataclass(frozen=True, kw_only=True)
class ViLaMPFrames(RelevanceMethod):
    """Visit the candidates by falling relevance; take each that is not too much like one taken before.

    Needs ``frame_features`` and ``relevance``. Frames left over when the visit ends fill the gaps between
    those taken, as evenly as whole steps allow.

    Args:
        similarity_threshold: a candidate with a cosine strictly above it to a frame taken is passed over, in
            [-1, 1]; 1 = plain most relevant.
        relevance_threshold: candidates below it are not taken by relevance, 0 or more.
        fill: whether the gaps are filled until there are ``num_frames`` (released) or not (the paper).

    Source: arXiv 2504.02438, differential keyframe selection. The release scores with CLIP; here relevance
    and features are what the loaded model, or the caller, gives.
    """

    similarity_threshold: float = 0.85
    relevance_threshold: float = 0.0
    fill: bool = True

    needs: ClassVar[frozenset[str]] = frozenset({"frame_features", "relevance"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)
        check_number("relevance_threshold", self.relevance_threshold, 0, math.inf)

    def choose(self, previews: Previews) -> list[int]:
        """The keyframes, ascending."""
        unit = unit_rows(previews.need("frame_features", "vilamp"))
        relevance = np.asarray(previews.need("relevance", "vilamp"))
        taken: list[int] = []
        passed = relevance < self.relevance_threshold
        for candidate in np.argsort(-relevance, kind="stable"):
            if len(taken) == self.num_frames:
                break
            if not passed[candidate]:
                taken.append(int(candidate))
                # rounding must not make a frame unlike itself
                passed |= unit @ unit[candidate] > self.similarity_threshold
                passed[candidate] = True
        if not taken:
            return spread(len(relevance), self.num_frames)
        return fill_gaps(sorted(taken), len(relevance), self.num_frames) if self.fill else sorted(taken)


def fill_gaps(taken: list[int], total: int, wanted: int) -> list[int]:
    """Add positions of ``range(total)`` between the ascending ``taken`` until there are ``wanted`` (or all).

    Gaps, the ones before the first and after the last included, are cut into equal steps, as short as the
    number of positions to give allows; what is left goes one by one to the middle of the longest gap, of
    equally long ones the last.
    """
    chosen = set(taken)
    left = min(wanted, total) - len(chosen)
    edges = [-1, *taken, total]
    gaps = list(pairwise(edges))
    step = next((s for s in range(1, total + 2) if _places(gaps, s) <= left), total + 1)
    for start, stop in gaps:
        parts = math.ceil((stop - start) / step)
        chosen.update(start + part * (stop - start) // parts for part in range(1, parts))
    while len(chosen) < min(wanted, total):
        size, start = max((stop - start, start) for start, stop in pairwise([-1, *sorted(chosen), total]))
        chosen.add(start + size // 2)
    return sorted(chosen)


def _places(gaps: list[tuple[int, int]], step: int) -> int:
    return sum(math.ceil((stop - start) / step) - 1 for start, stop in gaps)
