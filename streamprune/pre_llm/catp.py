"""CATP, first stage: keep tokens that represent their frame and agree with the text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_number
from streamprune.ops.facility import greedy_facility
from streamprune.ops.similarity import cosines, frame_grams, unit_rows
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

# cosines this close to 1 are those of copies
_COPY = 1e-6


@dataclass(frozen=True, kw_only=True)
class CATP(PreLLMMethod):
    """Pick from each frame the tokens that together are most like all its tokens and most like the text.

    Needs ``image_embeds`` (frames, rows, cols, channels) and ``text_embeds`` (pieces, channels), tokens and
    question in one space. A set of tokens is worth the sum, over all tokens of the frame, of the similarity
    to the most similar one of the set, plus ``alignment_weight`` times the sum of its similarities to the
    mean text embedding; tokens are picked greedily. Similarities are cosines moved to [0, 1]; those among
    tokens are of the features. Every frame keeps the same number, at least one.

    Args:
        alignment_weight: how much the text counts, in [0, 1000]; published 0.7.

    Source: arXiv 2508.07871, first of two stages (the second prunes inside the language model); no code was
    found. There an image among the examples of a prompt is paired with its text, and this stage drops half of
    what is to go; here each frame is an image, the question is its text, and the budget is what this stage
    keeps, rounded down. Ties go to the lower index.
    """

    alignment_weight: float = 0.7

    needs: ClassVar[tuple[str, ...]] = ("image_embeds", "text_embeds")
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("alignment_weight", self.alignment_weight, 0, 1000)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number for every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Emits the tokens of a frame in the order picked, frame after frame."""
        grid = tokens.grid
        image = tokens.signal("image_embeds", (grid.frames, grid.rows, grid.cols, None)).flatten(1, 2)
        text = tokens.signal("text_embeds", (None, image.shape[-1]))
        cosine = cosines(frame_grams(tokens.frames))
        # rounding must not make one of several copies better than the others
        similar = torch.where(cosine > 1 - _COPY, 1.0, (cosine + 1) / 2)
        count = self.budget.per_frame(grid.frames, grid.tokens_per_frame)
        picks = greedy_facility(similar, self.alignment_weight * alignment(image, text), count)
        offset = torch.arange(grid.frames, device=picks.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (picks + offset).flatten())


def alignment(image_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
    """(frames, tokens) float32 in [0, 1]: cosine of (frames, tokens, channels) with the mean piece, moved."""
    image = image_embeds.float()
    toward_text = image @ unit_rows(text_embeds.float().mean(0, keepdim=True))[0]
    length = torch.linalg.vector_norm(image, dim=-1)
    return (torch.where(length > 0, toward_text / length, 0.0) + 1) / 2
