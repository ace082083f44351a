"""VidCom2: frames unlike the rest of the video keep more tokens, and tokens unlike their frame stay."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import share_of, whole_tokens
from streamprune.checks import check_flag, check_number
from streamprune.ops.gaussian import distances_to_centre, gaussian_similarity, mean_direction
from streamprune.ops.selection import highest, lowest
from streamprune.ops.subspace import channel_moments, masked_lengths
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class VidCom2(PreLLMMethod):
    """Keep the tokens least like the middle of the video and of their frame, more of them in unusual frames.

    Tokens are compared by direction in the channels that vary least over the video. How far a frame's tokens
    are from the middle of the video on average decides its share, between the budget and twice the budget.

    Args:
        channel_share: share of the channels that are compared, in [0, 1], those of lowest variance; at least
            one channel.
        temperature: of the softmax over frames that shares the budget out, in [1e-6, 1e6]; small = the most
            unusual frame takes all there is to gain.
        exact_count: keep exactly the announced count, as the implementation in vLLM does: what rounding left
            over or short is taken from, or given to, the whole video by score. Without it (the authors'
            release) every frame rounds its own share to the nearest integer and keeps at least one token, so
            that the total moves about the budget by up to half a token per frame.

    Source: arXiv 2505.14454. Differences: none in the choice; ties go to the lower index. The row-end tokens
    that one released model adds to every frame belong to the prompt and are not made here.
    """

    channel_share: float = 0.5
    temperature: float = 0.01
    exact_count: bool = False

    needs: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self) -> None:
        check_number("channel_share", self.channel_share, 0, 1)
        check_number("temperature", self.temperature, 1e-6, 1e6)
        check_flag("exact_count", self.exact_count)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """Only ``exact_count`` promises one."""
        if not self.exact_count:
            return None
        return self.budget.tokens(grid.tokens, rounding="truncate", minimum=grid.frames)

    def frame_shares(self, video_similarity: torch.Tensor, share: float) -> torch.Tensor:
        """(frames,) kept share of every frame from (frames, tokens per frame) similarity to the video."""
        unusual = -video_similarity.mean(1)
        weight = torch.softmax((unusual - unusual.max()) / self.temperature, 0)
        return (share * (1 + weight - weight.mean())).clamp(max=1)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Score, share the budget out, and keep the lowest scores of each frame."""
        grid = tokens.grid
        to_video, to_frame = similarities(tokens.frames, self.channel_share)
        similarity = to_video + to_frame
        ranking = lowest(similarity, grid.tokens_per_frame)
        kept = torch.zeros_like(similarity, dtype=torch.bool)
        # multiplied in float32 as released: shares that should end on half a token end there only so
        wanted_each = self.frame_shares(to_video, self._share(grid)) * grid.tokens_per_frame
        for frame, count in enumerate(wanted_each.tolist()):
            kept[frame, ranking[frame, : max(1, whole_tokens(count, rounding="half_even"))]] = True
        kept = kept.flatten()
        wanted = self.count_reduced(grid)
        if wanted is not None:
            _reconcile(kept, similarity.flatten(), wanted)
        return Reduction.select(tokens, kept.nonzero()[:, 0])

    def _share(self, grid: VideoGrid) -> float:
        if self.budget.keep_ratio is not None:
            return self.budget.keep_ratio
        return self.budget.tokens(grid.tokens) / grid.tokens


def similarities(frames: torch.Tensor, channel_share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Gaussian similarity of each token to the middle of the video, and to the middle of its frame.

    Args:
        frames: (frames, tokens per frame, channels).
        channel_share: share of the channels that count, those of lowest variance; at least one.

    Returns:
        Two (frames, tokens per frame) float32 tensors.
    """
    _, variance = channel_moments(frames.flatten(0, 1))
    mask = torch.zeros(frames.shape[2], device=frames.device)
    mask[lowest(variance, max(1, share_of(frames.shape[2], channel_share, rounding="truncate")))] = 1
    lengths = [masked_lengths(frame, mask) for frame in frames]
    centres = [mean_direction(frame, length, mask) for frame, length in zip(frames, lengths, strict=True)]
    middle = torch.stack(centres).mean(0)
    each = list(zip(frames, lengths, centres, strict=True))
    to_video = torch.stack([distances_to_centre(frame, length, middle) for frame, length, _ in each])
    to_frame = torch.stack([distances_to_centre(frame, length, centre) for frame, length, centre in each])
    return gaussian_similarity(to_video), gaussian_similarity(to_frame)


def _reconcile(kept: torch.Tensor, similarity: torch.Tensor, wanted: int) -> None:
    """Change the mask ``kept`` of all tokens in place until it holds ``wanted`` of them."""
    spare = int(kept.sum()) - wanted
    place = (kept if spare > 0 else ~kept).nonzero()[:, 0]
    choose = highest if spare > 0 else lowest
    kept[place[choose(similarity[place], abs(spare))]] = spare < 0
