"""TimeChat-Online's differential token drop: a token that repeats its place one frame earlier goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_number
from streamprune.errors import InvalidValueError, UnknownNameError
from streamprune.ops.selection import lowest
from streamprune.ops.temporal import previous_cosine, row_cosine
from streamprune.pre_llm.base import History, PreLLMMethod
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
    instead_of_budget: ClassVar[tuple[str, ...]] = ("threshold", "drop_share")

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
        by_threshold = self.threshold is not None
        if by_threshold or self.drop_share is not None or self.rank == "frame":
            return self._walk(tokens, {}, None if by_threshold else self._kept_of_frames(grid))[0]
        kept = torch.ones(grid.tokens, dtype=torch.bool, device=tokens.features.device)
        kept[grid.tokens_per_frame :] = False
        similarity = self._similarities(tokens, {}).flatten()
        room = sum(self._kept_of_frames(grid)) - grid.tokens_per_frame
        kept[grid.tokens_per_frame :][lowest(similarity, room)] = True
        return Reduction.select(tokens, kept.nonzero()[:, 0])

    def step(
        self, tokens: VisualTokens, before: History, keep: int | None = None
    ) -> tuple[Reduction, History]:
        """The same; of a first frame that may not stay whole, tokens in equal steps do."""
        whole, seen = tokens.grid.tokens_per_frame, int(before["frames"]) if before else 0
        numbers = range(seen, seen + tokens.grid.frames)
        if keep is not None:
            return self._walk(tokens, before, [min(keep, whole)] * len(numbers))
        if self.threshold is not None:
            return self._walk(tokens, before, None)
        return self._walk(tokens, before, [self._kept_of_frame(whole, number) for number in numbers])

    def _walk(
        self, tokens: VisualTokens, before: History, counts: Sequence[int] | None
    ) -> tuple[Reduction, History]:
        """Keep ``counts`` of each frame, or what the threshold lets stay."""
        frames, follows = tokens.frames, self.reference == "last_kept"
        kept = torch.zeros(frames.shape[:2], dtype=torch.bool, device=frames.device)
        latest = before["latest"].clone() if follows and before else None
        alike = [] if follows else [*self._similarities(tokens, before)]
        for number, frame in enumerate(frames):
            if follows:
                similarity = None if latest is None else row_cosine(frame, latest)
            else:
                similarity = alike.pop(0) if number or before else None
            kept[number] = self._choose(similarity, None if counts is None else counts[number], len(frame))
            if follows:
                latest = frame.float().clone() if latest is None else latest
                latest[kept[number]] = frame[kept[number]].float()
        seen = int(before["frames"]) if before else 0
        after = {"frames": torch.tensor(seen + len(frames))}
        if self.compare == "features":
            after["latest"] = frames[-1] if latest is None else latest
        return Reduction.select(tokens, kept.flatten().nonzero()[:, 0]), after

    def _similarities(self, tokens: VisualTokens, before: History) -> torch.Tensor:
        """(frames with one before them, tokens per frame): higher = more like the frame before."""
        grid, frames = tokens.grid, tokens.frames
        if self.compare == "features":
            return previous_cosine(torch.cat([before["latest"][None], frames]) if before else frames)
        change = tokens.signal("pixel_change", (grid.frames, grid.rows, grid.cols))
        return -change.float().flatten(1)[0 if before else 1 :]

    def _choose(self, similarity: torch.Tensor | None, count: int | None, tokens: int) -> torch.Tensor:
        """(tokens,) mask of the ``count`` least similar ones of a frame, or of those the threshold lets stay.

        With nothing to compare with, tokens in equal steps stay, or all.
        """
        if similarity is None:
            kept = tokens if count is None else count
            places = (2 * torch.arange(kept) + 1) * tokens // (2 * max(1, kept))
        elif count is None:
            assert self.threshold is not None
            return similarity <= (self.threshold if self.compare == "features" else -self.threshold)
        else:
            places = lowest(similarity, count)
        mask = torch.zeros(tokens, dtype=torch.bool, device=places.device)
        mask[places] = True
        return mask

    def _kept_of_frames(self, grid: VideoGrid) -> list[int]:
        """Tokens that each frame keeps; with ``rank="clip"`` only their sum counts."""
        whole = grid.tokens_per_frame
        if self.budget.keep_tokens is None:
            return [self._kept_of_frame(whole, number) for number in range(grid.frames)]
        kept = self.budget.tokens(grid.tokens)
        allowed = [max(whole, share_of(kept, number / grid.frames)) for number in range(1, grid.frames + 1)]
        return [whole, *(later - earlier for earlier, later in pairwise(allowed))]

    def _kept_of_frame(self, whole: int, number: int) -> int:
        """Tokens that frame ``number`` keeps of the ``whole``, by a share or a ratio."""
        if number == 0:
            return whole
        if self.drop_share is not None:
            return whole - share_of(whole, self.drop_share, rounding="truncate")
        earlier, later = (max(whole, self.budget.tokens(frames * whole)) for frames in (number, number + 1))
        return later - earlier
