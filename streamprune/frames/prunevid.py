"""PruneVid's segments, to look into each of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from streamprune.checks import check_count, check_number
from streamprune.frames.content import ContentMethod, Floats, Previews, spread_over


@dataclass(frozen=True, kw_only=True)
class PruneVidFrames(ContentMethod):
    """Cluster the frames by density peaks, make clusters contiguous, and spread the frames over them.

    Needs ``frame_features``.

    Args:
        cluster_ratio: clusters per candidate, in (0, 1]; at least one is made.
        neighbors: how many nearest candidates, itself included, make a candidate's density.

    Source: arXiv 2412.16117, section 3.2 (the segmentation alone; taking frames of every segment is ours).
    """

    cluster_ratio: float = 0.25
    neighbors: int = 7

    needs: ClassVar[frozenset[str]] = frozenset({"frame_features"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("cluster_ratio", self.cluster_ratio, 0, 1)
        check_count("neighbors", self.neighbors)

    def segments(self, frame_features: Floats) -> list[tuple[int, int]]:
        """Half-open ranges of candidates."""
        import torch

        from streamprune.budget import share_of
        from streamprune.ops.segments import cluster_segments

        clusters = max(1, share_of(len(frame_features), self.cluster_ratio, rounding="truncate"))
        return cluster_segments(torch.as_tensor(frame_features).float(), clusters, self.neighbors)

    def choose(self, previews: Previews) -> list[int]:
        """Frames of every segment, in time order."""
        return spread_over(self.segments(previews.need("frame_features", "prunevid")), self.num_frames)
