"""MustDrop, first stage: average small windows of a frame whose patches look alike early in the tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count, check_flag, check_instead_of_budget, check_number
from streamprune.ops.selection import highest
from streamprune.ops.similarity import unit_rows
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class MustDrop(PreLLMMethod):
    """Replace the most uniform windows of every frame by their mean; tokens of other windows stay.

    Needs ``early_features`` (frames, rows, cols, channels), the states after the first layer of the tower. A
    window scores the mean cosine of its pairs of tokens. Its mean stands at the window's last token, and is
    emitted before the other tokens of its frame, most uniform window first.

    Run it with ``threshold`` and no budget as released, or with a budget: then the threshold is the highest
    that meets it. Merging alone cannot leave fewer tokens than there are windows; a smaller budget gets that.

    Args:
        threshold: windows scoring at least this are merged, in [-1, 1] (released: 0.8); None = by the budget.
        window: tokens on each side of a window.
        shared_count: every frame merges equally many windows, as the release does with the images of a
            batch: as many as the frame with the fewest that reach the threshold. False = each frame merges
            those of its windows that reach it.

    Source: arXiv 2411.10803 and its release for LLaVA. Differences: the release merges inside the tower,
    before its second layer; here the tower has run on all tokens and its output is averaged. It refuses grids
    that windows do not divide; here windows at the right and lower edge are smaller, and single tokens left
    there are kept. Its other stages drop by the question's attention in the language model and in its cache.
    """

    threshold: float | None = None
    window: int = 3
    shared_count: bool = True

    needs: ClassVar[tuple[str, ...]] = ("early_features",)

    def __post_init__(self) -> None:
        check_count("window", self.window, least=2)
        check_flag("shared_count", self.shared_count)
        if self.threshold is not None:
            check_number("threshold", self.threshold, -1, 1)
        check_instead_of_budget(
            "mustdrop", {"threshold": self.threshold}, budget_given=self.budget != Budget()
        )

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """Only without a threshold."""
        return self.threshold is None and super().keeps_everything(grid)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """Unknown: edge windows, and how many reach a threshold, depend on the content."""
        return None

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Score windows, choose how many, average them."""
        grid = tokens.grid
        early = tokens.signal("early_features", (grid.frames, grid.rows, grid.cols, None))
        window = self._window_of(grid, early.device)
        size = torch.bincount(window)
        score = _uniformity(early.flatten(1, 2), window, size)
        ranking = highest(score, len(size))
        merged = self._merged(score, ranking, size, len(tokens))
        return _average(tokens, window, merged, ranking)

    def _window_of(self, grid: VideoGrid, device: torch.device) -> torch.Tensor:
        """(tokens of a frame,) the window of each."""
        row = torch.arange(grid.rows, device=device) // self.window
        col = torch.arange(grid.cols, device=device) // self.window
        across = (grid.cols - 1) // self.window + 1
        return (row[:, None] * across + col).flatten()

    def _merged(
        self, score: torch.Tensor, ranking: torch.Tensor, size: torch.Tensor, tokens: int
    ) -> torch.Tensor:
        """(frames, windows) bool: those that are averaged."""
        excess = tokens - self.budget.tokens(tokens)
        if self.shared_count:
            if self.threshold is None:
                count = _enough((size[ranking] - 1).sum(0), excess)
            else:
                count = int((score >= self.threshold).sum(1).min())
            chosen = torch.zeros_like(score, dtype=torch.bool).scatter_(1, ranking[:, :count], True)
        elif self.threshold is None:
            order = highest(score.flatten(), score.numel())
            count = _enough((size - 1).expand_as(score).flatten()[order], excess)
            chosen = torch.zeros_like(order, dtype=torch.bool)
            chosen[order[:count]] = True
            chosen = chosen.reshape(score.shape)
        else:
            chosen = score >= self.threshold
        return chosen & (size > 1)


def _uniformity(features: torch.Tensor, window: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """(frames, windows) float32 mean cosine of a window's pairs; -inf for single tokens.

    The inner products of all pairs come from the sum of the unit vectors, one frame at a time.
    """
    scores = []
    for frame in features:
        unit = unit_rows(frame)
        total = unit.new_zeros(len(size), unit.shape[1]).index_add_(0, window, unit)
        own = unit.new_zeros(len(size)).index_add_(0, window, unit.square().sum(-1))
        scores.append((total.square().sum(-1) - own) / (size * (size - 1)).clamp(min=1))
    return torch.where(size > 1, torch.stack(scores), -torch.inf)


def _enough(savings: torch.Tensor, excess: int) -> int:
    """How many of ``savings``, in order, add up to ``excess``; all when they do not."""
    total = savings.cumsum(0)
    return min(int(torch.searchsorted(total, excess)) + 1, len(savings)) if excess > 0 else 0


def _average(
    tokens: VisualTokens, window: torch.Tensor, merged: torch.Tensor, ranking: torch.Tensor
) -> Reduction:
    """Rows for the ``merged`` (frames, windows) windows, best-ranked first, and for all other tokens."""
    frames, windows = merged.shape
    in_frame = len(window)
    place = torch.arange(in_frame, device=window.device)
    last = torch.zeros(windows, dtype=torch.int64, device=window.device).scatter_reduce(
        0, window, place, "amax"
    )
    start = torch.arange(frames, device=window.device)[:, None] * in_frame
    inside = merged[:, window]
    target = torch.where(inside, last[window], place) + start
    weight = torch.where(inside, 1 / torch.bincount(window)[window], 1.0)
    index = torch.unique(target)
    row = torch.searchsorted(index, target.flatten())
    # a frame's merged windows come first, in the order of their rank, then its tokens in raster order
    rank = torch.empty_like(ranking).scatter_(
        1, ranking, torch.arange(windows, device=ranking.device).expand_as(ranking)
    )
    frame = index // in_frame
    own = window[index - frame * in_frame]
    late = torch.where(merged[frame, own], rank[frame, own], windows + index - frame * in_frame)
    order = torch.argsort(frame * (windows + in_frame) + late)
    entries = (row, (place + start).flatten(), weight.flatten())
    return Reduction.merge(tokens, index, entries, order=order)
