"""HoliTom's segments, to look into each of them."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np

from streamprune.checks import check_count, check_number
from streamprune.frames.content import ContentMethod, Floats, Previews, spread_over, unit_rows


@dataclass(frozen=True, kw_only=True)
class HoliTomFrames(ContentMethod):
    """Cut so that storing what stays alike only once per segment saves most, and spread frames over segments.

    Needs ``token_features``.

    Args:
        similarity_threshold: a place is alike in two neighbours if its cosine is strictly above it.
        longest: most candidates in a segment, 1 or more; None = no limit.

    Source: arXiv 2505.21334, section 3.1 (the segmentation alone; taking frames of every segment is ours).
    """

    similarity_threshold: float = 0.8
    longest: int | None = None

    needs: ClassVar[frozenset[str]] = frozenset({"token_features"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)
        if self.longest is not None:
            check_count("longest", self.longest)

    def segments(self, token_features: Floats) -> list[tuple[int, int]]:
        """Half-open ranges of candidates."""
        import torch

        from streamprune.ops.segments import static_windows

        cosines = [(unit_rows(one) * unit_rows(other)).sum(-1) for one, other in pairwise(token_features)]
        similarity = np.array(cosines).reshape(-1, np.shape(token_features)[1])
        alike = torch.from_numpy(similarity > self.similarity_threshold)
        return static_windows(alike, longest=self.longest)[0]

    def choose(self, previews: Previews) -> list[int]:
        """Frames of every segment, in time order."""
        return spread_over(self.segments(previews.need("token_features", "holitom")), self.num_frames)
