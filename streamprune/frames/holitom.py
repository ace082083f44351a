"""HoliTom's segments, to look into each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from streamprune.checks import check_count, check_number
from streamprune.frames.content import ContentMethod, Floats, Previews, spread_over


@dataclass(frozen=True, kw_only=True)
class HoliTomFrames(ContentMethod):
    """Cut so that storing what stays alike only once per segment saves most, and spread frames over segments.

    Needs ``token_features``.

    Args:
        similarity_threshold: a place is alike in two neighbours if its cosine is strictly above it.
        longest_segment: most candidates in a segment, 1 or more.

    Source: arXiv 2505.21334, section 3.1 (the segmentation alone; taking frames of every segment is ours).
    """

    similarity_threshold: float = 0.8
    longest_segment: int = 1024

    needs: ClassVar[frozenset[str]] = frozenset({"token_features"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)
        check_count("longest_segment", self.longest_segment)

    def segments(self, token_features: Floats) -> list[tuple[int, int]]:
        """Half-open ranges of candidates."""
        import torch

        from streamprune.ops.segments import static_windows
        from streamprune.ops.temporal import previous_cosine

        alike = previous_cosine(torch.as_tensor(token_features)) > self.similarity_threshold
        return static_windows(alike, longest=self.longest_segment)[0]

    def choose(self, previews: Previews) -> list[int]:
        """Frames of every segment, in time order."""
        return spread_over(self.segments(previews.need("token_features", "holitom")), self.num_frames)
