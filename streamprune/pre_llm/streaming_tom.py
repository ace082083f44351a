"""StreamingTOM's causal temporal reduction: every frame keeps as much, of what is new and of what stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, get_args

import torch

from streamprune.budget import whole_tokens
from streamprune.checks import check_count, check_number
from streamprune.errors import UnknownNameError
from streamprune.ops.density import AwayFrom, density_peaks, nearest_centre
from streamprune.ops.merging import Entries
from streamprune.ops.selection import highest
from streamprune.ops.similarity import gram, squared_distances
from streamprune.ops.temporal import previous_cosine
from streamprune.pre_llm.base import History, PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class StreamingTOM(PreLLMMethod):
    """Split a frame's budget between changed tokens, kept by attention, and still ones, merged in clusters.

    Needs ``received_attention`` (frames, rows, cols), higher = more looked at.

    A token is still when it is alike its place one frame earlier; in the first frame none is. Still tokens
    get the share of the frame's budget that they are of its tokens. Of the changed ones those most looked at
    stay; of the still ones density peaks do, each blended with the mean of the tokens nearest to it.

    Args:
        similarity_threshold: a token with a cosine above it is still, in [-1, 1].
        centre_weight: what a cluster's centre weighs in its blend, in [0, 1]; alone it stays as it is. At 1
            the other still tokens are dropped.
        neighbors: how many nearest still tokens, itself included, make a token's density.
        away_from: a centre is far from ``sparser`` tokens (as released), or from ``denser`` ones, as density
            peaks are usually defined.

    Source: arXiv 2510.18269 and its released implementation. Differences: its random term in the density is
    left out, ties go to the lower index; where one frame's budget holds all its tokens they stay unmerged.
    """

    similarity_threshold: float = 0.9
    centre_weight: float = 0.6
    neighbors: int = 7
    away_from: AwayFrom = "sparser"

    needs: ClassVar[tuple[str, ...]] = ("received_attention",)
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)
        check_number("centre_weight", self.centre_weight, 0, 1)
        check_count("neighbors", self.neighbors)
        if self.away_from not in get_args(AwayFrom):
            raise UnknownNameError.among("away_from of streaming_tom", self.away_from, get_args(AwayFrom))

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number of every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Decide each frame from itself and the one before."""
        return self.step(tokens, {})[0]

    def step(
        self, tokens: VisualTokens, before: History, keep: int | None = None
    ) -> tuple[Reduction, History]:
        """The same, comparing the first frame with the last one of the step before."""
        grid = tokens.grid
        attention = tokens.signal("received_attention", (grid.frames, grid.rows, grid.cols))
        keep = (
            self.budget.per_frame(grid.frames, grid.tokens_per_frame)
            if keep is None
            else min(keep, grid.tokens_per_frame)
        )
        still = self._still(tokens.frames, before)
        entries = self._frames(tokens.frames, attention.float().flatten(1), still, keep)
        target, token, weight = (torch.cat(part) for part in zip(*entries, strict=True))
        index = torch.unique(target)
        merged = Reduction.merge(tokens, index, (torch.searchsorted(index, target), token, weight))
        return merged, {"previous": tokens.frames[-1]}

    def _still(self, frames: torch.Tensor, before: History) -> torch.Tensor:
        """(frames, tokens per frame) whether a token is alike its place one frame earlier."""
        if before:
            return previous_cosine(torch.cat([before["previous"][None], frames])) > self.similarity_threshold
        first = torch.zeros(1, frames.shape[1], dtype=torch.bool, device=frames.device)
        return torch.cat([first, previous_cosine(frames) > self.similarity_threshold])

    def _frames(
        self, frames: torch.Tensor, attention: torch.Tensor, still: torch.Tensor, keep: int
    ) -> Iterator[Entries]:
        """Entries (kept token, token, weight) of every frame, in flat indices."""
        for frame, (features, looked_at) in enumerate(zip(frames, attention, strict=True)):
            offset = frame * frames.shape[1]
            same, changed = still[frame].nonzero()[:, 0], (~still[frame]).nonzero()[:, 0]
            of_same, of_changed = split_budget(keep, len(same), len(changed))
            kept = changed[highest(looked_at[changed], of_changed)] + offset
            yield kept, kept, torch.ones(len(kept), device=kept.device)
            # of a still frame no copy is made
            target, token, weight = self._clusters(features[same] if len(changed) else features, of_same)
            yield same[target] + offset, same[token] + offset, weight

    def _clusters(self, features: torch.Tensor, count: int) -> Entries:
        """Blend (tokens, channels) into ``count`` of them: entries in numbers of these tokens."""
        tokens = torch.arange(len(features), device=features.device)
        if count in (0, len(features)):
            kept = tokens[:count]
            return kept, kept, torch.ones(count, device=kept.device)
        distances = squared_distances(gram(features)).div_(features.shape[1])
        # as released a token has at most all others for neighbours, and is one of them
        neighbors = max(1, min(self.neighbors, len(features) - 1))
        peaks = density_peaks(distances, neighbors, away_from=self.away_from)
        centres = highest(peaks, count).sort().values
        joined = nearest_centre(distances, centres)
        others = torch.ones_like(tokens, dtype=torch.bool)
        others[centres] = False
        members = tokens[others] if self.centre_weight < 1 else tokens[:0]
        return _blend(centres, members, joined[members], self.centre_weight)


def split_budget(keep: int, same: int, changed: int) -> tuple[int, int]:
    """How many of a frame's still and of its changed tokens stay, ``keep`` of both together."""
    of_changed = min(changed, keep - whole_tokens(keep * same / (same + changed), rounding="truncate"))
    return keep - of_changed, of_changed


def _blend(centres: torch.Tensor, members: torch.Tensor, joined: torch.Tensor, weight: float) -> Entries:
    """Each centre at ``weight`` with the plain mean of the members that joined it."""
    count = torch.bincount(joined, minlength=len(centres)).float()
    own = torch.where(count > 0, weight, 1.0)
    return (
        torch.cat([centres, centres[joined]]),
        torch.cat([centres, members]),
        torch.cat([own, (1 - own[joined]) / count[joined]]),
    )
