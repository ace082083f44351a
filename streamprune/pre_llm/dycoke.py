"""DyCoke, first stage: in windows of four frames, keep one whole and of the others what changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_instead_of_budget, check_number
from streamprune.errors import UnknownNameError
from streamprune.ops.selection import lowest
from streamprune.ops.temporal import place_cosine
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Form = Literal["released", "paper"]

_WINDOW = 4


@dataclass(frozen=True)
class Plan:
    """What happens to each frame; a frame in neither list is lost.

    Attributes:
        whole: frames that keep every token.
        cut: (frame, the earlier frame it is compared with).
    """

    whole: list[int]
    cut: list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class DyCoke(PreLLMMethod):
    """Cut frames down to the tokens least like the same place of an earlier frame of their window.

    Within a window of four frames the first stays whole, the second is compared with it, the fourth with the
    third and the third with the first. Every cut frame keeps the same number of tokens. Nothing is averaged.

    A budget below the whole frames' share (a quarter in the paper, more as released) cannot be reached: the
    whole frames are then all that stays.

    Args:
        form: ``released`` never cuts the third frame of the last window and loses the last of an odd number
            of frames; ``paper`` treats all windows alike, an incomplete last one too.
        prune_share: instead of a budget: share of a cut frame's tokens that goes, in [0, 1]. The release has
            0.7.

    Source: arXiv 2411.15024 and its released implementation, whose second stage works while the answer is
    generated. Differences: up to four frames, where the release raises, an odd last frame stays whole.
    """

    form: Form = "released"
    prune_share: float | None = None

    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise UnknownNameError.among("form of dycoke", self.form, get_args(Form))
        if self.prune_share is not None:
            check_number("prune_share", self.prune_share, 0, 1)
        given = self.budget.is_given
        check_instead_of_budget("dycoke", {"prune_share": self.prune_share}, budget_given=given)

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """A share takes the place of the budget."""
        return self.prune_share is None and super().keeps_everything(grid)

    def count_reduced(self, grid: VideoGrid) -> int:
        """Whole frames, and the same number of tokens of each cut one."""
        plan = self.plan(grid.frames)
        return len(plan.whole) * grid.tokens_per_frame + len(plan.cut) * self._kept_of_cut(grid, plan)

    def plan(self, frames: int) -> Plan:
        """Which frames stay whole and which are cut, for a clip of ``frames``."""
        compared = {frame: frame - 1 for frame in range(1, frames, 2)}
        last = frames if self.form == "paper" else frames - _WINDOW
        compared |= {first + 2: first for first in range(0, last, _WINDOW) if first + 2 < frames}
        lost = frames - 1 if self.form == "released" and frames > _WINDOW and frames % 2 else frames
        whole = [frame for frame in range(lost) if frame not in compared]
        return Plan(whole, sorted(compared.items()))

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Compare each cut frame with its earlier one; tokens are emitted in the released order."""
        plan, per_frame = self.plan(tokens.grid.frames), tokens.grid.tokens_per_frame
        similarity = place_cosine(tokens.frames, plan.cut)
        changed = lowest(similarity, self._kept_of_cut(tokens.grid, plan))
        within = dict.fromkeys(plan.whole, torch.arange(per_frame, device=similarity.device))
        within |= {frame: place for (frame, _), place in zip(plan.cut, changed, strict=True)}
        emitted = [frame * per_frame + within[frame] for frame in sorted(within)]
        return Reduction.select(tokens, torch.cat(emitted))

    def _kept_of_cut(self, grid: VideoGrid, plan: Plan) -> int:
        """Tokens that every cut frame keeps."""
        if self.prune_share is not None:
            return share_of(grid.tokens_per_frame, 1 - self.prune_share, rounding="truncate")
        room = self.budget.tokens(grid.tokens) - len(plan.whole) * grid.tokens_per_frame
        return min(grid.tokens_per_frame, max(0, room) // max(1, len(plan.cut)))
