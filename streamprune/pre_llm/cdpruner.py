"""CDPruner: keep tokens that differ from each other and matter to the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from streamprune.errors import UnknownNameError
from streamprune.ops.determinant import greedy_determinant
from streamprune.ops.similarity import cosines, frame_grams, unit_rows
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens

Relevance = Literal["unlike_text", "like_text"]
Scale = Literal["clip", "frame"]

# keeps the least relevant token from vanishing
_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class CDPruner(PreLLMMethod):
    """Pick from each frame the tokens whose kernel of similarity, weighted by relevance, is the most diverse.

    Needs ``image_embeds`` (frames, rows, cols, channels) and ``text_embeds`` (pieces, channels), tokens and
    question in one space. The relevance of a token comes from the mean of its cosines with the pieces, scaled
    to [0, 1]; the kernel of a frame holds the cosines of its tokens' features times both relevances, and
    tokens are picked greedily for its determinant. Every frame keeps the same number, at least one.

    Args:
        relevance: ``unlike_text``: the lower the cosine, the more relevant (released: in CLIP, patches that
            show the object named score low); ``like_text``: the higher. Use the latter with embeddings of a
            language model.
        scale_over: relevance is scaled by its lowest and highest value in the whole ``clip`` (released: over
            the batch, so a frame's tokens depend on the other frames) or in each ``frame``.

    Source: arXiv 2506.10967 and its released code. Where that divides by zero or takes the root of rounding
    noise, this goes on: when all relevances are equal, each is 1; when picks explain all tokens that are left
    (copies, or more picks than the features have dimensions), the most relevant of these follow. Ties go to
    the lower index.
    """

    relevance: Relevance = "unlike_text"
    scale_over: Scale = "clip"

    needs: ClassVar[tuple[str, ...]] = ("image_embeds", "text_embeds")

    def __post_init__(self) -> None:
        for name, choices in (("relevance", get_args(Relevance)), ("scale_over", get_args(Scale))):
            if getattr(self, name) not in choices:
                raise UnknownNameError.among(f"{name} of cdpruner", getattr(self, name), choices)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number for every frame."""
        return grid.frames * self.budget.per_frame(grid.frames, grid.tokens_per_frame)

    def relevances(self, tokens: VisualTokens) -> torch.Tensor:
        """(frames, tokens per frame) float32 relevance of each token, about 0 to 1."""
        grid = tokens.grid
        image = tokens.signal("image_embeds", (grid.frames, grid.rows, grid.cols, None)).flatten(1, 2)
        text = tokens.signal("text_embeds", (None, image.shape[-1]))
        return relevances(image, text, self.relevance, self.scale_over)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Emits the tokens of a frame in the order picked, frame after frame."""
        grid = tokens.grid
        quality = self.relevances(tokens)
        kernels = cosines(frame_grams(tokens.frames))
        # a token's cosine with itself is 1, not 1 but for rounding: equally relevant tokens are a tie
        kernels.diagonal(dim1=1, dim2=2).round_()
        kernels.mul_(quality[:, :, None]).mul_(quality[:, None, :])
        picks = greedy_determinant(kernels, self.budget.per_frame(grid.frames, grid.tokens_per_frame))
        offset = torch.arange(grid.frames, device=picks.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (picks + offset).flatten())


def relevances(
    image_embeds: torch.Tensor, text_embeds: torch.Tensor, relevance: Relevance, scale_over: Scale
) -> torch.Tensor:
    """(frames, tokens) float32 relevance of (frames, tokens, channels) to (pieces, channels)."""
    # the mean of cosines is one inner product with the mean of the pieces
    image, text = image_embeds.float(), unit_rows(text_embeds).mean(0)
    length = torch.linalg.vector_norm(image, dim=-1)
    cosine = torch.where(length > 0, image @ text / length, 0.0)
    likeness = cosine if relevance == "like_text" else -cosine
    whole = (0, 1) if scale_over == "clip" else (1,)
    low, high = likeness.amin(whole, keepdim=True), likeness.amax(whole, keepdim=True)
    return torch.where(high > low, (likeness - low + _LEAST) / (high - low), 1.0)
