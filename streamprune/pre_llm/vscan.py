"""VScan, first stage: a local scan window by window, a global scan, and a mean for what is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_flag, check_number
from streamprune.errors import UnknownNameError
from streamprune.ops.merging import blend_into_anchors
from streamprune.ops.nearest import nearest_targets
from streamprune.ops.selection import highest, marked, marked_places
from streamprune.ops.windows import rank_in_parts, window_of
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Form = Literal["llava", "qwen2_5_vl"]

_WINDOW: dict[Form, int] = {"llava": 6, "qwen2_5_vl": 4}


@dataclass(frozen=True, kw_only=True)
class VScan(PreLLMMethod):
    """Keep the best of every window by a shallow tower layer and the best of the frame by the deep one.

    Needs ``received_attention_shallow`` and ``received_attention`` (frames, rows, cols), higher = kept first,
    from a shallow tower layer and from the one that feeds the projector. For a tower with a [CLS] token pass
    its attention rows (released: of the 6th layer and the last but one) under these names.

    Part of every frame's budget is spent inside the windows its grid is cut into, the rest on those of the
    other tokens that are most attended in the deep layer. Every token dropped joins the kept token of its
    frame that it is most like; a kept token becomes the plain mean of itself and those that joined it.

    Args:
        form: how windows take their share. ``llava``: all the same, rounded down, so that less than the
            budget is kept where it does not divide. ``qwen2_5_vl``: by falling attention over the whole
            frame, each window at most the share rounded up.
        local_ratio: share of a frame's budget for the windows, in [0, 1], rounded down.
        window: side of a window in tokens; None = the form's own, 6 and 4. Rows and columns too few for
            another window belong to the last.
        fill_budget: whether the global scan takes what the windows leave; the release does not.

    Source: arXiv 2505.22654 and its release, without the pruning inside the language model. Differences: ties
    go to the lower token; for ``llava`` the release has 24 x 24 tokens in 16 windows built in; where nothing
    would be kept of a frame, its most attended token is.
    """

    form: Form = "llava"
    local_ratio: float = 0.5
    window: int | None = None
    fill_budget: bool = False

    needs: ClassVar[tuple[str, ...]] = ("received_attention_shallow", "received_attention")
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise UnknownNameError.among("form of vscan", self.form, get_args(Form))
        check_number("local_ratio", self.local_ratio, 0, 1)
        if self.window is not None:
            check_count("window", self.window)
        check_flag("fill_budget", self.fill_budget)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number of every frame."""
        local, _, globally = self._shares(grid, self._windows(grid))
        return grid.frames * (local + globally)

    def local_scan(self, shallow: torch.Tensor, grid: VideoGrid) -> torch.Tensor:
        """(frames, count) int64: tokens chosen inside windows, by falling ``shallow`` (frames, tokens)."""
        window = self._windows(grid)
        count, limit, _ = self._shares(grid, window)
        rank = rank_in_parts(shallow, window.to(shallow.device))
        return highest(shallow.masked_fill(rank >= limit, -float("inf")), count)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Scan, scan again, and let what is dropped join what is kept."""
        grid = tokens.grid
        frames, in_frame = grid.frames, grid.tokens_per_frame
        shape = (frames, grid.rows, grid.cols)
        shallow = tokens.signal("received_attention_shallow", shape).float().reshape(frames, in_frame)
        deep = tokens.signal("received_attention", shape).float().reshape(frames, in_frame)
        _, _, globally = self._shares(grid, self._windows(grid))
        local = self.local_scan(shallow, grid)
        left = deep.masked_fill(marked(local, in_frame), -float("inf"))
        is_kept = marked(torch.cat([local, highest(left, globally)], 1), in_frame)
        kept, dropped = marked_places(is_kept), marked_places(~is_kept)
        centres = tokens.frames.gather(1, kept[:, :, None].expand(-1, -1, tokens.features.shape[1]))
        joined = nearest_targets(tokens.frames, centres).gather(1, dropped)
        frame = torch.arange(frames, device=kept.device)[:, None]
        index = (kept + frame * in_frame).flatten()
        target, token, weight = blend_into_anchors(
            index, (dropped + frame * in_frame).flatten(), (joined + frame * kept.shape[1]).flatten(), 0.0
        )
        return Reduction.merge(tokens, index, (torch.searchsorted(index, target), token, weight))

    def _windows(self, grid: VideoGrid) -> torch.Tensor:
        return window_of(grid.rows, grid.cols, _WINDOW[self.form] if self.window is None else self.window)

    def _shares(self, grid: VideoGrid, window: torch.Tensor) -> tuple[int, int, int]:
        """Tokens of a frame chosen inside windows, at most how many in one, and tokens chosen globally."""
        per_frame = self.budget.per_frame(grid.frames, grid.tokens_per_frame, rounding="truncate")
        meant = share_of(per_frame, self.local_ratio, rounding="truncate")
        size = torch.bincount(window)
        if self.form == "llava":
            limit = meant // len(size)
            local = int(size.clamp(max=limit).sum())
        else:
            limit = -(-meant // len(size))
            local = min(meant, int(size.clamp(max=limit).sum()))
        globally = per_frame - (local if self.fill_budget else meant)
        return local, limit, globally if local else max(globally, 1)
