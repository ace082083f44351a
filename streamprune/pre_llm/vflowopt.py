"""VFlowOpt: keep what the tower's context tokens look at, and recycle some of the rest cell by cell."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.checks import check_number
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.ops.selection import highest
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Form = Literal["video", "image"]

_RECYCLING_CELL = 15.58


@dataclass(frozen=True, kw_only=True)
class VFlowOpt(PreLLMMethod):
    """Keep the clip's most important tokens; in the image form, blend the others into one token a cell.

    Needs ``context_attention`` (frames, rows, cols): in the tower layer that feeds the projector, the
    attention (mean of the heads) that a token gets from its frame's context tokens: those whose own received
    attention is above ``t`` times the frame's mean (released: 28.68 for a share of 0.5, 34.76 for 0.25,
    39.26 for 0.1; where none is, the most attended token alone). All frames compete for one budget.

    Args:
        form: ``video`` = what the release does to videos: the rest is dropped. ``image`` = what it does to
            tiled images, and the paper describes: room for one token per full cell is taken from the budget,
            and the tokens of a cell that were not kept become one, weighted by importance, in place of the
            heaviest of them. There may be more cells than room was made for, because of those cut by the
            frame's edge, or fewer; the count follows the cells.
        recycling_cell: only with ``image``: side of a cell in tokens, need not be whole, at least 1; cells
            do not span frames. None = 15.58, released for a share of 0.25 (0.5: 11.76; 0.1: 17.39).
        entropy_weight: the paper's second term, in [-1, 1], 0 in every released setting: how much the softmax
            over a frame of ``pixel_entropy`` (frames, rows, cols) adds to the importance. Unless it is 0,
            that signal is needed too: the entropy, in nats, of a token's grey pixels in 256 bins.

    Source: arXiv 2508.05211 and its release. Differences: the release counts the row or clip ends among the
    tokens that its share is taken of. A cell without importance is averaged, negative importance counts as
    none there. The cuts inside the language model and the search for all settings are other stages.
    """

    form: Form = "video"
    recycling_cell: float | None = None
    entropy_weight: float = 0.0

    needs: ClassVar[tuple[str, ...]] = ("context_attention",)

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise UnknownNameError.among("form of vflowopt", self.form, get_args(Form))
        check_number("entropy_weight", self.entropy_weight, -1, 1)
        if self.recycling_cell is not None:
            check_number("recycling_cell", self.recycling_cell, 1, math.inf)
            if self.form != "image":
                raise InvalidValueError("recycling_cell belongs to form='image' only; leave it out")
        if self.entropy_weight:
            object.__setattr__(self, "needs", (*self.needs, "pixel_entropy"))

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """After the released rounding, which may go up."""
        return self._asked(grid) == grid.tokens

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """Known without recycling."""
        return self._asked(grid) if self.form == "video" else None

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Rank the clip's tokens together."""
        grid = tokens.grid
        importance = self._importance(tokens)
        if self.form == "video":
            return Reduction.select(tokens, highest(importance, self._asked(grid)).sort().values)
        side = _RECYCLING_CELL if self.recycling_cell is None else self.recycling_cell
        kept = highest(importance, max(0, self._asked(grid) - int(grid.tokens / side**2)))
        rest = torch.ones(grid.tokens, dtype=torch.bool, device=kept.device)
        rest[kept] = False
        members = rest.nonzero()[:, 0]
        cell = _cells(grid, members, side)
        weight, heaviest = _blend_cells(importance[members], cell)
        part = weight > 0
        members, target, weight = members[part], members[heaviest][part], weight[part]
        index = torch.cat([kept, torch.unique(target)]).sort().values
        row = torch.searchsorted(index, torch.cat([kept, target]))
        ones = torch.ones(len(kept), device=kept.device)
        return Reduction.merge(tokens, index, (row, torch.cat([kept, members]), torch.cat([ones, weight])))

    def _asked(self, grid: VideoGrid) -> int:
        return self.budget.tokens(grid.tokens, rounding="half_even")

    def _importance(self, tokens: VisualTokens) -> torch.Tensor:
        grid = tokens.grid
        shape = (grid.frames, grid.rows, grid.cols)
        importance = tokens.signal("context_attention", shape).float().flatten(1)
        if self.entropy_weight:
            entropy = tokens.signal("pixel_entropy", shape).float().flatten(1)
            # the release measures in bits, which makes the softmax steeper
            importance = importance + self.entropy_weight * torch.softmax(entropy / math.log(2), 1)
        return importance.flatten()


def _cells(grid: VideoGrid, index: torch.Tensor, side: float) -> torch.Tensor:
    """(tokens,) int64: which occupied cell each token of ``index`` lies in, counted from 0."""
    frame, row, col = grid.places(index)
    down, across = (torch.floor(place.double() / side).long() for place in (row, col))
    place = (frame * grid.rows + down) * grid.cols + across
    cell: torch.Tensor = torch.unique(place, return_inverse=True)[1]
    return cell


def _blend_cells(importance: torch.Tensor, cell: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Share of each token in its cell (a cell's sum to 1), and each token's cell's heaviest token."""
    cells = int(cell.max()) + 1
    share = importance.clamp(min=0)
    total = share.new_zeros(cells).index_add(0, cell, share)[cell]
    members = torch.bincount(cell, minlength=cells)[cell]
    weight = torch.where(total > 0, share / total, 1 / members)
    most = importance.new_full((cells,), -math.inf).scatter_reduce(0, cell, importance, "amax")
    place = torch.arange(len(cell), device=cell.device)
    candidate = torch.where(importance == most[cell], place, len(cell))
    heaviest = torch.full_like(most, len(cell), dtype=torch.int64).scatter_reduce(0, cell, candidate, "amin")
    return weight, heaviest[cell]
