"""DyToK: give frames the question looks at more of the budget, then compress each frame to its part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of, split_by_weight
from streamprune.checks import check_count
from streamprune.errors import UnknownNameError
from streamprune.ops.merging import add_member_means, blend_into_anchors
from streamprune.ops.nearest import nearest_targets
from streamprune.ops.selection import highest
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Host = Literal["visionzip", "attention"]
Merge = Literal["sum", "mean"]

_DOMINANT_SHARE = 6 / 7


@dataclass(frozen=True, kw_only=True)
class DyToK(PreLLMMethod):
    """Split the clip's budget between frames by the question's attention, and compress frame by frame.

    Needs ``query_frame_attention`` (frames,), how much attention the last token of the question pays to each
    frame in deep layers of a language model; ``received_attention`` (frames, rows, cols), and for the host
    ``visionzip`` ``keys`` (frames, rows, cols, channels).

    Parts are proportional to that attention; fractions go to the largest ones, and what exceeds the cap of a
    frame to the others, the most attended first. A frame may be left without any token.

    Args:
        host: how a frame is compressed to its part. ``visionzip`` = as released: six sevenths (rounded down)
            are its tokens with most received attention, the rest are evenly spaced among its other tokens
            and take in those most like them by their keys. ``attention`` = all are those with most received
            attention.
        frame_cap: tokens of a frame at most; None = all it has (the release's 196 of 14 x 14).
        merge: only for ``visionzip``: ``sum`` adds the mean of those that joined, as released; ``mean`` is
            the plain mean of all of them.

    Source: arXiv 2512.06866 and its release for VisionZip on LLaVA-OneVision. Differences: the budget is of
    the whole clip, the release multiplies a count per frame; without any attention frames are equal.
    """

    host: Host = "visionzip"
    frame_cap: int | None = None
    merge: Merge = "sum"

    needs: ClassVar[tuple[str, ...]] = ("query_frame_attention", "received_attention", "keys")

    def __post_init__(self) -> None:
        for name, choices in (("host", get_args(Host)), ("merge", get_args(Merge))):
            if getattr(self, name) not in choices:
                raise UnknownNameError.among(f"{name} of dytok", getattr(self, name), choices)
        if self.frame_cap is not None:
            check_count("frame_cap", self.frame_cap)
        if self.host == "attention":
            object.__setattr__(self, "needs", self.needs[:2])

    def count_reduced(self, grid: VideoGrid) -> int:
        """The budget, or as much of it as the frames may hold."""
        return min(self.budget.tokens(grid.tokens), grid.frames * self._cap(grid))

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Part the budget, take each frame's most attended tokens, merge the others where the host does."""
        grid = tokens.grid
        shape = (grid.frames, grid.rows, grid.cols)
        attention = tokens.signal("query_frame_attention", shape[:1]).float().tolist()
        received = tokens.signal("received_attention", shape).float().flatten(1)
        parts = split_by_weight(self.budget.tokens(grid.tokens), attention, [self._cap(grid)] * grid.frames)
        dominant = parts
        if self.host == "visionzip":
            dominant = [share_of(part, _DOMINANT_SHARE) for part in parts]
        rank = torch.empty_like(received, dtype=torch.int64)
        place = torch.arange(grid.tokens_per_frame, device=received.device)
        rank.scatter_(1, highest(received, len(place)), place.expand_as(rank))
        chosen = rank < torch.tensor(dominant, device=rank.device)[:, None]
        if self.host == "attention":
            return Reduction.select(tokens, chosen.flatten().nonzero()[:, 0])
        keys = tokens.signal("keys", (*shape, None)).flatten(1, 2)
        contextual = [part - first for part, first in zip(parts, dominant, strict=True)]
        return self._merge_rest(tokens, chosen, keys, contextual)

    def _cap(self, grid: VideoGrid) -> int:
        return min(grid.tokens_per_frame, self.frame_cap or grid.tokens_per_frame)

    def _merge_rest(
        self, tokens: VisualTokens, chosen: torch.Tensor, keys: torch.Tensor, contextual: list[int]
    ) -> Reduction:
        """Keep the ``chosen`` (frames, tokens) and merge the others of each frame into so many tokens."""
        in_frame = chosen.shape[1]
        nothing = torch.zeros(0, dtype=torch.int64, device=chosen.device)
        emitted, targets, members, joined, before = [], [nothing], [nothing], [nothing], 0
        for frame, count in enumerate(contextual):
            first = frame * in_frame
            emitted.append(chosen[frame].nonzero()[:, 0] + first)
            if count == 0:
                continue
            target, member = _space_out((~chosen[frame]).nonzero()[:, 0], count)
            nearest = nearest_targets(keys[frame, member][None], keys[frame, target][None])[0]
            emitted.append(target + first)
            targets.append(target + first)
            members.append(member + first)
            joined.append(nearest + before)
            before += count
        anchors = torch.cat(targets)
        blend = (anchors, torch.cat(members), torch.cat(joined))
        merged = add_member_means(*blend) if self.merge == "sum" else blend_into_anchors(*blend, 0.0)
        kept = chosen.flatten().nonzero()[:, 0]
        order = torch.cat(emitted)
        index = order.sort().values
        row = torch.searchsorted(index, torch.cat([kept, merged[0]]))
        weight = torch.cat([torch.ones(len(kept), device=kept.device), merged[2]])
        entries = (row, torch.cat([kept, merged[1]]), weight)
        return Reduction.merge(tokens, index, entries, order=torch.searchsorted(index, order))


def _space_out(rest: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split a list of tokens: ``count`` evenly spaced from the first, and the others."""
    place = torch.arange(len(rest), device=rest.device)
    step = max(1, len(rest) // count)
    taken = (place % step == 0) & (place < count * step)
    return rest[taken], rest[~taken]
