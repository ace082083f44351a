"""SAINT: drop the tokens of a frame that are most like the other ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count, check_flag, check_instead_of_budget, check_number
from streamprune.ops.selection import highest
from streamprune.ops.similarity import cosines, frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.pre_llm.metric import Metric, compared, needs_of
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

# a round of the full graph drops one in so many tokens
_ROUND = 16


@dataclass(frozen=True, kw_only=True)
class SAINT(PreLLMMethod):
    """Drop redundant tokens of each frame; the others stay unchanged.

    With a budget, the released way for video language models: in rounds, the tokens whose cosines with all
    tokens still there have the highest sum are dropped, until each frame holds its share.

    Without one, ``similarity_threshold`` runs the way released for image classifiers, once: the frame's
    even-numbered tokens are compared with its odd-numbered ones, and as many of them are dropped as have at
    least ``min_similar`` odd-numbered tokens at or above the threshold; the ones with the highest
    ``n * exp(sharpness * (mean cosine of those n tokens - threshold))`` go first.

    Args:
        similarity_threshold: only without a budget, in [-1, 2] (nothing reaches what is above 1). Released:
            0.7 by default, 0.75 in the scripts.
        min_similar: how many similar tokens make one redundant.
        sharpness: how much the similarity counts beside the number of similar tokens, in [0, 40].
        same_count: without a budget, every frame drops the mean over frames, rounded down, as the release
            does for a batch of images, so that a frame has to wait for the others and the instance is not
            ``causal``; False = each frame its own number, as for batches of one.
        as_released: with a budget, each round but the first divides the tokens left by the number dropped in
            the round before, which is what the release computes. False: each round drops a sixteenth.
        metric: tokens are alike by the cosine of their ``features`` or of the tower's ``keys`` (frames, rows,
            cols, channels), as inside the tower.

    Source: arXiv 2503.11549 and its released code. There tokens are dropped inside the tower or the language
    model; here between them. A round drops at least one token where the release would drop none and stop with
    an error. Ties go to the lower token, which is dropped.
    """

    similarity_threshold: float | None = None
    min_similar: int = 5
    sharpness: float = 10.0
    same_count: bool = False
    as_released: bool = True
    metric: Metric = "features"

    needs: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = True
    instead_of_budget: ClassVar[tuple[str, ...]] = ("similarity_threshold",)

    def __post_init__(self) -> None:
        if self.similarity_threshold is not None:
            check_number("similarity_threshold", self.similarity_threshold, -1, 2)
        check_count("min_similar", self.min_similar)
        check_number("sharpness", self.sharpness, 0, 40)
        check_flag("same_count", self.same_count)
        check_flag("as_released", self.as_released)
        check_instead_of_budget(
            "saint",
            {"similarity_threshold": self.similarity_threshold},
            budget_given=self.budget != Budget(),
        )
        object.__setattr__(self, "needs", needs_of("saint", self.metric))
        if self.same_count and self.similarity_threshold is not None:
            object.__setattr__(self, "causal", False)

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """Never with a threshold: the content decides."""
        return self.similarity_threshold is None and super().keeps_everything(grid)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """The same for each frame; unknown with a threshold."""
        if self.similarity_threshold is not None:
            return None
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Compare the tokens of each frame with each other, then drop."""
        grid = tokens.grid
        cosine = cosines(frame_grams(compared(tokens, self.metric)))
        first = torch.arange(grid.frames, device=cosine.device)[:, None] * grid.tokens_per_frame
        if self.similarity_threshold is None:
            target = self.budget.per_frame(grid.frames, grid.tokens_per_frame)
            drops = drops_per_round(grid.tokens_per_frame, target, as_released=self.as_released)
            kept = least_redundant(cosine, drops)
            return Reduction.select(tokens, (kept + first).flatten())
        redundancy, dropped = bipartite_redundancy(
            cosine[:, ::2, 1::2], self.similarity_threshold, self.min_similar, self.sharpness
        )
        if self.same_count:
            dropped = dropped.float().mean().long().expand(grid.frames)
        return Reduction.select(tokens, _emitted(redundancy, dropped, first, grid.tokens_per_frame))


def drops_per_round(tokens: int, target: int, *, as_released: bool = True) -> list[int]:
    """How many of a frame's ``tokens`` go in each round on the full graph, until ``target`` are left."""
    drops: list[int] = []
    while tokens > target:
        part = drops[-1] if drops and as_released else _ROUND
        drops.append(min(tokens - target, max(1, tokens // part)))
        tokens -= drops[-1]
    return drops


def least_redundant(cosine: torch.Tensor, drops: list[int]) -> torch.Tensor:
    """(frames, left) tokens, ascending, after dropping the most redundant ones of (frames, n, n) cosines."""
    there = torch.ones(cosine.shape[:2], device=cosine.device)
    for count in drops:
        redundancy = (cosine @ there[..., None])[..., 0].masked_fill(there == 0, -float("inf"))
        there.scatter_(1, highest(redundancy, count), 0.0)
    return there.nonzero()[:, 1].reshape(len(there), -1)


def bipartite_redundancy(
    cosine: torch.Tensor, threshold: float, min_similar: int, sharpness: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """How redundant each even-numbered token is, and how many of each frame's are redundant.

    Args:
        cosine: (frames, even tokens, odd tokens).

    Returns:
        (frames, even tokens) float32 and (frames,) int64.
    """
    similar = cosine >= threshold
    count = similar.sum(-1)
    mean = (cosine * similar).sum(-1) / count.clamp(min=1)
    among_similar = count * torch.exp(sharpness * (mean - threshold))
    overall = cosine.sum(-1) / max(1, cosine.shape[-1])
    return torch.where(count > 0, among_similar, overall), (count >= min_similar).sum(-1)


def _emitted(
    redundancy: torch.Tensor, dropped: torch.Tensor, first: torch.Tensor, tokens: int
) -> torch.Tensor:
    """Flat indices of what stays: of each frame the even-numbered tokens by redundancy, then the others.

    A frame of ``tokens`` that drops none of them stays in order.
    """
    frames, even = redundancy.shape
    in_order = torch.arange(tokens, device=first.device).expand(frames, -1)
    ranked = torch.cat([2 * highest(redundancy, even), in_order[:, 1::2]], 1)
    ranked = torch.where(dropped[:, None] > 0, ranked, in_order)
    return (ranked + first)[in_order >= dropped[:, None]]
