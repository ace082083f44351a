"""FastVID's segments, to look into each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from streamprune.checks import check_count, check_number
from streamprune.frames.content import ContentMethod, Floats, Previews, spread_over


@dataclass(frozen=True, kw_only=True)
class FastVIDFrames(ContentMethod):
    """Cut weak transitions between neighbouring frames and spread the frames over the segments.

    Needs ``frame_features``.

    Args:
        num_segments: at least so many (fewer candidates: one each).
        similarity_threshold: neighbours with a cosine strictly below it are cut apart as well, in [-1, 1].

    Source: arXiv 2503.11187, section 3.2 (the segmentation alone; taking frames of every segment is ours).
    """

    num_segments: int = 8
    similarity_threshold: float = 0.9

    needs: ClassVar[frozenset[str]] = frozenset({"frame_features"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_segments", self.num_segments)
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)

    def segments(self, frame_features: Floats) -> list[tuple[int, int]]:
        """Half-open ranges of candidates."""
        import torch

        from streamprune.ops.segments import cut_transitions
        from streamprune.ops.similarity import adjacent_cosine

        similarity = adjacent_cosine(torch.as_tensor(frame_features))
        return cut_transitions(
            similarity, at_least=self.num_segments - 1, threshold=self.similarity_threshold
        )

    def choose(self, previews: Previews) -> list[int]:
        """Frames of every segment, in time order."""
        return spread_over(self.segments(previews.need("frame_features", "fastvid")), self.num_frames)
