"""STC, the pruner: keep of each frame the tokens least like the frame itself and like all seen before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.budget import share_of
from streamprune.checks import check_count, check_flag, check_number
from streamprune.errors import UnknownNameError
from streamprune.ops.gaussian import distances_to_centre, gaussian_similarity, mean_direction
from streamprune.ops.selection import lowest
from streamprune.ops.subspace import channel_moments, masked_lengths
from streamprune.pre_llm.base import History, PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Score = Literal["gaussian", "dual_anchor"]


@dataclass(frozen=True, kw_only=True)
class STC(PreLLMMethod):
    """Keep the same number of tokens of every frame, those most novel in the frame and against the memory.

    Frames arrive in calls. A call compares directions in the channels that vary least over its own tokens.
    The memory is the mean, over all calls so far, this one included, of the call's mean token.

    Args:
        channel_share: share of the channels that are compared, in [0, 1]; at least one channel.
        frames_per_call: frames that are looked at together; with more than one, a frame is decided only when
            its call is full, and the instance is not ``causal``.
        score: ``gaussian`` adds the similarities to the two anchors (as released); ``dual_anchor`` blends
            cosine distances to them (the paper), in the same channels.
        memory_weight: only for ``dual_anchor``: weight of the memory in the blend, in [0, 1].
        align_memory: remember mean tokens with all their channels. As released (False) each is remembered in
            its own call's channels, in order of rising variance, so that the memory averages values of
            different channels and says little where calls choose differently.

    Source: arXiv 2512.00891 and its released pruner. Differences: the memory starts anew with every clip,
    where the release never empties it.
    """

    channel_share: float = 0.5
    frames_per_call: int = 1
    score: Score = "gaussian"
    memory_weight: float = 0.5
    align_memory: bool = False

    needs: ClassVar[tuple[str, ...]] = ()
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("channel_share", self.channel_share, 0, 1)
        check_count("frames_per_call", self.frames_per_call)
        check_number("memory_weight", self.memory_weight, 0, 1)
        check_flag("align_memory", self.align_memory)
        if self.score not in get_args(Score):
            raise UnknownNameError.among("score of stc", self.score, get_args(Score))
        if self.frames_per_call > 1:
            object.__setattr__(self, "causal", False)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number of every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Score call by call; keep the lowest scores of each frame."""
        return self.step(tokens, {})[0]

    def step(
        self, tokens: VisualTokens, before: History, keep: int | None = None
    ) -> tuple[Reduction, History]:
        """The same, going on with the memory of the calls before."""
        grid, memory = tokens.grid, Memory(before)
        calls = torch.split(tokens.frames, self.frames_per_call)
        scores = torch.cat([self.familiarity(frames, memory) for frames in calls])
        count = (
            self.budget.per_frame(grid.frames, grid.tokens_per_frame)
            if keep is None
            else min(keep, grid.tokens_per_frame)
        )
        novel = lowest(scores, count).sort().values
        offset = torch.arange(grid.frames, device=novel.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (novel + offset).flatten()), memory.history()

    def familiarity(self, frames: torch.Tensor, memory: Memory) -> torch.Tensor:
        """(frames, tokens per frame) float32, low = novel, for one call; ``memory`` takes the call in.

        Args:
            frames: (frames of the call, tokens per frame, channels).
        """
        mean, channels = quiet_channels(frames.flatten(0, 1), self.channel_share)
        mask = torch.zeros(frames.shape[2], device=frames.device)
        mask[channels] = 1
        remembered = torch.zeros_like(mask)
        seen = memory.add(mean)[channels] if self.align_memory else memory.add(mean[channels])
        remembered[channels] = _unit(seen).float()
        scores = []
        for frame in frames:
            lengths = masked_lengths(frame, mask)
            centre = mean_direction(frame, lengths, mask)
            to_memory = distances_to_centre(frame, lengths, remembered)
            if self.score == "gaussian":
                to_centre = distances_to_centre(frame, lengths, centre)
                scores.append(gaussian_similarity(to_memory) + gaussian_similarity(to_centre))
            else:
                # half the squared distance of two unit vectors is their cosine distance
                to_centre = distances_to_centre(frame, lengths, _unit(centre))
                blend = self.memory_weight * to_memory + (1 - self.memory_weight) * to_centre
                scores.append(-blend / 2)
        return torch.stack(scores)


class Memory:
    """Mean over the calls so far, those that left ``history`` included, of one vector a call."""

    def __init__(self, history: History | None = None) -> None:
        self._total: torch.Tensor | None = None
        self._calls = 0
        if history:
            self._total, self._calls = history["total"], int(history["calls"])

    def history(self) -> History:
        """For a memory that goes on later; nothing before the first call."""
        return {} if self._total is None else {"total": self._total, "calls": torch.tensor(self._calls)}

    def add(self, vector: torch.Tensor) -> torch.Tensor:
        """Take ``vector`` in and return the mean of all."""
        self._total = vector if self._total is None else self._total + vector
        self._calls += 1
        return self._total / self._calls


def quiet_channels(values: torch.Tensor, share: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of every channel of (rows, channels), and the ``share`` of channels that vary least, in order.

    Returns:
        (channels,) float64 and (chosen,) int64, at least one, by rising variance.
    """
    mean, variance = channel_moments(values)
    return mean, lowest(variance, max(1, share_of(values.shape[1], share, rounding="truncate")))


def _unit(vector: torch.Tensor) -> torch.Tensor:
    length = vector.norm()
    return torch.where(length > 0, vector / length, 0.0)
