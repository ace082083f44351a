"""FlashVID: keep attended, diverse tokens; link the others into trees over time and cluster what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_number
from streamprune.errors import UnknownNameError
from streamprune.ops.diversity import greedy_max_min
from streamprune.ops.segments import cut_transitions
from streamprune.ops.selection import highest
from streamprune.ops.similarity import adjacent_cosine, frame_grams
from streamprune.ops.trees import Trees, best_parents, cluster_trees, link_strongest, roots_of
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Selection = Literal["attn_div", "attn_div_v2", "div", "attn"]


@dataclass(frozen=True)
class FrameBudget:
    """Tokens of one frame: ``salient`` ones picked and left unchanged, ``merged`` ones on average."""

    salient: int
    merged: int


@dataclass(frozen=True, kw_only=True)
class FlashVID(PreLLMMethod):
    """Keep salient and diverse tokens of each frame, merge the others along trees, then by density.

    Needs ``received_attention`` (frames, rows, cols).

    Segments: mean tokens of neighbouring frames are compared. In each frame, tokens are picked greedily, each
    as far as possible from those picked, distances being cosine distances times the candidate's attention.
    The other tokens are linked to the most similar one of the frame before, in the same segment, when the
    cosine is above ``link_threshold``; a tree becomes one token at its root. What then is left of each frame
    is clustered by density down to the budget; a cluster is the plain mean of its tokens at its centre.

    Counts are rounded up twice for each frame, so up to two tokens a frame more than asked may stay.

    Args:
        selection: how tokens are picked: ``attn_div`` as above (released for Qwen); ``attn_div_v2``, with
            distances also times the inner product with the segment's mean token (released for LLaVA; where
            that is negative a token may be picked twice); ``div``, by distance only; ``attn``, by attention.
        salient_ratio: share of a frame's budget for picked tokens, in [0, 1].
        link_threshold: in [-1, 1]; 1 = no trees.
        num_segments: the clip is cut into at least so many segments, at its weakest transitions (released: 8
            for LLaVA, 4 for Qwen).
        segment_threshold: neighbouring frames with a cosine strictly below it are cut apart as well.
        segmented: False = the clip is one segment.
        complementary: False = only ``segment_threshold`` cuts.
        neighbors: how many nearest tokens, itself included, make a token's density.
        expansion: what the budget is multiplied by, in [1, 10]. The release keeps 1.25 times its ratio here
            and makes up for it in a late layer of the language model; 1 keeps to the budget here.
        as_released: a tree's sum is divided by one more than its root's direct children, so that trees of
            more than two frames come out too large; and in segments of one frame the picked tokens enter the
            clustering again, so that a token may be kept twice. False = the mean of the tree, and only tokens
            not picked.

    Source: arXiv 2602.08024 and its release (the part before the language model). Differences: the random
    term that breaks ties in the density is left out, ties go to the lower index; frames whose budget covers
    them are kept as they are; clips with fewer transitions than wanted cuts, and ``link_threshold`` 1, are
    defined (the release raises or makes empty segments); a zero token is at distance 1 of all (the release
    has NaN there).
    """

    selection: Selection = "attn_div"
    salient_ratio: float = 0.7
    link_threshold: float = 0.8
    num_segments: int = 8
    segment_threshold: float = 0.9
    segmented: bool = True
    complementary: bool = True
    neighbors: int = 7
    expansion: float = 1.0
    as_released: bool = True

    needs: ClassVar[tuple[str, ...]] = ("received_attention",)

    def __post_init__(self) -> None:
        if self.selection not in get_args(Selection):
            raise UnknownNameError.among("selection of flashvid", self.selection, get_args(Selection))
        check_number("salient_ratio", self.salient_ratio, 0, 1)
        check_number("link_threshold", self.link_threshold, -1, 1)
        check_number("segment_threshold", self.segment_threshold, -1, 1)
        check_number("expansion", self.expansion, 1, 10)
        check_count("num_segments", self.num_segments)
        check_count("neighbors", self.neighbors)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """Known where nothing is merged; else it depends on what is linked."""
        budget = self.frame_budget(grid)
        return grid.frames * budget.salient if budget.merged == 0 else None

    def frame_budget(self, grid: VideoGrid) -> FrameBudget:
        """Picked and merged tokens of each frame."""
        per_frame = grid.tokens_per_frame
        wanted = per_frame * self.budget.share(grid.tokens) * self.expansion
        total = share_of(1, wanted, rounding="ceil_product")
        if total >= per_frame:
            return FrameBudget(per_frame, 0)
        salient = share_of(total, self.salient_ratio, rounding="ceil_product")
        return FrameBudget(salient, total - salient)

    def segments(self, frame_features: torch.Tensor) -> list[tuple[int, int]]:
        """Half-open frame ranges of the segments of a clip with these (frames, channels) mean tokens."""
        if not self.segmented:
            return [(0, len(frame_features))]
        at_least = self.num_segments - 1 if self.complementary else 0
        similarity = adjacent_cosine(frame_features)
        return cut_transitions(similarity, at_least=at_least, threshold=self.segment_threshold)

    def clip_segments(self, tokens: VisualTokens) -> list[tuple[int, int]]:
        """See the base class."""
        return self.segments(tokens.frames.mean(1, dtype=torch.float32))

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Pick in every frame, then link and cluster in every segment."""
        grid, frames = tokens.grid, tokens.frames
        attention = tokens.signal("received_attention", (grid.frames, grid.rows, grid.cols))
        means = frames.mean(1, dtype=torch.float32)
        segments = self.segments(means)
        budget = self.frame_budget(grid)
        products = frame_grams(frames)
        calibration = self.calibration(frames, attention.float().flatten(1), means, segments)
        picked = self.pick(products, calibration, budget.salient)
        place = torch.arange(grid.tokens, device=picked.device).reshape(grid.frames, -1)
        salient = place.gather(1, picked).flatten()
        row = torch.arange(len(salient), device=salient.device)
        parts = [(row, salient, torch.ones(len(salient), device=salient.device))]
        index = salient
        if budget.merged:
            trees, clusters = self._trees(frames, products, picked, segments, budget)
            merged, entries = cluster_trees(tokens.features, products, trees, clusters, self.neighbors)
            parts.append((entries[0] + len(salient), *entries[1:]))
            index = torch.cat([salient, merged])
        index, by_place = index.sort(stable=True)
        new_row = torch.empty_like(by_place)
        new_row[by_place] = torch.arange(len(by_place), device=index.device)
        row, token, weight = (torch.cat(column) for column in zip(*parts, strict=True))
        return Reduction.merge(tokens, index, (new_row[row], token, weight))

    def calibration(
        self,
        frames: torch.Tensor,
        attention: torch.Tensor,
        means: torch.Tensor,
        segments: list[tuple[int, int]],
    ) -> torch.Tensor:
        """(frames, tokens) float32: what a candidate's distances are multiplied by."""
        if self.selection == "div":
            return torch.ones_like(attention)
        if self.selection != "attn_div_v2":
            return attention
        return attention * torch.cat(
            [
                torch.stack([frame.float() @ means[start:stop].mean(0) for frame in frames[start:stop]])
                for start, stop in segments
            ]
        )

    def pick(self, products: torch.Tensor, calibration: torch.Tensor, count: int) -> torch.Tensor:
        """(frames, count) int64 tokens picked in each frame, ascending; ``attn_div_v2`` may repeat some.

        Args:
            products: (frames, n, n) float32 inner products of the tokens of each frame.
            calibration: (frames, n) float32.
            count: 0 to n.
        """
        if count == 0:
            return torch.empty(len(products), 0, dtype=torch.int64, device=products.device)
        if count == products.shape[-1]:
            return torch.arange(count, device=products.device).repeat(len(products), 1)
        if self.selection == "attn":
            return highest(calibration, count).sort(1).values
        scale = _reciprocal_lengths(products)
        # scales multiplied first: symmetric to the last bit, so that mutual neighbours tie
        distances = (scale[:, :, None] * scale[:, None]).mul_(products).neg_().add_(1)
        distances.diagonal(dim1=1, dim2=2).zero_()
        distances *= calibration[:, None]
        return greedy_max_min(distances, count, pick_again=self.selection == "attn_div_v2").sort(1).values

    def _trees(
        self,
        frames: torch.Tensor,
        products: torch.Tensor,
        picked: torch.Tensor,
        segments: list[tuple[int, int]],
        budget: FrameBudget,
    ) -> tuple[Trees, list[int]]:
        """Link the tokens not picked, segment by segment, and say how many clusters each frame may have."""
        free = torch.ones(products.shape[:2], dtype=torch.bool, device=products.device)
        free.scatter_(1, picked, False)
        linked = torch.zeros_like(free)
        parent = torch.zeros_like(free, dtype=torch.int64)
        clusters: list[int] = []
        for start, stop in segments:
            part = slice(start, stop)
            if stop - start == 1 and self.as_released:
                free[part] = True
            elif stop - start > 1 and self.link_threshold < 1:
                similarity, parent[part] = best_parents(
                    frames[part], products[part], free[part], self.link_threshold
                )
                least = (budget.salient + budget.merged) * (stop - start)
                linked[part] = link_strongest(similarity, self.link_threshold, least)
            left = (free[part] & ~linked[part]).sum(1).tolist()
            share = min(1.0, budget.merged * (stop - start) / max(1, sum(left)))
            clusters += [share_of(n, share, rounding="ceil_product") for n in left]
        root = roots_of(parent, linked)
        size = torch.bincount(root[free], minlength=root.numel())
        divisor = size
        if self.as_released:
            before = (
                parent + torch.arange(-1, len(parent) - 1, device=parent.device)[:, None] * parent.shape[1]
            )
            divisor = torch.bincount(before[linked], minlength=root.numel()) + 1
        return Trees(free, linked, root, size, divisor), clusters


def _reciprocal_lengths(products: torch.Tensor) -> torch.Tensor:
    """(frames, n) one over the length of each token, 0 for a zero token, from (frames, n, n) products."""
    squares = products.diagonal(dim1=1, dim2=2)
    return torch.where(squares > 0, squares.rsqrt(), 0.0)
