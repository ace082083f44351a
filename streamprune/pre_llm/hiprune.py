"""HiPrune: object tokens by a middle tower layer, their neighbours, and the rest by the deep layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import Rounding, whole_tokens
from streamprune.checks import check_flag, check_number
from streamprune.errors import UnknownNameError
from streamprune.ops.selection import highest, marked
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Form = Literal["llava", "qwen2_5_vl"]

_ROUNDING: dict[Form, Rounding] = {"llava": "truncate", "qwen2_5_vl": "half_even"}


@dataclass(frozen=True, kw_only=True)
class HiPrune(PreLLMMethod):
    """Keep anchors, the grid neighbours of anchors, and the globally most attended of the other tokens.

    Needs ``received_attention_middle`` and ``received_attention`` (frames, rows, cols), higher = kept first,
    from a middle tower layer (released: the 9th of 24, for Qwen2.5-VL the 16th of 32) and from the layer that
    feeds the projector.

    In every frame the tokens most attended in the middle layer are anchors; the tokens left, right, above and
    below an anchor stay with it; what is left of the budget goes to the tokens most attended in the deep
    layer. Kept tokens stay unchanged and in their places.

    Args:
        form: how a frame's share of the budget becomes a number: ``llava`` rounds down, ``qwen2_5_vl`` to the
            nearest integer (half to even).
        anchor_ratio: share of a frame's budget meant for anchors with their four neighbours, in [0, 1]; a
            fifth of it, rounded to the nearest integer, is the number of anchors. 0 = deep layer only.
        wrap_rows: whether left and right neighbours run on in the next row and neighbours beyond the frame
            move to its first or last token, as released; False leaves both out.

    Source: arXiv 2508.00553 and its release. Differences: ties go to the lower token. Where anchors and
    neighbours are more than the budget the release raises; here the neighbours least attended in the deep
    layer are left out.
    """

    form: Form = "llava"
    anchor_ratio: float = 0.1
    wrap_rows: bool = True

    needs: ClassVar[tuple[str, ...]] = ("received_attention_middle", "received_attention")
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise UnknownNameError.among("form of hiprune", self.form, get_args(Form))
        check_number("anchor_ratio", self.anchor_ratio, 0, 1)
        check_flag("wrap_rows", self.wrap_rows)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number of every frame."""
        return grid.frames * self._frame_budget(grid)

    def anchors(self, per_frame: int) -> int:
        """Anchors of a frame that keeps ``per_frame`` tokens."""
        return whole_tokens(per_frame * self.anchor_ratio / 5, rounding="half_even")

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Anchors first, then their neighbours, then the others, each by the deep layer."""
        grid = tokens.grid
        frames, in_frame = grid.frames, grid.tokens_per_frame
        shape = (frames, grid.rows, grid.cols)
        middle = tokens.signal("received_attention_middle", shape).float().reshape(frames, in_frame)
        deep = tokens.signal("received_attention", shape).float().reshape(frames, in_frame)
        per_frame = self._frame_budget(grid)
        anchors = highest(middle, self.anchors(per_frame))
        is_anchor = marked(anchors, in_frame)
        is_buffer = marked(self._neighbours(anchors, grid), in_frame)
        rank = torch.where(is_anchor, 0, torch.where(is_buffer, 1, 2))
        by_deep = highest(deep, in_frame)
        by_rank = torch.sort(rank.gather(1, by_deep), dim=1, stable=True).indices
        kept = by_deep.gather(1, by_rank[:, :per_frame])
        start = torch.arange(frames, device=kept.device)[:, None] * in_frame
        return Reduction.select(tokens, (kept + start).flatten().sort().values)

    def _neighbours(self, anchors: torch.Tensor, grid: VideoGrid) -> torch.Tensor:
        """(frames, 4 * anchors): the tokens beside ``anchors``, or an anchor itself where there is none."""
        steps = torch.tensor([-1, 1, -grid.cols, grid.cols], device=anchors.device)
        beside = anchors[:, None, :] + steps[:, None]  # (frames, 4, anchors)
        inside = beside.clamp(0, grid.tokens_per_frame - 1)
        if not self.wrap_rows:
            anchor = anchors[:, None, :]
            col = anchor % grid.cols
            exists = torch.cat([col > 0, col < grid.cols - 1, beside[:, 2:] == inside[:, 2:]], 1)
            inside = torch.where(exists, inside, anchor)
        return inside.flatten(1)

    def _frame_budget(self, grid: VideoGrid) -> int:
        return self.budget.per_frame(grid.frames, grid.tokens_per_frame, rounding=_ROUNDING[self.form])
