"""PruneVid's segments, to look into each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from streamprune.budget import share_of
from streamprune.checks import check_count, check_share
from streamprune.frames.content import ContentMethod, Floats, Previews, spread_over


@dataclass(frozen=True, kw_only=True)
class PruneVidFrames(ContentMethod):
    """Cluster the frames by density peaks, make clusters contiguous, and spread the frames over them.

    Needs ``mean_features``.

    Args:
        segment_ratio: clusters of candidates over candidates, in (0, 1]; at least one is made.
        frame_neighbors: how many nearest candidates, itself included, make a candidate's density.

    Source: arXiv 2412.16117, section 3.2 (the segmentation alone; taking frames of every segment is ours).
    """

    segment_ratio: float = 0.25
    frame_neighbors: int = 7

    needs: ClassVar[frozenset[str]] = frozenset({"mean_features"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_share("segment_ratio", self.segment_ratio)
        check_count("frame_neighbors", self.frame_neighbors)

    def segments(self, mean_features: Floats) -> list[tuple[int, int]]:
        """Half-open ranges of candidates."""
        import torch

        from streamprune.ops.segments import cluster_segments

        clusters = max(1, share_of(len(mean_features), self.segment_ratio, rounding="truncate"))
        return cluster_segments(torch.as_tensor(mean_features).float(), clusters, self.frame_neighbors)

    def choose(self, previews: Previews) -> list[int]:
        """Frames of every segment, in time order."""
        return spread_over(self.segments(previews.need("mean_features", "prunevid")), self.num_frames)
