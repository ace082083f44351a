"""FastVID: cut the clip into segments, keep salient tokens, merge the rest into density peaks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of, split_evenly
from streamprune.checks import check_count, check_number
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.ops.density import density_peaks
from streamprune.ops.merging import Entries, blend_into_anchors
from streamprune.ops.segments import cut_transitions
from streamprune.ops.selection import highest
from streamprune.ops.similarity import adjacent_cosine, gram, most_similar, squared_distances
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Form = Literal["llava_onevision", "llava_video", "qwen2_5_vl"]

_SIMILARITY_THRESHOLD: dict[Form, float] = {"llava_onevision": 0.9, "llava_video": 0.9, "qwen2_5_vl": 0.84}
_IGNORE_THRESHOLD = 0.95


@dataclass(frozen=True)
class SegmentShares:
    """What the frames of one segment may hold.

    Attributes:
        salient: tokens each frame keeps unchanged.
        context: anchors of each frame; a frame with some is an anchor frame.
        own_frame_only: anchors merge tokens of their own frame only, not of the whole segment.
    """

    salient: list[int]
    context: list[int]
    own_frame_only: bool = False


@dataclass(frozen=True)
class _Merge:
    """The anchors of one frame, the tokens that join them (flat indices), and which anchor each joins."""

    anchors: torch.Tensor
    members: torch.Tensor
    joined: torch.Tensor


@dataclass(frozen=True, kw_only=True)
class FastVID(PreLLMMethod):
    """Keep each frame's salient tokens and merge the other tokens of a segment into density-peak anchors.

    Needs ``saliency`` (frames, rows, cols), higher = more salient, and ``frame_features`` (frames, channels).

    Every frame keeps its share of the budget, at least one token; of that, ``context_ratio`` becomes anchors
    on every ``anchor_interval``-th frame of a segment. Anchors are chosen by density among the tokens not
    salient; then every other such token of the segment joins, once per anchor frame, the anchor most like it.

    Args:
        form: which released implementation is reproduced. ``llava_onevision`` splits each frame's budget and
            drops what does not divide among anchor frames; ``llava_video`` splits each segment's budget and
            spreads remainders; ``qwen2_5_vl`` does the same but lets only the last of near-identical frames
            hold tokens, and keeps less than asked where these are full.
        num_segments: the clip is cut into at least so many segments (fewer frames: one segment each).
        similarity_threshold: neighbouring frames with a cosine strictly below it are cut apart as well;
            None = the form's own, 0.9, 0.9 and 0.84.
        context_ratio: share of the budget for merged tokens, in [0, 1]; where it rounds to no token, all are
            salient (``qwen2_5_vl``: at least one per segment).
        anchor_interval: an anchor frame every so many frames.
        merge_weight_floor: an anchor keeps at least this weight in its blend, in [0, 1].
        ignore_threshold: only with ``qwen2_5_vl``: neighbours in a segment with at least this cosine are
            near-identical; None = 0.95.
        neighbors: how many nearest tokens, itself included, make a token's density.
        anchor_in_mean: whether anchors are members of their own frame's merges; None = as released (only
            ``llava_onevision``); the paper's text says False.
        anchors_from: anchor frames are counted from the ``last`` frame of a segment (released) or from the
            ``first`` (the paper's figure 5).

    Source: arXiv 2503.11187 and its three released implementations. Differences: the random term that breaks
    ties in the density is left out, ties go to the lower index. Where the released code raises, this goes on:
    clips shorter than ``num_segments``, one frame, budgets without context tokens. Anchors that an anchor
    frame has no room for become salient tokens of the segment's other frames.
    """

    form: Form = "llava_onevision"
    num_segments: int = 8
    similarity_threshold: float | None = None
    context_ratio: float = 0.4
    anchor_interval: int = 4
    merge_weight_floor: float = 0.6
    ignore_threshold: float | None = None
    neighbors: int = 4
    anchor_in_mean: bool | None = None
    anchors_from: Literal["last", "first"] = "last"

    needs: ClassVar[tuple[str, ...]] = ("saliency", "frame_features")

    def __post_init__(self) -> None:
        for name, choices in (("form", get_args(Form)), ("anchors_from", ("last", "first"))):
            if getattr(self, name) not in choices:
                raise UnknownNameError.among(f"{name} of fastvid", getattr(self, name), choices)
        for name in ("num_segments", "anchor_interval", "neighbors"):
            check_count(name, getattr(self, name))
        for name, low in (
            ("similarity_threshold", -1.0),
            ("ignore_threshold", -1.0),
            ("context_ratio", 0.0),
            ("merge_weight_floor", 0.0),
        ):
            if getattr(self, name) is not None or not name.endswith("threshold"):
                check_number(name, getattr(self, name), low, 1)
        if self.ignore_threshold is not None and self.form != "qwen2_5_vl":
            raise InvalidValueError("ignore_threshold belongs to form='qwen2_5_vl' only; leave it out")

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """Known unless it depends on how long segments are (``qwen2_5_vl``: on how alike frames are)."""
        longest = max(1, grid.frames - self.num_segments + 1)
        each = self._frame_budget(grid)
        if longest > 1 and self.form == "qwen2_5_vl":
            return None
        if self.form == "llava_onevision":
            for frames in range(2, longest + 1):
                shares = self.segment_shares(each, grid.tokens_per_frame, [True] * frames)
                if sum(shares.salient) + sum(shares.context) != each * frames:
                    return None
        return each * grid.frames

    def segments(self, frame_features: torch.Tensor) -> list[tuple[int, int]]:
        """Half-open frame ranges of the segments of a clip with these (frames, channels) features."""
        threshold = self.similarity_threshold
        if threshold is None:
            threshold = _SIMILARITY_THRESHOLD[self.form]
        return cut_transitions(
            adjacent_cosine(frame_features), at_least=self.num_segments - 1, threshold=threshold
        )

    def clip_segments(self, tokens: VisualTokens) -> list[tuple[int, int]]:
        """See the base class."""
        return self.segments(tokens.signal("frame_features", (tokens.grid.frames, None)))

    def segment_shares(self, per_frame: int, tokens_per_frame: int, holds: list[bool]) -> SegmentShares:
        """Split the budget of a segment of ``len(holds)`` frames; only those that hold may keep tokens."""
        frames = len(holds)
        if self.form == "llava_onevision":
            context_each = share_of(per_frame, self.context_ratio, rounding="truncate")
            salient = [per_frame - context_each] * frames
            anchors = context_each * frames // self._anchor_frames(frames)
            context = self._on_anchor_frames([anchors] * self._anchor_frames(frames), frames)
            return _fit(salient, context, tokens_per_frame, own_frame_only=anchors == context_each)
        total = per_frame * frames
        in_context = share_of(total, self.context_ratio, rounding="truncate")
        if self.form == "llava_video":
            salient, context = self._spread(total - in_context, in_context, frames)
            return _fit(salient, context, tokens_per_frame)
        in_context = max(in_context, 1)
        if frames == 1:
            return SegmentShares([total - in_context], [in_context])
        salient, context = self._spread(total - in_context, in_context, sum(holds))
        context = [min(n, tokens_per_frame // 2) for n in context]
        salient = [min(s, tokens_per_frame - c) for s, c in zip(salient, context, strict=True)]
        return SegmentShares(_scatter(salient, holds), _scatter(context, holds))

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Segment, decide each segment on its own, then blend."""
        grid = tokens.grid
        saliency = tokens.signal("saliency", (grid.frames, grid.rows, grid.cols)).float()
        frame_features = tokens.signal("frame_features", (grid.frames, None))
        ranking = highest(saliency.reshape(grid.frames, -1), grid.tokens_per_frame)
        holds = self._holding_frames(frame_features)
        per_frame = self._frame_budget(grid)
        free = torch.ones(grid.frames, grid.tokens_per_frame, dtype=torch.bool, device=ranking.device)
        merges: list[_Merge] = []
        for start, stop in self.segments(frame_features):
            shares = self.segment_shares(per_frame, grid.tokens_per_frame, [*holds[start : stop - 1], True])
            for frame, count in enumerate(shares.salient, start):
                free[frame, ranking[frame, :count]] = False
            merges += self._merges(tokens.frames[start:stop], free[start:stop], shares, start)
        salient = (~free).flatten().nonzero()[:, 0]
        ones = torch.ones(len(salient), device=salient.device)
        target, token, weight = _blend(merges, self.merge_weight_floor, salient)
        index = torch.unique(torch.cat([salient, target]))
        row = torch.searchsorted(index, torch.cat([salient, target]))
        return Reduction.merge(tokens, index, (row, torch.cat([salient, token]), torch.cat([ones, weight])))

    def _merges(
        self, features: torch.Tensor, free: torch.Tensor, shares: SegmentShares, first_frame: int
    ) -> Iterator[_Merge]:
        """Who joins which anchor in one segment, for each of its anchor frames.

        Args:
            features: (frames, tokens per frame, channels).
            free: (frames, tokens per frame), False for salient tokens.
            first_frame: of the segment, in the clip.
        """
        per_frame, channels = features.shape[1:]
        offset = first_frame * per_frame
        in_mean = self.form == "llava_onevision" if self.anchor_in_mean is None else self.anchor_in_mean
        for frame, count in enumerate(shares.context):
            if count == 0:
                continue
            products = gram(features[frame])
            rest = free[frame].nonzero()[:, 0]
            distances = squared_distances(products.index_select(0, rest).index_select(1, rest)) / channels
            anchors = rest[highest(density_peaks(distances, self.neighbors), count)]
            if self.form != "llava_onevision":
                anchors = anchors.sort().values  # ties in similarity then go to the lower token
            candidate = free.clone()
            if not in_mean:
                candidate[frame, anchors] = False
            if shares.own_frame_only:
                candidate[:frame] = candidate[frame + 1 :] = False
            members = candidate.flatten().nonzero()[:, 0]
            joined = _join(features, frame, products, anchors, shares.own_frame_only)[members]
            yield _Merge(anchors + frame * per_frame + offset, members + offset, joined)

    def _frame_budget(self, grid: VideoGrid) -> int:
        return self.budget.per_frame(grid.frames, grid.tokens_per_frame, rounding="truncate")

    def _holding_frames(self, frame_features: torch.Tensor) -> list[bool]:
        """Whether each frame differs from the next (the last one does)."""
        if self.form != "qwen2_5_vl":
            return [True] * frame_features.shape[0]
        threshold = _IGNORE_THRESHOLD if self.ignore_threshold is None else self.ignore_threshold
        return [*(adjacent_cosine(frame_features) < threshold).tolist(), True]

    def _anchor_frames(self, frames: int) -> int:
        return math.ceil(frames / self.anchor_interval)

    def _on_anchor_frames(self, counts: list[int], frames: int) -> list[int]:
        """Place ``counts`` on every ``anchor_interval``-th frame, the first count on the end counted from."""
        context = [0] * frames
        context[:: self.anchor_interval] = counts
        return context[::-1] if self.anchors_from == "last" else context

    def _spread(self, salient: int, context: int, frames: int) -> tuple[list[int], list[int]]:
        anchor_frames = self._anchor_frames(frames)
        counts = split_evenly(context, [context] * anchor_frames)
        return split_evenly(salient, [salient] * frames), self._on_anchor_frames(counts, frames)


def _fit(salient: list[int], context: list[int], room: int, *, own_frame_only: bool = False) -> SegmentShares:
    """Turn anchors that do not fit into a frame's ``room`` into salient tokens where there is room."""
    fitting = [min(c, room - s) for s, c in zip(salient, context, strict=True)]
    rooms = [room - s - c for s, c in zip(salient, fitting, strict=True)]
    extra = split_evenly(sum(context) - sum(fitting), rooms)
    return SegmentShares([s + e for s, e in zip(salient, extra, strict=True)], fitting, own_frame_only)


def _scatter(values: list[int], holds: list[bool]) -> list[int]:
    """Give ``values`` in turn to the places that hold, 0 to the others."""
    left = iter(values)
    return [next(left) if hold else 0 for hold in holds]


def _blend(merges: list[_Merge], weight_floor: float, like: torch.Tensor) -> Entries:
    """Entries (anchor, token, weight) of all merges; ``like`` gives the device when there are none."""
    empty = like.new_empty(0)
    first = 0
    joined = []
    for merge in merges:
        joined.append(merge.joined + first)
        first += len(merge.anchors)
    return blend_into_anchors(
        torch.cat([empty, *(merge.anchors for merge in merges)]),
        torch.cat([empty, *(merge.members for merge in merges)]),
        torch.cat([empty, *joined]),
        weight_floor,
    )


def _join(
    features: torch.Tensor, frame: int, products: torch.Tensor, anchors: torch.Tensor, own_frame_only: bool
) -> torch.Tensor:
    """(frames * tokens per frame,) which anchor of ``frame`` each token of the segment is most like."""
    frames, per_frame, _ = features.shape
    # the inner products with tokens of the same frame are known already
    lengths = products.diagonal()[anchors].clamp(min=0).sqrt()
    scale = torch.where(lengths > 0, 1 / lengths, 0.0)
    own = (products[:, anchors] * scale).max(1).indices
    if own_frame_only:
        joined = own.new_zeros(frames, per_frame)
        joined[frame] = own
        return joined.flatten()
    targets = features[frame, anchors]
    before = most_similar(features[:frame].flatten(0, 1), targets)
    after = most_similar(features[frame + 1 :].flatten(0, 1), targets)
    return torch.cat([before, own, after])
