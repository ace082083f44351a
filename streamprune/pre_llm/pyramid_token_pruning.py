"""Pyramid Token Pruning: regions get tokens by saliency, tokens by saliency and by the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import split_by_weight
from streamprune.checks import check_count, check_number
from streamprune.ops.relevance import piece_relevance
from streamprune.ops.selection import highest
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class PyramidTokenPruning(PreLLMMethod):
    """Part each frame's budget among its regions by their saliency, and take the best tokens of each.

    Needs ``saliency`` (frames, rows, cols) and, unless ``instruction_weight`` is 0, ``text_embeds`` (pieces,
    channels) and ``image_embeds`` (frames, rows, cols, channels).

    A region's part is proportional to the sum of its saliency; fractions go to the largest, and what a
    region has no room for to the others, the most salient first. A token's score is the weighted mean of
    its saliency and of its highest cosine with a piece of the question, each scaled to 0..1 in its frame.

    Args:
        regions: a frame is cut into so many regions down and as many across (fewer tokens: one each); where
            it does not divide, they differ by one row or column. 1 = the frame is one region.
        instruction_weight: of the question in a token's score, in [0, 1]; the paper's alpha.

    Source: arXiv 2509.15704; no code was found. Differences: the paper's regions are the tiles of an image
    of high resolution, and the relevance to the question is the highest attention a token gets from it in
    the second layer of the language model, which has not run here. How parts are rounded is not published.
    """

    regions: int = 2
    instruction_weight: float = 0.5

    needs: ClassVar[tuple[str, ...]] = ("saliency", "text_embeds", "image_embeds")
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_count("regions", self.regions)
        check_number("instruction_weight", self.instruction_weight, 0, 1)
        if self.instruction_weight == 0:
            object.__setattr__(self, "needs", ("saliency",))

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number of every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Score tokens, part budgets, rank inside each region."""
        grid = tokens.grid
        saliency = tokens.signal("saliency", (grid.frames, grid.rows, grid.cols)).float().flatten(1)
        score = (1 - self.instruction_weight) * _scaled(saliency)
        if self.instruction_weight > 0:
            score = score + self.instruction_weight * _scaled(_relevance(tokens))
        region = self._region_of(grid, saliency.device)
        room = torch.bincount(region)
        mass = saliency.new_zeros(grid.frames, len(room)).index_add_(1, region, saliency)
        total = self.budget.per_frame(grid.frames, grid.tokens_per_frame)
        parts = [split_by_weight(total, weights, room.tolist()) for weights in mass.tolist()]
        ranking = highest(score, grid.tokens_per_frame)
        by_region = torch.sort(region[ranking], dim=1, stable=True).indices
        ranking = ranking.gather(1, by_region)
        own = region[ranking]
        rank = torch.arange(grid.tokens_per_frame, device=own.device) - (room.cumsum(0) - room)[own]
        taken = rank < torch.tensor(parts, device=own.device).gather(1, own)
        stays = torch.zeros_like(taken).scatter_(1, ranking, taken)
        return Reduction.select(tokens, stays.flatten().nonzero()[:, 0])

    def _region_of(self, grid: VideoGrid, device: torch.device) -> torch.Tensor:
        """(tokens of a frame,) the region of each."""
        down, across = min(self.regions, grid.rows), min(self.regions, grid.cols)
        row = torch.arange(grid.rows, device=device) * down // grid.rows
        col = torch.arange(grid.cols, device=device) * across // grid.cols
        return (row[:, None] * across + col).flatten()


def _relevance(tokens: VisualTokens) -> torch.Tensor:
    """(frames, tokens) float32: the highest cosine of each token with a piece of the question."""
    grid = tokens.grid
    question = tokens.signal("text_embeds", (None, None))
    shape = (grid.frames, grid.rows, grid.cols, question.shape[1])
    images = tokens.signal("image_embeds", shape).flatten(1, 2)
    return piece_relevance(images, question)


def _scaled(values: torch.Tensor) -> torch.Tensor:
    """Each row of (rows, numbers) moved and stretched to 0..1; equal numbers become 0."""
    low = values.amin(1, keepdim=True)
    span = values.amax(1, keepdim=True) - low
    return torch.where(span > 0, (values - low) / span, 0.0)
