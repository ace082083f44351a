"""PruneVid: cluster frames into segments, average still places over time, cluster what is left by density."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from streamprune.budget import Budget, largest_common_share, share_of
from streamprune.checks import check_count, check_number
from streamprune.errors import InvalidValueError
from streamprune.ops.density import cluster_places
from streamprune.ops.merging import Entries
from streamprune.ops.segments import cluster_segments
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True)
class Group:
    """Tokens that are clustered among themselves, in each of ``sets`` frames (or once, averaged over time).

    Attributes:
        start, stop: frames of the segment.
        static: averaged over the segment, else clustered in every frame of it.
        place: (places,) int64, which tokens of a frame.
    """

    start: int
    stop: int
    static: bool
    place: torch.Tensor

    @property
    def sets(self) -> int:
        """How many times the places are clustered."""
        return 1 if self.static else self.stop - self.start


@dataclass(frozen=True, kw_only=True)
class PruneVid(PreLLMMethod):
    """Cut by clustering frames, average places that stay alike in a segment, then cluster by density.

    Needs no signal. Frames are clustered by their mean token, clusters are made contiguous. A place is static
    in a segment when the mean cosine over all pairs of its frames is above ``similarity_threshold``; it is
    then averaged over the segment. The static tokens of a segment, and the other (dynamic) tokens of each
    frame, are clustered on their own and replaced by the cluster means. All clusters together leave no token
    out. A merged token stands at its cluster's centre (a static one in the first frame of its segment).

    With a budget, every group keeps the same share of its tokens, the largest that fits. Groups of at most
    ``smallest_group`` tokens stay as they are, unless the budget cannot be met so. A group keeps at least one
    token: at least one for each frame and one for each segment with static and dynamic places.

    Args:
        cluster_ratio: as released, without a budget: the share of a group's tokens that becomes clusters, in
            (0, 1] (the release: 0.5). None = from the budget; giving both is an error.
        similarity_threshold: mean cosine above which a place is static.
        segment_ratio: clusters of frames over frames, in (0, 1].
        neighbors: how many nearest tokens, itself included, make a token's density.
        frame_neighbors: the same for frames.
        smallest_group: groups up to this size are not clustered.

    Source: arXiv 2412.16117 and its release for PLLaVA (the part before the language model). Differences: the
    release has no budget; the random term that breaks ties in the density is left out, ties go to the lower
    index; at least one cluster of frames, and one of each group, is made (the release raises there); kept
    tokens keep their positions and order (``order`` gives the release's, which numbers them anew).
    """

    cluster_ratio: float | None = None
    similarity_threshold: float = 0.8
    segment_ratio: float = 0.25
    neighbors: int = 7
    frame_neighbors: int = 7
    smallest_group: int = 14

    def __post_init__(self) -> None:
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)
        for name in ("segment_ratio", "cluster_ratio"):
            value = getattr(self, name)
            if value is not None or name == "segment_ratio":
                check_number(name, value, 0, 1)
                if value == 0:
                    raise InvalidValueError(f"{name} must be above 0, got 0")
        check_count("neighbors", self.neighbors)
        check_count("frame_neighbors", self.frame_neighbors)
        check_count("smallest_group", self.smallest_group, least=0)
        if self.cluster_ratio is not None and self.budget != Budget():
            raise InvalidValueError(
                f"cluster_ratio={self.cluster_ratio!r} sets how much stays, and so does the budget; "
                "leave out one of them"
            )

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """Not with ``cluster_ratio``, which takes the place of a budget."""
        return self.cluster_ratio is None and super().keeps_everything(grid)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """Known only for one frame; else it depends on which frames and places are alike."""
        return self.cluster_counts([grid.tokens], grid)[0] if grid.frames == 1 else None

    def segments(self, frame_features: torch.Tensor) -> list[tuple[int, int]]:
        """Half-open frame ranges of the segments of a clip with these (frames, channels) features."""
        clusters = max(1, share_of(len(frame_features), self.segment_ratio, rounding="truncate"))
        return cluster_segments(frame_features, clusters, self.frame_neighbors)

    def clip_segments(self, tokens: VisualTokens) -> list[tuple[int, int]]:
        """See the base class."""
        return self.segments(tokens.frames.mean(1, dtype=torch.float32))

    def cluster_counts(self, sizes: Sequence[int], grid: VideoGrid) -> list[int]:
        """How many clusters each group of ``sizes`` tokens becomes."""
        small = self.smallest_group
        if self.cluster_ratio is not None:
            return [
                n if n <= small else max(1, share_of(n, self.cluster_ratio, rounding="truncate"))
                for n in sizes
            ]
        total = self.budget.tokens(grid.tokens)
        whole = sum(n for n in sizes if n <= small)
        counts = iter(largest_common_share(total - whole, [n for n in sizes if n > small]))
        merged = [n if n <= small else next(counts) for n in sizes]
        return merged if sum(merged) <= total else largest_common_share(total, sizes)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Cut, find the groups, and cluster each."""
        grid, frames = tokens.grid, tokens.frames
        groups: list[Group] = []
        for start, stop in self.segments(frames.mean(1, dtype=torch.float32)):
            static = static_places(frames[start:stop], self.similarity_threshold)
            both = [Group(start, stop, flag, (static == flag).nonzero()[:, 0]) for flag in (True, False)]
            groups += [group for group in both if len(group.place)]
        sizes = [len(group.place) for group in groups for _ in range(group.sets)]
        counts = self.cluster_counts(sizes, grid)
        emitted, entries = [], []
        done = 0
        for group in groups:
            # all sets of a group are of one size and so get the same count
            centres, merged = self._clusters(group, frames, counts[done])
            done += group.sets
            emitted.append(centres)
            entries.append(merged)
        index, by_place = torch.cat(emitted).sort()
        order = torch.empty_like(by_place)
        order[by_place] = torch.arange(len(order), device=order.device)
        target, token, weight = (torch.cat(column) for column in zip(*entries, strict=True))
        return Reduction.merge(tokens, index, (torch.searchsorted(index, target), token, weight), order=order)

    def _clusters(self, group: Group, frames: torch.Tensor, count: int) -> tuple[torch.Tensor, Entries]:
        """The centres of one group in the order the release emits them, and its clusters as plain means."""
        place, sets = group.place, frames[group.start : group.stop]
        per_frame, length = frames.shape[1], len(sets)
        if count == len(place) <= self.smallest_group:
            centres = torch.arange(count, device=place.device).expand(group.sets, -1)
            joined = centres
        elif group.static:
            means = sets.float().mean(0)[None]
            centres, joined = cluster_places(means, place, count, self.neighbors)
        else:
            centres, joined = cluster_places(sets, place, count, self.neighbors)
        first = torch.arange(group.start, group.stop, device=place.device)[:, None] * per_frame
        size = torch.zeros_like(centres).scatter_add(1, joined, torch.ones_like(joined))
        weight = 1 / size.gather(1, joined).float() / (length if group.static else 1)
        centre = place[centres] + first[: group.sets]
        target = centre.gather(1, joined)
        shape = (length, len(place))
        entries = (target.expand(shape).flatten(), (place + first).flatten(), weight.expand(shape).flatten())
        return centre.flatten(), entries


def static_places(frames: torch.Tensor, threshold: float) -> torch.Tensor:
    """(tokens,) bool: whether a place's mean cosine over all pairs of frames is above ``threshold``.

    A single frame has no pairs and no static place; a zero token is like nothing.

    Args:
        frames: (frames, tokens, channels).
    """
    count, tokens, channels = frames.shape
    if count == 1:
        return torch.zeros(tokens, dtype=torch.bool, device=frames.device)
    length = torch.linalg.vector_norm(frames, dim=-1, dtype=torch.float32)
    scale = torch.where(length > 0, 1 / length, 0.0)
    # the squared length of the sum of unit vectors holds every pair once in each order, and each with itself
    total = torch.zeros(tokens, channels, device=frames.device)
    for frame, factor in zip(frames, scale, strict=True):
        total.addcmul_(frame.float(), factor[:, None])
    pairs = torch.linalg.vector_norm(total, dim=-1).square() - (length > 0).sum(0)
    mean: torch.Tensor = pairs / (count * (count - 1))
    return mean > threshold
