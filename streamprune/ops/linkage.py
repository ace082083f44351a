"""Agglomerative clustering: the two nearest clusters become one until so many are left."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

Linkage = Literal["average", "complete", "single"]

_Floats = npt.NDArray[np.float32]
_Integers = npt.NDArray[np.int64]


def agglomerate(distances: torch.Tensor, clusters: int, linkage: Linkage = "average") -> torch.Tensor:
    """Cluster the points of every frame on its own.

    Merges follow one another, so this runs on the CPU whatever the device; all frames advance together.

    Args:
        distances: (frames, points, points) float32; what is above the diagonal counts.
        clusters: how many are left of each frame, at least 1; more than there are points means one each.
        linkage: the distance of two clusters is the mean, the largest or the smallest distance of a point of
            one and a point of the other.

    Returns:
        (frames, points) int64 cluster of each point, on the device of ``distances``; the clusters of a frame
        are numbered by their lowest points.

    Source: hierarchical clustering in the recurrence of Lance and Williams. Ties go to the lower cluster.
    """
    points = distances.shape[1]
    upper = distances.triu(1)
    state = _State((upper + upper.mT).cpu().numpy(), linkage)
    for _ in range(points - clusters):
        state.merge_nearest()
    leads = torch.from_numpy(state.lead).long()
    heads = leads == torch.arange(points)
    return (heads.cumsum(1) - 1).gather(1, leads).to(distances.device)


class _State:
    """Clusters named by their lowest points, their distances, and which other one is nearest to each."""

    def __init__(self, distances: _Floats, linkage: Linkage) -> None:
        frames, points, _ = distances.shape
        self.distances = distances
        self.linkage = linkage
        self.frames = np.arange(frames)
        diagonal = np.arange(points)
        distances[:, diagonal, diagonal] = np.inf
        nearest = distances.argmin(2)
        self.nearness = np.take_along_axis(distances, nearest[..., None], 2)[..., 0]
        self.nearest = nearest.astype(np.int32)
        self.size = np.ones((frames, points), dtype=np.float32)
        self.lead = np.tile(diagonal.astype(np.int32), (frames, 1))

    def merge_nearest(self) -> None:
        """Merge the nearest pair of every frame."""
        frames = self.frames
        first = self.nearness.argmin(1)
        rows = self.distances[frames, first]
        second = rows.argmin(1)
        joined = self._joined(rows, first, second)
        joined[frames, first] = joined[frames, second] = np.inf
        self.distances[frames, first] = joined
        self.distances[frames, :, first] = joined
        self.distances[frames, :, second] = np.inf
        self.nearness[frames, second] = np.inf
        self.nearest[frames, second] = -1
        self.size[frames, first] += self.size[frames, second]
        np.copyto(self.lead, first[:, None], where=self.lead == second[:, None])
        # a merged cluster is never nearer to a third one than its nearer part was: only those that had one
        # of the two parts nearest have to look again, the merged cluster among them
        self.nearest[frames, first] = first
        again = (self.nearest == first[:, None]) | (self.nearest == second[:, None])
        frame, cluster = np.divmod(np.flatnonzero(again), again.shape[1])
        looked_at = self.distances[frame, cluster]
        found = looked_at.argmin(1)
        self.nearest[frame, cluster] = found
        self.nearness[frame, cluster] = looked_at[np.arange(len(found)), found]

    def _joined(self, rows: _Floats, first: _Integers, second: _Integers) -> _Floats:
        """Distances of the merged clusters to all others, ``rows`` being those of the first."""
        others = self.distances[self.frames, second]
        if self.linkage == "single":
            return np.minimum(rows, others)
        if self.linkage == "complete":
            return np.maximum(rows, others)
        share = self.size[self.frames, first] / (
            self.size[self.frames, first] + self.size[self.frames, second]
        )
        joined: _Floats = rows * share[:, None] + others * (1 - share)[:, None]
        return joined
