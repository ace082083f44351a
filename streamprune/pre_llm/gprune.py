"""G-Prune: keep the tokens in which a walk over the similarity graph ends up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from streamprune.checks import check_count, check_number
from streamprune.ops.graph import propagate, similarity_graph
from streamprune.ops.selection import highest
from streamprune.ops.similarity import cosines, frame_grams
from streamprune.pre_llm.base import PreLLMMethod
from streamprune.tokens import Reduction, VideoGrid, VisualTokens


@dataclass(frozen=True, kw_only=True)
class GPrune(PreLLMMethod):
    """Keep, in each frame, the tokens with the highest score after spreading token lengths over a graph.

    Tokens of a frame are joined where their cosine reaches the threshold; a token passes its mass on to its
    neighbours in proportion to the softmax of the cosines. The mass starts as the Euclidean length of each
    token; what arrives is divided by the number of a token's neighbours, itself included. No signal needed.

    Args:
        similarity_threshold: cosines below it are no edge, in [-1, 1].
        temperature: of the softmax, in [0.001, 100].
        steps: how often mass is passed on, at least 1.

    Source: arXiv 2501.02268 and its released code, where a set of nodes is the thumbnail or the joined tiles
    of an image; here each frame is one, with an equal share of the budget rounded down. The released matrix
    power is taken as vector products, in float64. A token of zeros, which the release joins to all others, is
    treated the same. Cosines within 1e-6 of 1 count as 1, so that copies tie; ties go to the lower index.
    """

    similarity_threshold: float = 0.5
    temperature: float = 0.03
    steps: int = 5

    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_number("similarity_threshold", self.similarity_threshold, -1, 1)
        check_number("temperature", self.temperature, 0.001, 100)
        check_count("steps", self.steps)

    def count_reduced(self, grid: VideoGrid) -> int:
        """The same number for every frame."""
        return grid.frames * self._per_frame(grid)

    def reduce(self, tokens: VisualTokens) -> Reduction:
        """Emits the tokens of a frame in the order of their scores, frame after frame."""
        grid = tokens.grid
        score, _ = self.scores(tokens.frames)
        picks = highest(score, self._per_frame(grid))
        offset = torch.arange(grid.frames, device=picks.device)[:, None] * grid.tokens_per_frame
        return Reduction.select(tokens, (picks + offset).flatten())

    def scores(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Score and number of neighbours of each token of (frames, tokens, channels): (frames, tokens)."""
        graph = similarity_graph(cosines(frame_grams(features)), self.similarity_threshold, self.temperature)
        neighbors = (graph > 0).sum(-1)
        length = torch.stack([torch.linalg.vector_norm(frame.float(), dim=-1) for frame in features])
        return propagate(length, graph, self.steps) / neighbors, neighbors

    def _per_frame(self, grid: VideoGrid) -> int:
        return self.budget.per_frame(grid.frames, grid.tokens_per_frame, rounding="truncate")
