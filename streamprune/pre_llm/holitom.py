"""HoliTom: cut the clip where storing still places once saves most, then cluster those and rank the rest."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_number
from streamprune.ops.density import density_clusters, nearest_centre, scaled_distances
from streamprune.ops.merging import Entries
from streamprune.ops.segments import static_windows
from streamprune.ops.selection import highest
from streamprune.ops.temporal import previous_cosine
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True)
class _Part:
    """Some kept tokens in the order the release emits them, and what they are made of (flat indices)."""

    emitted: torch.Tensor
    entries: Entries


@dataclass(frozen=True, kw_only=True)
class HoliTom(PreLLMMethod):
    """Store still places of a segment once, cluster them by density; keep the most attended of the others.

    Needs ``received_attention`` (frames, rows, cols).

    Segments are chosen by dynamic programming so that most tokens are saved by averaging, over a segment, the
    places that stay alike at each of its transitions. The budget is divided by the share of tokens left after
    that. In each segment its share of the averaged (static) tokens become density-peak centres that take up
    the others; in each frame its share of the other (dynamic) tokens stay, unchanged.

    Static tokens stand at the first frame of their segment. The numbers of a segment's static tokens are
    rounded, those of a frame's dynamic tokens rounded up, so somewhat more than asked may stay.

    Args:
        similarity_threshold: a place is alike in two frames when the cosine is above it. The release runs
            keep_ratio 0.1 with 0.65.
        center_weight: weight of a centre in its blend with the mean of the tokens that joined it, in [0, 1];
            None = the plain mean of all of them, a switch of the release.
        neighbors: how many nearest tokens, itself included, make a token's density.
        longest_segment: most frames of a segment.
        context_ratio: share of a frame's dynamic tokens that are density-peak centres blended with the
            frame's other dynamic tokens, in [0, 1].

    Source: arXiv 2505.21334 and its release (the part before the language model). Differences: the random
    term that breaks ties in the density is left out, ties go to the lower index; ``context_ratio`` above 0
    works (the release raises); a segment without dynamic tokens keeps at least one static token; kept tokens
    keep their positions and order (``order`` gives the release's, which numbers them anew).
    """

    similarity_threshold: float = 0.8
    center_weight: float | None = 0.6
    neighbors: int = 7
    longest_segment: int = 1024
    context_ratio: float = 0.0

    needs: ClassVar[tuple[str, ...]] = ("received_attention",)

    def __post_init__(self) -> None:
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)
        check_number("context_ratio", self.context_ratio, 0, 1)
        if self.center_weight is not None:
            check_number("center_weight", self.center_weight, 0, 1)
        check_count("neighbors", self.neighbors)
        check_count("longest_segment", self.longest_segment)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """Known only for one frame; else it depends on which places stay alike."""
        if grid.frames > 1:
            return None
        return share_of(grid.tokens, self.budget.share(grid.tokens), rounding="ceil_product")

    def alike(self, frames: torch.Tensor) -> torch.Tensor:
        """(frames - 1, tokens per frame) bool: which places of (frames, tokens, channels) stay alike."""
        return previous_cosine(frames) > self.similarity_threshold

    def clip_segments(self, tokens: VisualTokens) -> list[tuple[int, int]]:
        """See the base class."""
        return self._windows(self.alike(tokens.frames))[0]

    def _windows(self, alike: torch.Tensor) -> tuple[list[tuple[int, int]], int]:
        """The segments, and the tokens that storing still places once saves."""
        return static_windows(alike, longest=self.longest_segment)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Cut, then decide each segment on its own with the share that is left."""
        grid = tokens.grid
        shape = (grid.frames, grid.rows, grid.cols)
        attention = tokens.signal("received_attention", shape).float().flatten(1)
        alike = self.alike(tokens.frames)
        segments, saved = self._windows(alike)
        share = min(self.budget.share(grid.tokens) / ((grid.tokens - saved) / grid.tokens), 1.0)
        parts = []
        for start, stop in segments:
            # a single frame has no transition, at which all places would be alike
            static = alike[start : stop - 1].all(0) & (stop - start > 1)
            features = tokens.frames[start:stop]
            offset = start * grid.tokens_per_frame
            if bool(static.any()):
                parts.append(self._static(features, static, share, offset))
            if not bool(static.all()):
                parts += self._dynamic(features, attention[start:stop], ~static, share, offset)
        emitted = torch.cat([part.emitted for part in parts])
        index, by_place = emitted.sort()
        order = torch.empty_like(by_place)
        order[by_place] = torch.arange(len(order), device=order.device)
        target, token, weight = (
            torch.cat(column) for column in zip(*(p.entries for p in parts), strict=True)
        )
        return Reduction.merge(tokens, index, (torch.searchsorted(index, target), token, weight), order=order)

    def _static(self, features: torch.Tensor, static: torch.Tensor, share: float, offset: int) -> _Part:
        """Average the ``static`` places of (frames, tokens, channels) over time and cluster them."""
        frames, per_frame, _ = features.shape
        place = static.nonzero()[:, 0]
        count = share_of(len(place), share, rounding="half_even")
        if count == 0 and len(place) == per_frame:
            count = 1
        means = features.float().mean(0)[place]
        centre, member, weight = self._clusters(means[None], count)
        every = torch.arange(frames, device=place.device)[:, None] * per_frame + offset
        target = (place[centre] + offset).expand(frames, -1)
        token = place[member] + every
        weights = (weight / frames).expand(frames, -1)
        emitted = torch.unique(target)
        return _Part(emitted, (target.flatten(), token.flatten(), weights.flatten()))

    def _dynamic(
        self,
        features: torch.Tensor,
        attention: torch.Tensor,
        dynamic: torch.Tensor,
        share: float,
        offset: int,
    ) -> list[_Part]:
        """Keep the most attended ``dynamic`` places of each frame and cluster the rest, if asked to."""
        frames, per_frame, channels = features.shape
        place = dynamic.nonzero()[:, 0]
        count = share_of(len(place), share, rounding="ceil_product")
        salient = share_of(count, 1 - self.context_ratio, rounding="half_even")
        ranking = place[highest(attention[:, place], len(place))]
        first = torch.arange(frames, device=place.device)[:, None] * per_frame
        chosen = (ranking[:, :salient].sort().values + first + offset).flatten()
        ones = torch.ones(len(chosen), device=chosen.device)
        if salient == count:
            return [_Part(chosen, (chosen, chosen, ones))]
        rest = ranking[:, salient:].sort().values + first
        sets = features.reshape(-1, channels)[rest]
        target, token, weight = self._clusters(sets, count - salient)
        context = rest.flatten() + offset
        merged = (context[target], context[token], weight)
        # emitted frame by frame: the unchanged tokens, then the merged ones
        centres = torch.unique(context[target]).reshape(frames, -1)
        emitted = torch.cat([chosen.reshape(frames, -1), centres], 1).flatten()
        return [_Part(emitted, (chosen, chosen, ones)), _Part(chosen[:0], merged)]

    def _clusters(self, sets: torch.Tensor, count: int) -> Entries:
        """(centre, point, weight), numbered flat: each of (sets, n, channels) blended into ``count``."""
        if count == 0:
            nothing = torch.empty(0, dtype=torch.int64, device=sets.device)
            return nothing, nothing, nothing.float()
        distances = scaled_distances(sets)
        centres, _ = density_clusters(distances, count, min(self.neighbors, count))
        centres = centres.sort(1).values  # of equally near centres the lower one is joined
        return blend_clusters(centres, nearest_centre(distances, centres), self.center_weight)


def blend_clusters(centres: torch.Tensor, joined: torch.Tensor, center_weight: float | None) -> Entries:
    """Weights that blend every cluster's centre with the mean of its other members.

    Args:
        centres: (sets, clusters) which points are centres.
        joined: (sets, n) number of the cluster of each point.
        center_weight: of the centre where it has other members; None = all members weigh the same.

    Returns:
        (centre, point, weight) of every pair with a weight, points being numbered through all sets.
    """
    sets, points = joined.shape
    size = torch.zeros_like(centres).scatter_add(1, joined, torch.ones_like(joined)).float()
    if center_weight is None:
        own = share = 1 / size
    else:
        own = torch.where(size > 1, center_weight, 1.0)
        share = (1 - own) / (size - 1).clamp(min=1)
    weight = share.gather(1, joined).scatter(1, centres, own)
    first = torch.arange(sets, device=joined.device)[:, None] * points
    target = centres.gather(1, joined) + first
    point = torch.arange(sets * points, device=joined.device)
    used = weight.flatten() > 0
    return target.flatten()[used], point[used], weight.flatten()[used]
