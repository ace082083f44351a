"""ViLaMP: whole key frames that fit the question, one token for every other frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.budget import Budget
from streamprune.checks import check_count, check_number
from streamprune.errors import InvalidValueError
from streamprune.ops.keyframes import differential_keyframes, spread_over_gaps
from streamprune.ops.relevance import frame_relevance, token_relevance
from streamprune.ops.temporal import place_cosine
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class ViLaMP(PreLLMMethod):
    """Keep all tokens of key frames; average each other frame to one token, new and relevant tokens first.

    Needs ``image_embeds`` (frames, rows, cols, channels) and ``text_embeds`` (pieces, channels), tokens and
    question in one space.

    Key frames are taken from the frame most like the question on, passing over frames like one taken before;
    what then is left of their number is spread over the gaps. A token of another frame weighs
    ``exp((relevance - redundancy) / temperature)``: its cosine with the question less its cosine with the
    same place of the key frame before it. The token that weighs most is the frame's representative.

    A budget says how many key frames there are: as many as fit beside one token for each other frame. Frames
    keep at least one token.

    Args:
        num_key_frames: instead of a budget: how many key frames (the release: 32). None = from the budget;
            giving both is an error.
        similarity_threshold: frames with a cosine above it to a key frame are passed over.
        relevance_threshold: frames less like the question are passed over; -1 = none.
        fill_gaps: False = only frames that were not passed over, as in the paper.
        redundancy_weight: of the second cosine, in [0, 10].
        temperature: in (0, 100]. Learned in the trained model, where it starts at 0.01.
        as_released: tokens of frames after the n-th key frame are compared with frame n of the clip, counting
            from 0, as the code does. False = with that key frame, the paper's rule. Before the first key
            frame there is nothing to compare with.

    Source: arXiv 2504.02438 and its release. This is its form without training: the learned projections of
    tokens, question and key frames are left out (identities), frames are compared by their mean tokens in the
    space of ``image_embeds`` instead of by a second encoder, and tokens of key frames are not projected anew.
    Ties go to the lower index; exactly the wanted number of key frames is made.
    """

    num_key_frames: int | None = None
    similarity_threshold: float = 0.85
    relevance_threshold: float = -1.0
    fill_gaps: bool = True
    redundancy_weight: float = 1.0
    temperature: float = 0.01
    as_released: bool = True

    needs: ClassVar[tuple[str, ...]] = ("image_embeds", "text_embeds")

    def __post_init__(self) -> None:
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)
        check_number("relevance_threshold", self.relevance_threshold, -1, 1)
        check_number("redundancy_weight", self.redundancy_weight, 0, 10)
        check_number("temperature", self.temperature, 0, 100)
        if self.temperature == 0:
            raise InvalidValueError("temperature must be above 0, got 0")
        if self.num_key_frames is not None:
            check_count("num_key_frames", self.num_key_frames, least=0)
            if self.budget != Budget():
                raise InvalidValueError(
                    f"num_key_frames={self.num_key_frames} sets how much stays, and so does the budget; "
                    "leave out one of them"
                )

    def keeps_everything(self, grid: VideoGrid) -> bool:
        """Not with ``num_key_frames``, which takes the place of a budget."""
        return self.num_key_frames is None and super().keeps_everything(grid)

    def count_reduced(self, grid: VideoGrid) -> int | None:
        """Known unless frames may be passed over for good."""
        if not self.fill_gaps:
            return None
        key_frames = self.key_frame_count(grid)
        return key_frames * grid.tokens_per_frame + grid.frames - key_frames

    def key_frame_count(self, grid: VideoGrid) -> int:
        """How many key frames there are at most."""
        if self.num_key_frames is not None:
            return min(grid.frames, self.num_key_frames)
        spare = self.budget.tokens(grid.tokens) - grid.frames
        return min(grid.frames, max(0, spare) // max(1, grid.tokens_per_frame - 1))

    def key_frames(self, frame_features: torch.Tensor, relevance: torch.Tensor, count: int) -> list[int]:
        """The key frames, ascending, of a clip with these (frames, channels) features."""
        chosen = differential_keyframes(
            frame_features,
            relevance,
            count,
            similarity_threshold=self.similarity_threshold,
            relevance_threshold=self.relevance_threshold,
        )
        return spread_over_gaps(chosen, len(relevance), count) if self.fill_gaps else chosen

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Choose the key frames, then weigh the tokens of the others."""
        grid, frames = tokens.grid, tokens.frames
        image = tokens.signal("image_embeds", (grid.frames, grid.rows, grid.cols, None)).flatten(1, 2)
        text = tokens.signal("text_embeds", (None, image.shape[-1]))
        relevance = frame_relevance(image, text)
        looks = image.mean(1, dtype=torch.float32)
        key_frames = self.key_frames(looks, relevance, self.key_frame_count(grid))
        merged = [frame for frame in range(grid.frames) if frame not in set(key_frames)]
        difference = token_relevance(image[merged], text)
        difference -= self.redundancy_weight * self._redundancy(frames, key_frames, merged)
        share = torch.softmax(difference / self.temperature, 1)
        weight = torch.ones(grid.frames, grid.tokens_per_frame, device=frames.device)
        weight[merged] = share
        stays = torch.ones_like(weight, dtype=torch.bool)
        stays[merged] = False
        stays[merged, share.argmax(1)] = True
        index = stays.flatten().nonzero()[:, 0]
        own = torch.arange(grid.tokens, device=index.device).reshape(weight.shape)
        own[merged] = own[merged, share.argmax(1)][:, None].expand_as(share)
        # weights too small for float32 are 0: no part of the average
        token = weight.flatten().nonzero()[:, 0]
        row = torch.searchsorted(index, own.flatten()[token])
        return Reduction.merge(tokens, index, (row, token, weight.flatten()[token]))

    def _redundancy(self, frames: torch.Tensor, key_frames: list[int], merged: list[int]) -> torch.Tensor:
        """(merged, tokens) float32 cosine of each token with the same place of the frame it repeats."""
        before = [sum(key < frame for key in key_frames) for frame in merged]
        pairs = []
        for frame, number in zip(merged, before, strict=True):
            if number:
                pairs.append((frame, number - 1 if self.as_released else key_frames[number - 1]))
        cosines = torch.zeros(len(merged), frames.shape[1], device=frames.device)
        compared = [place for place, number in enumerate(before) if number]
        cosines[compared] = place_cosine(frames, pairs).float()
        return cosines
