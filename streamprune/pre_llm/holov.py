"""HoloV: share a frame's budget out over runs of its tokens, so that none of them is left without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import split_evenly, whole_tokens
from streamprune.checks import check_count, check_flag, check_number
from streamprune.errors import SignalError
from streamprune.ops.windows import rank_in_parts
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

# as released: attention is brought to the size of the variance's scores, and nothing divides by zero
_ATTENTION_SCALE = 1e3
_EPSILON = 1e-6
# chunks of a Qwen2.5-VL frame: so many for each time the frame is longer than what is kept of it
_CHUNKS_PER_SHORTENING = 1024 / 576


@dataclass(frozen=True, kw_only=True)
class HoloV(PreLLMMethod):
    """Cut each frame into runs of tokens, give runs a quota by their score, keep the best of each run.

    Needs ``saliency`` (frames, rows, cols), at least 0, higher = kept first: the [CLS] row, or received
    attention where a tower has none, as the release for Qwen2.5-VL takes it.

    A chunk is a run of the raster order, all chunks of a frame as long as possible the same. A token scores
    its attention plus the variance of its cosines with the tokens of its chunk, scaled to the chunk's mean
    attention; a chunk scores the mean of its tokens and gets a share of the budget in proportion. What the
    rounding leaves goes to the chunks with the highest shares, one token each.

    Args:
        num_chunks: chunks of a frame, at most one per token; None = as many as released for Qwen2.5-VL, 1024
            / 576 times the frame's tokens over those kept of it.
        variance_weight: of the variance, in [0, 1000]; None = 0.09, and 1 unless ``as_released``.
        power: chunks share the budget by this power of their score, in [0, 100]; 0 = evenly.
        as_released: the release ranks the tokens of a chunk by attention alone; a quota above the length of
            its chunk is kept as zero rows at the end of the frame; a chunk of one token is scored by its
            plain attention, a thousandth of what others get. False: tokens are ranked by their whole score,
            what a chunk cannot hold goes to the others, and all chunks are scored alike, as in the paper.

    Source: arXiv 2510.02912 and its release. Because the variance is scaled to the attention of its chunk,
    quotas depend on attention all but alone. A frame without any attention gets one token of each chunk and
    zero rows. Differences: ties go to the lower token and chunk; negative attention is refused; the paper's
    later retrieval of dropped tokens is left out, as released.
    """

    num_chunks: int | None = 16
    variance_weight: float | None = None
    power: float = 1.0
    as_released: bool = True

    needs: ClassVar[tuple[str, ...]] = ("saliency",)
    causal: ClassVar[bool] = True
    may_repeat: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.num_chunks is not None:
            check_count("num_chunks", self.num_chunks)
        if self.variance_weight is not None:
            check_number("variance_weight", self.variance_weight, 0, 1000)
        check_number("power", self.power, 0, 100)
        check_flag("as_released", self.as_released)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number of every frame, zero rows included."""
        return grid.frames * self._frame_budget(grid)

    def chunk_lengths(self, in_frame: int, per_frame: int) -> list[int]:
        """Tokens in each chunk of a frame with ``in_frame`` tokens that keeps ``per_frame`` of them."""
        chunks = self.num_chunks
        if chunks is None:
            chunks = max(1, whole_tokens(_CHUNKS_PER_SHORTENING * in_frame / per_frame, rounding="truncate"))
        chunks = min(chunks, in_frame)
        return split_evenly(in_frame, [in_frame] * chunks)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Score tokens and chunks, share the budget out, rank inside the chunks."""
        grid = tokens.grid
        frames, in_frame = grid.frames, grid.tokens_per_frame
        attention = tokens.signal("saliency", (frames, grid.rows, grid.cols)).float().reshape(frames, -1)
        if bool((attention < 0).any()):
            raise SignalError(f"signal 'saliency' must be at least 0 for holov, got {float(attention.min())}")
        per_frame = self._frame_budget(grid)
        lengths = torch.tensor(self.chunk_lengths(in_frame, per_frame), device=attention.device)
        score, chunk_score = self._scores(tokens.frames, attention, lengths.tolist())
        quota = self.quotas(chunk_score, lengths, per_frame)
        part = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        rank = rank_in_parts(attention if self.as_released else score, part)
        chosen = rank < quota[:, part]
        # a chunk kept whole stays in raster order
        first = lengths.cumsum(0) - lengths
        place = torch.arange(in_frame, device=part.device)
        emitted_at = torch.where(quota[:, part] < lengths[part], first[part] + rank, place)
        start = torch.arange(frames, device=part.device)[:, None] * in_frame
        token = torch.where(chosen, place + start, -1)
        emitted = torch.empty_like(token).scatter_(1, emitted_at, token)
        by_chosen = torch.sort((emitted < 0).int(), dim=1, stable=True).indices
        return Reduction.select(tokens, emitted.gather(1, by_chosen[:, :per_frame]).flatten())

    def quotas(self, chunk_score: torch.Tensor, lengths: torch.Tensor, per_frame: int) -> torch.Tensor:
        """(frames, chunks) int64: tokens each chunk gets of ``per_frame``, for scores of the same shape."""
        share = chunk_score
        if self.power != 1:  # of at most 1, so that no power overflows
            share = (share / share.amax(1, keepdim=True).clamp(min=_EPSILON)) ** self.power
        share = share / (share.sum(1, keepdim=True) + _EPSILON)
        quota = (share * per_frame).floor().long()
        rank = rank_in_parts(share, torch.zeros_like(lengths))
        quota += rank < per_frame - quota.sum(1, keepdim=True)
        if not self.as_released:
            quota = _within(quota, lengths, rank, per_frame)
        return quota

    def _scores(
        self, features: torch.Tensor, attention: torch.Tensor, lengths: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores (frames, tokens) and (frames, chunks) for (frames, tokens, channels) features."""
        weight = self.variance_weight
        if weight is None:
            weight = 0.09 if self.as_released else 1.0
        token_scores, chunk_scores = [], []
        chunks = zip(torch.split(features, lengths, 1), torch.split(attention, lengths, 1), strict=True)
        for chunk, seen in chunks:
            score = seen * _ATTENTION_SCALE
            if chunk.shape[1] > 1:
                variance = _cosine_variance(chunk)
                mean = variance.mean(1, keepdim=True)
                score = score + weight * variance * (score.mean(1, keepdim=True) / (mean + _EPSILON))
            elif self.as_released:
                score = seen
            token_scores.append(score)
            chunk_scores.append(score.mean(1))
        return torch.cat(token_scores, 1), torch.stack(chunk_scores, 1)

    def _frame_budget(self, grid: VideoGrid) -> int:
        return self.budget.per_frame(grid.frames, grid.tokens_per_frame, rounding="truncate")


def _cosine_variance(chunk: torch.Tensor) -> torch.Tensor:
    """(frames, tokens) spread of each token's cosines in a chunk (frames, tokens > 1, channels).

    The token's cosine with itself counts as 0 but is not divided by, as released.
    """
    values = chunk.float()
    products = torch.bmm(values, values.transpose(1, 2))
    length = products.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt() + _EPSILON
    cosine = products / length[:, :, None] / length[:, None]
    cosine.diagonal(dim1=1, dim2=2).zero_()
    others = chunk.shape[1] - 1
    mean = cosine.sum(2, keepdim=True) / others
    return (cosine - mean).square().sum(2) / others


def _within(quota: torch.Tensor, lengths: torch.Tensor, rank: torch.Tensor, per_frame: int) -> torch.Tensor:
    """Move what chunks cannot hold to those with room, one token each by ``rank``, round after round."""
    quota = quota.minimum(lengths)
    while bool(((left := per_frame - quota.sum(1, keepdim=True)) > 0).any()):
        has_room = quota < lengths
        turn = torch.argsort(torch.where(has_room, rank, rank + len(lengths)), dim=1).argsort(1)
        quota = quota + (has_room & (turn < left))
    return quota
