"""InfiniPot-V: video tokens that differ from the newest frames, and those with large values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn.functional import avg_pool1d, avg_pool2d, avg_pool3d, normalize

from streamprune.budget import share_of, whole_tokens
from streamprune.checks import check_flag, check_number
from streamprune.kv.base import Decoding, Policy, always_above, cells_of, segments_of
from streamprune.kv.view import NOT_LABELLED, PROMPT_TEXT, LayerView
from streamprune.ops.selection import highest, marked

# axes and kernel of the average over value norms, for each quarter of the layers
_POOLS = ((3, 7), (2, 5), (1, 3), (0, 0))


@dataclass(frozen=True, kw_only=True)
class InfiniPotV(Policy):
    """Keep text, and of the video what a question yet unknown may need.

    One part of the budget goes to the newest frames and to older tokens whose keys are least like those of
    the newest frames at the same place of the picture; the other to tokens with the largest values.

    Args:
        redundancy_share: part of the budget for the first kind, in [0, 1].
        recent_share: share of the frames held that count as newest, in [0, 1].
        adaptive_pooling: average the sizes of values over neighbours, in time and space in the first
            quarter of the layers, less and less in the others; off, as in the released scripts.

    Source: arXiv 2506.15745. Every entry is compared at its own place, also after earlier choices, where the
    release takes what is left for whole frames; an entry whose place no newest frame holds any more counts as
    unrelated. Newest frames that exceed their part of the budget keep their last tokens (the release stops
    with an error). Kernels shrink to the largest odd number of frames, rows and columns there are, as
    released. The prompt's text stays, so the budget must leave room for it; later text goes after the
    video, the oldest first. The rows of a batch must have the same frames.
    """

    redundancy_share: float = 0.5
    recent_share: float = 0.25
    adaptive_pooling: bool = False
    decoding: Decoding = "grow"

    needs: ClassVar[tuple[str, ...]] = ("segments",)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("redundancy_share", self.redundancy_share, 0.0, 1.0)
        check_number("recent_share", self.recent_share, 0.0, 1.0)
        check_flag("adaptive_pooling", self.adaptive_pooling)

    def protected(self, view: LayerView) -> torch.Tensor:
        """The prompt's text, beside what the options protect."""
        own = (segments_of(view) == PROMPT_TEXT) & ~view.hidden
        given = super().protected(view)
        return own if given is None else own | given

    def keep(self, view: LayerView, limit: int) -> torch.Tensor:
        """Unlike the newest frames first, then large values; later text above them."""
        later = (segments_of(view) == NOT_LABELLED) & ~view.hidden
        video = max(0, limit - int((self.protected(view) | later).sum(-1).max()))
        unlike = video - whole_tokens((1 - self.redundancy_share) * video, rounding="half_even")
        scores = self.score(view)
        if unlike:
            scores = always_above(scores, marked(highest(self._novelty(view), unlike), view.held))
        return self.best(view, always_above(scores, later), limit)

    def score(self, view: LayerView) -> torch.Tensor:
        """Norms of the values, averaged over neighbours where asked."""
        norms: torch.Tensor = torch.linalg.vector_norm(view.values.float(), dim=-1)
        axes, kernel = _POOLS[min(3, view.layer // max(1, view.depth // 4))]
        return _pooled(view, norms, axes, kernel) if self.adaptive_pooling and axes else norms

    def _novelty(self, view: LayerView) -> torch.Tensor:
        """Minus the mean cosine to the newest frames at the same place; these frames are above."""
        frames, cells = segments_of(view), cells_of(view).clamp(min=0).long()
        there = torch.unique(frames[frames >= 0])
        newest = share_of(len(there), self.recent_share, rounding="truncate")
        recent = frames > there[len(there) - newest - 1] if newest < len(there) else frames >= 0
        units = normalize(view.keys.float(), dim=-1)
        sums, counts = _by_cell(units, cells, recent)
        alike = (units * sums).sum(-1) / counts.clamp(min=1)
        novelty = always_above(-alike, recent)
        return novelty.masked_fill(frames < 0, -torch.inf)


def _by_cell(
    units: torch.Tensor, cells: torch.Tensor, recent: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """For every entry: (b, h, n, dim) sum and (b, h, n) number of the ``recent`` units at its cell."""
    rows, heads, _, dim = units.shape
    amount = int(cells.max()) + 1
    wide = cells[..., None].expand_as(units)
    sums = units.new_zeros(rows, heads, amount, dim).scatter_add_(2, wide, units * recent[..., None])
    counts = units.new_zeros(rows, heads, amount).scatter_add_(2, cells, recent.float())
    return sums.gather(2, wide), counts.gather(2, cells)


def _pooled(view: LayerView, norms: torch.Tensor, axes: int, kernel: int) -> torch.Tensor:
    """``norms`` of visual tokens averaged over ``axes`` of the grid; places nobody holds count as zero."""
    frames, cells = segments_of(view), cells_of(view)
    assert view.grid is not None  # cells come with it
    there = torch.unique(frames[frames >= 0])
    grid = len(there), *view.grid
    if axes > 1:
        kernel = min(kernel, *grid)
        kernel -= 1 - kernel % 2
    if kernel < 2:
        return norms
    per_frame = grid[1] * grid[2]
    visual = frames >= 0
    places = torch.where(
        visual, torch.searchsorted(there, frames.contiguous()) * per_frame + cells, grid[0] * per_frame
    )
    full = norms.new_zeros(*norms.shape[:2], grid[0] * per_frame + 1).scatter_(2, places, norms)[..., :-1]
    shape, half = (*norms.shape[:2], *grid), kernel // 2
    if axes == 3:
        pooled = avg_pool3d(full.reshape(shape), kernel, 1, half)
    elif axes == 2:
        pooled = avg_pool2d(full.reshape(-1, *grid), kernel, 1, half)
    else:
        pooled = avg_pool1d(full, kernel, 1, half)
    pooled = pooled.reshape(*norms.shape[:2], -1)
    return torch.where(visual, pooled.gather(2, places.clamp(max=pooled.shape[-1] - 1)), norms)
