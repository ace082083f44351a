"""TimeChat-Online's differential token drop: a token that repeats its place one frame earlier goes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_number
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.ops.selection import lowest
from streamprune.ops.temporal import previous_cosine, row_cosine
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Compare = Literal["features", "pixels"]
Reference = Literal["previous", "last_kept"]
Rank = Literal["clip", "frame"]


@dataclass(frozen=True, kw_only=True)
class TimeChatOnline(PreLLMMethod):
    """Keep the whole first frame and drop the later tokens most like their place one frame earlier.

    Say how much goes in one of three ways: by a threshold, by a share of every frame (the two released
    forms), or by a budget. The first frame stays whatever is said; a still frame may lose all its tokens.

    Args:
        threshold: drop tokens with a cosine above it, in [-1, 1]; with ``pixels`` those that changed by less,
            in [0, 1]. The release has 0.25 for features.
        drop_share: drop this share of every later frame, in [0, 1], the most similar first.
        compare: the ``features``, or the ``pixels`` below them, for which the signal ``pixel_change``
            (frames, rows, cols) is needed; :func:`streamprune.ops.pixels.patch_change` makes it.
        reference: a token is compared with its place in the ``previous`` frame, kept or not (as released), or
            with the token ``last_kept`` there, so that slow drift is noticed at last; features only.
        rank: with a budget, similarities are ranked over the whole ``clip`` (what one threshold for the clip
            amounts to), or within every ``frame``, which needs no later frame: each gets what the budget
            allows up to there, so that after the first frame none is kept until the share has been met.

    Live streams need ``threshold``, ``drop_share`` or ``rank="frame"`` with a ratio; such an instance has
    ``causal`` set.

    Source: arXiv 2504.17343. Differences: the budget is ours; of equally similar tokens the lower index
    stays.
    """

    threshold: float | None = None
    drop_share: float | None = None
    compare: Compare = "features"
    reference: Reference = "previous"
    rank: Rank = "clip"

    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        for name, kinds in (("compare", Compare), ("reference", Reference), ("rank", Rank)):
            if getattr(self, name) not in get_args(kinds):
                raise UnknownNameError.among(
                    f"{name} of timechat_online", getattr(self, name), get_args(kinds)
                )
        if self.threshold is not None:
            check_number("threshold", self.threshold, 0 if self.compare == "pixels" else -1, 1)
        if self.drop_share is not None:
            check_number("drop_share", self.drop_share, 0, 1)
        given = [name for name in ("threshold", "drop_share") if getattr(self, name) is not None]
        given += ["a budget"] * self.budget.is_given
        if len(given) > 1:
            raise InvalidValueError(f"give threshold, drop_share or a budget, got {' and '.join(given)}")
        by_frame = self.rank == "frame" or "a budget" not in given
        if self.reference == "last_kept" and (self.compare == "pixels" or not by_frame):
            raise InvalidValueError(
                "reference='last_kept' needs compare='features', and a budget with it rank='frame'"
            )
        if self.compare == "pixels":
            object.__setattr__(self, "needs", ("pixel_change",))
        if by_frame and self.budget.keep_tokens is None:
            object.__setattr__(self, "causal", True)

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """A threshold or a share takes the place of the budget."""
        return self.threshold is None and self.drop_share is None and super().keeps_everything(grid)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """Unknown only with a threshold."""
        if self.threshold is not None:
            return None
        return sum(self._kept_of_frames(grid))

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Keep the first frame, then by threshold or by rank."""
        grid = tokens.grid
        kept = torch.ones(grid.frames, grid.tokens_per_frame, dtype=torch.bool, device=tokens.features.device)
        if self.reference == "last_kept":
            self._follow(tokens.frames, kept)
        elif self.threshold is None and self.drop_share is None and self.rank == "clip":
            similarity = self._similarity(tokens).flatten()
            kept[1:] = False
            room = sum(self._kept_of_frames(grid)) - grid.tokens_per_frame
            kept[1:].view(-1)[lowest(similarity, room)] = True
        else:
            counts = None if self.threshold is not None else self._kept_of_frames(grid)
            for frame, similarity in enumerate(self._similarity(tokens), 1):
                kept[frame] = self._choose(similarity, None if counts is None else counts[frame])
        return Reduction.select(tokens, kept.flatten().nonzero()[:, 0])

    def _similarity(self, tokens: VisualTokens) -> torch.Tensor:
        """(frames - 1, tokens per frame): higher = more like the frame before."""
        if self.compare == "features":
            return previous_cosine(tokens.frames)
        grid = tokens.grid
        change = tokens.signal("pixel_change", (grid.frames, grid.rows, grid.cols))
        return -change.float().flatten(1)[1:]

    def _follow(self, frames: torch.Tensor, kept: torch.Tensor) -> None:
        """Fill the mask ``kept``, comparing each token with the one last kept at its place."""
        grid = VideoGrid(kept.shape[0], kept.shape[1], 1)
        counts = None if self.threshold is not None else self._kept_of_frames(grid)
        latest = frames[0].float().clone()
        for frame in range(1, grid.frames):
            similarity = row_cosine(frames[frame], latest)
            kept[frame] = self._choose(similarity, None if counts is None else counts[frame])
            latest[kept[frame]] = frames[frame, kept[frame]].float()

    def _choose(self, similarity: torch.Tensor, count: int | None) -> torch.Tensor:
        """Mask of the ``count`` least similar tokens of a frame, or of those the threshold lets stay."""
        if self.threshold is not None:
            return similarity <= (self.threshold if self.compare == "features" else -self.threshold)
        mask = torch.zeros_like(similarity, dtype=torch.bool)
        mask[lowest(similarity, count or 0)] = True
        return mask

    def _kept_of_frames(self, grid: VideoGrid) -> list[int]:
        """Tokens that each frame keeps; with ``rank="clip"`` only their sum counts."""
        whole = grid.tokens_per_frame
        if self.drop_share is not None:
            return [whole] + [whole - share_of(whole, self.drop_share, rounding="truncate")] * (
                grid.frames - 1
            )
        allowed = [max(whole, self._allowed(grid, frames)) for frames in range(1, grid.frames + 1)]
        return [whole, *(later - earlier for earlier, later in pairwise(allowed))]

    def _allowed(self, grid: VideoGrid, frames: int) -> int:
        """Tokens that the budget allows in the first ``frames`` of the clip."""
        if self.budget.keep_tokens is None:
            return self.budget.tokens(frames * grid.tokens_per_frame)
        return share_of(self.budget.tokens(grid.tokens), frames / grid.frames)
