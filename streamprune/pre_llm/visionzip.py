"""VisionZip: keep the tokens of each frame that get most attention, merge the others into a few."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.ops.merging import add_member_means, blend_into_anchors
from streamprune.ops.nearest import nearest_targets
from streamprune.ops.selection import highest, marked, marked_places
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Form = Literal["video", "clip"]
Merge = Literal["sum", "mean"]

# the released settings of 64, 128 and 192 tokens are all split 54 to 10
_DOMINANT_SHARE = 54 / 64


@dataclass(frozen=True, kw_only=True)
class VisionZip(PreLLMMethod):
    """Keep each frame's most attended tokens and merge the rest, by their keys, into evenly spaced ones.

    Needs ``received_attention`` (frames, rows, cols), higher = kept first, and ``keys`` (frames, rows, cols,
    channels). For a tower with a [CLS] token pass its attention row as ``received_attention``: the released
    code for such towers ranks by it.

    Every frame keeps the same number of tokens. The highest scores are dominant and stay unchanged. Of the
    remaining list every n-th token becomes a contextual one; each other token joins the contextual one whose
    key is most like its own. The dominant tokens of a frame are emitted first, then the contextual ones.

    Args:
        form: ``video`` lets every token compete (the adaptation to towers without [CLS], run on projected and
            pooled features). ``clip`` is the original: the first token of every frame is the [CLS] row, put
            before the patches; it always stays, as one of the dominant ones.
        dominant: dominant tokens of a frame, at least 0 (``clip``: 1) and at most the frame's budget; None =
            54/64 of it, rounded down.
        merge: ``sum`` adds the mean of those that joined to a contextual token, about doubling it, as
            released; ``mean`` is the plain mean of all of them, as the paper's text says.

    Source: arXiv 2412.04467 and its releases for CLIP and for video models. Differences: the budget of a
    frame is a share rounded down, the releases list counts by hand; a budget of one token a frame leaves one
    contextual token (``clip``: the [CLS] row alone).
    """

    form: Form = "video"
    dominant: int | None = None
    merge: Merge = "sum"

    needs: ClassVar[tuple[str, ...]] = ("received_attention", "keys")
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name, choices in (("form", get_args(Form)), ("merge", get_args(Merge))):
            if getattr(self, name) not in choices:
                raise UnknownNameError.among(f"{name} of visionzip", getattr(self, name), choices)
        if self.dominant is not None:
            check_count("dominant", self.dominant, least=self._least_dominant)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number of every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def split(self, per_frame: int) -> tuple[int, int]:
        """Dominant and contextual tokens of a frame that keeps ``per_frame``."""
        dominant = self.dominant
        if dominant is None:
            dominant = max(self._least_dominant, share_of(per_frame, _DOMINANT_SHARE))
        if dominant > per_frame:
            raise InvalidValueError(
                f"dominant must be at most the {per_frame} tokens that a frame keeps, got {dominant}; "
                "lower it or raise the budget"
            )
        return dominant, per_frame - dominant

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Rank, space out the contextual tokens, and let the others join them."""
        grid = tokens.grid
        frames, in_frame = grid.frames, grid.tokens_per_frame
        shape = (frames, grid.rows, grid.cols)
        score = tokens.signal("received_attention", shape).float().reshape(frames, in_frame)
        keys = tokens.signal("keys", (*shape, None)).reshape(frames, in_frame, -1)
        dominant, contextual = self.split(self.budget.per_frame(frames, in_frame))
        if self.form == "clip":
            first = torch.arange(in_frame, device=score.device) == 0
            score = score.masked_fill(first, float("inf"))
        chosen = marked(highest(score, dominant), in_frame)
        start = torch.arange(frames, device=chosen.device)[:, None] * in_frame
        kept = marked_places(chosen) + start
        if contextual == 0:
            return Reduction.select(tokens, kept.flatten())
        target, member = _space_out(marked_places(~chosen), contextual)
        joined = nearest_targets(_rows_at(keys, member), _rows_at(keys, target))
        joined = joined + torch.arange(frames, device=joined.device)[:, None] * contextual
        parts = ((target + start).flatten(), (member + start).flatten(), joined.flatten())
        blended = add_member_means(*parts) if self.merge == "sum" else blend_into_anchors(*parts, 0.0)
        emitted = torch.cat([kept, target + start], 1).flatten()
        index = emitted.sort().values
        row = torch.searchsorted(index, torch.cat([kept.flatten(), blended[0]]))
        token = torch.cat([kept.flatten(), blended[1]])
        weight = torch.cat([torch.ones(kept.numel(), device=kept.device), blended[2]])
        order = torch.searchsorted(index, emitted)
        return Reduction.merge(tokens, index, (row, token, weight), order=order)

    @property
    def _least_dominant(self) -> int:
        return 1 if self.form == "clip" else 0


def _space_out(rest: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the columns of (frames, places): ``count`` evenly spaced from the first, and the others."""
    length = rest.shape[1]
    column = torch.arange(length, device=rest.device)
    step = max(1, length // count)
    is_target = (column % step == 0) & (column < count * step)
    return rest[:, is_target], rest[:, ~is_target]


def _rows_at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(frames, count, channels): the rows of (frames, tokens, channels) at ``places`` (frames, count)."""
    return values.gather(1, places[:, :, None].expand(-1, -1, values.shape[2]))
