"""EVS: keep the first frame and, of all later tokens, those that changed most since the frame before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.errors import UnknownNameError
from streamprune.ops.selection import highest
from streamprune.ops.temporal import previous_cosine
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Compare = Literal["features", "pixels"]


@dataclass(frozen=True, kw_only=True)
class EVS(PreLLMMethod):
    """Keep the whole first frame and the later tokens least like their place one frame earlier.

    One ranking runs over the whole clip, so a moving frame may keep all its tokens and a still one none. The
    first frame stays however small the budget is.

    Args:
        compare: what is compared at a place: the ``features`` (as released) by their cosine, or the
            ``pixels`` under it (the paper), for which the signal ``pixel_change`` (frames, rows, cols) is
            needed; :func:`streamprune.ops.pixels.patch_change` makes it.

    Source: arXiv 2510.14624, and its implementation in vLLM. ``keep_ratio`` is one minus the pruning rate
    there, and the count is rounded alike. Differences: where a place repeats exactly its cosine is 1 here, so
    that a still video keeps its first tokens; the release leaves that to rounding. The paper keeps what lies
    above a quantile of all changes; here exactly as many tokens as with features.
    """

    compare: Compare = "features"

    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        if self.compare not in get_args(Compare):
            raise UnknownNameError.among("compare of evs", self.compare, get_args(Compare))
        if self.compare == "pixels":
            object.__setattr__(self, "needs", ("pixel_change",))

    def count_reduced(self, grid: VideoGrid) -> int:
        """The released rounding, and at least one frame."""
        return self.budget.tokens(grid.tokens, rounding="truncate", minimum=grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Rank the change of every later token."""
        first = tokens.grid.tokens_per_frame
        changed = highest(self._change(tokens).flatten(), self.count_reduced(tokens.grid) - first)
        whole = torch.arange(first, device=changed.device)
        return Reduction.select(tokens, torch.cat([whole, (changed + first).sort().values]))

    def _change(self, tokens: VisualTokens) -> torch.Tensor:
        """(frames - 1, tokens per frame) change of every token since the frame before."""
        grid = tokens.grid
        if self.compare == "pixels":
            return tokens.signal("pixel_change", (grid.frames, grid.rows, grid.cols)).float()[1:]
        return 1 - previous_cosine(tokens.frames)
